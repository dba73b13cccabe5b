"""The machine that tests boot: it runs what a test gives it, keeps nothing, and leaves nothing behind."""

import pytest

from tests import machine
from tests.machine import Machine


@pytest.fixture(autouse=True)
def _possible() -> None:
    if why := machine.obstacle():
        pytest.skip(why)


# Making its root takes a minute, once.
@pytest.mark.timeout(machine.MAKING)
def test_it_runs_a_service() -> None:
    """By a unit that the test writes, under a real systemd."""
    with Machine() as booted:
        assert booted.run("systemctl", "is-system-running") == "running\n"
        booted.write("/etc/systemd/system/hello.service", "[Service]\nExecStart=/bin/echo hello\n")
        booted.run("systemctl", "daemon-reload")
        booted.run("systemctl", "start", "hello.service")
        booted.wait_for("journalctl", "--unit=hello.service", "--output=cat", until="^hello$")


@pytest.mark.timeout(machine.MAKING)
def test_nothing_stays() -> None:
    """Neither what it wrote nor its cgroups."""
    for _ in range(2):
        with Machine() as booted:
            booted.run("test", "!", "-e", "/root/mark")
            booted.write("/root/mark", "")
            cgroups = [*machine.CGROUPS.rglob(booted.name)]
            assert cgroups
        assert not any(cgroup.exists() for cgroup in cgroups)
