"""The user data of ``etc/ec2/``, as it comes out of AWS, on instances that boot with it; and packets sent through."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import pytest

from tests import instances, machine, wheels
from tests.authority import Authority
from tests.instances import Instance, wire
from tests.stacks import cloud
from tests.templates import Stack

pytestmark = pytest.mark.timeout(machine.MAKING)

PROXY_ADDRESS, POOL_ADDRESS = "10.80.0.10", "10.80.0.20"
PROXY_ID, POOL_ID = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"
USER, PASSWORD = "somebody@example.org", 'it\'s $HOME \\ "secret"'

#: Stands in for No-IP: writes down what it is asked for, in a line.
NO_IP = """\
import http.server, json, os, socket, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("/srv/told", "w") as file:
            json.dump({"path": self.path, "authorization": self.headers["Authorization"]}, file)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"good")

server = http.server.HTTPServer(("127.0.0.1", 443), Handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/srv/no-ip.pem", "/srv/no-ip.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
"""
#: The registry's password, and what makes Debian's redis the registry. Root may ask it by a socket too.
TOKEN = "0123456789abcdef" * 4
REDIS = f"""\
bind 127.0.0.1
port 0
tls-port 6379
tls-cert-file /srv/redis.pem
tls-key-file /srv/redis.key
tls-auth-clients no
requirepass {TOKEN}
unixsocket /run/redis/redis.sock
dir /var/lib/redis
"""
#: Sends a packet as it comes by the balancer: from its network, in version 2 of the header; prints the answer.
CLIENT = """\
import json, socket, struct, sys

address = sys.argv[1]
ends = socket.inet_aton("203.0.113.9") + socket.inet_aton("198.51.100.7") + struct.pack("!HH", 4711, 8000)
header = b"\\r\\n\\r\\n\\x00\\r\\nQUIT\\n" + struct.pack("!BBH", 0x21, 0x11, len(ends)) + ends
packet = {"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}
with socket.create_connection((address, 8000), source_address=(address, 0)) as connection:
    connection.sendall(header + json.dumps(packet).encode())
    print(connection.recv(4096).decode())
"""
RPROXY = "/opt/rproxy/bin/rproxy"
#: What user data has run, and what that leaves when it is done.
SCRIPT, MADE = "/var/lib/cloud/scripts/per-boot/rproxy", "/var/lib/cloud/instance/rproxy-made"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := instances.obstacle():
        pytest.skip(why)
    return tmp_path_factory.mktemp("instances")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    return wheels.make(folder, "redis,tls")


@pytest.fixture(scope="class")
def stack(wheel: Path) -> Iterator[Stack]:
    given = {
        "ReleaseWheel": f"s3://releases/{wheel.name}",
        "ProxyPort": "8100",
        "NoIpHostname": "rproxy.ddns.net",
        "NoIpSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:no-ip-AbCdEf",
    }
    with cloud():
        yield Stack("rproxy.yaml", given)


@pytest.fixture(scope="class")
def pair(stack: Stack, wheel: Path, folder: Path) -> Iterator[tuple[Instance, Instance]]:
    """A proxy and a pool server, each made what it is by its own user data, in one network."""
    name = f"ec2-{stack.outputs['ProxyAddress'].replace('.', '-')}.compute-1.amazonaws.com"
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost dynupdate.no-ip.com\n{PROXY_ADDRESS} {name}\n")
    (authorities := folder / "authority").mkdir()
    authority = Authority(authorities)
    files = authority.issue("dynupdate.no-ip.com")
    proxy = Instance(
        "inadyn",
        ident=PROXY_ID,
        user_data=stack.user_data("ProxyGroup"),
        wheels=wheel.parent,
        folder=folder / "proxy",
        answers={"secretsmanager-get-secret-value": json.dumps({"username": USER, "password": PASSWORD})},
        files={
            "/etc/hosts": hosts,
            "/etc/ssl/certs/ca-certificates.crt": Path(authority.file),
            "/srv/no-ip.pem": Path(str(files.cert)),
            "/srv/no-ip.key": Path(str(files.key)),
        },
    )
    pool = Instance(
        # It doesn't need this, but so its image is the one that is needed below, and making one takes its time.
        "redis-server",
        ident=POOL_ID,
        user_data=stack.user_data("PoolGroup"),
        wheels=wheel.parent,
        folder=folder / "pool",
        answers={
            "ec2-describe-instances": "2026-01-01T00:00:01+00:00\ti-0cccccccccccccccc\t0\n"
            f"2026-01-01T00:00:02+00:00\t{POOL_ID}\tNone\n"
        },
        files={"/etc/hosts": hosts},
    )
    with proxy, pool:
        wire({f"{PROXY_ADDRESS}/20": proxy, f"{POOL_ADDRESS}/20": pool})
        yield proxy, pool


class TestOneProxy:
    """A proxy and a pool server."""

    def test_the_proxy_serves(self, pair: tuple[Instance, Instance], stack: Stack) -> None:
        """Its release comes from S3, though that fails at first; it takes the address, and the stack is told."""
        proxy, _ = pair
        lines = proxy.asked

        assert proxy.run("systemctl", "is-active", "rproxy.service", "rproxy.socket").split() == ["active", "active"]
        assert "rproxy: again in 1 s: aws s3 cp" in proxy.bootstrapped
        assert any(line.startswith("ec2 associate-address") and f"--instance-id {PROXY_ID}" in line for line in lines)
        assert lines[-1].split() == [
            *("cloudformation", "signal-resource", "--stack-name", stack.ident),
            *("--logical-resource-id", "ProxyGroup", "--unique-id", PROXY_ID, "--status", "SUCCESS"),
        ]

    def test_the_pool_server_takes_the_first_free_number(self, pair: tuple[Instance, Instance]) -> None:
        """One has number 0, so it has 1, and with it the second policy."""
        _, pool = pair

        assert pool.run("systemctl", "is-active", "rpoolserver@101.service").strip() == "active"
        assert "POLICY=222\n" in pool.run("cat", "/etc/rproxy/101.conf")
        assert f"ec2 create-tags --resources {POOL_ID} --tags Key=rproxy:number,Value=1" in pool.asked
        assert pool.asked[-1].endswith(f"--logical-resource-id PoolGroup --unique-id {POOL_ID} --status SUCCESS")

    def test_what_is_made_is_not_made_again(self, pair: tuple[Instance, Instance]) -> None:
        """At the next boot there is nothing to do; the units come by themselves."""
        proxy, pool = pair
        for each in pair:
            before = each.asked
            each.boot_again()
            assert each.asked == before

        units = ("rproxy.socket", "rproxy.service", "rproxy-no-ip.service")
        assert proxy.run("systemctl", "is-enabled", *units).split() == ["enabled"] * 3
        assert pool.run("systemctl", "is-enabled", "rpoolserver@101.service").split() == ["enabled"]

    def test_what_a_reboot_cut_short_is_made_at_the_next_boot(self, pair: tuple[Instance, Instance]) -> None:
        """Whatever was there already is no hindrance, also where it was nearly done."""
        proxy, pool = pair
        for each, unit in (proxy, "rproxy.service"), (pool, "rpoolserver@101.service"):
            before = len(each.asked)
            process = each.run("systemctl", "show", "--property=MainPID", "--value", unit)
            each.run("rm", MADE)
            each.boot_again()
            assert each.asked[before:][-1].endswith("--status SUCCESS")
            assert each.run("systemctl", "is-active", unit).strip() == "active"
            # It isn't left with the files of before.
            assert each.run("systemctl", "show", "--property=MainPID", "--value", unit) != process

    def test_packets_go_through(self, pair: tuple[Instance, Instance]) -> None:
        """From a client, to the proxy, to the pool server, which registered by the name of the proxy's address."""
        proxy, pool = pair
        send = ("--id=1", "--pp=222", "--payload=xyz1", "--keep-trying")

        assert "Hash of payload is correct" in proxy.run(RPROXY, "send", "--revproc=127.0.0.1:8100", *send)
        assert "Hash of payload is correct" in pool.run(RPROXY, "send", f"--revproc={PROXY_ADDRESS}:8100", *send)
        (server,) = json.loads(proxy.run(RPROXY, "servers", "--admin=unix:/run/rproxy/admin.sock", "--json"))
        assert POOL_ADDRESS in str(server)

    def test_the_name_at_no_ip_means_the_address(self, pair: tuple[Instance, Instance], stack: Stack) -> None:
        """inadyn tells a server that stands in for No-IP, by TLS, with the account of the secret."""
        proxy, _ = pair
        proxy.write("/srv/no-ip.py", NO_IP)
        proxy.run("systemd-run", "--unit=no-ip", "--service-type=notify", "python3", "/srv/no-ip.py")
        proxy.run("systemctl", "restart", "rproxy-no-ip.service")

        told = json.loads(proxy.wait_for("cat", "/srv/told", until="^.*}$")[0])
        account = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert told["authorization"] == f"Basic {account}"
        path, _, query = told["path"].partition("?")
        fields = dict(each.split("=") for each in query.split("&"))
        assert path == "/nic/update"
        assert fields["hostname"] == "rproxy.ddns.net"
        assert fields["myip"] == stack.outputs["ProxyAddress"]

    def test_services_have_no_way_to_the_role(self, pair: tuple[Instance, Instance]) -> None:
        """The machine has no metadata and may not enforce this; but systemd is told."""
        proxy, pool = pair
        services = (proxy, "rproxy.service"), (proxy, "rproxy-no-ip.service"), (pool, "rpoolserver@101.service")
        for each, unit in services:
            denied = each.run("systemctl", "show", "--property=IPAddressDeny", "--value", unit)
            assert "169.254.169.254" in denied

    def test_the_account_at_no_ip_is_roots(self, pair: tuple[Instance, Instance]) -> None:
        """Neither user data, nor the log, nor a file that others read has it; and what uses it is closed in."""
        proxy, _ = pair

        assert proxy.run("stat", "--format=%a %U", "/etc/rproxy/no-ip.conf").strip() == "600 root"
        proxy.run("test", "!", "-e", "/run/rproxy-no-ip")
        for path in (
            "/var/log/cloud-init-output.log",
            "/var/log/cloud-init.log",
            "/var/lib/cloud/instance/user-data.txt",
        ):
            assert PASSWORD not in proxy.run("cat", path)
        proxy.run("systemd-analyze", "security", "--threshold=20", "rproxy-no-ip.service")

    def test_the_journal_goes_to_a_file_for_cloudwatch(self, pair: tuple[Instance, Instance]) -> None:
        """Debian has no agent of CloudWatch, so here one is asked that only writes down what it is asked for."""
        functions = f"sed '/^trap /d; /^.* exit 0$/d; /^install_packages$/,$d' {SCRIPT}"
        # The pool server is made once more; the proxy would ask No-IP again.
        made = (
            (pair[0], "rproxy.service", "send_logs rproxy.service", "Running the reverse proxy on port 8100"),
            (pair[1], "rpoolserver@101.service", "be_pool", "Registered for privacy policy 222"),
        )
        for each, unit, make, logged in made:
            each.write("/usr/local/bin/amazon-cloudwatch-agent-ctl", '#!/bin/sh\necho "$@" >/srv/agent\n', 0o755)
            each.run("bash", "-ec", f'eval "$({functions})"; LOG_GROUP=/rproxy/packets; {make}')

            each.wait_for("cat", "/var/log/rproxy.json", until=logged)
            lines = [json.loads(line) for line in each.run("cat", "/var/log/rproxy.json").splitlines()]
            assert {line["_SYSTEMD_UNIT"] for line in lines if "_SYSTEMD_UNIT" in line} <= {unit, "init.scope"}
            # By a pattern it would get nothing of a unit that isn't known to the journal yet.
            assert f" --unit={unit}\n" in each.run("systemctl", "cat", "rproxy-journal.service")
            told = json.loads(each.run("cat", "/etc/rproxy/cloudwatch.json"))
            (collected,) = told["logs"]["logs_collected"]["files"]["collect_list"]
            assert collected["file_path"] == "/var/log/rproxy.json"
            assert collected["log_group_name"] == "/rproxy/packets"
            assert each.run("cat", "/srv/agent").split()[-2:] == ["-c", "file:/etc/rproxy/cloudwatch.json"]

    def test_what_cannot_be_made_is_told_and_switched_off(self, pair: tuple[Instance, Instance]) -> None:
        """As when a pool server is to send logs, and its image has nothing for it."""
        _, pool = pair
        before = len(pool.asked)
        pool.run("sh", "-c", f"echo LOG_GROUP=/rproxy/packets >>/etc/rproxy-instance; rm {MADE}")

        said = pool.run(SCRIPT, code=1)
        assert "give an image of Amazon Linux" in said
        assert "off in 5 minutes" in said
        (line,) = pool.asked[before:]
        assert line.endswith("--status FAILURE")
        assert "MODE=poweroff" in pool.run("cat", "/run/systemd/shutdown/scheduled").splitlines()
        pool.run("shutdown", "-c")


# At scale.


@pytest.fixture(scope="class")
def scaled(wheel: Path, folder: Path) -> Iterator[Instance]:
    """A proxy as there are several, with a registry that stands in for ElastiCache's on its own machine."""
    name = "master.registry.use1.cache.amazonaws.com"
    (authorities := folder / "registry").mkdir()
    authority = Authority(authorities)
    files = authority.issue(name)
    (settings := folder / "redis.conf").write_text(REDIS)
    (hosts := folder / "scaled-hosts").write_text(f"127.0.0.1 localhost {name}\n")
    with cloud():
        stack = Stack("rproxy-scale.yaml", {"ReleaseWheel": f"s3://releases/{wheel.name}"})
        user_data = stack.user_data("ProxyGroup")
    # Anybody may read what redis reads as a user of its own.
    Path(str(files.key)).chmod(0o644)
    assert user_data.count("rediss://") == 1
    instance = Instance(
        "redis-server",
        ident=PROXY_ID,
        user_data=re.sub(r"rediss://[^:]+:", f"rediss://{name}:", user_data),
        wheels=wheel.parent,
        folder=folder / "scaled",
        answers={"secretsmanager-get-secret-value": f"{TOKEN}\n"},
        files={
            "/etc/hosts": hosts,
            "/etc/ssl/certs/ca-certificates.crt": Path(authority.file),
            "/etc/redis/redis.conf": settings,
            "/srv/redis.pem": Path(str(files.cert)),
            "/srv/redis.key": Path(str(files.key)),
        },
    )
    with instance:
        yield instance


class TestScale:
    """A proxy of several."""

    def test_a_proxy_at_scale_serves_who_comes_by_the_balancer(self, scaled: Instance) -> None:
        """Its registry is reached by TLS, with the password of the secret; a client's packet comes behind a header."""
        address = "10.81.0.10"
        scaled.address(f"{address}/20")
        scaled.write("/etc/rproxy/100.conf", f"POLICY=111\nLISTEN=5000\nREVPROC={address}:8001\n")
        scaled.run("systemctl", "start", "rpoolserver@100.service")
        scaled.write("/srv/client.py", CLIENT)

        told = scaled.run("/opt/rproxy/bin/python", "/srv/client.py", address)
        assert json.loads(told)["payload"] == sha1(b"xyz1").hexdigest()
        registered = scaled.run(
            "redis-cli", "-s", "/run/redis/redis.sock", "-a", TOKEN, "--no-auth-warning", "keys", "*"
        )
        assert "rproxy" in registered
        assert "Traceback" not in scaled.run("journalctl", "--unit=rproxy.service", "--no-pager")

    def test_clients_without_the_balancer_are_not_served_at_scale(self, scaled: Instance) -> None:
        """Where a header is expected, one from elsewhere isn't believed; where none is, only servers are served."""
        packet = b'{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}'
        header = b"PROXY TCP4 203.0.113.9 198.51.100.7 4711 8000\r\n"
        ask = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); "
        ask += "s.sendall(sys.stdin.buffer.read()); print(s.recv(4096).decode())"

        assert "bad-packet" in scaled.run("python3", "-c", ask, "8000", stdin=header + packet)
        assert "forbidden" in scaled.run("python3", "-c", ask, "8001", stdin=packet)

    def test_the_password_of_the_registry_is_roots(self, scaled: Instance) -> None:
        assert scaled.run("stat", "--format=%a %U", "/etc/rproxy/registry-password").strip() == "600 root"
        assert TOKEN not in scaled.run("systemctl", "cat", "rproxy.service")
        assert TOKEN not in scaled.bootstrapped
