"""What happened lately."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures.happenings import MOST, Happening, Happenings, nothing_happened


class HappeningsTests(SynchronousTestCase):
    """They are remembered, and told."""

    def setUp(self) -> None:
        self.now = 100.0
        self.happenings = Happenings(lambda: self.now)

    def test_note(self) -> None:
        """With its number and its time."""
        self.happenings.note("down", "111", "100", "it does not answer in time")
        self.now = 101.5
        self.happenings.note("up", "111", "100")
        first, second = self.happenings.lately
        why = "it does not answer in time"
        self.assertEqual(first, Happening(number=1, time=100.0, kind="down", policy="111", server="100", text=why))
        self.assertEqual((second.number, second.time, second.text), (2, 101.5, ""))

    def test_bounded(self) -> None:
        """The oldest are forgotten, and the numbers go on."""
        for _ in range(MOST + 3):
            self.happenings.note("up", "111", "100")
        numbers = [each.number for each in self.happenings.lately]
        self.assertEqual(numbers, [*range(4, MOST + 4)])

    def test_listen(self) -> None:
        """From now on, until it is ended; a second end is none."""
        self.happenings.note("up", "111", "1")
        heard: list[Happening] = []
        end = self.happenings.listen(heard.append)
        self.happenings.note("up", "111", "2")
        end()
        end()
        self.happenings.note("up", "111", "3")
        self.assertEqual([each.server for each in heard], ["2"])

    def test_equal_listeners(self) -> None:
        """Each is called, and each has its own end."""
        heard: list[Happening] = []
        first, second = (self.happenings.listen(heard.append) for _ in range(2))
        self.happenings.note("up", "111", "1")
        first()
        first()
        self.happenings.note("up", "111", "2")
        second()
        self.happenings.note("up", "111", "3")
        self.assertEqual([each.server for each in heard], ["1", "1", "2"])

    def test_end_while_told(self) -> None:
        """Who ends another's listening meanwhile ends it at once, and disturbs no third."""
        heard: list[str] = []
        ends: list[Callable[[], None]] = []
        self.happenings.listen(lambda happening: [end() for end in ends])
        ends.append(self.happenings.listen(lambda happening: heard.append("second")))
        self.happenings.listen(lambda happening: heard.append("third"))
        self.happenings.note("up", "111", "1")
        self.assertEqual(heard, ["third"])

    def test_nobody(self) -> None:
        """What isn't listened to goes nowhere."""
        nothing_happened("up", "111", "1", "")
        self.assertEqual(self.happenings.lately, [])
