"""``rproxy send``, from end to end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

from tests.classic import sha1_hex
from tests.endtoend import HOST, RPROXY, SECONDS, SECRET, Shared
from tests.support import FAULT, ROOT, data_packet, environment, free_port, run


def rproxy_send(port: int, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``rproxy send``."""
    return run([*RPROXY, "send", "--revproc", str(port), *arguments], stdin=stdin)


def test_send(shared: Shared, tmp_path: Path) -> None:
    """Files and standard input, one after the other: all correct is 0."""
    file = tmp_path / "packet.json"
    file.write_bytes(data_packet("1", "222", f"{SECRET}\n") + b"\n")
    done = rproxy_send(shared.port, "--pkt", str(file), "--pkt", "-", stdin=data_packet("2", "111", SECRET).decode())

    through = f"through reverse proxy running on port {shared.port}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"Sending message {SECRET}\\n to privacy policy 222 {through}",
        f"Receiving a response from the server payload: {sha1_hex(SECRET + chr(10))}",
        "Hash of payload is correct",
        f"Sending message {SECRET} to privacy policy 111 {through}",
        f"Receiving a response from the server payload: {sha1_hex(SECRET)}",
        "Hash of payload is correct",
    ]


def test_send_goes_wrong(shared: Shared) -> None:
    """An error packet is 1, and is told on standard error too."""
    done = rproxy_send(shared.port, "--id", "1", "--pp", "999", "--payload", SECRET)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"Sending message {SECRET} to privacy policy 999 through reverse proxy running on port {shared.port}",
        "Receiving a response from the server payload: no server serves policy 999",
        "Hash of payload is incorrect",
    ]
    assert done.stderr == (
        f"rproxy send: 127.0.0.1:{shared.port}: no-server (delivered: no), no server serves policy 999\n"
    )


def test_send_to_nobody() -> None:
    """No proxy is 1."""
    port = free_port()
    done = rproxy_send(port, "--id", "1", "--pp", "111", "--payload", SECRET)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"Sending message {SECRET} to privacy policy 111 through reverse proxy running on port {port}"
    ]
    begin = f"rproxy send: 127.0.0.1:{port}: connection-lost (delivered: no), there is no connection to the proxy: "
    assert done.stderr.startswith(begin)
    assert done.stderr.count("\n") == 1


def test_send_nonsense(shared: Shared) -> None:
    """Bad usage is 2, with what is wrong on standard error, and nothing is sent."""
    for arguments, said in (
        (["--pkt", str(ROOT / "setup.cfg")], "is no data packet: not JSON"),
        (["--payload", SECRET], "rproxy send: --payload needs --id and --pp\n"),
        ([], "one of the arguments --pkt --payload is required"),
    ):
        done = rproxy_send(shared.port, *arguments)

        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert not FAULT.search(done.stderr)


def test_send_json(shared: Shared) -> None:
    """With ``--json`` the packets are printed as they go and come."""
    packet = data_packet("1", "222", SECRET)
    done = rproxy_send(shared.port, "--json", "--pkt", "-", stdin=packet.decode())
    assert (done.returncode, done.stderr) == (0, "")
    sent, came = done.stdout.splitlines()
    assert sent == packet.decode()
    assert json.loads(came) == {
        "type": "2",
        "srcid": "200",
        "destid": "1",
        "payload": sha1_hex(SECRET),
        "payloadsize": "40",
    }

    done = rproxy_send(shared.port, "--json", "--id", "1", "--pp", "999", "--payload", SECRET)
    assert (done.returncode, done.stderr) == (1, "")
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["0", "3"]


def test_send_interrupted() -> None:
    """Stopped from the keyboard, while it waits for an answer, it ends without a traceback."""
    with socket.create_server((HOST, 0)) as silent:
        port = str(silent.getsockname()[1])
        argv = [*RPROXY, "send", "--revproc", port, "--id", "1", "--pp", "111", "--payload", "xyz1"]
        with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sending:
            try:
                silent.settimeout(SECONDS)
                with silent.accept()[0] as connection:
                    connection.settimeout(SECONDS)
                    assert connection.recv(2048)
                    sending.send_signal(signal.SIGINT)
                    _, err = sending.communicate(timeout=SECONDS)
            finally:
                sending.kill()
    assert (sending.returncode, err) == (130, b"")
