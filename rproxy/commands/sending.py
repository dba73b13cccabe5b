"""``rproxy send``: send data packets through a reverse proxy, one after the other, and check what comes back.

Of several proxies the first is used, and the next one when it fails: people gave them an order, which says more than
chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import react

from rproxy import packets
from rproxy.arguments import identifier, seconds
from rproxy.client import DEFAULT_TIMEOUT, MAX_REFUSALS, PASSING, Client, ProxyError, is_correct
from rproxy.client.failover import HEAD_START, FailoverEndpoint
from rproxy.commands.packetfiles import Outgoing, parse_packet, read_packet
from rproxy.commands.terminal import JsonTerminal, Terminal
from rproxy.hostports import add_address, format_address
from rproxy.packets import Ack, Data
from rproxy.tls.files import client_files
from rproxy.tls.keyring import Keyring

#: The exit codes.
ALL_CORRECT, SOMETHING_WRONG, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

DEFAULT_PROXY = "127.0.0.1:8000"


async def send_all(
    make_client: Callable[[], Client],
    outgoing: Iterable[Outgoing],
    terminal: Terminal,
    check: Callable[[str, Ack], bool] = is_correct,
) -> int:
    """Send each packet when the one before was answered; return the exit code.

    Each has a connection of its own: a proxy of the old kind closes it after one packet, and what is written to a
    connection that is being closed is lost.
    """
    code = ALL_CORRECT
    for packet in outgoing:
        terminal.sending(packet)
        client = make_client()
        try:
            answer = await client.exchange(packet.raw, packet.data.srcid)
        except ProxyError as error:
            terminal.failed(error)
            code = SOMETHING_WRONG
            continue
        finally:
            await client.close()
        correct = isinstance(answer.packet, Ack) and check(packet.data.payload, answer.packet)
        terminal.received(answer, correct=correct)
        if not correct:
            code = SOMETHING_WRONG
    return code


def client_maker(
    proxies: Mapping[str, IStreamClientEndpoint],
    terminal: Terminal,
    clock: IReactorTime,
    timeout: float,
    *,
    keep_trying: bool,
) -> Callable[[], Client]:
    """Return what makes the client for each packet; all of them know which proxies failed before.

    :param proxies: by their addresses, in the order in which they are used.
    :param timeout: of a packet, in seconds; every proxy is tried before it is over.
    :param keep_trying: whether proxies are tried more than once for a packet.
    """
    several = len(proxies) > 1
    endpoint = FailoverEndpoint(
        proxies,
        clock,
        shuffle=lambda line: None,
        connected=terminal.connected,
        left=terminal.left,
        head_start=min(HEAD_START, timeout / (2 * len(proxies))),
    )
    return partial(
        Client,
        endpoint,
        "",
        clock,
        timeout,
        reconnect=keep_trying,
        resend=keep_trying or several,
        max_refusals=MAX_REFUSALS if keep_trying else len(proxies),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``rproxy send`` takes."""
    parser.description = "Send data packets through a reverse proxy, and check that the SHA-1 of each comes back."
    parser.epilog = (
        f"Exit codes: {ALL_CORRECT} if every answer was right; {SOMETHING_WRONG} if one was wrong, an error, or didn't"
        f" come; {BAD_USAGE} if what to send can't be understood; {INTERRUPTED} if it was interrupted."
    )
    parser.add_argument("--id", type=identifier, metavar="ID", help="the client's id; replaces the srcid of a file")
    parser.add_argument(
        "--revproc",
        action="append",
        metavar="[HOST:]PORT",
        help=f"the reverse proxy (default: {DEFAULT_PROXY}); repeatable: the next one is used when one can't be"
        f" connected to, or refuses a packet for a reason that may pass: {', '.join(sorted(PASSING))}",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--pkt", action="append", metavar="FILE", help="a file with a data packet, - for standard input (repeatable)"
    )
    what.add_argument("--payload", metavar="TEXT", help="a payload, with --id and --pp; - for what standard input has")
    parser.add_argument("--pp", type=identifier, metavar="POLICY", help="the privacy policy to ask for, with --payload")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long an answer may take (default: %(default)g)",
    )
    parser.add_argument(
        "--keep-trying",
        action="store_true",
        help="within that time, wait for a proxy that isn't there, and send a packet again where the proxy says that no"
        f" server got it, for a reason that may pass: {', '.join(sorted(PASSING))}. What a server may have got is never"
        " sent again",
    )
    parser.add_argument(
        "--tls-ca", metavar="FILE", help="speak TLS; the authorities of the proxy's certificate, or: system"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="the certificate to show, where the proxy asks for one")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument("--json", action="store_true", help="print the packets instead, one on each line")


