"""Whole simulations, from outside: ``rproxy simulate`` with all its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from attrs import define, field

from tests.simulated import VERDICT
from tests.support import PATIENCE, ROOT, Process, wait_for


def command(*options: object) -> list[str]:
    """The command line of a simulation."""
    return [sys.executable, "-m", "rproxy.cli", "simulate", *map(str, options)]


def run_simulation(*options: object) -> subprocess.CompletedProcess[str]:
    """Run one to its end."""
    return subprocess.run(
        command(*options), cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )


def children_of(pid: int) -> list[int]:
    """The processes that it started and that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; what follows it is: state, parent.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether there is such a process that hasn't ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@define
class Running:
    """A simulation with more packets than it will get to send."""

    process: Process
    folder: Path
    children: list[int] = field(factory=list)

    def wait_for_children(self) -> None:
        """Wait until the proxy and all servers are there."""
        wait_for(lambda: len(children_of(self.process.pid)) == 5, PATIENCE, "five processes")
        self.children = sorted(children_of(self.process.pid))

    def wait_for_end_of_children(self) -> None:
        """Wait until none of them is left."""
        wait_for(lambda: not any(map(is_alive, self.children)), PATIENCE, f"the end of {self.children}")

    def temporary_folders(self) -> list[Path]:
        """What it keeps on disk."""
        return list(self.folder.glob("rproxy-simulation-*"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A simulation whose processes have just been started."""
    process = Process(command("--count", 200_000), ready="", cwd=ROOT, env={"TMPDIR": str(tmp_path)})
    with process:
        started = Running(process, tmp_path)
        started.wait_for_children()
        yield started


def test_fifteen_packets() -> None:
    """Each is in the table, with the servers that take turns, and the verdict is right."""
    run = run_simulation()

    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    for number in range(15):
        policy, servers = ("111", "100|300") if number % 2 else ("222", "200|400")
        row = rf"│ {number}\.json +│ {policy} +│ (?:{servers}) +│ right │ +\d+\.\d\d │"
        assert len(re.findall(row, run.stdout)) == 1, run.stdout
    assert run.stdout.splitlines()[-1] == VERDICT


def test_figures_add_up() -> None:
    """Also with several packets in flight on few connections."""
    run = run_simulation("--json", "--count", 60, "--clients", 3, "--concurrency", 6)
    shown = json.loads(run.stdout)

    assert run.returncode == 0, run.stderr
    assert shown["ok"]
    assert (shown["planned"], shown["right"], shown["wrong"], shown["given_up"]) == (60, 60, 0, 0)
    answered = {server["id"]: server["answered"] for server in shown["servers"]}
    assert sum(answered.values()) == len(shown["packets"]) == 60
    for server_id, number in answered.items():
        assert number == sum(1 for each in shown["packets"] if each["server"] == server_id)
    assert sum(server["share_of_policy"] for server in shown["servers"]) == pytest.approx(2)
    latency = shown["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p95"] <= latency["max"]
    assert latency["max"] == max(each["ms"] for each in shown["packets"])


def test_policy_that_nobody_serves(tmp_path: Path) -> None:
    """That packet went wrong, and the others are right nevertheless."""
    for name, policy in (("0.json", "111"), ("1.json", "999"), ("2.json", "222")):
        packet_text = json.dumps({"type": "0", "srcid": "1", "privPoliId": policy, "payload": "x"})
        (tmp_path / name).write_text(packet_text, "utf-8")
    run = run_simulation("--packets", tmp_path, "--json")
    shown = json.loads(run.stdout)

    assert run.returncode == 1
    assert [each["problem"] and each["problem"].partition(":")[0] for each in shown["packets"]] == [
        None,
        "no-server",
        None,
    ]
    assert shown["verdict"] == "1 of 3 packets went wrong."


def test_nothing_to_start(tmp_path: Path) -> None:
    """What can't be done is said before anything is done."""
    run = run_simulation("--packets", tmp_path)

    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("rproxy simulate: ")


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_plot_without_matplotlib(tmp_path: Path) -> None:
    """It says what to install."""
    run = run_simulation("--plot", tmp_path / "shares.png")

    assert (run.returncode, run.stdout) == (2, "")
    assert "pip install matplotlib" in run.stderr


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plot(tmp_path: Path) -> None:
    """The picture is there at the end."""
    run = run_simulation("--plot", tmp_path / "shares.png")

    assert run.returncode == 0, run.stderr
    assert (tmp_path / "shares.png").stat().st_size > 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(running: Running, number: signal.Signals) -> None:
    """Nothing of it is left: no process, no folder."""
    assert running.temporary_folders()
    running.process.send_signal(number)

    assert running.process.wait() == 128 + number
    assert not any(map(is_alive, running.children))
    assert not running.temporary_folders()
    assert number.name in running.process.log


def test_killed(running: Running) -> None:
    """Even then no process is left."""
    running.process.send_signal(signal.SIGKILL)

    assert running.process.wait() == -signal.SIGKILL
    running.wait_for_end_of_children()


def test_server_dies(running: Running) -> None:
    """It ends, and says who it was."""
    os.kill(running.children[-1], signal.SIGKILL)

    assert running.process.wait() == 1
    assert not any(map(is_alive, running.children))
    assert re.search(r"(server \d00|the proxy) was ended by SIGKILL", running.process.log)
    assert not running.temporary_folders()
