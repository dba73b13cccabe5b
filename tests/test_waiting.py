"""Who waits, in what order, how many and how long: the line of one policy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.limits import Limits
from rproxy.request import Request
from rproxy.waiting import WaitingLine

ROOMY = Limits()


class Client:
    """Whoever asks; it knows how many packets it has sent, and hears of no answer it didn't wait for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = 0
        self.heard = 0

    def deliver(self, now: float) -> None:
        self.heard += 1
        assert self.heard <= self.sent

    def deliver_soon(self) -> None:
        self.deliver(0.0)

    def send(self, raw: bytes = b"{}", waits_until: float = 5.0, deadline: float = 30.0) -> Request:
        self.sent += 1
        request = Request(raw, "111", f"{self.name}{self.sent}", deadline, self)
        request.waits_until = waits_until
        return request


class WaitingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = WaitingLine(ROOMY)
        self.a, self.b, self.c = Client("a"), Client("b"), Client("c")

    def push(self, client: Client, number: int = 1) -> list[Request]:
        """So many packets of a client wait."""
        requests = [client.send() for _packet in range(number)]
        self.assertTrue(all(self.line.push(request) for request in requests))
        return requests

    def pop(self) -> Request:
        request = self.line.pop()
        assert request is not None, "nobody waits"
        return request

    def served(self, number: int) -> str:
        """Whose packets are next."""
        return " ".join(self.pop().client_id for _packet in range(number))

    def assert_empty(self) -> None:
        self.assertEqual(0, len(self.line))
        self.assertIsNone(self.line.pop())


class TurnsTests(WaitingCase):
    """Client by client, and within a client in order."""

    def test_nobody_waits(self) -> None:
        self.assert_empty()
        self.assertEqual([], self.line.expired(1e9))

    def test_one_client_is_served_in_order(self) -> None:
        self.push(self.a, 4)
        self.assertEqual(4, len(self.line))
        self.assertEqual("a1 a2 a3 a4", self.served(4))
        self.assert_empty()

    def test_clients_take_turns(self) -> None:
        self.push(self.a, 4)
        self.push(self.b, 2)
        self.push(self.c, 1)
        self.assertEqual("a1 b1 c1 a2 b2 a3 a4", self.served(7))
        self.assert_empty()

    def test_a_thousand_packets_delay_another_client_by_one_turn(self) -> None:
        self.push(self.a, 1000)
        self.assertEqual("a1", self.served(1))
        self.push(self.b)
        self.assertEqual("a2 b1 a3", self.served(3))

    def test_who_waits_again_waits_behind_the_others(self) -> None:
        self.push(self.a)
        self.push(self.b, 2)
        self.assertEqual("a1", self.served(1))
        self.push(self.a)
        self.assertEqual("b1 a2 b2", self.served(3))

    @given(st.lists(st.integers(0, 4), max_size=30))
    def test_the_first_packets_of_all_come_before_the_second_of_any(self, senders: list[int]) -> None:
        self.setUp()
        clients = [Client(name) for name in "abcde"]
        requests = [clients[sender].send() for sender in senders]
        self.assertTrue(all(self.line.push(request) for request in requests))
        first = {sender: senders.index(sender) for sender in senders}
        expected = sorted(
            requests, key=lambda request: (int(request.client_id[1:]), first["abcde".index(request.client_id[0])])
        )
        self.assertEqual(expected, [self.pop() for _request in requests])
        self.assert_empty()


class PushBackTests(WaitingCase):
    """A packet that had its turn for nothing."""

    def test_it_is_the_first_of_its_client_again(self) -> None:
        self.push(self.a, 3)
        self.line.push_back(self.pop())
        self.assertEqual(3, len(self.line))
        self.assertEqual("a1 a2 a3", self.served(3))

    def test_it_has_the_next_turn_too(self) -> None:
        self.push(self.a, 2)
        self.push(self.b, 2)
        self.assertEqual("a1", self.served(1))
        self.line.push_back(self.pop())
        self.assertEqual("b1 a2 b2", self.served(3))

    def test_also_when_it_was_the_only_one_of_its_client(self) -> None:
        self.push(self.a, 3)
        self.push(self.b)
        self.assertEqual("a1", self.served(1))
        self.line.push_back(self.pop())
        self.assertEqual("b1 a2 a3", self.served(3))

    def test_nobody_starves_when_there_is_room_for_one_packet_at_a_time(self) -> None:
        self.push(self.a, 10)
        self.push(self.b)
        served = []
        for _room in range(3):
            served.append(self.pop().client_id)
            self.line.push_back(self.pop())  # and finds no room
        self.assertEqual(["a1", "b1", "a2"], served)

    def test_its_client_keeps_its_place_if_it_waits_for_its_turn_already(self) -> None:
        self.push(self.a, 2)
        self.push(self.b, 2)
        request = self.pop()
        self.push(self.c)
        self.line.push_back(request)
        self.assertEqual("b1 a1 c1 b2 a2", self.served(5))

    def test_it_may_come_when_nobody_waits(self) -> None:
        self.line.push_back(self.a.send())
        self.assertEqual("a1", self.served(1))
        self.assert_empty()

    def test_it_is_never_refused(self) -> None:
        self.line = WaitingLine(Limits(queue_packets=1))
        self.push(self.a)
        request = self.pop()
        self.push(self.b)
        self.line.push_back(request)
        self.assertEqual(2, len(self.line))
        self.assertFalse(self.line.push(self.c.send()))


