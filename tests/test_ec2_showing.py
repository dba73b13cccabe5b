"""What is printed of a stack, and where."""

from __future__ import annotations

import json
import shlex
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rproxy.ec2 import equivalents
from rproxy.ec2.buckets import bucket_name, template_key, wheel_key
from rproxy.ec2.groups import Instance
from rproxy.ec2.showing import failure_lines, inventory, next_steps, status_lines, status_value
from rproxy.ec2.templates import load
from rproxy.ec2.terminal import Terminal
from tests.test_ec2_events import event
from tests.test_ec2_watching import STACK

UP = evolve(
    STACK,
    state="CREATE_COMPLETE",
    parameters={"Policies": "a,b"},
    outputs={"ProxyAddress": "192.0.2.1", "ProxyName": "rproxy.example", "ProxyPort": "8001"},
)
INSTANCE = Instance("PoolGroup", "i-1", "t3.micro", "eu-central-1a", "InService", "Healthy", "", "10.0.0.1")


class LinesTests(SynchronousTestCase):
    """For people."""

    def test_next_steps(self) -> None:
        """The proxy by its name, and a policy that there is; nothing of a proxy that isn't known yet."""
        self.assertIn("rproxy send --revproc rproxy.example:8001 --id 1 --pp a ", next_steps(UP)[0])
        self.assertEqual(len(next_steps(STACK)), 2)

    def test_status(self) -> None:
        """State, outputs, instances and failures."""
        failed = [event(1, "Network", "CREATE_FAILED", "no room")]
        lines = status_lines(evolve(UP, reason="why"), [INSTANCE], failed)
        self.assertEqual(lines[0], "demo is CREATE_COMPLETE: why")
        self.assertIn("  ProxyName     rproxy.example", lines)
        self.assertEqual(
            lines[-3].split(),
            ["PoolGroup", "i-1", "InService", "Healthy", "t3.micro", "eu-central-1a", "-", "10.0.0.1"],
        )
        self.assertEqual(lines[-1], "The first to fail was Network (AWS::EC2::VPC), 2026-01-02 03:04:06Z: no room")

    def test_many_failures(self) -> None:
        """The first few."""
        failed = [event(number, f"R{number}", "CREATE_FAILED") for number in range(9)]
        lines = failure_lines(failed)
        self.assertEqual(len(lines), 5)
        self.assertTrue(lines[1].startswith("Then failed R1 "))
        self.assertTrue(lines[1].endswith(": CREATE_FAILED"))

    def test_inventory(self) -> None:
        """Also what has no name yet."""
        self.assertEqual(inventory([("A", "AWS::EC2::EIP", "")]), ["  A (EC2::EIP)"])


class TerminalTests(SynchronousTestCase):
    """Where things are printed."""

    def outputs(self, *, as_json: bool) -> tuple[str, str]:
        out, err = StringIO(), StringIO()
        terminal = Terminal(out, err, as_json)
        terminal.say("one\x1b[2J")
        terminal.end(["two"], {"three": 3})
        terminal.fail("four")
        return out.getvalue(), err.getvalue()

    def test_people(self) -> None:
        """All on standard output but what is wrong; nothing that AWS says speaks to the terminal."""
        self.assertEqual(self.outputs(as_json=False), ("one?[2J\ntwo\n", "rproxy ec2: four\n"))

    def test_programs(self) -> None:
        """Nothing but objects on standard output."""
        self.assertEqual(self.outputs(as_json=True), ('{"three": 3}\n{"error": "four"}\n', "one?[2J\n"))

    def test_status_value(self) -> None:
        """It can be JSON."""
        value = status_value(UP, [INSTANCE], [event(1, "Network", "CREATE_FAILED", "no room")])
        self.assertEqual(json.loads(json.dumps(value))["failures"][0]["time"], "2026-01-02T03:04:06+00:00")


class NamesTests(SynchronousTestCase):
    """The names of what is put to S3."""

    def test_bucket(self) -> None:
        """Another one for each account, region and stack; always one that S3 takes."""
        names = {
            bucket_name(account, region, stack)
            for account in ("1", "2")
            for region in ("a", "b")
            for stack in ("demo", "Demo", "x" * 128, "nineteen-characters-and-more")
        }
        self.assertEqual(len(names), 16)
        for name in names:
            self.assertRegex(name, r"^rproxy-[a-z0-9-]{1,55}$")

    def test_keys(self) -> None:
        """By what is in it."""
        path = Path(self.enterContext(TemporaryDirectory())) / "rproxy-1-py3-none-any.whl"
        path.write_bytes(b"1")
        first = wheel_key(path)
        self.assertRegex(first, rf"^wheels/[0-9a-f]{{16}}/{path.name}$")
        path.write_bytes(b"2")
        self.assertNotEqual(wheel_key(path), first)
        self.assertNotEqual(template_key("1"), template_key("2"))


class EquivalentsTests(SynchronousTestCase):
    """The aws commands that do the same."""

    def test_first_region(self) -> None:
        """The one that can't be named when a bucket is made."""
        make, *_ = equivalents.bucket_commands("b", "s", "us-east-1")
        self.assertEqual(make[-4:], ["--bucket", "b", "--region", "us-east-1"])
        make, *_ = equivalents.bucket_commands("b", "s", "eu-west-1")
        self.assertEqual(make[-1], "LocationConstraint=eu-west-1")

    def test_deploy(self) -> None:
        """Without parameters, it has none."""
        words = equivalents.deploy_command("x", load("one"), {}, "eu-west-1", None)
        self.assertNotIn("--parameter-overrides", words)
        self.assertNotIn("--s3-bucket", words)
        words = equivalents.deploy_command("x", load("one"), {"A": "b c"}, "eu-west-1", "bucket")
        self.assertEqual(shlex.split(equivalents.as_line(words)), words)
        self.assertEqual(words[-2:], ["--parameter-overrides", "A=b c"])
