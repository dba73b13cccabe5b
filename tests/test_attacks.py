"""What an attacker may try, and what comes of it; docs/explanation/security.rst names each."""

from __future__ import annotations

import json
from typing import Any

from rproxy.policies import ClientRule, Peer, Policies, Policy, ServerRule, digest
from tests.memory import Client, Packet, Proxy, ProxyCase, ack, data, encode, setup

PUBLIC = "203.0.113.66"
EAST, WEST = "10.0.0.5", "10.0.0.6"


def policies(**rules: ServerRule) -> Policies:
    """A policies file with these policies: ``p111`` is 111."""
    return Policies(by_name={name.removeprefix("p"): Policy(servers=rule) for name, rule in rules.items()})


class AttackCase(ProxyCase):
    """A proxy with one good server of policy 111, and one of 222."""

    allowed = Policies()

    def setUp(self) -> None:
        self.world: Proxy = self.proxy(self.allowed)
        self.world.register("100", "111", 5000, pipeline=8, lease=60)
        self.good = self.world.server(5000)
        self.world.register("200", "222", 6000, pipeline=8)
        self.other = self.world.server(6000)

    def attacker(self, host: str = WEST) -> Client:
        return self.world.client(host)

    def register(self, attacker: Client, server_id: str, policy: str, port: int = 6666, **modern: Any) -> list[str]:
        """Send a setup packet, and return what is answered to it."""
        attacker.send(setup(server_id, policy, port, **modern))
        return attacker.answers()

    def assert_safe(self, policy: str = "111") -> None:
        """Packets of the policy go to the good server, and nowhere else."""
        client = self.world.client()
        client.ask(*"abcd", policy=policy)
        server = self.good if policy == "111" else self.other
        self.assertEqual(server.payloads[-4:], [*"abcd"])
        server.answer()
        self.assertEqual(client.answers(), [f"{each} by {server.id_for(data('', policy))}" for each in "abcd"])


class RegistrationTests(AttackCase):
    """Getting other people's packets by registering."""

    def test_registering_from_the_public_side(self) -> None:
        stranger = self.attacker(PUBLIC)
        self.assertEqual(self.register(stranger, "666", "111"), ["forbidden/no"])
        self.assertEqual(self.register(stranger, "100", "111", lease=10), ["forbidden/no"])
        self.assert_safe()
        self.assertEqual(self.world.factory.counters.setup_refused["forbidden"], 2)

    def test_registering_from_the_public_side_in_the_form_of_ipv6(self) -> None:
        self.assertEqual(self.register(self.attacker(f"::ffff:{PUBLIC}"), "666", "111"), ["forbidden/no"])
        self.assert_safe()

    def test_taking_over_a_live_servers_key_from_another_host(self) -> None:
        terms: dict[str, Any]
        for terms in ({}, {"lease": 10}, {"drain": True}, {"weight": 100}):
            self.assertEqual(self.register(self.attacker(), "100", "111", **terms), ["conflict/no"])
        self.assert_safe()

    def test_a_flood_of_setup_packets(self) -> None:
        """It fills the registry up to its bound, and the clients don't notice."""
        world = self.proxy(registrations=50)
        world.register("100", "111", 5000, pipeline=8)
        server = world.server(5000)
        attacker = world.client(WEST)
        for number in range(200):
            attacker.send(setup(f"flood-{number}", "999", 1 + number))
        self.assertEqual(attacker.answers().count("overloaded/no"), 151)
        client = world.client()
        client.ask("a")
        server.answer()
        self.assertEqual(client.answers(), ["a by 100"])