class BoundsTests(WaitingCase):
    """So many packets, so many bytes, and not more."""

    def test_packets(self) -> None:
        self.line = WaitingLine(Limits(queue_packets=3))
        self.push(self.a, 2)
        self.push(self.b, 1)
        self.assertFalse(self.line.push(self.c.send()))
        self.assertEqual(3, len(self.line))
        self.assertEqual("a1", self.served(1))
        self.push(self.c)
        self.assertFalse(self.line.push(self.a.send()))
        self.assertEqual("b1 a2 c2", self.served(3))
        self.assert_empty()

    def test_bytes_beside_the_packet_that_crosses_the_line(self) -> None:
        self.line = WaitingLine(Limits(queue_bytes=10))
        self.assertTrue(self.line.push(self.a.send(b"123456789")))
        self.assertTrue(self.line.push(self.a.send(b"123456789")))
        self.assertFalse(self.line.push(self.b.send(b"1")))
        self.assertEqual("a1", self.served(1))
        self.assertTrue(self.line.push(self.b.send(b"1")))
        self.assertFalse(self.line.push(self.b.send(b"1")))

    def test_what_expired_makes_room(self) -> None:
        self.line = WaitingLine(Limits(queue_packets=2, queue_bytes=10))
        for _round in range(3):
            self.assertTrue(self.line.push(self.a.send(b"12345")))
            self.assertTrue(self.line.push(self.b.send(b"12345")))
            self.assertFalse(self.line.push(self.b.send(b"12345")))
            self.assertEqual(2, len(self.line.expired(5.0)))


class EndTests(WaitingCase):
    """Some wait too long, or for nobody."""

    def expired(self, now: float) -> str:
        return " ".join(request.client_id for request in self.line.expired(now))

    def test_the_wait_ends_on_time(self) -> None:
        self.line.push(self.a.send(waits_until=5.0))
        self.line.push(self.a.send(waits_until=6.0))
        self.line.push(self.b.send(waits_until=5.5))
        self.assertEqual("", self.expired(4.99))
        self.assertEqual("a1", self.expired(5.0))
        self.assertEqual(2, len(self.line))
        self.assertEqual("a2 b1", self.expired(6.0))
        self.assert_empty()

    def test_the_deadline_may_come_first(self) -> None:
        self.line.push(self.a.send(waits_until=33.0, deadline=30.0))
        self.assertEqual("", self.expired(29.99))
        self.assertEqual("a1", self.expired(30.0))

    def test_they_are_only_taken_out_not_answered(self) -> None:
        request = self.push(self.a)[0]
        self.assertEqual([request], self.line.expired(5.0))
        self.assertIsNone(request.reply)
        self.assertEqual(0, self.a.heard)

    def test_one_that_waits_anew_does_not_prolong_the_wait_of_those_behind_it(self) -> None:
        self.push(self.a, 3)
        request = self.pop()
        request.waits_until = 8.0
        self.line.push_back(request)
        self.assertEqual("a2 a3", self.expired(5.0))
        self.assertEqual("a1", self.expired(8.0))
        self.assert_empty()

    def test_what_was_abandoned_is_passed_over(self) -> None:
        for request in self.push(self.a, 3):
            request.abandon()
        self.push(self.b)
        self.assertEqual("b1", self.served(1))
        self.assertIsNone(self.line.pop())
        self.assert_empty()

    def test_what_was_abandoned_is_taken_out_before_its_time(self) -> None:
        for request in self.push(self.a, 3):
            request.abandon()
        self.push(self.b)
        self.assertEqual("a1 a2 a3", self.expired(0.0))
        self.assertEqual(1, len(self.line))
        self.assertEqual("b1", self.served(1))

    def test_the_others_keep_their_turns(self) -> None:
        self.line.push(self.a.send(waits_until=1.0))
        self.line.push(self.a.send())
        self.line.push(self.b.send(waits_until=1.0))
        self.line.push(self.c.send())
        self.line.push(self.c.send())
        self.assertEqual("a1 b1", self.expired(1.0))
        self.assertEqual("a2 c1 c2", self.served(3))
        self.assert_empty()

    def test_who_hears_that_it_waited_in_vain_may_wait_again_at_once(self) -> None:
        self.push(self.a)
        self.push(self.b)
        for request in self.line.expired(5.0):
            request.refuse("no-server", "no", "in vain")
            self.assertTrue(self.line.push(self.a.send()))
        self.assertEqual("a2 a3", self.served(2))
        self.assert_empty()


