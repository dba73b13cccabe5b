"""Who may register and who may ask, on a whole proxy; and what becomes of it when the policies change."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.logger import LogLevel, capturedLogs, formatEvent

from rproxy.limits import Limits
from rproxy.networks import parse_network
from rproxy.packets import Setup
from rproxy.policies import ClientRule, Peer, Policies, Policy, ServerRule, digest
from rproxy.process.sweeping import SWEEP
from rproxy.request import Request
from rproxy.upstream import Upstream
from tests.memory import CLIENT_HOST, HOST, Client, MemoryServerHost, Proxy, ProxyCase, data, setup

ABROAD = "203.0.113.7"


def described(**policies: Policy) -> Policies:
    """The policies of a file; a name begins with ``p``, which isn't part of it."""
    return Policies(by_name={name[1:]: policy for name, policy in policies.items()})


def served_by(*ids: str, **limits: Any) -> Policy:
    """A policy that these servers may serve."""
    return Policy(servers=ServerRule(ids=frozenset(ids)), **limits)


class AdmissionCase(ProxyCase):
    def assert_refused(self, connection: Client, said: str, code: str = "forbidden") -> None:
        """The one answer so far is this refusal."""
        (error,) = connection.take()
        self.assertEqual((error["error"], error["delivered"]), (code, "no"))
        self.assertRegex(error["payload"], said)

    def standing(self, proxy: Proxy) -> list[tuple[str, str]]:
        """The policies and ids of all registrations."""
        return [each.key for each in proxy.factory.registry.standing]

    def modern(self, proxy: Proxy, *ports: int, policy: str = "111") -> list[MemoryServerHost]:
        """Pipelining servers, with their ports for ids, that hold no lease."""
        servers = [proxy.server(port) for port in ports]
        for port in ports:
            proxy.register(str(port), policy, port, pipeline=100)
        return servers


