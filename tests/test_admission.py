"""Who may register for a policy, and who may ask for it."""

from __future__ import annotations

from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.logger import LogLevel, capturedLogs, formatEvent

from rproxy.networks import parse_network
from rproxy.policies import ClientRule, Policies, Policy, ServerRule, digest
from tests.admissioncase import AdmissionCase, described, served_by
from tests.memory import CLIENT_HOST, HOST, data, setup

ABROAD = "203.0.113.7"


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
