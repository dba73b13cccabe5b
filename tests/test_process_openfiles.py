"""The limit of open files while the services run."""

from __future__ import annotations

import resource
from unittest.mock import patch

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy.process.openfiles import OpenFilesService

FILES = resource.RLIMIT_NOFILE


class OpenFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.soft, self.hard = resource.getrlimit(FILES)
        self.addCleanup(resource.setrlimit, FILES, (self.soft, self.hard))
        resource.setrlimit(FILES, (min(self.hard, 1024) - 1, self.hard))
        self.events = self.enterContext(capturedLogs())

    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events]

    def test_as_many_as_may_be(self) -> None:
        OpenFilesService(wanted=10).startService()
        self.assertEqual((self.hard, self.hard), resource.getrlimit(FILES))
        self.assertEqual([], self.lines())

    def test_what_is_so_already(self) -> None:
        """Nothing is asked for then, as systemd's sandbox would refuse it."""
        resource.setrlimit(FILES, (self.hard, self.hard))
        with patch("resource.setrlimit", side_effect=ValueError("not allowed")):
            OpenFilesService(wanted=10).startService()
        self.assertEqual([], self.lines())

    def test_fewer_than_are_wanted(self) -> None:
        """What to do is said at the start, and not when the first client can't come in."""
        OpenFilesService(wanted=self.hard).startService()
        (line,) = self.lines()
        self.assertIn(f"Only {self.hard} files may be open, and {self.hard} connections are allowed: raise", line)

    def test_a_system_that_does_not_let_it(self) -> None:
        with patch("resource.setrlimit", side_effect=ValueError("not allowed")):
            OpenFilesService(wanted=10).startService()
        (line,) = self.lines()
        self.assertIn(f"Can't raise the limit of open files from {min(self.hard, 1024) - 1} to {self.hard}: not", line)

    def test_without_end(self) -> None:
        unlimited = resource.RLIM_INFINITY
        with patch("resource.setrlimit"), patch("resource.getrlimit", return_value=(1024, unlimited)):
            OpenFilesService(wanted=1 << 30).startService()
        self.assertEqual([], self.lines())