class RegistrationTests(AdmissionCase):
    """Setup packets."""

    def test_from_outside(self) -> None:
        """Refused, told, counted and logged; nothing is served."""
        proxy = self.proxy()
        refused = f"Refused setup message from server id 100 ip {ABROAD} privacy policy 111"
        with capturedLogs() as events:
            self.assert_refused(
                proxy.register("100", "111", 5000, host=ABROAD), f"^setup packets are not taken from {ABROAD}$"
            )
        self.assertEqual(
            [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn],
            [f"{refused}: forbidden, setup packets are not taken from {ABROAD}"],
        )
        self.assertEqual(proxy.factory.counters.setup_refused, {"forbidden": 1})
        self.assertEqual(proxy.factory.counters.registered, 0)
        self.assertEqual(self.standing(proxy), [])

    def test_however_the_address_is_written(self) -> None:
        """By a socket for both kinds of addresses."""
        proxy = self.proxy(Policies(register_from=(parse_network("10.0.0.0/24"),)))
        for host, code in (("::ffff:10.0.0.7", None), ("::ffff:10.0.1.7", "forbidden"), ("::10.0.0.7", "forbidden")):
            connection = proxy.client(address=IPv6Address("TCP", host, 40_000))
            connection.send(setup("100", "111", 5000, lease=10))
            (answer,) = connection.take()
            self.assertEqual(answer.get("error"), code, host)
        self.assertEqual([each.host for each in proxy.factory.registry.standing], ["10.0.0.7"])

    def test_without_an_address(self) -> None:
        """Nobody could be reached there, and no network has let them in."""
        proxy = self.proxy(Policies(register_from=(parse_network("0.0.0.0/0"), parse_network("::/0"))))
        connection = proxy.client(address=UNIXAddress("/run/a.sock"))
        connection.send(setup("100", "111", 5000, lease=10))
        self.assert_refused(connection, "^a server registers over TCP")
        self.assertEqual(self.standing(proxy), [])

    def test_by_the_file(self) -> None:
        """Each thing that it asks for."""
        rule = ServerRule(frozenset({"100"}), (parse_network("10.0.0.0/24"),), None, (digest("secret") or b"",))
        proxy = self.proxy(described(p111=Policy(servers=rule)))
        for server_id, policy, host, token, said in (
            ("100", "222", HOST, "secret", "^there is no policy 222$"),
            ("101", "111", HOST, "secret", "^server id 101 is not one of those"),
            ("100", "111", "10.0.1.5", "secret", "^10.0.1.5 is not in a network"),
            ("100", "111", ABROAD, "secret", "^setup packets are not taken from"),
            ("100", "111", HOST, "Secret", "^the token is missing or not one"),
        ):
            self.assert_refused(proxy.register(server_id, policy, 5000, host=host, token=token), said)
        self.assert_refused(proxy.register("100", "111", 5000), "^the token is missing or not one")
        self.assertEqual(self.standing(proxy), [])
        self.assertEqual(proxy.register("100", "111", 5000, token="secret").take(), [])
        self.assertEqual(self.standing(proxy), [("111", "100")])

    def test_numbers_are_texts(self) -> None:
        """Ids and policies may come as integers: they are the same ones."""
        proxy = self.proxy(described(p111=served_by("100")))
        proxy.client(HOST).send(b'{"type": 1, "id": 100, "privPoliId": 111, "listenport": 5000}')
        refused = proxy.client(HOST)
        refused.send(b'{"type": 1, "id": "0100", "privPolyId": 111, "listenport": 5000}')
        self.assert_refused(refused, "^server id 0100")
        self.assertEqual(self.standing(proxy), [("111", "100")])

    def test_again_on_the_same_connection(self) -> None:
        """A refusal is about one packet: neither the next one nor a lease that is held suffers or profits from it."""
        proxy = self.proxy(described(p111=served_by("100"), p222=served_by("200")))
        connection = proxy.register("100", "222", 5000, lease=10)
        self.assert_refused(connection, "^server id 100")
        connection.send(setup("100", "111", 5000, lease=10))
        self.assertEqual(connection.answers(), ["registered"])
        connection.send(setup("100", "222", 5000, lease=10))
        self.assert_refused(connection, "^server id 100")
        self.assertFalse(connection.gone)
        self.assertEqual(self.standing(proxy), [("111", "100")])

    def test_drain(self) -> None:
        """Who may not serve a policy may not stop others from serving it either."""
        proxy = self.proxy(described(p111=Policy(servers=ServerRule(tokens=(digest("secret") or b"",)))))
        proxy.register("100", "111", 5000, token="secret")
        for further in dict[str, str](), {"token": "guess"}:
            self.assert_refused(proxy.register("100", "111", 5000, drain=True, **further), "^the token")
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("a")
        server.answer()
        self.assertEqual(client.answers(), ["a by 100"])

    def test_many_refused(self) -> None:
        """All are counted; who looks on is told of no more than the log, so that nothing else is pushed out."""
        proxy = self.proxy()
        happened: list[str] = []
        proxy.factory.watch(lambda kind, policy, server, text: happened.append(f"{kind} {policy} {server}: {text}"))
        said = f"forbidden, setup packets are not taken from {ABROAD}"
        for number in range(12):
            proxy.register(str(number), "111", 5000, host=ABROAD)
        self.assertEqual(happened, [f"refused 111 {number}: {said}" for number in range(10)])
        self.assertEqual(proxy.factory.counters.setup_refused, {"forbidden": 12})
        proxy.register("100", "111", 5000)
        proxy.advance(60)
        proxy.register("12", "111", 5000, host=ABROAD)
        self.assertEqual([what.split(":")[0] for what in happened[10:]], ["registered 111 100", "refused 111 12"])

    def test_displacing(self) -> None:
        """Nor take the place of one at its address, or that of a lease; and it isn't told who holds one."""
        proxy = self.proxy(described(p111=served_by("100")))
        holder = proxy.register("100", "111", 5000, lease=10)
        self.assertEqual(holder.answers(), ["registered"])
        self.assert_refused(proxy.register("101", "111", 5000), "^server id 101")
        self.assert_refused(proxy.register("100", "111", 5000, host=ABROAD), "^setup packets are not taken from")
        self.assert_refused(proxy.register("100", "111", 5000, host="10.0.0.6"), "^another host holds", "conflict")
        # Another port of another host displaces nobody; another policy's server at the same port doesn't either.
        self.assert_refused(proxy.register("100", "222", 5000), "^there is no policy")
        self.assertEqual(self.standing(proxy), [("111", "100")])

    def test_renewal_without_the_token(self) -> None:
        """It is no renewal: the lease runs out."""
        proxy = self.proxy(described(p111=Policy(servers=ServerRule(tokens=(digest("a") or b"", digest("b") or b"")))))
        connection = proxy.register("100", "111", 5000, lease=10, token="a")
        self.assertEqual(connection.answers(), ["registered"])
        proxy.advance(8)
        connection.send(setup("100", "111", 5000, lease=10))
        self.assert_refused(connection, "^the token")
        proxy.advance(3)
        self.assertEqual(self.standing(proxy), [])
        # With the other token it is one anew.
        connection.send(setup("100", "111", 5000, lease=10, token="b"))
        self.assertEqual(connection.answers(), ["registered"])

    def test_tokens_are_not_logged(self) -> None:
        """Neither the token nor what is kept of it, whatever format a log has."""
        proxy = self.proxy(described(p111=Policy(servers=ServerRule(tokens=(digest("secret") or b"",)))))
        with capturedLogs() as events:
            proxy.register("100", "111", 5000, token="secret")
            proxy.register("100", "111", 5000, token="secret2")
            proxy.factory.reload(described())
        self.assertNotIn("secret", repr(events))
        self.assertNotIn(repr(digest("secret")), repr(events))
        self.assertEqual(self.standing(proxy), [])


