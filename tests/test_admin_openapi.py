"""The API keeps to its description: schemathesis asks a running proxy whatever the description allows, and more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Talk, Twistd, run, script

TOKEN = "0123456789abcdef"


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Twistd]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with Twistd("rproxy", "--port", "0", "--admin", "0", "--admin-token", str(token)) as proxy:
        talk = Talk(proxy.port)
        talk.send(b'{"type":"1","id":"0","privPolyId":"111","listenport":"9"}')
        talk.socket.close()
        proxy.wait_for_log("Received setup message")
        yield proxy
        assert "Traceback" not in proxy.log, proxy.log


def test_description(proxy: Twistd, tmp_path: Path) -> None:
    """Each answer is one that the description tells of, whatever is asked; the number of questions is bounded."""
    port = proxy.wait_for_log(r"Admin listener on (\d+)")[1]
    argv = [
        *script("schemathesis"),
        "run",
        f"http://127.0.0.1:{port}/api/v1/openapi.json",
        "--header",
        f"Authorization: Bearer {TOKEN}",
        # It has no end.
        "--exclude-path=/api/v1/stream",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=15",
        "--seed=1",
        "--generation-database=none",
        "--no-color",
    ]
    ended = run(argv, cwd=tmp_path)
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
    assert "Tested: 6" in ended.stdout, ended.stdout