class PolicyRuleTests(AttackCase):
    """The same where a policies file says who may serve what."""

    allowed = policies(
        p111=ServerRule(ids=frozenset({"100"}), tokens=None),
        p222=ServerRule(),
        p333=ServerRule(tokens=(digest("the token") or b"",)),
    )

    def test_registering_for_a_policy_not_allowed(self) -> None:
        attacker = self.attacker()
        self.assertEqual(self.register(attacker, "666", "111"), ["forbidden/no"])
        self.assertEqual(self.register(attacker, "666", "444"), ["forbidden/no"])
        self.assert_safe()

    def test_registering_with_a_guessed_token(self) -> None:
        attacker = self.attacker()
        guess: dict[str, Any]
        for guess in ({}, {"token": ""}, {"token": "the toke"}, {"token": "the token "}):
            self.assertEqual(self.register(attacker, "666", "333", 6666, **guess), ["forbidden/no"])

    def test_a_revoked_server_with_packets_waiting(self) -> None:
        client = self.world.client()
        client.ask(*map(str, range(10)))
        self.assertEqual(len(self.good.payloads), 8)
        self.world.factory.reload(policies(p222=ServerRule()))
        self.good.answer()
        self.world.advance(6)
        self.assertEqual(len(self.good.payloads), 8, "it got packets after it was revoked")
        self.assertEqual(client.answers(), [*(f"{n} by 100" for n in range(8)), "no-server/no", "no-server/no"])
        self.assertEqual(self.register(self.attacker(EAST), "100", "111", 5000), ["forbidden/no"])

    def test_renewing_what_was_revoked(self) -> None:
        lease = self.world.register("100", "111", 5000, pipeline=8, lease=60)
        lease.take()
        self.world.factory.reload(policies(p222=ServerRule()))
        self.assertEqual(self.register(lease, "100", "111", 5000, pipeline=8, lease=60), ["forbidden/no"])
        client = self.world.client()
        client.ask("a")
        self.world.advance(6)
        self.assertEqual((client.answers(), self.good.payloads), (["no-server/no"], []))


class PortTests(ProxyCase):
    """A port that changes hands."""

    def test_a_port_that_a_draining_server_left(self) -> None:
        """Another server of another policy comes to it while the old one still has packets: it gets new connections."""
        world = self.proxy()
        lease = world.register("7", "111", 7000, pipeline=4, lease=10)
        old = world.server(7000)
        client = world.client()
        client.ask("a", "b", "c")
        lease.send(setup("7", "111", 7000, pipeline=4, lease=10, drain=True))
        connection = old.connection
        self.assertEqual(connection.payloads, ["a", "b", "c"])
        lease.close()
        world.register("8", "222", 7000, pipeline=4, lease=10)
        client.ask("other", policy="222")
        self.assertEqual(connection.payloads, ["a", "b", "c"])
        connection.answer()
        self.assertEqual(old.connection.payloads, ["other"])
        self.assertEqual(connection.payloads, ["a", "b", "c"])

    def test_a_port_that_another_id_registers(self) -> None:
        """Whatever listened there is another server now, be it of the same policy or of another one."""
        for policy in ("111", "222"):
            world = self.proxy()
            world.register("100", "111", 7000, pipeline=4, lease=10)
            server = world.server(7000)
            client = world.client()
            client.ask("a", policy="111")
            old = server.connection
            world.register("200", policy, 7000, pipeline=4, lease=10)
            other = world.client()
            other.ask("b", policy=policy)
            self.assertEqual(old.payloads, ["a"])
            old.answer(srcid="100")
            self.assertEqual((old.payloads, server.connection.payloads), (["a"], ["b"]))


class ClientRuleTests(AttackCase):
    """Asking for a policy that isn't for everybody."""

    def test_asking_from_where_it_may_not_be_asked(self) -> None:
        rule = ClientRule(networks=Policies().register_from[1:2])
        self.world.factory.reload(Policies(by_name={"111": Policy(clients=rule), "222": Policy()}))
        stranger = self.world.client(PUBLIC)
        stranger.ask("a", policy="222")
        stranger.ask("b", "c")
        self.other.answer()
        self.assertEqual(stranger.answers(), ["a by 200", "forbidden/no", "forbidden/no"])
        self.assertEqual(self.good.payloads, [])
        self.assert_safe()

    def test_asking_without_a_certificate(self) -> None:
        self.world.factory.reload(Policies(by_name={"111": Policy(clients=ClientRule(certificate=True))}))
        client = self.world.client()
        client.ask("a")
        self.assertEqual((client.answers(), self.good.payloads), (["forbidden/no"], []))
        self.assertIsNone(ClientRule(certificate=True).refusal(Peer(EAST, frozenset({"client.example.org"}))))