class ListenerTests(AdmissionCase):
    """Listeners for clients, and others for servers."""

    def test_each_takes_its_own(self) -> None:
        proxy = self.proxy(apart=True)
        client = proxy.client(HOST)
        client.send(setup("100", "111", 5000), setup("100", "111", 5000, lease=10, token="t"))
        first, second = client.take()
        for error in (first, second):
            self.assertEqual((error["error"], error["destid"]), ("forbidden", "100"))
            self.assertRegex(error["payload"], "^servers register elsewhere")
        self.assertEqual(proxy.factory.counters.setup_refused, {"forbidden": 2})
        server = proxy.register("100", "111", 5000, lease=10)
        server.send(data("a"), data("b", policy="222"))
        self.assertEqual(server.answers(), ["registered", "forbidden/no", "forbidden/no"])
        self.assertFalse(server.gone or client.gone)
        upstream = proxy.server(5000)
        client.ask("c")
        upstream.answer()
        self.assertEqual((client.answers(), upstream.payloads), (["c by 100"], ["c"]))
        self.assertEqual(proxy.factory.counters.refused, {"forbidden": 2})

    def test_while_there_are_as_many_clients_as_may_be(self) -> None:
        """Servers register all the same; their connections are no clients, with a lease and without."""
        proxy = self.proxy(apart=True, max_clients=2)
        clients = [proxy.client(), proxy.client()]
        waiting = proxy.client()
        held = proxy.register("100", "111", 5000, lease=10)
        silent = proxy.client(HOST, port=proxy.setup_port)
        self.assertEqual(held.answers(), ["registered"])
        waiting.ask("a")
        self.assertEqual(waiting.answers(), [])
        held.close()
        silent.close()
        self.assertEqual((waiting.answers(), proxy.port.reading), ([], False))
        clients[0].close()
        self.assertEqual(len(waiting.answers()), 0)
        proxy.advance(5)
        self.assertEqual(waiting.answers(), ["no-server/no"])

    def test_a_lease_that_ran_out(self) -> None:
        """Its connection is no client then either, and is closed when it is silent."""
        proxy = self.proxy(apart=True, max_clients=1, idle_timeout=20)
        held = proxy.register("100", "111", 5000, lease=10)
        proxy.advance(11)
        self.assertTrue(proxy.port.reading)
        proxy.advance(20)
        self.assertTrue(held.ended)

    def test_more_than_may_register(self) -> None:
        """There is an end to those too, and a place again when one goes."""
        proxy = self.proxy(apart=True, registrations=2)
        first, second, third = (proxy.client(HOST, port=proxy.setup_port) for _ in range(3))
        self.assertEqual([peer.gone for peer in (first, second, third)], [False, False, True])
        first.close()
        self.assertFalse(proxy.client(HOST, port=proxy.setup_port).gone)

    def test_one_host_keeps_nobody_out(self) -> None:
        """Its connections that hold no lease may be so many; those that do are as many as it has servers."""
        proxy = self.proxy(apart=True, registrations_per_host=2)
        held = proxy.register("100", "111", 5000, lease=10)
        peers = [proxy.client(HOST, port=proxy.setup_port) for _ in range(3)]
        self.assertEqual([peer.gone for peer in (held, *peers)], [False, False, False, True])
        self.assertEqual(peers[2].answers(), ["overloaded/no"])
        self.assertFalse(proxy.client("10.0.0.77", port=proxy.setup_port).gone)


