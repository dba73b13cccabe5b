"""Following a stack: what is told, when it ends, and what is said when it doesn't."""

from __future__ import annotations

from io import StringIO

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rproxy.ec2.events import Event
from rproxy.ec2.stacks import Stack
from rproxy.ec2.terminal import Terminal
from rproxy.ec2.watching import SECONDS, Watch
from tests.test_ec2_events import event

STACK = Stack("arn:stack/demo/1", "demo", "CREATE_IN_PROGRESS", "", {}, {}, {})
EVENTS = [event(number, f"R{number}", "CREATE_COMPLETE") for number in range(6)]


class Script:
    """A stack that goes from one look to the next: its state, and how many events there are by then."""

    def __init__(self, *looks: tuple[str | None, int]) -> None:
        self.looks = looks
        self.slept: list[float] = []

    def _now(self) -> tuple[str | None, int]:
        return self.looks[len(self.slept)]

    def find(self, name: str) -> Stack | None:
        state, _ = self._now()
        return None if state is None else evolve(STACK, state=state)

    def events(self, stack_id: str, known: set[str]) -> list[Event]:
        return [each for each in EVENTS[: self._now()[1]] if each.id not in known]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class WatchTests(SynchronousTestCase):
    """A stack is told of from one look to the next."""

    def setUp(self) -> None:
        self.out = StringIO()
        self.terminal = Terminal(self.out, StringIO(), as_json=False)

    def told(self) -> list[str]:
        return [line.split()[3] for line in self.out.getvalue().splitlines()]

    def test_until_it_settled(self) -> None:
        """Each event once, those of the last look too."""
        script = Script(("CREATE_IN_PROGRESS", 1), ("CREATE_IN_PROGRESS", 1), ("CREATE_COMPLETE", 3))
        stack, events = Watch(script, None, self.terminal, script.sleep).follow(STACK.id)
        assert stack is not None
        self.assertEqual(stack.state, "CREATE_COMPLETE")
        self.assertEqual(events, EVENTS[:3])
        self.assertEqual(self.told(), ["R0", "R1", "R2"])
        self.assertEqual(script.slept, [SECONDS] * 2)

    def test_what_was_before(self) -> None:
        """It isn't told of again."""
        script = Script(("CREATE_COMPLETE", 2))
        watch = Watch(script, STACK.id, self.terminal, script.sleep)
        script.looks = (("UPDATE_COMPLETE", 4),)
        self.assertEqual(watch.follow(STACK.id)[1], EVENTS[2:4])

    def test_gone(self) -> None:
        """A stack that isn't found any more has settled."""
        script = Script(("DELETE_IN_PROGRESS", 1), (None, 1))
        self.assertEqual(Watch(script, None, self.terminal, script.sleep).follow(STACK.id), (None, EVENTS[:1]))

    def test_cleaning_up(self) -> None:
        """A changed stack that cleans up isn't done yet."""
        script = Script(("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", 1), ("UPDATE_COMPLETE", 2))
        stack, _ = Watch(script, None, self.terminal, script.sleep).follow(STACK.id)
        assert stack is not None
        self.assertEqual(stack.state, "UPDATE_COMPLETE")

    def test_broken_off(self) -> None:
        """By Ctrl-C, or by what goes wrong on the way: it is said that the stack goes on."""
        for error in (KeyboardInterrupt, OSError):

            def sleep(seconds: float, error: type[BaseException] = error) -> None:
                raise error

            watch = Watch(Script(("CREATE_IN_PROGRESS", 0)), None, self.terminal, sleep)
            self.assertRaises(error, watch.follow, STACK.id)
            last = self.out.getvalue().splitlines()[-1]
            self.assertEqual(last, "The stack goes on without this command. To see how: rproxy ec2 status demo")


class StackTests(SynchronousTestCase):
    """What a stack's state means."""

    def test_states(self) -> None:
        """Whether it has settled, can be changed, and failed: all of CloudFormation's states."""
        meaning = {
            "CREATE_IN_PROGRESS": "",
            "CREATE_FAILED": "settled dead failed",
            "CREATE_COMPLETE": "settled",
            "ROLLBACK_IN_PROGRESS": "failed",
            "ROLLBACK_FAILED": "settled dead failed",
            "ROLLBACK_COMPLETE": "settled dead failed",
            "DELETE_IN_PROGRESS": "",
            "DELETE_FAILED": "settled dead failed",
            "DELETE_COMPLETE": "settled",
            "UPDATE_IN_PROGRESS": "",
            "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS": "",
            "UPDATE_COMPLETE": "settled",
            "UPDATE_FAILED": "settled failed",
            "UPDATE_ROLLBACK_IN_PROGRESS": "failed",
            "UPDATE_ROLLBACK_FAILED": "settled failed",
            "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS": "failed",
            "UPDATE_ROLLBACK_COMPLETE": "settled failed",
            "REVIEW_IN_PROGRESS": "settled dead",
        }
        for state, means in meaning.items():
            stack = evolve(STACK, state=state)
            found = {"settled": stack.has_settled, "dead": stack.is_dead, "failed": stack.has_failed}
            self.assertEqual([word for word, true in found.items() if true], means.split(), state)
