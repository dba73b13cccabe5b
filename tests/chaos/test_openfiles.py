"""Tests of :mod:`tests.chaos.openfiles`, on this very process."""

import os
import socket
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.chaos.openfiles import has_open, open_files, ports_of_peers


class OpenFilesTests(SynchronousTestCase):
    """What is opened is counted under its name, and no more once it is closed."""

    def test_connections(self) -> None:
        """Listening; one that was made, and the other end of it, which was taken."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            before = open_files(os.getpid(), port)
            with socket.create_connection(("127.0.0.1", port)), closing(listener.accept()[0]):
                found = open_files(os.getpid(), port) - before

        self.assertGreaterEqual(before["listening"], 1)
        self.assertEqual(dict(found), {"taken": 1, f"made to {port}": 1})

    def test_peers(self) -> None:
        """The ports of those that are connected to a port of this process's own."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as peer:
                self.assertEqual(ports_of_peers(os.getpid(), port), frozenset())
                with closing(listener.accept()[0]):
                    self.assertEqual(ports_of_peers(os.getpid(), port), {peer.getsockname()[1]})

    def test_file_that_is_open(self) -> None:
        """As long as it is."""
        with Path(__file__).open():
            self.assertTrue(has_open(os.getpid(), "test_open*.py"))
        self.assertFalse(has_open(os.getpid(), "test_open*.py"))

    def test_other_files(self) -> None:
        """Pipes, files, and sockets that are none of TCP."""
        before = open_files(os.getpid(), 1)
        reading, writing = os.pipe()
        with os.fdopen(reading), os.fdopen(writing, "w"), Path(__file__).open(), socket.socket(socket.AF_UNIX):
            found = open_files(os.getpid(), 1) - before

        self.assertEqual(dict(found), {"pipe": 2, "file": 1, "socket": 1})