class ClientTests(AdmissionCase):
    """Who may ask."""

    near = Policy(clients=ClientRule((parse_network(f"{CLIENT_HOST}/32"),)))

    def test_by_network(self) -> None:
        """Refused in its place among the answers; what anybody may ask for goes on."""
        proxy = self.proxy(described(p111=self.near, p222=Policy()))
        proxy.register("100", "111", 5000)
        proxy.register("100", "222", 5000)
        server = proxy.server(5000)
        client = proxy.client("10.0.0.8")
        client.send(data("a", "222"), data("b"), data("c", "333"))
        server.answer()
        self.assertEqual(client.answers(), ["a by 100", "forbidden/no", "no-server/no"])
        self.assertEqual(server.payloads, ["a"])
        self.assertEqual(proxy.factory.counters.refused, {"forbidden": 1, "no-server": 1})
        near = proxy.client()
        near.send(data("d"), data("e"))
        server.answer()
        server.answer()
        self.assertEqual(near.answers(), ["d by 100", "e by 100"])

    def test_its_sentence(self) -> None:
        proxy = self.proxy(described(p111=self.near))
        client = proxy.client(ABROAD)
        client.ask("a")
        self.assert_refused(client, f"^policy 111: {ABROAD} is not in a network that may ask for it$")

    def test_certificates(self) -> None:
        """Nobody has one on a connection in the clear."""
        proxy = self.proxy(described(p111=Policy(clients=ClientRule(certificate=True)), p222=Policy()))
        client = proxy.client()
        client.ask("a")
        self.assert_refused(client, "must show a certificate with a name$")

    def test_after_a_change(self) -> None:
        """What a connection was found to be allowed is found out anew."""
        proxy = self.proxy(described(p111=self.near))
        proxy.register("100", "111", 5000, pipeline=10)
        server = proxy.server(5000)
        client, other = proxy.client(), proxy.client("10.0.0.8")
        client.ask("a")
        proxy.factory.reload(described(p111=Policy(clients=ClientRule(()))))
        client.ask("b")
        other.ask("c")
        server.answer()
        self.assertEqual((client.answers(), other.answers()), (["a by 100", "forbidden/no"], ["forbidden/no"]))
        proxy.factory.reload(described(p111=Policy()))
        other.ask("d")
        server.answer()
        self.assertEqual(other.answers(), ["d by 100"])

    def test_many_policies(self) -> None:
        """What a connection remembers has an end, and what is beyond it is still allowed, or not."""
        names = [str(number) for number in range(150)]
        proxy = self.proxy(Policies(by_name={**dict.fromkeys(names, self.near), "no": Policy(clients=ClientRule(()))}))
        client = proxy.client()
        for name in (*names, *names, "no"):
            client.ask("a", policy=name)
        self.assertEqual(client.answers(), ["no-server/no"] * 300 + ["forbidden/no"])


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


