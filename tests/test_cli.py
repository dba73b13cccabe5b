"""The ``rproxy`` command: what it takes, what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy import __version__, packets
from rproxy.cli import COMMANDS, main, make_parser
from rproxy.client import PASSING, RESEND, Client
from rproxy.commands.packetfiles import Outgoing
from rproxy.commands.sending import client_maker, read_outgoing, send_all
from rproxy.commands.terminal import JsonTerminal, Terminal
from rproxy.hashing import sha1_hex
from rproxy.packets import Data
from tests.endpoints import Peer
from tests.transports import lose

SAMPLE = '{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}'


class CommandCase(SynchronousTestCase):
    """Run commands in this process."""

    def run_main(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Return the exit code, and what was printed to standard output and to standard error."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8", newline=""))
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    def assert_usage(self, said: str, *arguments: str, stdin: bytes = b"") -> None:
        """Bad usage: nothing is printed but what is wrong."""
        code, out, err = self.run_main(*arguments, stdin=stdin)
        self.assertEqual((code, out), (2, ""))
        self.assertIn(said, " ".join(err.split()))

    def file(self, text: str | bytes) -> str:
        """Return the name of a new file."""
        file = self.folder() / "file"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    def folder(self) -> Path:
        """Return a new folder, for as long as the test runs."""
        return Path(self.enterContext(TemporaryDirectory()))


class MainTests(CommandCase):
    """The command itself."""

    def test_version(self) -> None:
        """The package's."""
        self.assertEqual(self.run_main("--version"), (0, f"rproxy {__version__}\n", ""))

    def test_help(self) -> None:
        """Every subcommand is there, and has a help of its own."""
        _, out, _ = self.run_main("--help")
        for name, text, _ in COMMANDS:
            self.assertIn(name, out)
            self.assertIn(text, " ".join(out.split()))
            self.assertEqual(self.run_main(name, "--help")[0], 0)

    def test_no_command(self) -> None:
        """Nothing to do."""
        self.assert_usage("required: COMMAND")
        self.assert_usage("invalid choice", "x")


class PacketsTests(CommandCase):
    """``rproxy packets``."""

    def packets(self, *arguments: str) -> str:
        """Return the folder that was written."""
        folder = str(self.folder() / "new")
        self.assertEqual(self.run_main("packets", *arguments, folder), (0, "", ""))
        return folder

    def test_form(self) -> None:
        """A file for each client, in the form that deployed clients send."""
        folder = Path(self.packets("--clients", "3", "--policies", "111"))

        self.assertEqual(sorted(path.name for path in folder.iterdir()), ["0.json", "1.json", "2.json"])
        self.assertEqual((folder / "1.json").read_text(), SAMPLE + "\n")

    def test_defaults(self) -> None:
        """Fifteen, of two policies."""
        found = [packets.decode(path.read_bytes()) for path in Path(self.packets("--seed", "1")).iterdir()]

        self.assertEqual(len(found), 15)
        self.assertEqual({packet.policy for packet in found if isinstance(packet, Data)}, {"111", "222"})

    def test_seed(self) -> None:
        """The same seed chooses the same policies."""

        def policies(seed: int) -> list[str]:
            folder = Path(self.packets("--seed", str(seed), "--policies", "a,b,c"))
            return [json.loads((folder / f"{number}.json").read_text())["privPoliId"] for number in range(15)]

        self.assertEqual(policies(1), policies(1))
        self.assertNotEqual(policies(1), policies(2))

    def test_existing(self) -> None:
        """Nothing is overwritten, nor anything written beside it, unless by force."""
        folder = Path(self.packets("--clients", "2"))
        (folder / "1.json").write_text("mine")
        (folder / "0.json").unlink()

        code, out, err = self.run_main("packets", "--clients", "2", str(folder))
        self.assertEqual((code, out), (1, ""))
        self.assertIn("1.json exists: give --force", err)
        self.assertFalse((folder / "0.json").exists())

        self.assertEqual(self.run_main("packets", "--clients", "2", "--force", str(folder)), (0, "", ""))
        self.assertIsInstance(packets.decode((folder / "1.json").read_bytes()), Data)

    def test_unwritable(self) -> None:
        """A folder that is a file; and a file on a device that is full."""
        name = self.file("")
        code, _, err = self.run_main("packets", name)
        self.assertEqual((code, err), (1, f"rproxy packets: {name} can't be written: File exists\n"))

        folder = self.folder()
        (folder / "0.json").symlink_to("/dev/full")
        code, _, err = self.run_main("packets", "--force", str(folder))
        self.assertEqual(
            (code, err), (1, f"rproxy packets: {folder}/0.json can't be written: No space left on device\n")
        )

    def test_usage(self) -> None:
        """What is said to nonsense."""
        self.assert_usage("required: DIR", "packets")
        self.assert_usage("from 1 to 1000000", "packets", "--clients", "0", "x")
        self.assert_usage("from 1 to 1000000", "packets", "--clients", "x", "x")
        self.assert_usage("1 to 256 printable characters", "packets", "--policies", "a,,b", "x")


