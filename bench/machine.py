"""On what it was measured: the machine, and the versions of everything."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.building import Missing
from bench.stage import ROOT, Bench

#: What the Python that runs rproxy says of itself.
_ASK = """
import json, platform, sys, sysconfig
from importlib.metadata import version
import rproxy, rproxy.tap
args = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(json.dumps({
    "python": f"{platform.python_implementation()} {platform.python_version()}",
    "python_path": sys.executable,
    "python_compiler": platform.python_compiler(),
    "python_optimized": "--enable-optimizations" in args,
    "python_lto": "--with-lto" in args,
    "rproxy": rproxy.__version__,
    "rproxy_path": rproxy.__file__,
    "twisted": version("twisted"),
    "msgspec": version("msgspec"),
}))
"""


def parse_cpu_model(cpuinfo: str) -> str:
    """The processor's name, out of ``/proc/cpuinfo``; not every kind has one there."""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def parse_version(text: str) -> str:
    """The version that HAProxy or a NATS server tells, such as ``2.6.12-1`` or ``2.9.10``."""
    found = re.search(r"\bv?(\d+\.\d+[\w.+~-]*)", text)
    return found[1] if found else text.strip().partition("\n")[0]


def describe(bench: Bench) -> dict[str, Any]:
    """All of it, for the results.

    :raises Missing: the Python that is to run rproxy can't.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": parse_cpu_model(Path("/proc/cpuinfo").read_text()),
            "processors": len(os.sched_getaffinity(0)),
            "kernel": f"{platform.system()} {platform.release()}",
            "load_before": os.getloadavg()[0],
        },
        "versions": {
            **_ask_python(bench),
            "commit": None if bench.installed else _commit(),
            "haproxy": bench.haproxy and parse_version(_output([bench.haproxy, "-v"])),
            "nats": bench.nats and parse_version(_output([bench.nats, "--version"])),
            "redis": bench.redis and parse_version(_output([bench.redis, "--version"])),
        },
    }


def in_words(about: dict[str, Any]) -> str:
    """The same for people, in a few lines."""
    machine, versions = about["machine"], about["versions"]
    optimized = "with" if versions["python_optimized"] else "without"
    build = f"built {optimized} --enable-optimizations" + (", with LTO" if versions["python_lto"] else "")
    commit = f" ({versions['commit']})" if versions["commit"] else ""
    names = (("HAProxy", "haproxy"), ("NATS", "nats"), ("Redis", "redis"))
    peers = [f"{name} {versions[key]}" for name, key in names if versions[key]]
    return "\n".join(
        [
            f"{about['date']}, {machine['cpu']}, {machine['processors']} processors, {machine['kernel']}",
            f"rproxy {versions['rproxy']}{commit}, Twisted {versions['twisted']}, msgspec {versions['msgspec']}",
            f"{versions['python']}, {build}",
            ", ".join(peers) or "No peers",
        ]
    )


def _ask_python(bench: Bench) -> dict[str, Any]:
    env = {**os.environ}
    if not bench.installed:
        env["PYTHONPATH"] = str(ROOT)
    try:
        done = subprocess.run([bench.python, "-c", _ASK], env=env, cwd="/", capture_output=True, text=True, check=False)
    except OSError as error:
        raise Missing(f"{bench.python} can't be run: {error}") from None
    if done.returncode:
        raise Missing(
            f"{bench.python} can't run rproxy, perhaps because what it needs isn't installed there (pip install"
            f" {ROOT}):\n{done.stderr.strip()}"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _output(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def _commit() -> str | None:
    """Which commit is measured, and whether it was changed; None where this is no clone, or git isn't there."""
    argv = ["git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
