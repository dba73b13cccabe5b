"""Processes that a process starts: what they import, and how they end."""

from __future__ import annotations

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.trial.unittest import SynchronousTestCase

from rproxy.process.children import environment, how_it_ended


class ChildrenTests(SynchronousTestCase):
    def test_how_it_ended(self) -> None:
        self.assertEqual(how_it_ended(ProcessTerminated(signal=9)), "was ended by SIGKILL")
        self.assertEqual(how_it_ended(ProcessTerminated(signal=35)), "was ended by signal 35")
        self.assertEqual(how_it_ended(ProcessTerminated(exitCode=1)), "ended with exit code 1")
        self.assertEqual(how_it_ended(ProcessDone(0)), "ended with exit code 0")

    def test_environment(self) -> None:
        """What is imported here is found there, whatever was found before."""
        given = {"HOME": "/root", "PYTHONPATH": "elsewhere"}
        self.assertEqual(environment(given, ["/a", "/b"]), {"HOME": "/root", "PYTHONPATH": "/a:/b"})
