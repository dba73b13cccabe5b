"""What instances of EC2 run when they boot: the functions of the script, each by itself."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jmespath
import pytest
from botocore import xform_name

from tests.stacks import client, cloud
from tests.templates import STACK, Stack, read

#: As ``aws`` prints them: when it was launched, its id, and its number.
Line = tuple[int, str, str]


def script() -> str:
    """All of it."""
    return str(read("rproxy.yaml")["Mappings"]["Text"]["Bootstrap"]["Script"])


def functions() -> str:
    """The script without what it does at once."""
    text = script()
    begin, end = text.index("# retry COMMAND"), text.rindex("install_packages\n")
    return f"set -euo pipefail\n{text[begin:end]}"


def bash(what: str, code: int = 0) -> str:
    """What is printed by functions that are called."""
    return execute(f"{functions()}\n{what}\n", code)


def execute(text: str, code: int) -> str:
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def boot(tmp_path: Path) -> Callable[..., str]:
    """What is printed when an instance boots again and again, and what makes it what it is comes to something else."""
    begin = script().split("# retry COMMAND", maxsplit=1)[0]
    made = "made=/var/lib/cloud/instance/rproxy-made"
    told = ". /etc/rproxy-instance"
    assert begin.count(f"\n{made}\n") == begin.count(f"\n{told}\n") == 1
    begin = begin.replace(made, f"made={tmp_path}/made")
    begin = begin.replace(told, "ROLE=pool STACK=x GROUP=PoolGroup REGION=us-east-1")
    stand_in = "cloud-init() { echo i-a; }; aws() { echo aws $@; }; shutdown() { echo shutdown $@; }; "
    stand_in += "systemctl() { echo running; }"
    return lambda what, code=0: execute(f"{stand_in}\n{begin}\n{what}\n", code)


SIGNAL = "aws cloudformation signal-resource --stack-name x --logical-resource-id PoolGroup --unique-id i-a --status"


def test_what_is_made_is_told_once(boot: Callable[..., str]) -> None:
    """At the next boot there is nothing to do."""
    assert boot("echo making").splitlines() == ["making", f"{SIGNAL} SUCCESS"]
    assert boot("echo making") == ""


def test_what_fails_is_told_and_switched_off(boot: Callable[..., str]) -> None:
    """Whoever has kept it on, and boots it again, has it try again."""
    failed = [f"{SIGNAL} FAILURE", "rproxy: this instance can't be made a pool: off in 5 minutes", "shutdown -P +5"]
    assert boot("false; echo not here", 1).splitlines() == failed
    assert boot("false; echo not here", 1).splitlines() == failed


def test_a_reboot_is_no_failure_and_it_goes_on_then(boot: Callable[..., str]) -> None:
    """All that runs is told to end, what is waited for as well; the stack hears nothing of it."""
    ended = "bash -c 'kill -TERM $PPID; kill -TERM $$'"
    assert boot(f"echo making; {ended}; echo not here", 1) == "making\n"
    assert boot("echo making").splitlines() == ["making", f"{SIGNAL} SUCCESS"]


def test_what_a_reboot_breaks_off_is_no_failure(boot: Callable[..., str]) -> None:
    """Units can't be started any more before all that runs is told to end; the network may still be there."""
    assert boot("systemctl() { echo stopping; return 1; }; false; echo not here", 1) == ""
    assert boot("echo making").splitlines() == ["making", f"{SIGNAL} SUCCESS"]


def number(me: str, *lines: Line, code: int = 0) -> str:
    """The number that an instance takes, as it sees the others."""
    seen = "\\n".join(f"2026-01-01T00:00:{second:02}+00:00\\t{ident}\\t{taken}" for second, ident, taken in lines)
    return bash(f"aws() {{ printf '{seen}\\n'; }}; STACK_NAME=x; instance={me}; find_number", code).strip()


def test_the_first_takes_the_first() -> None:
    assert number("i-a", (1, "i-a", "None")) == "0"


def test_all_at_once_take_one_each() -> None:
    """Each by itself, and before any of them has said which it takes."""
    seen: list[Line] = [(3, "i-a", "None"), (1, "i-c", "None"), (3, "i-b", "None")]

    assert [number(me, *seen) for me in ("i-c", "i-a", "i-b")] == ["0", "1", "2"]


def test_one_that_has_said_so_is_passed_over() -> None:
    assert number("i-b", (2, "i-b", "None"), (3, "i-a", "0")) == "1"


