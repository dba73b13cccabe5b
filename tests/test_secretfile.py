"""Files that hold a secret."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from rproxy.secretfile import read_secret


class ReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "secret"

    def write(self, mode: int) -> None:
        self.path.write_bytes(b" s\xff\n")
        self.path.chmod(mode)

    def test_what_it_holds(self) -> None:
        """As it is; its owner may read it, and its group."""
        for mode in 0o600, 0o640:
            self.write(mode)
            self.assertEqual(read_secret(self.path, "key"), b" s\xff\n")

    def test_open_to_others(self) -> None:
        """Be it for writing alone."""
        for mode in 0o604, 0o602, 0o601:
            self.write(mode)
            error = self.assertRaises(ValueError, read_secret, self.path, "key")
            said = f"the key {self.path} is open to everybody: close it by: chmod o-rwx {self.path}"
            self.assertEqual(str(error), said)

    def test_not_there(self) -> None:
        for hint, said in ("", "No such file or directory"), ("make one", "No such file or directory; make one"):
            error = self.assertRaises(ValueError, read_secret, self.path, "token", hint)
            self.assertEqual(str(error), f"the token {self.path} can't be read: {said}")

    def test_no_file(self) -> None:
        """It is not waited for who writes to a pipe, nor is a folder read, and nobody is told to close ``/tmp``."""
        for name, make in ("folder", Path.mkdir), ("pipe", os.mkfifo):
            path = self.path.with_name(name)
            make(path, 0o777)
            error = self.assertRaises(ValueError, read_secret, path, "key")
            self.assertEqual(str(error), f"the key {path} is no regular file: name the file that holds it")