class OutgoingTests(CommandCase):
    """What ``rproxy send`` makes of its arguments."""

    def outgoing(self, *arguments: str, stdin: bytes = b"") -> list[Outgoing]:
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8", newline=""))
        return read_outgoing(make_parser().parse_args(["send", *arguments]))

    def test_file(self) -> None:
        """The bytes of the file, without the white space around them."""
        (packet,) = self.outgoing("--pkt", self.file(f"\n {SAMPLE}\n"))

        self.assertEqual(packet, Outgoing(SAMPLE.encode(), Data("0", "1", "111", "xyz1")))

    def test_as_it_stands(self) -> None:
        """Nothing in it is changed, though it is unusual."""
        raw = b'{\n "payload": "\\u00e9", "x": [1.50],\n "privPolyId": 111, "srcid": 1, "type": 0}'

        for arguments in ("--pkt", self.file(raw)), ("--pkt", self.file(raw), "--id", "1"):
            (packet,) = self.outgoing(*arguments)
            self.assertEqual(packet, Outgoing(raw, Data("0", "1", "111", "é")))

    def test_id(self) -> None:
        """Only the srcid is replaced."""
        (packet,) = self.outgoing("--id", "7", "--pkt", self.file(SAMPLE.replace("{", '{"x": [1], ')))

        fields = {"x": [1], "type": "0", "srcid": "7", "privPoliId": "111", "payload": "xyz1"}
        self.assertEqual(json.loads(packet.raw), fields)
        self.assertEqual(packet.data.srcid, "7")

    def test_several(self) -> None:
        """In the order of the arguments, standard input among them."""
        found = self.outgoing(
            *("--pkt", self.file(SAMPLE), "--pkt", "-", "--pkt", self.file(SAMPLE)),
            stdin=SAMPLE.replace("xyz1", "a").encode(),
        )

        self.assertEqual([packet.data.payload for packet in found], ["xyz1", "a", "xyz1"])

    def test_payload(self) -> None:
        """A packet is made of it."""
        (packet,) = self.outgoing("--id", "1", "--pp", "PP_1", "--payload", "é\n")

        self.assertEqual(packet.raw, packets.data("1", "PP_1", "é\n"))
        self.assertEqual(packet.data, Data("0", "1", "PP_1", "é\n", "2"))

    def test_payload_from_standard_input(self) -> None:
        """Just as it comes."""
        (packet,) = self.outgoing("--id", "1", "--pp", "111", "--payload", "-", stdin="é\r\n".encode())

        self.assertEqual(packet.data.payload, "é\r\n")

    def test_usage(self) -> None:
        """What is said to nonsense, before anything is sent."""
        name = self.file(SAMPLE)
        self.assert_usage("one of the arguments --pkt --payload is required", "send")
        self.assert_usage("not allowed with argument", "send", "--pkt", name, "--payload", "x")
        self.assert_usage("--payload needs --id and --pp", "send", "--payload", "x")
        self.assert_usage("--payload needs --id and --pp", "send", "--payload", "x", "--id", "1")
        self.assert_usage("--pp goes with --payload", "send", "--pkt", name, "--pp", "111")
        self.assert_usage("1 to 256 printable characters", "send", "--pkt", name, "--id", "")
        self.assert_usage("'x' is no address", "send", "--pkt", name, "--revproc", "x")
        self.assert_usage("in brackets", "send", "--pkt", name, "--revproc", "::1:8000")
        twice = ("--revproc", "8000", "--revproc", "127.0.0.1:8000")
        self.assert_usage("--revproc 127.0.0.1:8000 is given twice", "send", "--pkt", name, *twice)
        for wrong in "0", "-1", "nan", "inf", "x":
            self.assert_usage("is not a number of seconds above 0", "send", "--pkt", name, f"--timeout={wrong}")

    def test_no_packet(self) -> None:
        """A file that isn't there, or holds none."""
        self.assert_usage("nowhere can't be read: No such file or directory", "send", "--pkt", "nowhere")
        for text, said in {
            "": "is no data packet: not JSON",
            "x": "is no data packet: not JSON",
            "{}": "is no data packet: type must be",
            SAMPLE + SAMPLE: "is no data packet: not JSON",
            SAMPLE.replace("}", ', "srcid": "2"}'): "a key stands twice",
            '{"type": "1", "id": "1", "privPolyId": "1", "listenport": "1"}': 'its type is "1", not "0"',
            SAMPLE.replace("xyz1", "x" * (1 << 20)): "is longer than a packet may be",
        }.items():
            self.assert_usage(said, "send", "--pkt", self.file(text))
        self.assert_usage("standard input is no data packet", "send", "--pkt", "-")
        self.assert_usage("--payload is longer", "send", "--id=1", "--pp=1", "--payload", "-", stdin=b"x" * (1 << 20))
        self.assert_usage("--payload is no UTF-8", "send", "--id=1", "--pp=1", "--payload", "\udcff")
        self.assert_usage("--payload is no UTF-8", "send", "--id=1", "--pp=1", "--payload", "-", stdin=b"\xff")


