"""``rproxy policies check``: what a file would allow, what it changes, and how that is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from textwrap import dedent

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.networks import parse_network
from rproxy.policies import Peer, Policy, ServerRule, digest
from rproxy.policies.checking import A_TOKEN, ANOTHER_TOKEN, ANY, NO_TOKEN, Way, covers, gained, ways
from tests.test_cli import CommandCase

SECRETS = (digest("old") or b"", digest("new") or b"")


def policy(*, ids: str | None = None, networks: str | None = None, names: str | None = None, tokens: int = 0) -> Policy:
    """A policy with such a rule for its servers; the texts have blanks between their items."""
    return Policy(
        servers=ServerRule(
            None if ids is None else frozenset(ids.split()),
            None if networks is None else tuple(map(parse_network, networks.split())),
            None if names is None else frozenset(names.split()),
            SECRETS[:tokens] or None,
        )
    )


class WaysTests(SynchronousTestCase):
    """Which servers the packets of a policy may reach."""

    def told(self, policies: Mapping[str, Policy]) -> list[str]:
        return [str(way) for way, _ in ways(policies)]

    def test_any(self) -> None:
        self.assertEqual(self.told({"111": Policy()}), ["policy 111: any server"])

    def test_each(self) -> None:
        """Every id from every network with every name."""
        rule = policy(ids="101 100", networks="10.0.1.0/24 fc00::/8", names="a b", tokens=2)
        told = self.told({"111": rule})
        self.assertEqual(len(told), 8)
        self.assertEqual(told[0], "policy 111: server 100 from 10.0.1.0/24 certified as a with a token")
        self.assertEqual(told[-1], "policy 111: server 101 from fc00::/8 certified as b with a token")

    def test_none(self) -> None:
        """Where one list has nothing in it, nobody is reached."""
        for rule in (policy(ids=""), policy(networks=""), policy(names="")):
            self.assertEqual(self.told({"111": rule}), [])
        self.assertEqual(self.told({}), [])

    def test_what_comes_and_goes(self) -> None:
        """Both ways, by the ids alone."""
        old, new = {"111": policy(ids="1 2"), "222": Policy()}, {"111": policy(ids="2 3"), "333": Policy()}
        self.assertEqual([str(way) for way in gained(old, new)], ["policy 111: server 3", "policy 333: any server"])
        self.assertEqual([str(way) for way in gained(new, old)], ["policy 111: server 1", "policy 222: any server"])

    def test_networks_that_are_the_same_together(self) -> None:
        """Two halves and their whole let in the same hosts."""
        halves = {"111": policy(networks="10.0.0.0/24 10.0.1.0/24 fc00::/8 fd00::/8")}
        whole = {"111": policy(networks="10.0.0.0/23 fc00::/7")}
        self.assertEqual((gained(halves, whole), gained(whole, halves)), ([], []))
        self.assertEqual(len(gained(whole, {"111": policy(networks="10.0.0.0/22 fc00::/7")})), 1)

    def test_tokens(self) -> None:
        """Another token lets in others; that one is asked for at all keeps them out."""
        one, two, none = ({"111": policy(tokens=tokens)} for tokens in (1, 2, 0))
        self.assertEqual(gained(one, two), [Way("111", ANY, ANY, ANY, ANOTHER_TOKEN)])
        self.assertEqual(gained(two, one), [])
        self.assertEqual(gained(one, none), [Way("111", ANY, ANY, ANY, NO_TOKEN)])
        self.assertEqual(gained(none, one), [])
        self.assertEqual(gained({}, one), [Way("111", ANY, ANY, ANY, A_TOKEN)])
        self.assertEqual(str(gained(one, two)[0]), "policy 111: any server with another token")


def some(values: list[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.lists(st.sampled_from(values), unique=True, max_size=3).map(" ".join)


rules = st.builds(
    policy,
    ids=some(["1", "2", "3"]),
    networks=some(
        ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.0", "10.0.0.1", "10.0.0.2", "::1", "::/127", "::"]
    ),
    names=some(["a", "b"]),
    tokens=st.integers(0, 2),
)
files = st.dictionaries(st.sampled_from(["111", "222"]), rules)
#: Servers of every kind that the rules tell apart, and one that none of them names.
HOSTS = ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "::", "::1", "2001:db8::1")
CERTIFICATES = tuple(map(frozenset[str], ("", "a", "b", "ab", "c")))
SERVERS = tuple(product(("1", "2", "3", "4"), HOSTS, CERTIFICATES, (None, *SECRETS)))
Server = tuple[str, str, frozenset[str], bytes | None]


def let_in(rule: ServerRule) -> set[Server]:
    """All of those servers that may serve by a rule."""
    return {
        (server_id, host, names, token)
        for server_id, host, names, token in SERVERS
        if rule.refusal(server_id, Peer(host, names), token) is None
    }


class ModelTests(SynchronousTestCase):
    """The same, as asking for each server finds."""

    @given(rules, rules)
    def test_covers(self, wide: Policy, narrow: Policy) -> None:
        """Whoever the one lets in, the other does too; where nobody is let in, it may say otherwise."""
        allowed = let_in(narrow.servers)
        if allowed:
            self.assertEqual(covers(wide.servers, narrow.servers), allowed <= let_in(wide.servers))

    @given(files)
    def test_ways(self, policies: Mapping[str, Policy]) -> None:
        """They let in together whom their policy does."""
        for name, each in policies.items():
            found = [let_in(rule) for way, rule in ways(policies) if way.policy == name]
            self.assertEqual(set().union(*found), let_in(each.servers))
            self.assertTrue(all(found))

    @given(files, files)
    def test_gained(self, old: Mapping[str, Policy], new: Mapping[str, Policy]) -> None:
        """Each way that is told of is one for somebody new, and everybody new has one."""
        by_way = {(way.policy, way.server_id, way.network, way.name): rule for way, rule in ways(new)}
        for name in new:
            before = let_in(old[name].servers) if name in old else set[Server]()
            rest = let_in(new[name].servers) - before
            for way in (way for way in gained(old, new) if way.policy == name):
                allowed = let_in(by_way[way.policy, way.server_id, way.network, way.name])
                self.assertTrue(allowed - before, f"{way} was there before")
                rest -= allowed
            self.assertEqual(rest, set())

    @given(files)
    def test_the_same(self, policies: Mapping[str, Policy]) -> None:
        self.assertEqual(gained(policies, policies), [])


class CommandTests(CommandCase):
    """What is printed, and the exit codes."""

    def setUp(self) -> None:
        self.place = self.folder()

    def write(self, name: str, text: str) -> str:
        path = self.place / name
        path.write_text(dedent(text), "utf-8")
        path.chmod(0o600)
        return str(path)

    def check(self, *arguments: str) -> str:
        """What is printed when all is right."""
        code, out, err = self.run_main("policies", "check", *arguments)
        self.assertEqual((code, err), (0, ""))
        return out

    def test_described(self) -> None:
        """Everything that a file says can be read in what is printed."""
        self.write("tokens", "secret")
        file = self.write(
            "policies.toml",
            """
            [policy.111]
            description = "Hash it"
            timeout = 2.5
            queue-timeout = 1
            queue-packets = 100
            in-flight = 50
            rate = 1000
            retry = true
            upstream-tls = true
            servers = {ids = ["100", "101"], networks = ["10.0.1.0/24"], names = ["a"], token-file = "tokens"}
            clients = {networks = ["10.0.2.0/24", "fc00::/7"], names = ["c", "b"], certificate = true}
            [policy.222]
            clients.certificate = true
            upstream-tls = false
            [policy.333]
            servers.ids = []
            clients = {networks = [], names = []}
            """,
        )
        limits = "timeout 2.5, queue-timeout 1, queue-packets 100, in-flight 50, rate 1000"
        self.assertEqual(
            self.check(file).splitlines(),
            [
                "policy 111: Hash it",
                "  served by server 100 from 10.0.1.0/24 certified as a with a token",
                "  served by server 101 from 10.0.1.0/24 certified as a with a token",
                "  asked for by any client from 10.0.2.0/24 or fc00::/7 certified as b or c",
                f"  {limits}, retried on another server, servers connected to by TLS",
                "policy 222",
                "  served by any server",
                "  asked for by any client with a certificate",
                "  servers connected to without TLS",
                "policy 333",
                "  served by no server",
                "  asked for by any client from nowhere certified as nobody",
            ],
        )

    def test_empty(self) -> None:
        self.assertEqual(self.check(self.write("empty.toml", "")), "no policy: every packet would be refused\n")

    def test_against(self) -> None:
        old = self.write("old.toml", "[policy.111]\nservers.ids = ['100', '101']\n[policy.222]")
        new = self.write("new.toml", "[policy.111]\nservers.ids = ['101', '102']\ntimeout = 5\n")
        shown = ["+ policy 111: server 102", "- policy 111: server 100", "- policy 222: any server"]
        self.assertEqual(self.check(new, "--against", old).splitlines(), shown)
        self.assertEqual(self.check(old, "--against", old), "the same servers are reachable under the same policies\n")

    def test_json(self) -> None:
        old = self.write("old.toml", "[policy.111]\nservers.ids = ['100']")
        new = self.write("new.toml", "[policy.111]\nservers = {ids = ['101'], networks = ['10.0.0.0/8']}")
        way = {"policy": "111", "server_id": "100", "network": "any", "name": "any", "token": "no token"}
        other = {**way, "server_id": "101", "network": "10.0.0.0/8"}
        self.assertEqual(json.loads(self.check("--json", old)), {"allowed": [way]})
        self.assertEqual(
            json.loads(self.check("--json", new, "--against", old)), {"reachable": [other], "unreachable": [way]}
        )

    def test_mistakes(self) -> None:
        """One sentence with the file and the line, in either file; nothing else is printed."""
        good, bad = self.write("good.toml", ""), self.write("bad.toml", "[policy.111]\nretry = 1")
        said = f"rproxy policies: {bad}:2: retry: expected true or false, got a whole number\n"
        for arguments in ((bad,), (good, "--against", bad), (bad, "--against", good), (bad, "--json")):
            self.assertEqual(self.run_main("policies", "check", *arguments), (1, "", said))
        missing = str(Path(good).with_name("missing"))
        said = f"rproxy policies: {missing}: can't be read: No such file or directory\n"
        self.assertEqual(self.run_main("policies", "check", missing), (1, "", said))

    def test_usage(self) -> None:
        self.assert_usage("required: ACTION", "policies")
        self.assert_usage("required: FILE", "policies", "check")
