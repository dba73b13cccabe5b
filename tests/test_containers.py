"""The Containerfile and compose.yaml: free of what their linters know, and what they run works.

Only the last test needs an engine. The others run the commands that stand in the files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml

from rproxy import tap
from tests.support import PATIENCE, ROOT, Process, environment, free_port, run, script, wait_for

CONTAINERFILE = ROOT / "Containerfile"
COMPOSE = ROOT / "compose.yaml"
#: The ports that stand in the files.
PORT, ADMIN, POOL = "8000", "9000", "5000"


def instruction(name: str) -> str:
    """Return what stands behind an instruction; its last one counts."""
    joined = CONTAINERFILE.read_text("utf-8").replace("\\\n", " ")
    return str(re.findall(rf"^ *{name} +(.*)$", joined, re.MULTILINE)[-1])


def image_command() -> list[str]:
    command: list[str] = json.loads(instruction("CMD"))
    return command


def health_command() -> list[str]:
    words: list[str] = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    return words


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    return found


def here(words: list[str], **replaced: str) -> list[str]:
    """Return a command of a container as one of this machine: its programs, and other ports and folders.

    :param replaced: numbers, with an underscore before them, and what stands for them.
    """
    program, *arguments = words
    begin = [sys.executable] if program == "python" else script(program)
    for old, new in replaced.items():
        arguments = [re.sub(rf"\b{old[1:]}\b", new, each) for each in arguments]
    return [*begin, *arguments]


def test_containerfile_is_clean() -> None:
    """hadolint has nothing to say, be it as little as it may."""
    ended = run([str(Path(sys.executable).parent / "hadolint"), "--no-fail", "--format", "json", str(CONTAINERFILE)])
    assert json.loads(ended.stdout) == [], ended.stdout


def test_compose_is_valid() -> None:
    """By the schema of the Compose Specification, which comes with check-jsonschema."""
    ended = run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)])
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_context_has_what_is_copied() -> None:
    """The list of what goes to the engine lets through just what is copied, and all of that is there."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    joined = CONTAINERFILE.read_text("utf-8")
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", joined, re.MULTILINE) for word in line.split()}
    assert lines[1] == "*"
    assert copied == allowed
    for name in copied:
        assert (ROOT / name).exists(), name


def test_extras_are_there() -> None:
    """What is built is what is installed, and both are extras that there are."""
    built, installed = re.findall(r"'(?:\.|rproxy)\[([a-z,]+)\]'", CONTAINERFILE.read_text("utf-8"))
    assert built == installed
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    for extra in built.split(","):
        assert re.search(rf"^{extra} =$", setup, re.MULTILINE)


def test_stops_in_time() -> None:
    """A container is given longer to stop than the proxy takes by its own limits."""
    drain = float(tap.Options()["drain-timeout"])
    for service in services().values():
        assert float(service["stop_grace_period"].removesuffix("s")) > drain


def test_commands(tmp_path: Path) -> None:
    """The proxy and a pool server run as they are written down, their health checks say so, and see when they don't."""
    ports = {f"_{PORT}": str(free_port()), f"_{ADMIN}": str(free_port()), f"_{POOL}": str(free_port())}
    healthy = here(health_command(), **ports)
    proxy_argv = [word.replace("/var/lib/rproxy", str(tmp_path)) for word in here(image_command(), **ports)]
    pool = services()["pool-100"]
    pool_argv = [word.replace("proxy:", "127.0.0.1:") for word in here(pool["command"], **ports)]
    pool_healthy = here(pool["healthcheck"]["test"][1:], **ports)
    assert run(healthy).returncode != 0
    assert run(pool_healthy).returncode != 0
    with Process(proxy_argv, ready="Running the reverse proxy") as proxy:
        with Process([*pool_argv, "--listen", ports[f"_{POOL}"]], ready="Registered for privacy policy"):
            assert run(healthy).returncode == 0
            assert run(pool_healthy).returncode == 0
            to = ["--revproc", ports[f"_{PORT}"], "--id", "1", "--pp", "111"]
            sent = run([*script("rproxy"), "send", *to, "--payload", "x"])
            assert sent.returncode == 0, sent.stderr
        assert (tmp_path / "registry.sqlite").exists()
        assert proxy.stop() == 0
    assert run(healthy).returncode != 0


def test_services() -> None:
    """All are kept running with as little as they need, and start in their order."""
    found = services()
    assert [*found] == ["proxy", "pool-100", "pool-200"]
    for name, service in found.items():
        assert (service["image"], service["restart"], service["read_only"]) == ("rproxy", "unless-stopped", True)
        assert service["cap_drop"] == ["ALL"]
        if name != "proxy":
            assert service["depends_on"] == {"proxy": {"condition": "service_healthy"}}
            assert "ports" not in service
    assert found["proxy"]["ports"] == [f"{PORT}:{PORT}"] == [f"{instruction('EXPOSE')}:{PORT}"]
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert int(instruction("USER")) > 0


def _engine() -> str | None:
    """The container engine that answers here."""
    for name in ("podman", "docker"):
        if which(name) and not subprocess.run([name, "ps"], capture_output=True, check=False).returncode:
            return name
    return None


ENGINE = _engine()


@pytest.mark.timeout(900)
@pytest.mark.skipif(ENGINE is None, reason="no container engine answers here: neither podman nor docker")
def test_image() -> None:
    """It can be built; its container becomes healthy, and stops in order."""
    assert ENGINE is not None

    def engine(*words: str, seconds: float = PATIENCE) -> str:
        done = subprocess.run(
            [str(ENGINE), *words],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    engine("build", "--tag", "rproxy-test", "--file", "Containerfile", ".", seconds=600)
    container = engine("run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "rproxy-test")
    try:
        check = health_command()

        def healthy() -> bool:
            return not subprocess.run(
                [str(ENGINE), "exec", container, *check], capture_output=True, check=False
            ).returncode

        wait_for(healthy, 60.0, "the container to be healthy")
        assert engine("exec", container, "id", "-u") == instruction("USER")
        engine("stop", "--time", "40", container, seconds=60)
        assert engine("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    finally:
        engine("rm", "--force", "--volumes", container)
        engine("rmi", "rproxy-test")
