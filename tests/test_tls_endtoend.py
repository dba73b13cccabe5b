"""TLS from end to end: the proxy, pool servers and ``rproxy send`` as processes, and clients by Python's own TLS."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve, frozen

from rproxy import packets
from rproxy.tls.files import Files
from tests.authority import Authority
from tests.classic import sha1_hex
from tests.documentation import commands
from tests.support import FAULT, ROOT, Group, Talk, Twistd, data_packet, free_port, run, script

HOST = "127.0.0.1"
MIB = 1 << 20


class TLSTalk(Talk):
    """A client's connection by TLS, with no code of rproxy's or Twisted's."""

    socket: ssl.SSLSocket

    def __init__(self, port: int, files: Files, context: ssl.SSLContext | None = None) -> None:
        context = context or ssl.create_default_context(cafile=files.ca)
        if files.cert is not None:
            context.load_cert_chain(files.cert, files.key)
        super().__init__(port)
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname=HOST)
        except BaseException:
            self.socket.close()
            raise


@frozen
class World:
    """An authority, and the processes of a test."""

    folder: Path
    authority: Authority
    files: Files
    group: Group

    def listen(self, files: Files | None = None) -> str:
        """Return an endpoint where clients need a certificate; the world's files unless others are given."""
        files = files or self.files
        return f"tls:0:interface={HOST}:cert={files.cert}:key={files.key}" + (f":ca={files.ca}" if files.ca else "")

    def options(self, files: Files | None = None, begin: str = "--tls") -> tuple[str, ...]:
        """Return the options of who connects."""
        files = files or self.files
        given = {"ca": files.ca, "cert": files.cert, "key": files.key}
        return tuple(text for what, name in given.items() if name for text in (f"{begin}-{what}", name))

    def upstream(self, files: Files | None = None) -> tuple[str, ...]:
        """Return the proxy's options towards servers."""
        return ("--upstream-tls", *self.options(files, "--upstream-tls"))

    def proxy(self, *arguments: str, files: Files | None = None) -> Twistd:
        """Start a proxy where clients need a certificate."""
        return self.group.proxy("--listen", self.listen(files), *arguments)

    def pool_server(self, proxy: Twistd, *arguments: str, until: str = "Registered for privacy policy") -> Twistd:
        """Start a pool server 100 of policy 111 that registers by TLS."""
        return self.group.pool_server(proxy.port, "100", "111", *self.options(), *arguments, until=until)

    def send(self, port: int, *arguments: str) -> tuple[int, str]:
        """Send a packet, and return the exit code and what was said to standard error."""
        what = ("--revproc", str(port), "--id", "1", "--pp", "111", "--payload", "xyz1")
        done = run([*script("rproxy"), "send", *what, *arguments])
        return done.returncode, done.stderr


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = Authority(tmp_path)
    with Group() as group:
        yield World(tmp_path, authority, authority.issue(HOST, "server.example"), group)


def ask(talk: Talk, payload: str = "xyz1") -> str:
    """Send a packet; return the answer's payload."""
    return str(talk.ask(data_packet("1", "111", payload))["payload"])


def test_everything_by_tls(world: World) -> None:
    """Clients, registration and servers, each side with a certificate that the other one checks."""
    proxy = world.proxy(*world.upstream())
    world.pool_server(proxy, "--listen", f"tls:0:interface={HOST}")

    assert world.send(proxy.port, *world.options()) == (0, "")
    with TLSTalk(proxy.port, world.files) as talk:
        assert ask(talk) == sha1_hex("xyz1")
        assert talk.socket.version() == "TLSv1.3"


def test_clients_only(world: World) -> None:
    """One port with TLS, for clients without certificates, and one without for servers."""
    files = evolve(world.files, ca=None)
    proxy = world.group.proxy("--listen", f"tcp:0:interface={HOST}", "--listen", world.listen(files))
    world.group.pool_server(proxy.port, "100", "111")
    secure = int(proxy.wait_for_log(r"reverse proxy on port \d+\n(?:.*\n)*.*reverse proxy on port (\d+)$")[1])

    assert world.send(secure, *world.options(Files(world.files.ca))) == (0, "")
    assert world.send(proxy.port) == (0, "")