class LimitTests(AdmissionCase):
    """Limits that a policy has of its own."""

    def limited(self, **limits: Any) -> Proxy:
        """A server, one policy with limits of its own, and one without."""
        proxy = self.proxy(described(p111=Policy(**limits), p222=Policy()), timeout=4, queue_timeout=3)
        for policy in ("111", "222"):
            proxy.register("5000", policy, 5000, pipeline=100)
        return proxy

    def take_down(self, proxy: Proxy) -> None:
        """Let the server be found to be down, so that what comes waits in line."""
        client = proxy.client()
        client.ask("a", policy="222")
        client.reset()
        proxy.advance(SWEEP)

    def unanswered(self, proxy: Proxy) -> int:
        return proxy.factory.router.quotas.unanswered.get("111", 0)

    def test_timeout(self) -> None:
        """Shorter or longer than the proxy's, for its own packets only."""
        for timeout, expected in (
            (2.0, ["timeout/unknown", "timeout/unknown"]), (6.0, ["timeout/unknown", "late by 5000"])
        ):  # fmt: skip
            proxy = self.limited(timeout=timeout)
            server = proxy.server(5000)
            client, other = proxy.client(), proxy.client()
            client.ask("late")
            other.ask("other", policy="222")
            proxy.advance(2)
            self.assertEqual(client.answers(), expected[:1] if timeout == 2.0 else [])
            self.assertEqual(other.answers(), [])
            proxy.advance(2)
            self.assertEqual(other.answers(), ["timeout/unknown"])
            server.answer()
            self.assertEqual(client.answers(), [] if timeout == 2.0 else expected[1:])

    def test_queue_timeout(self) -> None:
        proxy = self.limited(queue_timeout=1.0)
        client, other = proxy.client(), proxy.client()
        client.ask("a")
        other.ask("b", policy="222")
        proxy.advance(1)
        self.assertEqual((client.answers(), other.answers()), (["no-server/no"], []))
        proxy.advance(2)
        self.assertEqual(other.answers(), ["no-server/no"])

    def test_rate(self) -> None:
        """Those of a second at once, and then as many as come back; those of other policies are not counted."""
        proxy = self.limited(rate=4.0)
        server = proxy.server(5000)
        client, other = proxy.client(), proxy.client()
        client.ask(*"abcdef")
        other.ask(*"abcdef", policy="222")
        server.answer()
        self.assertEqual(client.answers(), [*(f"{each} by 5000" for each in "abcd"), *["overloaded/no"] * 2])
        self.assertNotIn("overloaded/no", other.answers())
        proxy.advance(0.5)
        client.ask(*"ghi")
        server.answer()
        self.assertEqual(client.answers(), ["g by 5000", "h by 5000", "overloaded/no"])

    def test_queue_packets(self) -> None:
        proxy = self.limited(queue_packets=2)
        self.take_down(proxy)
        client, other = proxy.client(), proxy.client()
        client.ask("a", "b", "c")
        other.ask("a", "b", "c", policy="222")
        self.assertEqual(client.answers(), [])
        proxy.server(5000).answer()
        proxy.advance(1)
        proxy.server(5000).answer()
        self.assertEqual(client.answers(), ["a by 5000", "b by 5000", "overloaded/no"])
        self.assertEqual(other.answers(), ["a by 5000", "b by 5000", "c by 5000"])

    def test_in_flight(self) -> None:
        """Exactly so many, whoever asks; each answer makes room for one, whatever it is."""
        proxy = self.limited(in_flight=3)
        server = proxy.server(5000)
        one, two = proxy.client(), proxy.client()
        one.ask("a", "b")
        two.ask("c", "d")
        self.assertEqual((server.payloads, self.unanswered(proxy)), (["a", "b", "c"], 3))
        server.connection.answer(1)
        one.ask("e", "f")
        self.assertEqual((server.payloads, self.unanswered(proxy)), (["a", "b", "c", "e"], 3))
        server.connection.answer(1, type="3", error="failed", delivered="unknown")
        self.assertEqual(self.unanswered(proxy), 2)
        server.answer()
        self.assertEqual(one.answers(), ["a by 5000", "failed/unknown", "e by 5000", "overloaded/no"])
        self.assertEqual(two.answers(), ["c by 5000", "overloaded/no"])
        self.assertEqual(self.unanswered(proxy), 0)
        two.ask("g", policy="222")
        self.assertEqual(self.unanswered(proxy), 0)

    def test_in_flight_comes_back(self) -> None:
        """Also from a client that vanished, a deadline, a server that was lost, and the end of a wait."""
        proxy = self.limited(in_flight=2)
        server = proxy.server(5000)
        vanishing = proxy.client()
        vanishing.ask("a", "b")
        vanishing.reset()
        self.assertEqual(self.unanswered(proxy), 0)
        server.answer()
        client = proxy.client()
        client.ask("c", "d")
        server.connection.reset()
        self.assertEqual((client.answers(), self.unanswered(proxy)), (["server-lost/unknown"] * 2, 0))
        server.refuse()
        proxy.advance(1)
        client.ask("e", "f", "g")
        self.assertEqual(self.unanswered(proxy), 2)
        proxy.advance(3)
        self.assertEqual(client.answers(), ["no-server/no"] * 2 + ["overloaded/no"])
        self.assertEqual(self.unanswered(proxy), 0)
        server.accept()
        proxy.advance(10)
        client.ask("h")
        proxy.advance(4)
        self.assertEqual((client.answers(), self.unanswered(proxy)), (["timeout/unknown"], 0))
        server.answer()
        self.assertEqual(self.unanswered(proxy), 0)

    def test_in_flight_outlasts_the_registration(self) -> None:
        """A policy that nobody served for a while, or that was gone, still has its packets unanswered."""
        for change in (False, True):
            proxy = self.proxy(described(p111=Policy(in_flight=2)), queue_timeout=1)
            lease = proxy.register("5000", "111", 5000, pipeline=10, lease=100)
            server = proxy.server(5000)
            client = proxy.client()
            client.ask("a", "b")
            if change:
                proxy.factory.reload(described())
                proxy.factory.reload(described(p111=Policy(in_flight=2)))
            else:
                lease.close()
            proxy.advance(3)
            proxy.register("5001", "111", 5001, pipeline=10)
            other = proxy.server(5001)
            client.ask("c")
            server.answer()
            client.ask("d")
            other.answer()
            self.assertEqual(client.answers(), ["a by 5000", "b by 5000", "overloaded/no", "d by 5001"])

    def test_retried_counts_once(self) -> None:
        """A packet that is given to a second server, as the file lets it, is one packet."""
        proxy = self.limited(in_flight=1, retry=True)
        proxy.register("5001", "111", 5001, pipeline=100)
        one, two = proxy.server(5000), proxy.server(5001)
        client = proxy.client()
        client.ask("a")
        one.connection.reset()
        self.assertEqual((two.payloads, self.unanswered(proxy)), (["a"], 1))
        two.answer()
        self.assertEqual((client.answers(), self.unanswered(proxy)), (["a by 5001"], 0))

    def test_retry_is_the_policy_s(self) -> None:
        """And changes with the file."""
        proxy = self.limited(retry=True)
        proxy.register("5001", "111", 5001, pipeline=100)
        one, two = proxy.server(5000), proxy.server(5001)
        client = proxy.client()
        proxy.factory.reload(described(p111=Policy(), p222=Policy(retry=True)))
        client.ask("a")
        one.connection.reset()
        self.assertEqual((client.answers(), two.payloads), (["server-lost/unknown"], []))

    def test_other_limits(self) -> None:
        """They hold for what comes from then on; what waits keeps its time."""
        proxy = self.limited(queue_packets=1, queue_timeout=1.0)
        self.take_down(proxy)
        client = proxy.client()
        client.ask("a", "b")
        proxy.factory.reload(described(p111=Policy(queue_packets=3, queue_timeout=2.0, in_flight=2), p222=Policy()))
        client.ask("c", "d", "e")
        proxy.advance(1)
        self.assertEqual(client.answers(), ["no-server/no", "overloaded/no"])
        proxy.advance(1)
        self.assertEqual(client.answers(), ["no-server/no", "no-server/no", "overloaded/no"])
        proxy.factory.reload(described(p111=Policy(), p222=Policy()))
        client.ask(*"abcdefgh")
        proxy.server(5000)
        proxy.advance(2)
        proxy.server(5000).answer()
        self.assertEqual(len(client.answers()), 8)


