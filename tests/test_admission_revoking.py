"""What ends when the policies change, and how servers are connected to then."""

from __future__ import annotations

from attrs import evolve
from twisted.logger import LogLevel, capturedLogs, formatEvent

from rproxy.networks import parse_network
from rproxy.packets import Setup
from rproxy.policies import Peer, Policies, Policy, ServerRule, digest
from tests.admissioncase import AdmissionCase, described, served_by
from tests.memory import HOST, Proxy, data, setup


class RevocationTests(AdmissionCase):
    """New policies under which a server isn't allowed any more."""

    both = described(p111=served_by("5000", "5001"))
    first = described(p111=served_by("5000"))
    none = described(p111=served_by())

    def reload(self, proxy: Proxy, policies: Policies) -> list[str]:
        """Change the policies; what was warned of is returned."""
        with capturedLogs() as events:
            proxy.factory.reload(policies)
            proxy.pump()
        return [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]

    def test_nothing_changes(self) -> None:
        """Whoever is still allowed stays, also where the rules are other ones."""
        proxy = self.proxy(self.both)
        one, two = self.modern(proxy, 5000, 5001)
        client = proxy.client()
        client.ask("a")
        for policies in (self.both, Policies(), described(p111=Policy(), p222=Policy())):
            self.assertEqual(self.reload(proxy, policies), [])
        client.ask("b", "c")
        self.assertEqual((one.payloads, two.payloads), (["a", "c"], ["b"]))
        self.assertEqual((len(one.connections), len(two.connections)), (1, 1))

    def test_in_flight(self) -> None:
        """What it has is reported, and its answers still arrive; what is new goes to the others."""
        proxy = self.proxy(self.both)
        one, two = self.modern(proxy, 5000, 5001)
        client = proxy.client()
        client.ask("a", "b", "c", "d")
        (said,) = self.reload(proxy, self.first)
        self.assertEqual(
            said,
            "Revoked the registration of server id 5001 for privacy policy 111: server id 5001 is not one of those"
            " that may serve it; packets that it had and hasn't answered: 2",
        )
        client.ask("e", "f")
        two.answer()
        one.answer()
        answers = ["a by 5000", "b by 5001", "c by 5000", "d by 5001", "e by 5000", "f by 5000"]
        self.assertEqual(client.answers(), answers)
        self.assertEqual(two.payloads, ["b", "d"])
        self.assertEqual(two.open, [], "its connection is closed when all is answered")

    def test_in_line(self) -> None:
        """What waits, and was given to nobody, goes to others or is refused in its time."""
        proxy = self.proxy(self.both, queue_timeout=2)
        proxy.register("5001", "111", 5001, connections=1)
        two = proxy.server(5001)
        client = proxy.client()
        client.ask("a", "b", "c")
        self.assertEqual(two.payloads, ["a"])
        self.reload(proxy, self.first)
        two.answer()
        proxy.advance(1)
        self.assertEqual((client.answers(), two.payloads), (["a by 5001"], ["a"]))
        (one,) = self.modern(proxy, 5000)
        self.assertEqual(one.payloads, ["b", "c"])
        self.reload(proxy, self.none)
        client.ask("d")
        proxy.advance(2)
        one.answer()
        self.assertEqual(client.answers(), ["b by 5000", "c by 5000", "no-server/no"])

    def test_unwritten(self) -> None:
        """What waits for a connection to it is never written, although the connection is made."""
        proxy = self.proxy(described(p111=served_by("5001"), p222=served_by("5001")))
        server = proxy.server_at((HOST, 5001))
        server.hang()
        for policy in ("111", "222"):
            proxy.register("5001", policy, 5001, pipeline=10)
        client = proxy.client()
        client.send(data("a"), data("b", "222"))
        self.reload(proxy, described(p111=Policy(servers=ServerRule(ids=frozenset())), p222=served_by("5001")))
        server.accept()
        server.answer()
        proxy.advance(5)
        self.assertEqual((server.payloads, client.answers()), (["b"], ["no-server/no", "b by 5001"]))

    def test_two_at_a_time(self) -> None:
        """What the one gives back doesn't come to the other, in whatever order they are revoked."""
        for hanging, open_one in ((5000, 5001), (5001, 5000)):
            proxy = self.proxy(self.both)
            proxy.server_at((HOST, hanging)).hang()
            for port in (5000, 5001):
                proxy.register(str(port), "111", port, pipeline=10)
            server = proxy.server(open_one)
            client = proxy.client()
            client.ask("a", "b")
            before = server.payloads
            self.assertEqual(len(before), 1)
            self.assertEqual(len(self.reload(proxy, self.none)), 2)
            self.assertEqual(server.payloads, before)
            server.answer()
            proxy.advance(5)
            self.assertEqual(sorted(client.answers()), sorted([f"{before[0]} by {open_one}", "no-server/no"]))

    def test_lease(self) -> None:
        """Its connection stays, and is a client's; renewals are refused; allowed again, it may register again."""
        proxy = self.proxy(self.both, max_clients=2)
        held = proxy.register("5001", "111", 5001, lease=10, pipeline=10)
        server = proxy.server(5001)
        clients = [proxy.client(), proxy.client("10.0.0.7")]
        clients[0].close()
        self.assertTrue(proxy.port.reading)
        self.reload(proxy, self.first)
        self.assertFalse(proxy.port.reading, "its connection counts again")
        self.assertEqual(held.answers(), ["registered"])
        for _ in range(2):
            held.send(setup("5001", "111", 5001, lease=10, pipeline=10))
            self.assert_refused(held, "^server id 5001 is not one")
        self.reload(proxy, self.both)
        held.send(setup("5001", "111", 5001, lease=10, pipeline=10))
        self.assertEqual(held.answers(), ["registered"])
        self.assertTrue(proxy.port.reading)
        clients[1].ask("a")
        server.answer()
        self.assertEqual(clients[1].answers(), ["a by 5001"])
        held.close()
        self.assertEqual(self.standing(proxy), [])

    def test_one_of_two_leases(self) -> None:
        """The other one, of the same connection, stands, and ends with it."""
        proxy = self.proxy(described(p111=Policy(), p222=Policy()))
        held = proxy.register("5000", "111", 5000, lease=10)
        held.send(setup("5000", "222", 5000, lease=10))
        self.reload(proxy, described(p222=Policy()))
        self.assertEqual(self.standing(proxy), [("222", "5000")])
        held.close()
        self.assertEqual(self.standing(proxy), [])

    def test_draining(self) -> None:
        """One that drains is revoked like any other."""
        proxy = self.proxy(self.both)
        self.modern(proxy, 5000, 5001)
        proxy.register("5001", "111", 5001, pipeline=100, drain=True)
        self.assertEqual(len(self.reload(proxy, self.first)), 1)
        self.assertEqual(self.standing(proxy), [("111", "5000")])

    def test_by_what_it_showed(self) -> None:
        """Its token and its network count, as it showed them when it registered."""
        tokens = {token: digest(token) or b"" for token in ("old", "new")}
        proxy = self.proxy(described(p111=Policy(servers=ServerRule(tokens=(*tokens.values(),)))))
        for token, port in (("old", 5000), ("new", 5001)):
            proxy.register(token, "111", port, token=token)
        self.reload(proxy, described(p111=Policy(servers=ServerRule(tokens=(tokens["new"],)))))
        self.assertEqual(self.standing(proxy), [("111", "new")])
        self.reload(proxy, evolve(self.both, by_name=None, register_from=(parse_network("10.1.0.0/16"),)))
        self.assertEqual(self.standing(proxy), [])

    def test_by_its_certificate(self) -> None:
        """The names that it bore."""
        proxy = self.proxy()
        for name, port in (("a", 5000), ("b", 5001)):
            packet = Setup(type="1", id=str(port), policy="111", listenport=port)
            proxy.factory.admission.admit(packet, Peer(HOST, frozenset({name})), owner=None)
        self.reload(proxy, described(p111=Policy(servers=ServerRule(names=frozenset({"b"})))))
        self.assertEqual(self.standing(proxy), [("111", "5001")])

    def test_a_policy_that_vanishes(self) -> None:
        """Its packets in line are refused at once, what is in flight is answered, and it is as if it had never been."""
        proxy = self.proxy(described(p111=served_by("5000", in_flight=3), p222=Policy()))
        proxy.register("5000", "111", 5000, connections=1)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("a", "b", "c", "d")
        self.reload(proxy, described(p222=Policy()))
        self.assertEqual(client.answers(), [])
        server.answer()
        self.assertEqual(client.answers(), ["a by 5000", "no-server/no", "no-server/no", "overloaded/no"])
        client.ask("e")
        self.assertEqual(client.answers(), ["no-server/no"])
        self.assert_refused(proxy.register("5000", "111", 5000), "^there is no policy 111$")
        self.reload(proxy, described(p111=Policy()))
        proxy.register("5000", "111", 5000)
        client.ask("f")
        server.answer()
        self.assertEqual(client.answers(), ["f by 5000"])

    def test_a_file_where_there_was_none(self) -> None:
        """All that isn't in it ends."""
        proxy = self.proxy()
        self.modern(proxy, 5000)
        proxy.register("5000", "222", 5000, pipeline=100)
        self.reload(proxy, described(p222=Policy()))
        self.assertEqual(self.standing(proxy), [("222", "5000")])