#: What may happen to a line, and to which client's packets.
steps = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "pop", "pop", "pop for nothing", "wait", "abandon"]),
        st.integers(0, 2),
    ),
    max_size=60,
)


class AnyOrderTests(SynchronousTestCase):
    """Whatever happens in whatever order, nothing is lost, doubled or counted wrong."""

    @given(steps, st.integers(1, 6), st.integers(1, 30))
    def test_counts_bytes_and_order(self, steps: list[tuple[str, int]], packets: int, size: int) -> None:
        line = WaitingLine(Limits(queue_packets=packets, queue_bytes=size))
        clients = [Client(name) for name in "abc"]
        #: In the order of each client's packets.
        waiting: list[Request] = []
        now = 0.0
        for step, number in steps:
            if step == "push":
                request = clients[number].send(b"x" * (number * 4 + 1), now + 5.0, now + 4.0 + number)
                room = len(waiting) < packets and sum(len(r.raw) for r in waiting) < size
                self.assertIs(room, line.push(request))
                waiting += [request] if room else []
            elif step == "wait":
                now += 1.0 + number
                over = [r for r in waiting if r.reply is not None or r.waits_until <= now or r.deadline <= now]
                self.assertEqual(set(over), set(line.expired(now)))
                waiting = [request for request in waiting if request not in over]
            elif step == "abandon":
                for request in waiting:
                    if request.asker is clients[number]:
                        request.abandon()
            else:
                popped = self._pop(line, waiting)
                if popped is not None and step == "pop for nothing":
                    line.push_back(popped)
                elif popped is not None:
                    waiting.remove(popped)
                # Which of those that were abandoned were passed over can't be seen; the others are taken out here.
                abandoned = [request for request in waiting if request.reply is not None]
                self.assertLessEqual(set(line.expired(now)), set(abandoned))
                waiting = [request for request in waiting if request.reply is None]
            self.assertEqual(len(waiting), len(line))

    def _pop(self, line: WaitingLine, waiting: list[Request]) -> Request | None:
        """Take one out, the first of its client."""
        popped = line.pop()
        of_anybody = [request for request in waiting if request.reply is None]
        of_its_client = [request for request in of_anybody if popped is None or request.asker is popped.asker]
        self.assertIs(popped, of_its_client[0] if of_its_client else None)
        return popped

    @given(st.lists(st.tuples(st.sampled_from(["push", "pop"]), st.integers(0, 3)), max_size=80))
    def test_between_two_turns_of_a_client_each_that_waited_has_one(self, steps: list[tuple[str, int]]) -> None:
        line = WaitingLine(ROOMY)
        clients = [Client(name) for name in "abcd"]
        served: list[Client] = []
        #: How many packets of each client wait, and since which turn it has waited without a break.
        number_of = dict.fromkeys(clients, 0)
        since: dict[Client, int] = {}
        for step, number in steps:
            client = clients[number]
            if step == "push":
                self.assertTrue(line.push(client.send()))
                number_of[client] += 1
                since.setdefault(client, len(served))
            elif (request := line.pop()) is not None:
                taker = clients["abcd".index(request.client_id[0])]
                if taker in served[since[taker] :]:
                    last = len(served) - 1 - served[::-1].index(taker)
                    waited = [one for one, turn in since.items() if turn <= last and one is not taker]
                    self.assertEqual([1] * len(waited), [served[last + 1 :].count(one) for one in waited])
                served.append(taker)
                number_of[taker] -= 1
                if not number_of[taker]:
                    del since[taker]