class PacketTests(AttackCase):
    """Having a packet routed by one policy and read by a server under another."""

    def ask(self, raw: bytes) -> list[str]:
        attacker = self.attacker()
        attacker.send(raw)
        return attacker.answers()

    def test_two_spellings_of_the_policy_field(self) -> None:
        raw = b'{"type":"0","srcid":"1","privPoliId":"111","privPolyId":"222","payload":"x"}'
        self.assertEqual(self.ask(raw), ["bad-packet/no"])

    def test_two_copies_of_the_policy_field(self) -> None:
        for second in ('"privPoliId":"222"', '"privpoliid":"222"', '"\\u0070rivPoliId":"222"'):
            raw = f'{{"type":"0","srcid":"1","privPoliId":"111",{second},"payload":"x"}}'
            self.assertEqual(self.ask(raw.encode()), ["bad-packet/no"])
        self.assertEqual(self.good.payloads + self.other.payloads, [])

    def test_a_packet_that_is_two_packets_to_a_lenient_parser(self) -> None:
        """Another packet in a string, behind a comment, behind a NUL, or behind a byte that is no JSON."""
        inner = encode(data("inner", "222")).decode()
        for raw, answers in (
            (json.dumps({**data("x"), "note": f"}}{inner}"}).encode(), 1),
            (encode(data("x"))[:-1] + b"}/*}*/" + inner.encode(), 2),
            (encode(data("x")) + b"\0" + inner.encode(), 2),
            (encode(data("x"))[:-1] + b",}" + inner.encode(), 1),
        ):
            attacker = self.attacker()
            attacker.send(raw)
            self.good.answer()
            self.assertEqual(len(attacker.answers()), answers)
        self.assertEqual(self.other.payloads, [])

    def test_a_client_id_that_no_server_echoes_as_it_was(self) -> None:
        """It would break the connection that other clients' packets share."""
        client = self.world.client()
        client.ask("a")
        for number in (
            "1.0",
            "1e0",
            "-0",
            "18446744073709551616",
            '"\\ud800"',
            '"a\\u0000b"',
            '"' + "x" * 257 + '"',
            '""',
            "null",
        ):
            raw = f'{{"type":"0","srcid":{number},"privPoliId":"111","payload":"x"}}'.encode()
            self.assertEqual(self.ask(raw), ["bad-packet/no"], number)
        self.good.answer()
        self.assertEqual((client.answers(), len(self.good.open)), (["a by 100"], 1))


class ServerTests(AttackCase):
    """A server that lies, to its own clients and to others."""

    def one_each(self) -> tuple[Client, Client]:
        """Two clients, with a packet at the good server each."""
        first, second = self.world.client(), self.world.client()
        first.ask("first", client_id="1")
        second.ask("second", client_id="2")
        return first, second

    def test_a_server_that_answers_before_it_is_asked(self) -> None:
        self.one_each()
        self.good.answer()
        self.good.connection.send(ack(data("unasked", client_id="2"), "100"))
        self.assertTrue(self.good.connection.gone)
        self.assertEqual(self.one_each()[1].answers(), [])

    def test_a_server_that_answers_for_another_client(self) -> None:
        first, second = self.one_each()
        self.good.connection.send(ack(data("second", client_id="2"), "100"))
        self.assertEqual((first.answers(), second.answers()), (["server-lost/unknown"],) * 2)

    def test_a_server_that_answers_as_another_server(self) -> None:
        first, second = self.one_each()
        self.good.connection.send(ack(data("first", client_id="1"), "200"))
        self.assertEqual((first.answers(), second.answers()), (["server-lost/unknown"],) * 2)

    def test_a_server_that_says_that_a_packet_was_not_delivered(self) -> None:
        """A client that believed it would send the packet again."""
        first, second = self.one_each()
        lie: Packet = {**ack(data("first", client_id="1"), "100"), "type": "3", "error": "failed", "delivered": "no"}
        self.good.connection.send(lie)
        self.assertEqual((first.answers(), second.answers()), (["server-lost/unknown"],) * 2)
