"""Instances of EC2 for tests: machines that boot with a group's user data, and an ``aws`` that answers what they ask.

What runs there is what would run on an instance: cloud-init is given the user data that came out of the launch
template, and does the rest. Everything else comes from this machine: the release and what it needs from a folder of
wheels, which pip's own configuration names, and AWS from a script that writes down what it was asked for.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests import machine
from tests.machine import Machine

#: Where the script writes down what it was asked for.
ASKED = "/var/log/aws"

#: Answers are files in /srv/aws, by service and operation. S3 fails at first, as things do while an instance is new.
_AWS = f"""\
#!/bin/sh
echo "$@" >>{ASKED}
case "$1 $2" in
"s3 cp")
    [ -e /run/aws-tried ] || {{ touch /run/aws-tried; echo 'Unable to locate credentials' >&2; exit 255; }}
    exec cp "/srv/wheels/${{4##*/}}" "$5" ;;
*)
    [ ! -e "/srv/aws/$1-$2" ] || cat "/srv/aws/$1-$2" ;;
esac
"""

#: What a container of Debian doesn't have, and an instance does.
_CLOUD_CONFIG = """\
datasource_list: [NoCloud]
network: {config: disabled}
locale: false
"""

_PIP = """\
[global]
no-index = true
find-links = /srv/wheels
"""


class Instance(Machine):
    """A machine that boots with user data.

    :param packages: Debian packages that its image has beside cloud-init.
    :param ident: its id.
    :param user_data: what came out of the launch template.
    :param wheels: the folder of wheels.
    :param folder: an empty folder for what it is given.
    :param answers: what ``aws`` prints, by service and operation, such as ``ec2-describe-instances``.
    :param files: other files that it has, by their path there.
    """

    #: It installs the release meanwhile.
    booting = 3 * machine.PATIENCE

    def __init__(
        self,
        *packages: str,
        ident: str,
        user_data: str,
        wheels: Path,
        folder: Path,
        answers: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        seed, aws = folder / "seed", folder / "aws"
        seed.mkdir(parents=True)
        aws.mkdir()
        (seed / "user-data").write_text(user_data)
        (seed / "meta-data").write_text(f"instance-id: {ident}\nlocal-hostname: {ident}\n")
        for name, text in (answers or {}).items():
            (aws / name).write_text(text)
        binds = {
            "/var/lib/cloud/seed/nocloud": seed,
            "/srv/aws": aws,
            "/srv/wheels": wheels,
            "/etc/cloud/cloud.cfg.d/99-test.cfg": self._file(folder / "cloud.cfg", _CLOUD_CONFIG),
            "/etc/pip.conf": self._file(folder / "pip.conf", _PIP),
            "/usr/local/bin/aws": self._file(folder / "bin", _AWS),
            # An image without it would fetch it.
            "/usr/local/bin/amazon-ssm-agent": self._file(folder / "agent", "#!/bin/sh\n"),
            **(files or {}),
        }
        super().__init__("cloud-init", *packages, binds=binds)

    @staticmethod
    def _file(path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

    @property
    def leader(self) -> int:
        """The process that has its namespaces."""
        return self._leader

    def address(self, address: str) -> None:
        """Give it an address of its own, such as ``10.81.0.10/20``."""
        _ip(f"address add {address} dev lo", self.leader)

    @property
    def asked(self) -> list[str]:
        """What AWS was asked for so far, each a line."""
        return self.run("cat", ASKED).splitlines()

    def boot_again(self) -> None:
        """Do what cloud-init does at a boot that isn't the first."""
        # A real one would find nothing of what was written before.
        self.run("cloud-init", "single", "--name=scripts-per-boot", seconds=self.booting)

    @property
    def bootstrapped(self) -> str:
        """What was printed when it was made what it is."""
        return self.run("cat", "/var/log/cloud-init-output.log")


def wire(instances: Mapping[str, Instance]) -> None:
    """Put two instances into one network, by their addresses, such as ``10.80.0.10/20``."""
    first, second = (each.leader for each in instances.values())
    _ip(f"link add wire netns {first} type veth peer name wire netns {second}")
    for address, each in instances.items():
        _ip(f"address add {address} dev wire", each.leader)
        _ip("link set wire up", each.leader)


def _ip(command: str, where: int | None = None) -> None:
    into = [] if where is None else ["nsenter", f"--net=/proc/{where}/ns/net"]
    subprocess.run([*into, "ip", *command.split()], check=True)


def obstacle() -> str:
    """Return why no instance can be booted here; an empty text if one can."""
    if shutil.which("ip") is None:
        return "the command ip isn't here: install iproute2"
    return machine.obstacle()
