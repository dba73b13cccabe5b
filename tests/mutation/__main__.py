"""``python -m tests.mutation [NAME ...]``: whether the tests would notice if the code were wrong.

mutmut changes one thing at a time in the modules of :data:`SUBJECTS`, hundreds of times, and each time runs those tests
of the module that reach the changed function. A mutant that no test notices has survived. What to do with one:

- look at it: ``cd build/mutation/NAME && python -m mutmut show MUTANT`` with the Python of ``.venv``;
- if it does something else than the code should, write the test that fails by it;
- if nobody could tell the difference, ask whether the code is needed at all. There is no list of mutants that are not
  counted, so what remains has to fit within the tenth that may survive (docs/explanation/reliability.rst, Wrong on
  purpose).

mutmut changes what stands in functions and methods: not constants, not the fields of classes, and no function with a
decorator, properties included. Annotations and docstrings are left alone too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from attrs import define, frozen

from tests.support import ROOT

#: At least so many per cent of the mutants have to be killed, of each subject.
ENOUGH = 90
#: Bytes: a mutant that loops and collects ends here, and not with the machine's memory.
MEMORY = 4 << 30
#: How pytest ends where a test has failed.
KILLED = 1
#: Where the copies are that are mutated.
BUILD = ROOT / "build" / "mutation"


@frozen
class Subject:
    """What is mutated, and by which tests it is to be caught: its own, without processes and sockets, in seconds."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


# What a router and its upstreams do for others: revoke, hold to limits, share servers with other proxies, drain.
_ON_THE_WAY = (
    "tests/test_slow_start.py",
    "tests/test_sharing.py",
    *("tests/test_admission.py", "tests/test_admission_revoking.py"),
    *("tests/test_admission_limits.py", "tests/test_admission_violations.py"),
    "tests/test_control_reporting.py::ExplainTests",
    "tests/test_proxyservice.py::DrainTests",
)
_UPSTREAM = ("tests/test_upstream.py", "tests/test_upstream_probing.py", "tests/test_upstream_leases.py")
SUBJECTS = {
    "framing": Subject(("rproxy/framing/__init__.py", "rproxy/framing/scanning.py"), ("tests/test_framing.py",)),
    "packets": Subject(
        tuple(f"rproxy/packets/{name}.py" for name in ("kinds", "peeking", "reading", "writing")),
        ("tests/test_packets.py",),
    ),
    "health": Subject(("rproxy/health.py",), ("tests/test_health.py",)),
    "routing": Subject(
        tuple(f"rproxy/{name}.py" for name in ("routing", "routes", "forwarding", "quotas", "retrying")),
        (
            *("tests/test_routing.py", "tests/test_forwarding.py", "tests/test_quotas.py", "tests/test_retrying.py"),
            *("tests/test_routing_waiting.py", *_UPSTREAM),
            *("tests/test_control_reporting.py::PolicyTests", *_ON_THE_WAY),
        ),
    ),
    "upstream": Subject(
        tuple(f"rproxy/upstream/{name}.py" for name in ("__init__", "connecting", "directory", "members", "probing")),
        (
            *_UPSTREAM,
            "tests/test_connection.py",
            "tests/test_routing.py",
            "tests/test_routing_waiting.py",
            *_ON_THE_WAY,
        ),
    ),
    "registry": Subject(
        tuple(f"rproxy/registry/{name}.py" for name in ("__init__", "claims", "registration", "standing")),
        (
            *("tests/test_registry.py", "tests/test_registry_claims.py", "tests/test_registry_forgetting.py"),
            *(f"tests/test_registry_{name}.py" for name in ("places", "hearing", "holding", "telling", "revoking")),
            "tests/test_registry_model.py",
            # What it is told by stores and by setup packets.
            *("tests/test_stores_replica.py", "tests/test_sharing.py"),
            *("tests/test_admission.py", "tests/test_admission_revoking.py"),
        ),
    ),
}

