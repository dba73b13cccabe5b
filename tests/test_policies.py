"""Who may serve and ask for what: the rules by themselves."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.networks import Network, parse_network
from rproxy.policies import (
    EVERYTHING,
    PRIVATE,
    ClientRule,
    Peer,
    Policies,
    Policy,
    ServerRule,
    digest,
)

LAN = Peer("10.0.1.5")
ABROAD = Peer("203.0.113.7")


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(parse_network, texts))


class PeerTests(SynchronousTestCase):
    """Whether a peer is in a network."""

    def test_private(self) -> None:
        """What setup packets are accepted from unless told otherwise."""
        for host in (
            "127.0.0.1", "127.1.2.3", "10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
            "::1", "fc00::1", "fdff::1", "fe80::1", "fe80::1%eth0", "febf::1%2",
        ):  # fmt: skip
            self.assertTrue(Peer(host).is_in(PRIVATE), host)
        for host in (
            "0.0.0.0", "9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.1", "172.15.255.255", "172.32.0.0",
            "192.167.255.255", "192.169.0.0", "203.0.113.7", "::", "::2", "fe00::1", "fec0::1", "2001:db8::1%eth0",
        ):  # fmt: skip
            self.assertFalse(Peer(host).is_in(PRIVATE), host)

    def test_mapped(self) -> None:
        """An IPv4 address is one however a socket for both writes it, and so is a network."""
        for host in ("::ffff:10.0.1.5", "::ffff:a00:105", "::FFFF:10.0.1.5", "0:0:0:0:0:ffff:10.0.1.5"):
            self.assertTrue(Peer(host).is_in(networks("10.0.1.0/24")), host)
            self.assertTrue(Peer(host).is_in(networks("::ffff:10.0.1.0/120")), host)
            self.assertFalse(Peer(host).is_in(networks("10.0.2.0/24")), host)
            self.assertFalse(Peer(host).is_in(networks("::/0")), host)
        self.assertFalse(Peer("::ffff:203.0.113.7").is_in(PRIVATE))
        # These only look like it.
        for host in ("::10.0.1.5", "64:ff9b::10.0.1.5", "2002:a00:105::"):
            self.assertFalse(Peer(host).is_in(networks("10.0.0.0/8")), host)

    def test_no_address(self) -> None:
        """Who has none, or a name, is in no network."""
        for host in ("", "localhost", "10.0.1", "10.0.1.5 ", "010.0.1.5", "/run/socket"):
            self.assertFalse(Peer(host).is_in(networks("0.0.0.0/0", "::/0")), host)

    def test_no_network(self) -> None:
        """Nobody is in none."""
        self.assertFalse(LAN.is_in(()))

    @given(
        st.ip_addresses(v=4) | st.integers(0, 1023).map(lambda low: IPv4Address(0x0A000000 + low)), st.integers(0, 32)
    )
    def test_model(self, address: IPv4Address, length: int) -> None:
        """The first bits are the same, whichever way it is written."""
        network = IPv4Network(("10.0.1.0", length), strict=False)
        same = int(address) >> (32 - length) == int(network.network_address) >> (32 - length)
        self.assertEqual(Peer(str(address)).is_in((network,)), same)
        self.assertEqual(Peer(f"::ffff:{address}").is_in((network,)), same)


class NetworkTests(SynchronousTestCase):
    """What a network may be."""

    def test_read(self) -> None:
        for text, network in {
            "10.0.0.0/8": "10.0.0.0/8",
            "10.0.0.1": "10.0.0.1/32",
            "10.0.0.0/255.0.0.0": "10.0.0.0/8",
            "2001:DB8::/32": "2001:db8::/32",
            "::/0": "::/0",
            "::ffff:10.0.0.0/104": "10.0.0.0/8",
            "::ffff:10.0.0.1": "10.0.0.1/32",
            "::ffff:0:0/96": "0.0.0.0/0",
        }.items():
            self.assertEqual(parse_network(text), ip_network(network), text)

    def test_none(self) -> None:
        for text, sentence in {
            "": "does not appear",
            "10.0.0.1/8": "has host bits set",
            "10.0.0.0/33": "does not appear",
            "localhost": "does not appear",
            "fe80::%eth0/64": "fe80::%eth0/64 has a zone",
            "10.0.0.0/8, 10.0.1.0/24": "does not appear",
        }.items():
            with self.subTest(text), self.assertRaisesRegex(ValueError, sentence):
                parse_network(text)


class ServerRuleTests(SynchronousTestCase):
    """Who may serve a policy."""

    rule = ServerRule(
        frozenset({"100", "101"}),
        networks("10.0.1.0/24", "fc00::/8"),
        frozenset({"a.example", "b.example"}),
        (digest("secret") or b"", digest("next") or b""),
    )

    def refusal(
        self, server_id: str = "100", host: str = "10.0.1.5", name: str = "a.example", token: str | None = "next"
    ) -> str:
        return self.rule.refusal(server_id, Peer(host, frozenset({name, "other.example"})), digest(token)) or ""

    def test_nothing_asked(self) -> None:
        self.assertIsNone(ServerRule().refusal("100", ABROAD, None))
        self.assertIsNone(ServerRule().refusal("100", Peer(""), digest("anything")))

    def test_all_hold(self) -> None:
        self.assertEqual(self.refusal(), "")
        self.assertEqual(self.refusal("101", "fc00::1", "b.example", "secret"), "")

    def test_one_does_not(self) -> None:
        """Each is enough to be refused."""
        self.assertEqual(self.refusal(server_id="102"), "server id 102 is not one of those that may serve it")
        self.assertEqual(self.refusal(host="10.0.2.5"), "10.0.2.5 is not in a network that may serve it")
        self.assertEqual(self.refusal(host=""), "the address is not in a network that may serve it")
        self.assertRegex(self.refusal(name="c.example"), "^no name of the server's certificate is one")
        for token in (None, "", "Secret", "secret ", "secre", "secret\n"):
            self.assertRegex(self.refusal(token=token), "^the token is missing or not one of those")

    def test_no_certificate(self) -> None:
        self.assertRegex(ServerRule(names=frozenset({"a"})).refusal("1", LAN, None) or "", "^no name of the server's")

    def test_nobody(self) -> None:
        """What is asked for and empty is had by nobody."""
        for rule in (
            ServerRule(ids=frozenset()), ServerRule(networks=()), ServerRule(names=frozenset()), ServerRule(tokens=())
        ):  # fmt: skip
            self.assertIsNotNone(rule.refusal("", Peer("10.0.1.5", frozenset({"a"})), digest("")))

    def test_tokens_are_not_kept(self) -> None:
        """Neither a rule nor a digest tells what the token was."""
        self.assertNotIn("secret", repr(self.rule))
        self.assertEqual(len(digest("secret") or b""), 32)
        self.assertIsNone(digest(None))


class ClientRuleTests(SynchronousTestCase):
    """Who may ask for a policy."""

    def test_nothing_asked(self) -> None:
        self.assertTrue(ClientRule().asks_nothing)
        self.assertIsNone(ClientRule().refusal(Peer("")))

    def test_network(self) -> None:
        rule = ClientRule(networks("10.0.1.0/24"))
        self.assertFalse(rule.asks_nothing)
        self.assertIsNone(rule.refusal(LAN))
        self.assertEqual(rule.refusal(ABROAD), "203.0.113.7 is not in a network that may ask for it")
        self.assertEqual(rule.refusal(Peer("")), "the address is not in a network that may ask for it")

    def test_certificate(self) -> None:
        rule = ClientRule(certificate=True)
        self.assertFalse(rule.asks_nothing)
        self.assertIsNone(rule.refusal(Peer("10.0.1.5", frozenset({"any"}))))
        self.assertEqual(rule.refusal(LAN), "whoever asks for it must show a certificate with a name")

    def test_names(self) -> None:
        rule = ClientRule(names=frozenset({"a.example"}))
        self.assertFalse(rule.asks_nothing)
        self.assertIsNone(rule.refusal(Peer("10.0.1.5", frozenset({"b", "a.example"}))))
        for names in (frozenset[str](), frozenset({"b.example"})):
            self.assertRegex(rule.refusal(Peer("10.0.1.5", names)) or "", "^no name of the client's certificate")


class PoliciesTests(SynchronousTestCase):
    """All of it together."""

    described = Policies(
        register_from=networks("10.0.0.0/8"),
        by_name={
            "111": Policy(servers=ServerRule(ids=frozenset({"100"}))),
            "222": Policy(clients=ClientRule(networks("10.0.1.0/24"))),
        },
    )

    def test_without_a_file(self) -> None:
        """Every policy exists, and whoever is near may serve it."""
        self.assertEqual(EVERYTHING.get("whatever"), Policy())
        self.assertIsNone(EVERYTHING.refuses_server("whatever", "1", LAN))
        self.assertIsNone(EVERYTHING.refuses_client("whatever", ABROAD))
        self.assertFalse(EVERYTHING.ask_something_of_clients)
        self.assertEqual(EVERYTHING.refuses_server("111", "1", ABROAD), "setup packets are not taken from 203.0.113.7")
        self.assertEqual(
            EVERYTHING.refuses_server("111", "1", Peer("")),
            "setup packets are not taken from a peer without an address",
        )

    def test_retried_without_a_file(self) -> None:
        """It is one like any other, but for that."""
        policies = Policies(anonymous={"111": Policy(retry=True)})
        self.assertEqual([policies.get(name) for name in ("111", "222")], [Policy(retry=True), Policy()])

    def test_what_is_not_in_the_file(self) -> None:
        """It doesn't exist, however near it is to one that does."""
        for name in ("333", "", "0111", "111 ", "\uff11\uff11\uff11"):
            self.assertIsNone(self.described.get(name))
            self.assertEqual(self.described.refuses_server(name, "100", LAN), f"there is no policy {name}")
            self.assertIsNone(self.described.refuses_client(name, LAN))

    def test_an_empty_file(self) -> None:
        """Nothing exists."""
        self.assertIsNone(Policies(by_name={}).get("111"))
        self.assertFalse(Policies(by_name={}).ask_something_of_clients)

    def test_in_the_file(self) -> None:
        self.assertIsNone(self.described.refuses_server("111", "100", LAN))
        self.assertRegex(self.described.refuses_server("111", "101", LAN) or "", "^server id 101")
        self.assertRegex(self.described.refuses_client("222", ABROAD) or "", "^203.0.113.7 is not")
        self.assertIsNone(self.described.refuses_client("111", ABROAD))
        self.assertTrue(self.described.ask_something_of_clients)

    def test_both_are_asked(self) -> None:
        """A policy's own network doesn't let in whom the proxy doesn't."""
        policies = Policies(
            register_from=networks("10.0.0.0/8"),
            by_name={"111": Policy(servers=ServerRule(networks=networks("0.0.0.0/0")))},
        )
        self.assertIsNone(policies.refuses_server("111", "100", LAN))
        self.assertRegex(policies.refuses_server("111", "100", ABROAD) or "", "^setup packets are not taken from")
