"""An AWS of a test's own: a moto_server, commands that see no other AWS, and what is left there."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.request import Request, urlopen

from attrs import frozen
from botocore.loaders import JSONFileLoader

from rproxy import cli
from tests.support import PATIENCE, Process, environment

REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
#: What boto3 knows of the services is megabytes of JSON, read again for each command: here only once.
_load_file = cache(JSONFileLoader().load_file)
_READY = r"Running on http://127\.0\.0\.1:(\d+)"


def server() -> Process:
    """Return one that isn't started yet."""
    return Process([sys.executable, "-m", "tests.motoserver"], ready=_READY, seconds=3 * PATIENCE)


@frozen
class Ended:
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


@frozen
class Aws:
    """What commands are run against.

    :ivar url: where it answers.
    :ivar home: a folder without any configuration.
    """

    url: str
    home: Path

    @classmethod
    def of(cls, process: Process, home: Path) -> Aws:
        """Return the one that a server gives."""
        found = re.search(_READY, process.log)
        assert found is not None
        return cls(f"http://127.0.0.1:{found[1]}", home)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables that lead to it and nowhere else, without credentials and region."""
        plain = {key: value for key, value in environment().items() if not key.startswith("AWS_")}
        return {
            **plain,
            "HOME": str(self.home),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }

    def usual(self) -> dict[str, str]:
        """Return the variables that commands are run with."""
        return self.environment(**CREDENTIALS, AWS_REGION=REGION)

    def run(self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Ended:
        """Run ``rproxy ec2`` in this process, as a process of its own spends most of its time on imports."""
        out, err = StringIO(), StringIO()
        with (
            mock.patch.dict(os.environ, self.usual() if env is None else env, clear=True),
            mock.patch.object(JSONFileLoader, "load_file", lambda _, path: _load_file(path)),
            mock.patch("sys.stdin", StringIO(stdin)),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = cli.main(["ec2", *arguments])
        return Ended(code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str) -> Any:
        """Run it with ``--json``, and return what it printed."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def post(self, path: str, body: bytes = b"") -> None:
        """Tell moto something."""
        # Else it would be taken for a form.
        request = Request(f"{self.url}{path}", body, {"Content-Type": "text/plain"}, method="POST")
        with urlopen(request, timeout=PATIENCE) as answer:
            assert answer.status == 200