class UpstreamTLSTests(AdmissionCase):
    """Whether the servers of a policy are connected to by TLS."""

    def test_as_the_policy_says_or_else_the_proxy(self) -> None:
        for everywhere in (False, True):
            policies = described(p111=Policy(upstream_tls=True), p222=Policy(upstream_tls=False), p333=Policy())
            proxy = self.proxy(evolve(policies, upstream_tls=everywhere))
            client = proxy.client()
            for port, policy in ((5000, "111"), (5001, "222"), (5002, "333")):
                proxy.register(str(port), policy, port, pipeline=1)
                proxy.server(port)
                client.ask("a", policy=policy)
                proxy.server(port).answer()
            self.assertEqual(proxy.by_tls, {(HOST, 5000): True, (HOST, 5001): False, (HOST, 5002): everywhere})

    def test_a_change(self) -> None:
        """What is in flight is answered as it was sent, and what comes then goes by TLS, and never otherwise."""
        proxy = self.proxy(described(p111=Policy(), p222=Policy()))
        for policy in ("111", "222"):
            proxy.register("5000", policy, 5000, pipeline=1)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("before", "waits")
        proxy.factory.reload(described(p111=Policy(upstream_tls=True), p222=Policy()))
        proxy.pump()
        plain, by_tls = server.connections
        self.assertEqual((plain.payloads, by_tls.payloads), (["before"], ["waits"]))
        self.assertTrue(proxy.by_tls[HOST, 5000])
        plain.answer()
        by_tls.answer()
        other = proxy.client()
        other.ask("other", policy="222")
        self.assertEqual(plain.payloads, ["before", "other"])
        plain.answer()
        self.assertEqual(client.answers(), ["before by 5000", "waits by 5000"])
        self.assertEqual(other.answers(), ["other by 5000"])