def test_who_comes_for_one_that_is_gone_takes_its_number() -> None:
    assert number("i-d", (1, "i-a", "0"), (2, "i-c", "2"), (9, "i-d", "None")) == "1"


def test_more_than_ten() -> None:
    """They are numbers, not words."""
    taken: list[Line] = [(second, f"i-{second:02}", str(second)) for second in range(11)]

    assert number("i-z", *taken, (30, "i-y", "None"), (40, "i-z", "None")) == "12"


def test_a_number_is_kept() -> None:
    """When the script is run again."""
    assert number("i-b", (1, "i-a", "None"), (2, "i-b", "3")) == "3"


def test_of_two_with_one_number_the_first_keeps_it() -> None:
    both: list[Line] = [(1, "i-b", "0"), (2, "i-a", "0"), (3, "i-c", "1")]

    assert [number(me, *both) for me in ("i-b", "i-a", "i-c")] == ["0", "2", "1"]


def test_who_is_seen_late_gives_way(tmp_path: Path) -> None:
    """Two that saw nothing of each other took one number; that is noticed, and one of them takes another."""
    looks = tmp_path / "looks"
    mine = "2026-01-01T00:00:02+00:00\\ti-b\\t"
    earlier = "2026-01-01T00:00:01+00:00\\ti-a\\t0\\n"
    what = f"""
        STACK_NAME=x instance=i-b
        sleep() {{ :; }}
        aws() {{
            [ "$2" = describe-instances ] || {{ echo "$@"; return; }}
            echo >>{looks}
            case $(wc -l <{looks}) in
            1) printf '{mine}None\\n' ;;
            2) printf '{mine}0\\n' ;;
            3) printf '{earlier}{mine}0\\n' ;;
            *) printf '{earlier}{mine}1\\n' ;;
            esac
        }}
        take_number
        echo "$number"
    """
    tag = "ec2 create-tags --resources i-b --tags Key=rproxy:number,Value="
    assert bash(f"number=\n{what}").splitlines() == [f"{tag}0", f"{tag}1", "1"]
    # Until it was seen so three times.
    assert len(looks.read_text()) == 6


def test_who_does_not_see_itself_looks_again() -> None:
    assert number("i-b", (1, "i-a", "0"), code=1) == ""


@pytest.mark.parametrize(("times", "code"), [(0, 0), (2, 0), (8, 7)])
def test_what_fails_is_tried_again(tmp_path: Path, times: int, code: int) -> None:
    """Eight times in all, and then it has failed."""
    tried = tmp_path / "tried"
    look = f'look() {{ echo >>{tried}; [ "$(wc -l <{tried})" -gt {times} ] || return 7; }}; '

    bash(f"sleep() {{ :; }}; {look} retry look", code)
    assert len(tried.read_text()) == min(times + 1, 8)


def installed(given: str) -> list[str]:
    """What is asked of S3 and of pip for a release."""
    stand_in = "python3.11() { :; }; aws() { echo aws $@; }; "
    stand_in += "function /opt/rproxy/bin/pip { echo pip $@; }; function /opt/rproxy/bin/rproxy { :; }"
    return bash(f"WHEEL= EXTRAS= REQUIREMENT=rproxy INDEX=\n{stand_in}\n{given}\ninstall_release").splitlines()


PIP = "pip install --no-input --disable-pip-version-check"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("", [f"{PIP} rproxy"]),
        ("REQUIREMENT='rproxy==2.0,<3'", [f"{PIP} rproxy==2.0,<3"]),
        ("REQUIREMENT='rproxy==2.0' EXTRAS=[redis,tls]", [f"{PIP} rproxy[redis,tls]==2.0"]),
        ("INDEX=https://index.example/simple/", [f"{PIP} --index-url=https://index.example/simple/ rproxy"]),
        (
            "WHEEL=s3://bucket/a/rproxy-2.0.whl EXTRAS=[redis,tls]",
            [
                "aws s3 cp --no-progress s3://bucket/a/rproxy-2.0.whl /var/tmp/rproxy-2.0.whl",
                f"{PIP} /var/tmp/rproxy-2.0.whl[redis,tls]",
            ],
        ),
    ],
)
def test_where_the_release_comes_from(given: str, asked: list[str]) -> None:
    assert installed(given) == asked


#: First, on Debian: what a reboot cut short is in the way of all else, and looks as if it were there.
MENDING = "dpkg --configure -a"
UPDATE = "apt-get -q update"