def read_proxies(args: argparse.Namespace) -> list[tuple[str, int]]:
    """Return the addresses of the proxies, in their order.

    :raises ValueError: one is none, or is given twice.
    """
    proxies: list[tuple[str, int]] = []
    for text in args.revproc or [DEFAULT_PROXY]:
        try:
            add_address(proxies, text)
        except ValueError as error:
            raise ValueError(f"--revproc {error}") from None
    return proxies


def run(args: argparse.Namespace) -> int:
    """Send the packets; return the exit code.

    :raises BrokenPipeError: nobody reads what is printed.
    """
    try:
        outgoing = read_outgoing(args)
        proxies = read_proxies(args)
        files = client_files("--tls", args.tls_ca, args.tls_cert, args.tls_key)
        keyring = Keyring()
        keyring.load(files)
    except ValueError as error:
        print(f"rproxy send: {error}", file=sys.stderr)
        return BAD_USAGE
    terminal = (JsonTerminal if args.json else Terminal)(sys.stdout, sys.stderr, proxies[0], tls=files is not None)

    def send(reactor: Any) -> Coroutine[Any, Any, int]:
        endpoints = {}
        for host, port in proxies:
            tcp = HostnameEndpoint(reactor, host, port, timeout=args.timeout)
            endpoints[format_address(host, port)] = keyring.client(files, tcp, host, reactor, args.timeout)
        make_client = client_maker(endpoints, terminal, reactor, args.timeout, keep_trying=args.keep_trying)
        return send_all(make_client, outgoing, terminal)

    return _run_reactor(send)


def _run_reactor(send: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
    """Run the reactor for as long as it takes; return the exit code.

    :raises BrokenPipeError: ``send`` raised it.
    """
    ends: list[int | BrokenPipeError] = []

    async def main(reactor: Any) -> None:
        running: Deferred[None] = Deferred()
        reactor.callWhenRunning(running.callback, None)
        # From then on the reactor handles signals. What comes before would be an error, with a traceback.
        await running
        sending = Deferred.fromCoroutine(send(reactor))
        # Stopped from the keyboard, it sends no more, and doesn't tell of connections that it closes itself.
        reactor.addSystemEventTrigger("before", "shutdown", sending.cancel)
        try:
            ends.append(await sending)
        except CancelledError:
            ends.append(INTERRUPTED)
        except BrokenPipeError as error:
            # It is no failure, which would be logged with a traceback.
            ends.append(error)

    try:
        react(main)
    except SystemExit as end:
        # Without one of ours it was stopped before, by a failure that is logged.
        code = ends[0] if ends else int(end.code or INTERRUPTED)
    if isinstance(code, BrokenPipeError):
        raise code
    return code


def read_outgoing(args: argparse.Namespace) -> list[Outgoing]:
    """Return the packets that the arguments ask for.

    :raises ValueError: there is none, or something is amiss with them; the text says what.
    """
    if args.payload is not None:
        if args.id is None or args.pp is None:
            raise ValueError("--payload needs --id and --pp")
        try:
            payload = sys.stdin.buffer.read().decode("utf-8") if args.payload == "-" else args.payload
            raw = packets.data(args.id, args.pp, payload)
        except UnicodeError:
            raise ValueError("--payload is no UTF-8") from None
        return [Outgoing(raw, parse_packet(raw, "--payload"))]
    if args.pp is not None:
        raise ValueError("--pp goes with --payload: a packet in a file has its own policy")
    return [_with_id(*read_packet(name), args.id) for name in args.pkt]


def _with_id(raw: bytes, data: Data, client_id: str | None) -> Outgoing:
    """Return the packet as it is, unless another client is to send it; then only its ``srcid`` is changed."""
    if client_id is not None and client_id != data.srcid:
        raw = msgspec.json.encode(msgspec.json.decode(raw) | {"srcid": client_id})
        data = msgspec.structs.replace(data, srcid=client_id)
    return Outgoing(raw, data)