def test_next_proxy(world: World) -> None:
    """A proxy that hasn't the right certificate is left for the next one, and told of."""
    wrong = world.proxy(files=world.authority.issue("other.example"))
    proxy = world.proxy(*world.upstream())
    world.pool_server(proxy, "--listen", f"tls:0:interface={HOST}")

    code, said = world.send(wrong.port, "--revproc", str(proxy.port), *world.options())
    assert code == 0
    left = f"rproxy send: {HOST}:{wrong.port} failed, {HOST}:{proxy.port} is the next: "
    assert said.startswith(f"{left}its certificate is for other.example")


def test_pipelining_and_large_payloads(world: World) -> None:
    """Many packets at once and long ones, answered in their order."""
    proxy = world.proxy(*world.upstream())
    world.pool_server(proxy, "--listen", world.listen(), "--connections", "2")
    payloads = [str(number) * (1 if number % 10 else MIB // 8) for number in range(200)]

    with TLSTalk(proxy.port, world.files) as talk:
        talk.socket.setblocking(True)
        for start in range(0, 200, 20):
            talk.send(*(data_packet("1", "111", payload) for payload in payloads[start : start + 20]))
        for payload in payloads:
            assert talk.answer()["payload"] == sha1_hex(payload)


def test_stream_that_is_broken(world: World) -> None:
    """The error arrives, with its connection's end in order behind it."""
    proxy = world.proxy()
    with TLSTalk(proxy.port, world.files) as talk:
        talk.send(b"garbage")
        assert talk.answer()["error"] == "bad-packet"
        talk.assert_end()


def test_client_that_closes_its_side(world: World) -> None:
    """With TLS an end is that of both directions: what isn't answered by then is given up, and counted as such."""
    proxy = world.proxy("--queue-timeout", "60")
    with TLSTalk(proxy.port, world.files) as talk:
        # A server that isn't there, so that packets wait for it.
        talk.send(packets.setup("100", "111", free_port()))
        talk.send(data_packet("1", "111", "xyz1"))
        talk.socket.unwrap().close()
    with TLSTalk(proxy.port, world.files) as talk:
        talk.send(data_packet("1", "111", "xyz1"))
        # Of TCP alone, as whatever doesn't know of TLS's own end; Python's shutdown would end more.
        with socket.socket(fileno=os.dup(talk.socket.fileno())) as below:
            below.shutdown(socket.SHUT_WR)
        with pytest.raises((OSError, AssertionError)):
            talk.answer()
    world.group.close()

    assert "Stopped after 2 packets: 0 acked, 0 refused, 2 whose client was gone" in proxy.log


def test_plain_text_to_tls(world: World) -> None:
    """Is said in the log in one line, and told to nobody else."""
    proxy = world.proxy()
    with Talk(proxy.port) as talk:
        talk.send(data_packet("1", "111", "xyz1"))
        talk.socket.recv(100)
    proxy.wait_for_log("TLS with 127.0.0.1 failed: the other side speaks no TLS$")
    code, said = world.send(proxy.port)
    assert (code, "connection-lost" in said, "if it speaks TLS, give --tls-ca" in said) == (1, True, True)


def test_tls_to_plain_text(world: World) -> None:
    """Is no JSON."""
    proxy = world.group.proxy()
    with pytest.raises(ssl.SSLError):
        TLSTalk(proxy.port, world.files)
    code, said = world.send(proxy.port, *world.options())
    assert (code, "there is no connection to the proxy: " in said) == (1, True)


def test_tls_1_1(world: World) -> None:
    """Is refused, whatever ciphers come with it."""
    proxy = world.proxy()
    context = ssl.create_default_context(cafile=world.files.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
        TLSTalk(proxy.port, world.files, context)
    proxy.wait_for_log("TLS with 127.0.0.1 failed: unsupported protocol$")


def test_tls_1_2(world: World) -> None:
    """Is taken."""
    proxy = world.proxy()
    world.pool_server(proxy)
    context = ssl.create_default_context(cafile=world.files.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TLSTalk(proxy.port, world.files, context) as talk:
        assert ask(talk) == sha1_hex("xyz1")


def test_client_without_certificate(world: World) -> None:
    """Learns why it isn't served."""
    proxy = world.proxy()
    code, said = world.send(proxy.port, *world.options(Files(world.files.ca)))
    assert code == 1
    assert said.endswith("the connection to the proxy was lost: the other side refuses: certificate required\n")


def test_proxy_with_another_name(world: World) -> None:
    """Isn't sent anything."""
    proxy = world.proxy(files=world.authority.issue("other.example"))
    code, said = world.send(proxy.port, *world.options())
    assert (code, "(delivered: no)" in said) == (1, True)
    assert said.endswith("its certificate is for other.example, not for 127.0.0.1\n")


def test_registration_without_certificate(world: World) -> None:
    """Isn't one; the pool server says why, and the proxy too."""
    proxy = world.proxy()
    stranger = world.group.pool_server(
        proxy.port, "100", "111", *world.options(Files(world.files.ca)), until="refuses privacy policy 111"
    )
    assert f"127.0.0.1:{proxy.port} refuses privacy policy 111: forbidden, the other side refuses" in stranger.log
    proxy.wait_for_log("TLS with 127.0.0.1 failed: peer did not return a certificate$")
    assert "Received setup message" not in proxy.log


def test_registration_at_a_proxy_with_another_name(world: World) -> None:
    """Isn't even tried."""
    proxy = world.proxy(files=world.authority.issue("other.example"))
    server = world.pool_server(proxy, until="Can't connect to")
    line = f"Can't connect to 127.0.0.1:{proxy.port}, and will go on trying: its certificate is for other.example, not"
    assert line in server.log
    assert "Received setup message" not in proxy.log


@pytest.mark.parametrize("case", ["expired", "other name", "self-signed", "plain"])
def test_server_that_is_not_trusted(world: World, case: str) -> None:
    """A packet is never written to it, and its client may send it again."""
    files, why = {
        "expired": (world.authority.issue(HOST, age_days=5), "its certificate has expired"),
        "other name": (world.authority.issue("10.0.0.1"), "its certificate is for 10.0.0.1, not for 127.0.0.1"),
        "self-signed": (world.authority.issue(HOST, self_signed=True), "its certificate "),
        "plain": (None, ""),
    }[case]
    listen = f"tcp:0:interface={HOST}" if files is None else world.listen(evolve(files, ca=None))
    proxy = world.proxy(*world.upstream(), "--queue-timeout", "0.5")
    server = world.pool_server(proxy, "--listen", listen, "--log-packets")
    with TLSTalk(proxy.port, world.files) as talk:
        answer = talk.ask(data_packet("1", "111", "xyz1"))
    assert (answer["error"], answer["delivered"]) == ("no-server", "no")
    assert f"Server at 127.0.0.1 port {server.port} is down: {why}" in proxy.log
    assert "Received a message" not in server.log


def test_server_that_refuses_the_proxy(world: World) -> None:
    """Is down, and the log says why; it takes one packet with it, not all that it would have in flight."""
    proxy = world.proxy("--upstream-tls", "--upstream-tls-ca", str(world.files.ca), "--queue-timeout", "0.5")
    server = world.pool_server(proxy, "--listen", world.listen())
    with TLSTalk(proxy.port, world.files) as talk:
        talk.send(data_packet("1", "111", "xyz1") * 20)
        answers = [(answer := talk.answer())["error"] + "/" + answer["delivered"] for _ in range(20)]
    assert answers[0] == "server-lost/unknown"
    # A packet for each connection that was made meanwhile to find out whether it is up.
    assert answers[-1] == "no-server/no"
    proxy.wait_for_log(rf"Server at 127.0.0.1 port {server.port} is down: the other side refuses: certificate required")


def test_servers_by_one_name(world: World) -> None:
    """Where their certificates aren't for addresses."""
    files = world.authority.issue("server.example")
    proxy = world.proxy(*world.upstream(), "--upstream-tls-name", "server.example")
    world.pool_server(proxy, "--listen", world.listen(files))
    assert world.send(proxy.port, *world.options()) == (0, "")


def test_reload(world: World) -> None:
    """On SIGHUP both read their files again; what is connected stays, and what is bad changes nothing."""
    proxy = world.proxy(*world.upstream())
    server = world.pool_server(proxy, "--listen", f"tls:0:interface={HOST}")
    with TLSTalk(proxy.port, world.files) as old:
        assert ask(old) == sha1_hex("xyz1")
        before = old.socket.getpeercert(binary_form=True)
        for mine, other in zip(_names(world.files), _names(Authority(world.folder).issue(HOST)), strict=True):
            other.rename(mine)
        for process in proxy, server:
            process.send_signal(signal.SIGHUP)
            process.wait_for_log("New connections use what is now in ")
        assert ask(old) == sha1_hex("xyz1")
        with TLSTalk(proxy.port, world.files) as new:
            assert ask(new) == sha1_hex("xyz1")
            after = new.socket.getpeercert(binary_form=True)
        assert before != after

        key = _names(world.files)[2]
        key.write_text("nonsense")
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_log(f"Going on with what was read before: {key} holds no private key in PEM form$")
        key.write_text("")
        assert ask(old) == sha1_hex("xyz1")
    assert proxy.log.count("Received setup message") == 1


def _names(files: Files) -> list[Path]:
    return [Path(str(name)) for name in (files.ca, files.cert, files.key)]


def test_files_that_can_t_be_used(world: World) -> None:
    """One sentence, and exit code 1; ``rproxy send`` says it like anything else that it can't understand."""
    nowhere = evolve(world.files, cert="/nowhere.pem")
    sentence = "/nowhere.pem can't be read: No such file or directory"
    twistd = [*script("twistd"), "-n", "--pidfile="]
    for argv in (
        [*twistd, "rproxy", "--listen", world.listen(nowhere)],
        [*twistd, "rproxy", "--port", "0", *world.upstream(nowhere)],
        [*twistd, "rpoolserver", "--id", "1", "--pp", "111", "--listen", "0", *world.options(nowhere)],
        [*twistd, "rpoolserver", "--id", "1", "--pp", "111", "--listen", world.listen(nowhere)],
    ):
        done = run(argv, world.folder)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, sentence), done.stderr
        assert "Traceback" not in done.stderr
    assert world.send(1, *world.options(nowhere)) == (2, f"rproxy send: {sentence}\n")


def test_expired_at_the_start(world: World) -> None:
    """Is a warning."""
    files = world.authority.issue(HOST, age_days=5)
    proxy = world.proxy(files=files)
    assert f"A certificate in {files.cert} has expired" in proxy.log
    code, said = world.send(proxy.port, *world.options())
    assert (code, said.endswith("its certificate has expired\n")) == (1, True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the page's authority is made by openssl, which isn't here")
def test_documentation(world: World) -> None:
    """Whoever types what docs/howto/tls.rst shows, in that order, gets what it shows."""
    proxy_port, server_port = str(free_port()), str(free_port())
    shown = (
        (ROOT / "docs" / "howto" / "tls.rst")
        .read_text("utf-8")
        .replace("8000", proxy_port)
        .replace("5000", server_port)
    )
    processes = []
    for command in commands(shown):
        match command.argv:
            case ["openssl", *_]:
                made = run(command.argv, world.folder)
                assert made.returncode == 0, made.stderr
            case ["twistd", "-n", _, *arguments]:
                processes.append(Twistd(*arguments, cwd=world.folder))
            case ["rproxy", *arguments]:
                with processes[0] as proxy, processes[1] as server:
                    server.wait_for_log("Registered for privacy policy 111")
                    done = run([*script("rproxy"), *arguments], world.folder)
                    assert (done.stdout.splitlines(), done.stderr) == (command.output, "")
                    for process in proxy, server:
                        process.send_signal(signal.SIGHUP)
                        process.wait_for_log("New connections use what is now in ")
                assert not any(FAULT.search(process.log) for process in processes)
    assert len(processes) == 2


def test_stop_with_idle_clients(world: World) -> None:
    """They say nothing to the proxy's goodbye, which is no reason for it to complain."""
    proxy = world.proxy()
    with TLSTalk(proxy.port, world.files) as talk:
        assert talk.ask(data_packet("1", "111", "xyz1"))["error"] == "no-server"
        world.group.stop(proxy)
    assert "Gave up" not in proxy.log