# mutmut takes its configuration from the pyproject.toml of where it runs, one for all that it mutates there. Its test
# cases run in processes that are forked anew each time: Hypothesis refuses to run one twice in the same process.
CONFIGURATION = """
[tool.mutmut]
source_paths = ["rproxy"]
only_mutate = {sources}
also_copy = ["conftest.py", "etc", "pktfiles"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"
# Seconds: (what the tests take + constant) x multiplier. Only a mutant that loops should take so long.
timeout_constant = 5.0
timeout_multiplier = 2.0
"""


@define
class Result:
    """What became of the mutants of one subject."""

    name: str
    killed: int
    survived: int
    timeout: int
    untested: int
    other: int

    @property
    def total(self) -> int:
        return self.killed + self.survived + self.timeout + self.untested + self.other

    @property
    def rate(self) -> float:
        """Per cent that were noticed; that a test doesn't end is noticed too."""
        return 100 * (self.killed + self.timeout) / self.total

    def line(self) -> str:
        return (
            f"{self.name:10} {self.total:5} mutants: {self.killed} killed, {self.timeout} timed out, "
            f"{self.survived} survived, {self.untested} without a test, {self.other} unclear: {self.rate:.1f} %"
        )


def _copy(subject: Subject, folder: Path) -> None:
    """Bring the tree that mutmut works in to what this one is; it mutates nothing here."""
    for name in ("rproxy", "tests", "twisted", "etc", "pktfiles"):
        unwanted = shutil.ignore_patterns("__pycache__", "dropin.cache", "etc" if name == "rproxy" else "")
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted, dirs_exist_ok=True)
    for name in ("conftest.py", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    with (folder / "pyproject.toml").open("a") as file:
        # A list of texts looks the same in TOML and JSON.
        file.write(CONFIGURATION.format(sources=json.dumps(subject.sources), tests=json.dumps(subject.tests)))


def _forget(folder: Path) -> None:
    """Have those tried again that weren't killed; mutmut itself tries those again whose function has changed."""
    for path in folder.glob("mutants/rproxy/**/*.meta"):
        found = json.loads(path.read_text())
        codes = found["exit_code_by_key"]
        found["exit_code_by_key"] = {mutant: code if code == KILLED else None for mutant, code in codes.items()}
        path.write_text(json.dumps(found))


def _mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut there, and return what it printed.

    :raises subprocess.CalledProcessError: it failed, such as when a test does so without any mutant.
    """
    environment = {"HYPOTHESIS_PROFILE": "brief", **os.environ}
    # It names the code that isn't mutated.
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


def _try(name: str, jobs: int, again: bool) -> Result:
    folder = BUILD / name
    if again:
        _forget(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _copy(SUBJECTS[name], folder)
    _mutmut(folder, "run", "--max-children", str(jobs))
    _mutmut(folder, "export-cicd-stats")
    counts = json.loads((folder / "mutants" / "mutmut-cicd-stats.json").read_text())
    named = {"killed": counts["killed"], "survived": counts["survived"], "timeout": counts["timeout"]}
    other = counts["total"] - sum(named.values()) - counts["no_tests"]
    return Result(name, **named, untested=counts["no_tests"], other=other)


def main() -> int:
    """Return 0 if enough mutants were killed, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Change the code, and see tests fail."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: one a core)"
    )
    parser.add_argument("--again", action="store_true", help="only what wasn't killed when it was tried last")
    options = parser.parse_args()
    unknown = set(options.names) - set(SUBJECTS)
    if unknown:
        parser.error(f"no such name: {', '.join(sorted(unknown))}")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    poor = 0
    for name in options.names or SUBJECTS:
        try:
            result = _try(name, options.jobs, options.again)
        except subprocess.CalledProcessError as error:
            print(error.stdout, file=sys.stderr)
            return 1
        print(result.line(), flush=True)
        print(_mutmut(BUILD / name, "results"), end="", flush=True)
        poor += result.rate < ENOUGH
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
