"""``rproxy policies check``: what a policies file would allow, and what it changes.

What a file allows is a set of *ways*: packets of this policy may reach a server of this id, from this network, with
this name in its certificate. A way is gone if the new file allows no such server any more, and it is new if the old one
didn't.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from itertools import product
from pathlib import Path
from typing import TypeVar

from attrs import asdict, evolve, frozen

from rproxy.networks import Network
from rproxy.policies import ClientRule, Policies, Policy, ServerRule
from rproxy.policies.reading import LIMITS, PoliciesError, read

ANY = "any"
#: What may stand as the token of a way; the last one where others would do before, or in the other file.
NO_TOKEN, A_TOKEN, ANOTHER_TOKEN = "no token", "a token", "another token"
T = TypeVar("T")


@frozen(order=True)
class Way:
    """Which servers the packets of a policy may reach. :data:`ANY` where nothing is asked for."""

    policy: str
    server_id: str
    network: str
    name: str
    #: What the server must give beside: one of the three below.
    token: str

    def __str__(self) -> str:
        words = [f"policy {self.policy}:", "any server" if self.server_id == ANY else f"server {self.server_id}"]
        words += [] if self.network == ANY else [f"from {self.network}"]
        words += [] if self.name == ANY else [f"certified as {self.name}"]
        words += [] if self.token == NO_TOKEN else [f"with {self.token}"]
        return " ".join(words)


def ways(policies: Mapping[str, Policy]) -> Iterator[tuple[Way, ServerRule]]:
    """Every way that is allowed, and the rule that would allow just that one."""
    for name, policy in policies.items():
        rule = policy.servers
        for server_id, network, certified in product(
            sorted(rule.ids) if rule.ids is not None else [None],
            rule.networks if rule.networks is not None else [None],
            sorted(rule.names) if rule.names is not None else [None],
        ):
            token = NO_TOKEN if rule.tokens is None else A_TOKEN
            way = Way(name, server_id or ANY, str(network or ANY), certified or ANY, token)
            yield (
                way,
                ServerRule(_only(server_id), None if network is None else (network,), _only(certified), rule.tokens),
            )


def _only(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset([text])


def covers(rule: ServerRule, narrow: ServerRule) -> bool:
    """Whether whoever ``narrow`` lets serve may serve by ``rule`` too."""
    return (
        _has(rule.ids, narrow.ids)
        and _has(rule.names, narrow.names)
        and _has(_set(rule.tokens), _set(narrow.tokens))
        and (
            rule.networks is None
            or (narrow.networks is not None and all(_inside(each, rule.networks) for each in narrow.networks))
        )
    )


def _set(tokens: tuple[bytes, ...] | None) -> frozenset[bytes] | None:
    return None if tokens is None else frozenset(tokens)


def _has(wide: frozenset[T] | None, narrow: frozenset[T] | None) -> bool:
    return wide is None or (narrow is not None and narrow <= wide)


def _inside(network: Network, networks: tuple[Network, ...]) -> bool:
    # Several may do together: collapsed, one of them does if they do.
    if isinstance(network, IPv4Network):
        four = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
        return any(network.subnet_of(each) for each in four)
    six = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    return any(network.subnet_of(each) for each in six)


def gained(old: Mapping[str, Policy], new: Mapping[str, Policy]) -> list[Way]:
    """The ways of the new file that the old one doesn't allow."""
    found = []
    for way, rule in ways(new):
        before = old[way.policy].servers if way.policy in old else None
        if before is None or not covers(before, rule):
            changed = before is not None and not _has(_set(before.tokens), _set(rule.tokens))
            found.append(evolve(way, token=ANOTHER_TOKEN) if changed and way.token == A_TOKEN else way)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``rproxy policies`` takes."""
    parser.description = "Look at policies files, which twistd rproxy --policies reads."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say whether a file is right, and what it allows")
    check.add_argument("file", type=Path, metavar="FILE", help="the policies file")
    check.add_argument(
        "--against",
        type=Path,
        metavar="OLD",
        help="say what it changes: which servers become reachable, and which no longer",
    )
    check.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Check; return 0, or 1 if a file is wrong."""
    try:
        new = _read(args.file)
        old = None if args.against is None else _read(args.against)
    except PoliciesError as error:
        print(f"rproxy policies: {error}", file=sys.stderr)
        return 1
    if old is None:
        report = {"allowed": [way for way, _ in ways(new)]}
    else:
        report = {"reachable": gained(old, new), "unreachable": gained(new, old)}
    if args.json:
        print(json.dumps({key: [asdict(way) for way in found] for key, found in report.items()}))
    elif old is None:
        print(*_describe(new), sep="\n")
    else:
        print(*_compare(report), sep="\n")
    return 0


def _read(path: Path) -> Mapping[str, Policy]:
    policies = read(path, Policies()).by_name
    assert policies is not None
    return policies


def _describe(policies: Mapping[str, Policy]) -> Iterator[str]:
    for name, policy in policies.items():
        yield f"policy {name}" + (f": {policy.description}" if policy.description else "")
        allowed = [str(way).removeprefix(f"policy {name}: ") for way, _ in ways({name: policy})]
        for each in allowed or ["no server"]:
            yield f"  served by {each}"
        yield f"  asked for by {_clients(policy.clients)}"
        limits = {key: getattr(policy, key) for key in LIMITS}
        words = [f"{key.replace('_', '-')} {value:g}" for key, value in limits.items() if value is not None]
        words += ["retried on another server"] if policy.retry else []
        if policy.upstream_tls is not None:
            words.append("servers connected to by TLS" if policy.upstream_tls else "servers connected to without TLS")
        if words:
            yield f"  {', '.join(words)}"
    if not policies:
        yield "no policy: every packet would be refused"


def _clients(rule: ClientRule) -> str:
    words = ["any client"]
    if rule.networks is not None:
        words.append("from " + (" or ".join(map(str, rule.networks)) or "nowhere"))
    if rule.names is not None:
        words.append("certified as " + (" or ".join(sorted(rule.names)) or "nobody"))
    elif rule.certificate:
        words.append("with a certificate")
    return " ".join(words)


def _compare(report: Mapping[str, list[Way]]) -> Iterator[str]:
    for way in report["reachable"]:
        yield f"+ {way}"
    for way in report["unreachable"]:
        yield f"- {way}"
    if not any(report.values()):
        yield "the same servers are reachable under the same policies"