class SendTests(SynchronousTestCase):
    """What is printed, and the exit code."""

    def setUp(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.proxy = Peer()

    def send(self, *raw: bytes, terminal: Callable[..., Terminal] = Terminal, tls: bool = False) -> Deferred[int]:
        outgoing = [Outgoing(each, data) for each in raw if isinstance(data := packets.decode(each), Data)]
        shows = terminal(self.out, self.err, ("10.0.0.1", 8000), tls=tls)
        return Deferred.fromCoroutine(send_all(self.client, outgoing, shows))

    def client(self) -> Client:
        return Client(self.proxy, "", Clock(), reconnect=False)

    def end(self, sent: Deferred[int]) -> int:
        """The connection is closed by the command, and the code is there when it is gone."""
        self.assertNoResult(sent)
        self.assertTrue(self.proxy.transport.disconnecting)
        lose(self.proxy.protocol)
        return self.successResultOf(sent)

    def test_words(self) -> None:
        """Word for word what people and scripts know."""
        sent = self.send(SAMPLE.encode())
        self.assertEqual(
            self.out.getvalue(),
            "Sending message xyz1 to privacy policy 111 through reverse proxy running on port 8000\n",
        )
        self.proxy.accept()
        self.assertEqual(self.proxy.transport.taken(), SAMPLE.encode())
        self.proxy.answer(packets.ack("100", "1", sha1_hex("xyz1")))

        self.assertEqual(self.end(sent), 0)
        self.assertEqual(
            self.out.getvalue().splitlines()[1:],
            [
                "Receiving a response from the server payload: b0400cf1f3919fdba057dbd2acc52f148fbb43ac",
                "Hash of payload is correct",
            ],
        )
        self.assertEqual(self.err.getvalue(), "")

    def test_incorrect(self) -> None:
        """Another hash."""
        sent = self.send(SAMPLE.encode())
        self.proxy.accept()
        self.proxy.answer(packets.ack("100", "1", "x"))

        self.assertEqual(self.end(sent), 1)
        self.assertEqual(self.out.getvalue().splitlines()[-1], "Hash of payload is incorrect")

    def test_error(self) -> None:
        """An error packet is shown as deployed clients show it, and told apart on standard error."""
        sent = self.send(SAMPLE.encode())
        self.proxy.accept()
        self.proxy.answer(packets.error("rproxy", "1", "no-server", "no", "nobody\n"))

        self.assertEqual(self.end(sent), 1)
        self.assertEqual(
            self.out.getvalue().splitlines()[1:],
            ["Receiving a response from the server payload: nobody\\n", "Hash of payload is incorrect"],
        )
        self.assertEqual(self.err.getvalue(), "rproxy send: 10.0.0.1:8000: no-server (delivered: no), nobody\\n\n")

    def test_refused(self) -> None:
        """No connection."""
        sent = self.send(SAMPLE.encode())
        self.proxy.refuse()

        self.assertEqual(self.successResultOf(sent), 1)
        self.assertIn(
            "10.0.0.1:8000: connection-lost (delivered: no), there is no connection to the proxy: Connection was",
            self.err.getvalue(),
        )

    def test_lost(self) -> None:
        """A proxy that speaks TLS closes without a word, so that is said to who doesn't speak it."""
        for tls in False, True:
            sent = self.send(SAMPLE.encode(), tls=tls)
            self.proxy.accept()
            lose(self.proxy.protocol)

            self.assertEqual(self.successResultOf(sent), 1)
            (line,) = self.err.getvalue().splitlines()[tls:]
            self.assertEqual(
                line,
                "rproxy send: 10.0.0.1:8000: connection-lost (delivered: unknown), the connection to the proxy was"
                f" lost: Connection was closed cleanly.{'' if tls else ' (if it speaks TLS, give --tls-ca)'}",
            )

    def test_one_after_the_other(self) -> None:
        """Each on its own connection when the one before was answered; one that fails makes the exit code 1."""
        first, second = packets.data("1", "111", "a\n"), packets.data("2", "222", "b")
        sent = self.send(first, second)
        self.proxy.accept()
        self.assertEqual(self.proxy.transport.taken(), first)
        self.proxy.answer(packets.ack("100", "1", "x"))
        lose(self.proxy.protocol)
        self.proxy.accept()
        self.assertEqual(self.proxy.transport.taken(), second)
        self.proxy.answer(packets.ack("100", "2", sha1_hex("b")))

        self.assertEqual(self.end(sent), 1)
        lines = self.out.getvalue().splitlines()
        self.assertEqual(len(lines), 6)
        self.assertIn("Sending message a\\n to privacy policy 111", lines[0])

    def test_json(self) -> None:
        """The packets as they go and come, each on a line of its own."""
        sent = self.send(*(SAMPLE.replace(", ", f",{end}").encode() for end in "\r\n"), terminal=JsonTerminal)
        self.proxy.accept()
        ack = packets.ack("100", "1", sha1_hex("xyz1"))
        error = packets.error("rproxy", "1", "no-server", "no", "nobody")
        self.proxy.answer(ack)
        lose(self.proxy.protocol)
        self.proxy.accept()
        self.proxy.answer(error)

        self.assertEqual(self.end(sent), 1)
        lines: list[Any] = self.out.getvalue().splitlines()
        self.assertEqual(lines, [(line := SAMPLE.replace(" ", "")), ack.decode(), line, error.decode()])


class SeveralProxiesTests(SynchronousTestCase):
    """``rproxy send`` with the proxies a and b: the second is used when the first fails."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.out, self.err = io.StringIO(), io.StringIO()
        self.a, self.b = Peer(), Peer()

    def send(
        self,
        count: int = 1,
        *,
        keep_trying: bool = False,
        timeout: float = 60.0,
        terminal: Callable[..., Terminal] = Terminal,
    ) -> Deferred[int]:
        data = packets.decode(SAMPLE.encode())
        assert isinstance(data, Data)
        shows = terminal(self.out, self.err, ("a", 8000), tls=False)
        proxies = {"a:8000": self.a, "b:8001": self.b}
        make_client = client_maker(proxies, shows, self.clock, timeout, keep_trying=keep_trying)
        return Deferred.fromCoroutine(send_all(make_client, [Outgoing(SAMPLE.encode(), data)] * count, shows))

    def serve(self, proxy: Peer) -> None:
        """Accept, and answer the packet."""
        proxy.accept()
        self.assertEqual(proxy.transport.taken(), SAMPLE.encode())
        proxy.answer(packets.ack("100", "1", sha1_hex("xyz1")))
        lose(proxy.protocol)

    def refuse(self, proxy: Peer, code: str, delivered: Literal["no", "unknown"] = "no") -> None:
        """Accept, and refuse the packet."""
        proxy.accept()
        self.assertEqual(proxy.transport.taken(), SAMPLE.encode())
        proxy.answer(packets.error("rproxy", "1", code, delivered, "because"))
        lose(proxy.protocol)

    def told(self) -> list[str]:
        """What was printed to standard error since the last time."""
        lines = self.err.getvalue().splitlines()
        self.err.truncate(0)
        self.err.seek(0)
        return lines

    def test_refused(self) -> None:
        """One sentence says so; what people and scripts know is as ever; the next packet goes to the second at once."""
        sent = self.send(2)
        self.a.refuse()
        self.serve(self.b)
        self.serve(self.b)

        self.assertEqual(self.successResultOf(sent), 0)
        self.assertEqual(
            self.told(),
            ["rproxy send: a:8000 failed, b:8001 is the next: Connection was refused by other side."],
        )
        lines = self.out.getvalue().splitlines()
        self.assertEqual(
            lines[::3],
            [
                f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {port}"
                for port in (8000, 8001)
            ],
        )
        self.assertEqual(lines[2::3], ["Hash of payload is correct"] * 2)

    def test_first_works(self) -> None:
        """Nobody connects to the second."""
        sent = self.send(3)
        for _ in range(3):
            self.serve(self.a)

        self.assertEqual((self.successResultOf(sent), self.told()), (0, []))

    def test_black_hole(self) -> None:
        """Also where there is little time."""
        sent = self.send(timeout=0.4)
        self.clock.advance(0.1)
        self.serve(self.b)

        self.assertEqual(self.successResultOf(sent), 0)
        self.assertEqual(
            self.told(), ["rproxy send: a:8000 failed, b:8001 is the next: it was slower to connect than the next one"]
        )

    def test_all_refused(self) -> None:
        """The last line has all that was wrong."""
        sent = self.send()
        self.a.refuse()
        self.b.refuse()

        self.assertEqual(self.successResultOf(sent), 1)
        *_, last = self.told()
        refused = "Connection was refused by other side."
        self.assertEqual(
            last,
            "rproxy send: a:8000: connection-lost (delivered: no), there is no connection to the proxy:"
            f" a:8000: {refused}; b:8001: {refused}",
        )

    def test_refusals(self) -> None:
        """What no server got is given to the second, once."""
        for code in PASSING:
            sent = self.send()
            self.refuse(self.a, code)
            self.clock.advance(RESEND.first)
            self.serve(self.b)
            self.assertEqual(self.successResultOf(sent), 0)
            why = "it is stopping" if code == "shutting-down" else "it refused a packet"
            self.assertEqual(self.told()[0], f"rproxy send: a:8000 failed, b:8001 is the next: {why}")
            self.setUp()

    def test_refused_by_both(self) -> None:
        """The second's refusal is the answer."""
        sent = self.send()
        for proxy in self.a, self.b:
            self.refuse(proxy, "no-server")
            self.clock.advance(RESEND.first)

        self.assertEqual(self.successResultOf(sent), 1)
        self.assertEqual(self.told()[-1], "rproxy send: b:8001: no-server (delivered: no), because")
        self.assertEqual((self.a.attempts, self.b.attempts), ([], []))

    def test_at_most_once(self) -> None:
        """What a server may have got is given to nobody else."""
        sent = self.send()
        self.refuse(self.a, "server-lost", "unknown")
        self.assertEqual(self.successResultOf(sent), 1)

        sent = self.send()
        self.a.accept()
        lose(self.a.protocol)
        self.assertEqual(self.successResultOf(sent), 1)
        self.assertEqual(self.b.attempts, [])
        self.assertIn("rproxy send: a:8000: connection-lost (delivered: unknown)", self.told()[-1])

    def test_whose_failure(self) -> None:
        """The proxy that the packet was with is named, also where another one is the next by then."""
        sent = self.send(timeout=5.0)
        self.a.accept()
        self.clock.advance(5.0)
        lose(self.a.protocol)
        self.assertEqual(self.successResultOf(sent), 1)
        self.assertIn("rproxy send: a:8000: timeout (delivered: unknown)", self.told()[-1])

        self.setUp()
        sent = self.send()
        self.refuse(self.a, "shutting-down", "unknown")
        self.assertEqual(self.successResultOf(sent), 1)
        self.assertIn("rproxy send: a:8000: shutting-down (delivered: unknown)", self.told()[-1])

    def test_keep_trying(self) -> None:
        """Each is told of once, however often it is tried, until one of them has answered."""
        for terminal in Terminal, JsonTerminal:
            sent = self.send(2, keep_trying=True, terminal=terminal)
            for _ in range(5):
                self.a.refuse()
                self.b.refuse()
                self.clock.advance(5)
            self.a.refuse()
            self.serve(self.b)
            self.assertEqual(len(self.told()), 2)
            self.b.refuse()
            self.serve(self.a)

            self.assertEqual(self.successResultOf(sent), 0)
            self.assertEqual(len(self.told()), 1)