class _Nobody:
    """Asks, and doesn't listen."""

    def deliver(self, now: float) -> None:
        """Not to anybody."""

    def deliver_soon(self) -> None:
        """Not to anybody."""


class ViolationTests(AdmissionCase):
    """The check before each write: what is written by hand, as nothing else ever may."""

    def setUp(self) -> None:
        # Not by self.proxy, whose counter must stay zero.
        self.world = Proxy(Limits())
        self.servers = {port: self.modern(self.world, port)[0] for port in (5000, 5001)}
        client = self.world.client()
        client.ask("a", "b")

    def upstream(self, port: int) -> Upstream:
        upstream = self.world.factory.router.upstreams.get((HOST, port), False)
        assert upstream is not None
        return upstream

    def write(self, policy: str, port: int, at: int) -> bool:
        """Write a packet of a policy for the server of one port to the connection to another one."""
        (member,) = self.upstream(port).members.live_of("111")
        (connection,) = self.upstream(at)._open
        written = connection.write(Request(b'{"payload": "forced"}', policy, "1", 10.0, _Nobody()), member)
        self.world.pump()
        self.assertEqual("forced" in self.servers[at].payloads, written)
        return written

    def assert_violation(self, policy: str, port: int, at: int) -> None:
        with capturedLogs() as events:
            self.assertFalse(self.write(policy, port, at))
        (said,) = (formatEvent(event) for event in events if event["log_level"] is LogLevel.critical)
        self.assertEqual(
            said,
            f"A packet of policy {policy} for server id {port} of policy 111 was about to be written to"
            f" {HOST} port {at}; it was not",
        )
        self.assertEqual(self.world.factory.counters.violations, 1)
        self.assertRaises(AssertionError, self.world.check_counters)

    def test_another_policy(self) -> None:
        self.assert_violation("222", 5000, 5000)

    def test_another_server(self) -> None:
        """A connection that doesn't lead to the server that was chosen."""
        self.assert_violation("111", 5000, 5001)

    def test_none(self) -> None:
        """One that ends before it is written to is none: the packet just finds another one."""
        self.assertTrue(self.write("111", 5000, 5000))
        (member,) = self.upstream(5001).members.live_of("111")
        self.world.factory.reload(described())
        self.assertFalse(member.live)
        (connection,) = self.upstream(5001)._open
        self.assertFalse(connection.write(Request(b"{}", "111", "1", 10.0, _Nobody()), member))
        self.assertEqual(self.world.factory.counters.violations, 0)
