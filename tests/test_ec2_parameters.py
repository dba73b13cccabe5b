"""What a stack's parameters become."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from rproxy.cli import make_parser
from rproxy.ec2.errors import UsageError
from rproxy.ec2.parameters import CHOICES, WHEEL, check_known, chosen, for_change, for_creation
from rproxy.ec2.templates import NAMES, load
from tests import wheels

DEFAULTS = {"Policies": "111,222", "PoolServers": "2", "KeyName": None}


def pairs(parameters: list[dict[str, object]]) -> dict[object, object]:
    """Return what CloudFormation is given as values by names, ``...`` for what stays."""
    return {
        each["ParameterKey"]: ... if each.get("UsePreviousValue") else each["ParameterValue"] for each in parameters
    }


class ChosenTests(SynchronousTestCase):
    """What the options say."""

    def chosen(self, *arguments: str) -> dict[str, str]:
        return chosen(make_parser().parse_args(["ec2", "up", "x", *arguments]))

    def test_all_options(self) -> None:
        """Each stands for its parameter."""
        values = {"--servers": "4", "--proxies": "3", "--port": "9001", "--ssh-from": "192.0.2.0/24"}
        for choice in CHOICES:
            value = values.get(choice.option, "some")
            arguments = [choice.option] if choice.take is None else [choice.option, value]
            chosen = self.chosen(*arguments)
            self.assertEqual(chosen.pop(choice.parameter), "yes" if choice.take is None else value)
            self.assertEqual(chosen, {WHEEL: ""} if choice.option == "--requirement" else {})
        self.assertEqual(self.chosen(), {})

    def test_release(self) -> None:
        """One for an index takes the place of the wheel that a stack has, and isn't given beside another one."""
        self.assertEqual(
            self.chosen("--parameter", "ReleaseRequirement=rproxy==2"), {"ReleaseRequirement": "rproxy==2", WHEEL: ""}
        )
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        wheel = wheels.pretend(Path(folder.name) / "rproxy-2-py3-none-any.whl")
        for other in ("--wheel", str(wheel)), ("--parameter", f"{WHEEL}=s3://b/rproxy.whl"):
            self.assertRaises(UsageError, self.chosen, "--requirement", "rproxy==2", *other)

    def test_any(self) -> None:
        """What has no option of its own, also with an equals sign in it, or empty."""
        given = self.chosen("--parameter", "A=b=c", "--parameter", "D=")
        self.assertEqual(given, {"A": "b=c", "D": ""})

    def test_twice(self) -> None:
        """What is said twice isn't guessed."""
        for twice in (["--servers", "1", "--parameter", "PoolServers=2"], ["--parameter", "A=1", "--parameter", "A=1"]):
            self.assertRaises(UsageError, self.chosen, *twice)

    def test_templates_have_them(self) -> None:
        """Each option is of some template, and so is the wheel's parameter."""
        known = {name for each in NAMES for name in load(each).defaults}
        self.assertEqual({choice.parameter for choice in CHOICES} - known, set())
        for each in NAMES:
            self.assertIn(WHEEL, load(each).defaults)


class ResolveTests(SynchronousTestCase):
    """What CloudFormation is given."""

    def test_creation(self) -> None:
        """What is said, and the defaults."""
        given = for_creation({"KeyName": "me", "PoolServers": "5"}, DEFAULTS)
        self.assertEqual(pairs(given), {"Policies": "111,222", "PoolServers": "5", "KeyName": "me"})

    def test_missing(self) -> None:
        """What has no default has to be said."""
        error = self.assertRaises(UsageError, for_creation, {}, DEFAULTS)
        self.assertIn("the template needs KeyName", str(error))

    def test_change(self) -> None:
        """What isn't spoken of stays; what the template has no longer goes; what is new has its default."""
        given = for_change(
            {"PoolServers": "5"}, {**DEFAULTS, "New": "x"}, ["Policies", "PoolServers", "KeyName", "Old"]
        )
        self.assertEqual(pairs(given), {"PoolServers": "5", "New": "x", "Policies": ..., "KeyName": ...})

    def test_unknown(self) -> None:
        """A slip is told by its likeness, and anything else by what there is."""
        for name, said in (("PoolServer", "did you mean PoolServers?"), ("X", "it has Policies, PoolServers, KeyName")):
            for resolve in (
                lambda name=name: check_known([name], DEFAULTS),
                lambda name=name: for_creation({name: "1"}, DEFAULTS),
                lambda name=name: for_change({name: "1"}, DEFAULTS, [*DEFAULTS]),
            ):
                self.assertIn(said, str(self.assertRaises(UsageError, resolve)))