@pytest.mark.parametrize(
    ("given", "has", "installs"),
    [
        # Debian 12, as its image is; and as it is with all that is needed.
        (
            "",
            "apt-get dpkg",
            [MENDING, UPDATE, "apt-get -q -y install awscli", UPDATE, "apt-get -q -y install python3.11-venv"],
        ),
        ("", "apt-get dpkg aws ensurepip amazon-ssm-agent", [MENDING]),
        (
            "NOIP_SECRET=arn",
            "apt-get dpkg aws ensurepip amazon-ssm-agent",
            [MENDING, UPDATE, "apt-get -q -y install inadyn"],
        ),
        # dpkg can't configure what needs something that wasn't unpacked yet.
        ("", "apt-get dpkg unmet aws ensurepip amazon-ssm-agent", [MENDING, "apt-get -q -y --fix-broken install"]),
        # Amazon Linux 2023.
        ("", "dnf aws amazon-ssm-agent", ["dnf -q -y install python3.11 python3.11-pip"]),
        (
            "LOG_GROUP=/rproxy/packets",
            "dnf aws amazon-ssm-agent",
            ["dnf -q -y install python3.11 python3.11-pip amazon-cloudwatch-agent"],
        ),
    ],
)
def test_what_an_image_lacks_is_installed(given: str, has: str, installs: list[str]) -> None:
    """What there is on the image is told by words."""
    assert packages(given, has) == installs


def packages(given: str, has: str, code: int = 0) -> list[str]:
    stand_in = f"""
        {given}
        command() {{ [[ " {has} " = *" $2 "* ]]; }}
        python3.11() {{ command -v ensurepip; }}
        dnf() {{ echo dnf $@; }}
        dpkg() {{ echo dpkg $@; ! command -v unmet; }}
        apt-get() {{ echo apt-get $@; }}
        install_session_manager() {{ :; }}
        install_packages
    """
    return bash(stand_in, code).splitlines()


@pytest.mark.parametrize(
    ("given", "has", "installs"),
    [
        ("NOIP_SECRET=arn", "dnf aws", []),
        # Without it the stack couldn't be told.
        ("LOG_GROUP=/rproxy/packets", "apt-get dpkg", [MENDING, UPDATE, "apt-get -q -y install awscli"]),
    ],
    ids=["no-ip", "logs"],
)
def test_what_an_image_cannot_have_is_said(given: str, has: str, installs: list[str]) -> None:
    assert packages(given, has, 1) == installs


def asked() -> Iterator[tuple[str, str, set[str]]]:
    """What the script asks of AWS by its command: the service, the operation and the options."""
    for line in script().replace("\\\n", " ").splitlines():
        for service, operation, rest in re.findall(r"\baws ([a-z0-9]+) ([a-z-]+) (-.*)", line):
            yield service, operation, set(re.findall(r"(?<= )--([a-z-]+)", f" {rest}"))


def test_what_is_asked_of_aws_is_there_to_be_asked() -> None:
    """The operations and their options are those of the command, which makes them of the same models as boto3."""
    found = [*asked()]
    assert {operation for _, operation, _ in found} == {
        *("signal-resource", "describe-instances", "create-tags", "associate-address", "get-secret-value"),
        "cp",
    }
    for service, operation, options in found:
        if service != "s3":
            name = "".join(part.title() for part in operation.split("-"))
            shape = client(service).meta.service_model.operation_model(name).input_shape
            known = {xform_name(member, "-") for member in shape.members}
            assert options <= known | {"output", "query"}, operation
            assert {xform_name(member, "-") for member in shape.required_members} <= options, operation


def test_a_number_is_read_from_what_ec2_answers() -> None:
    """The filters find a group's instances, and the query makes lines of them."""
    (query,) = re.findall(r"--query '(Reservations.*)'", script())
    with cloud():
        stack = Stack("rproxy.yaml", {})
        first, second = (each["InstanceId"] for each in stack.group("PoolGroup")["Instances"])
        client("ec2").create_tags(Resources=[second], Tags=[{"Key": "rproxy:number", "Value": "0"}])
        wanted = {
            "tag:rproxy:stack": [STACK],
            "tag:rproxy:role": ["pool"],
            "instance-state-name": ["pending", "running"],
        }
        for name, values in wanted.items():
            assert f"Name={name},Values={','.join(values)}" in script().replace("$STACK_NAME", STACK).replace('"', "")
        filters = [{"Name": name, "Values": values} for name, values in wanted.items()]
        rows = jmespath.search(query, client("ec2").describe_instances(Filters=filters))

    assert {row[1]: row[2] for row in rows} == {first: None, second: "0"}
