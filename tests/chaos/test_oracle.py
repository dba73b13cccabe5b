"""Tests of :mod:`tests.chaos.oracle`: it finds each kind of violation in a history made up for it, and no other."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.chaos import oracle, report
from tests.chaos.history import Answer, Connection, End, History, Incident, Packet, ProxyLife
from tests.chaos.journal import ANSWERED, Receipt
from tests.chaos.plan import TIMEOUT, UNSERVED, Client, Draft, Event, Fault, Kind, Plan, Proxy, Server

#: A classic server and a modern one of policy 111, and one of policy 222.
SERVERS = (
    Server("s1", Kind.CLASSIC, ("111",)),
    Server("s2", Kind.MODERN, ("111",), pipeline=4, connections=2, lease=3.0),
    Server("s3", Kind.TWISTD, ("222",), pipeline=4, connections=1, lease=3.0),
)
PORTS = {"s1": 5001, "s2": 5002, "s3": 5003}
#: When the traffic began, by the monotonic clock.
BEGAN = 1000.0
#: What a proxy has open that nobody talks to.
OPEN = Counter({"listening": 1, "socket": 2, "file": 3})


class HistoryCase(SynchronousTestCase):
    """A test with a history: two clients, four packets each, all acknowledged."""

    def setUp(self) -> None:
        clients = tuple(Client(client_id, single=False) for client_id in ("c1", "c2"))
        self.history = History(Plan(7, 10.0, SERVERS, clients, ()), BEGAN, PORTS, open_at_start=OPEN)
        self.history.roll = {1: {("111", "s1"), ("111", "s2"), ("222", "s3")}}
        self.history.open_at_end = OPEN + Counter({"taken": 2, "made to 5002": 2})
        self.first, self.second = (self.connection(client.client_id) for client in clients)
        for connection in self.first, self.second:
            for policy, server_id in ("111", "s1"), ("222", "s3"), ("111", "s2"), ("111", "s1"):
                packet = self.send(connection, policy)
                self.receive(packet, server_id)
                self.acknowledge(connection, packet, server_id)
        self.history.proxies.append(ProxyLife(told_at=BEGAN + 10.0, gently=True, ended_at=BEGAN + 11.0, exit_code=0))
        self.count(8, 8, 0, 0)

    # Making it up.

    def connection(self, client_id: str) -> Connection:
        """Add a connection, which the client closed in the end."""
        port = 50_000 + len(self.history.connections)
        connection = Connection(client_id, 0, BEGAN, port, end=End.DONE, ended_at=BEGAN + 9.0)
        self.history.connections.append(connection)
        return connection

    def send(self, connection: Connection, policy: str = "111") -> Packet:
        """Add a packet to a connection."""
        number = len(connection.packets)
        payload = f"7/{connection.client_id}/{self.history.connections.index(connection)}-{number} "
        packet = Packet(Draft(connection.client_id, policy, payload), BEGAN + number)
        connection.packets.append(packet)
        return packet

    def receive(self, packet: Packet, server_id: str, deed: str = ANSWERED) -> None:
        """Add a packet to a journal."""
        draft = packet.draft
        receipt = Receipt(server_id, packet.sent_at + 0.01, packet.digest, draft.client_id, draft.policy, deed)
        self.history.receipts.append(receipt)

    def answer(self, connection: Connection, packet: Packet, **fields: Any) -> None:
        """Add an answer, a little after the packet."""
        connection.answers.append(Answer(packet.sent_at + 0.02, fields))

    def acknowledge(self, connection: Connection, packet: Packet, server_id: str) -> None:
        """Add its ACK."""
        self.answer(connection, packet, type="2", srcid=server_id, destid=packet.draft.client_id, payload=packet.digest)

    def refuse(self, connection: Connection, packet: Packet, code: str, delivered: str, **fields: Any) -> None:
        """Add an error."""
        error = {"type": "3", "srcid": "rproxy", "destid": connection.client_id, "error": code, "delivered": delivered}
        self.answer(connection, packet, **{**error, **fields})

    def count(self, received: int, acked: int, refused: int, gone: int) -> None:
        """Have the proxy say what it counted."""
        self.history.proxies[
            0
        ].log = f"Stopped after {received} packets: {acked} acked, {refused} refused, {gone} whose client was gone"

    def strike(self, event: Event, **fields: Any) -> None:
        """Plan a fault, and have it happen for a second."""
        plan = self.history.plan
        self.history.plan = evolve(plan, events=(*plan.events, event))
        began = BEGAN + event.at
        self.history.incidents.append(
            Incident(event, **{"began": began, "ended": began + 1, "evidence": "-9", **fields})
        )

    def have(self, **setup: Any) -> None:
        """Have another proxy; each of its workers knows all servers, and has no more open than one process."""
        proxy = Proxy(**setup)
        self.history.plan = evolve(self.history.plan, proxy=proxy)
        self.history.roll = dict.fromkeys(range(1, proxy.workers + 1), self.history.roll[1])

    def strike_worker(self, fault: Fault, *connections: Connection) -> None:
        """Have a fault of a worker that had these connections, from 8 to 9 seconds after the beginning."""
        ports = frozenset(connection.port for connection in connections)
        self.strike(Event(8.0, fault, "worker 1"), ports=ports)


class OracleTests(HistoryCase):
    """Each changes what it is about."""

    def assert_found(self, *rules: str) -> None:
        """Check that these are broken, and that the report has each with its text."""
        violations = oracle.judge(self.history)

        self.assertEqual({violation.rule for violation in violations}, {*rules})
        text = report.failure(self.history, violations)
        for violation in violations:
            self.assertIn(violation.text, text)

    # What isn't wrong.

    def test_all_well(self) -> None:
        """What is made up first breaks nothing."""
        self.assert_found()

    def test_vanished_client(self) -> None:
        """A client that left gets no answer."""
        connection = self.connection("c1")
        connection.end = End.LEFT
        self.send(connection)
        self.count(9, 8, 0, 1)

        self.assert_found()

    def test_ended_proxy(self) -> None:
        """A connection that ended with its proxy may lack answers."""
        connection = self.connection("c1")
        connection.end, connection.ended_at = End.CUT, BEGAN + 10.5
        self.send(connection)

        self.assert_found()

    def test_killed_proxy(self) -> None:
        """It answers nothing more, and counts nothing."""
        self.send(self.first)
        self.first.end, self.first.ended_at = End.CUT, BEGAN + 10.5
        self.history.proxies[0] = ProxyLife(told_at=BEGAN + 10.0, ended_at=BEGAN + 10.1, exit_code=-9)

        self.assert_found()

    def test_refusals(self) -> None:
        """Errors that say what was."""
        connection = self.connection("c1")
        self.refuse(connection, self.send(connection), "no-server", "no")
        self.refuse(connection, self.send(connection, UNSERVED), "no-server", "no")
        self.strike(Event(2.0, Fault.KILL, "s2"))
        lost = self.send(connection)
        self.receive(lost, "s2")
        self.refuse(connection, lost, "server-lost", "unknown")
        late = self.send(connection)
        self.receive(late, "s2")
        self.refuse(connection, late, "timeout", "unknown")
        self.count(12, 8, 4, 0)

        self.assert_found()

    def test_retried(self) -> None:
        """A packet may have been received twice then, and whatever it ends with, nobody knows."""
        self.have(retry=True)
        self.receive(self.first.packets[0], "s2")
        self.strike(Event(4.0, Fault.KILL, "s2"))
        packet = self.send(self.first)
        self.receive(packet, "s2")
        self.refuse(self.first, packet, "no-server", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found()

    def test_killed_worker(self) -> None:
        """Its connections break, and what it has counted is lost, of connections that ended before too."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_KILL, self.first)
        self.send(self.first)
        self.first.end, self.first.ended_at, self.first.leftover = End.CUT, BEGAN + 8.01, '{"type":'
        self.second.ended_at = BEGAN + 7.0
        self.history.proxies[0].log = "[#error] Worker 1 was ended by SIGKILL; another one is started in 0.1 seconds\n"
        for counted in 0, 4, 8:
            log = self.history.proxies[0].log
            self.count(counted, counted, 0, 0)
            self.history.proxies[0].log += f"\n{log}"

            self.assert_found()

    def test_killed_parent(self) -> None:
        """Its workers drain."""
        self.have(workers=2)
        self.history.proxies[0] = ProxyLife(told_at=BEGAN + 4.0, ended_at=BEGAN + 9.5, exit_code=-9)
        self.refuse(self.first, self.send(self.first), "shutting-down", "no")

        self.assert_found()

    def test_lost_by_a_worker_that_stood_still(self) -> None:
        """It finds its deadlines past."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_STOP, self.first)
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found()

    # Workers.

    def test_killed_worker_cuts_another_ones_connection(self) -> None:
        """Only those that it had may break."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_KILL, self.second)
        self.first.end, self.first.ended_at = End.CUT, BEGAN + 8.01

        self.assert_found("cut")

    def test_killed_worker_of_another_time(self) -> None:
        """A connection that came after it, from the same port, isn't its."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_KILL, self.first)
        self.first.began, self.first.end, self.first.ended_at = BEGAN + 9.2, End.CUT, BEGAN + 9.5

        self.assert_found("cut")

    def test_counters_of_the_workers_that_are_left(self) -> None:
        """What is known not to have been the killed one's has to be counted."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_KILL, self.first)
        self.count(3, 3, 0, 0)
        self.assert_found("counters")

        self.count(4, 4, 0, 0)
        self.assert_found()

    def test_more_dead_workers_than_were_killed(self) -> None:
        """One that died by itself is an error."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_KILL)
        line = "\n[#error] Worker 1 was ended by SIGKILL; another one is started in 0.1 seconds"
        self.history.proxies[0].log += line
        self.assert_found()

        self.history.proxies[0].log += line
        self.assert_found("log")

    def test_lost_by_another_worker(self) -> None:
        """It didn't stand still."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_STOP, self.second)
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found("lost without a fault")

    def test_received_three_times(self) -> None:
        """A packet is retried once."""
        self.have(retry=True)
        for server_id in "s1", "s2":
            self.receive(self.first.packets[0], server_id)

        self.assert_found("received twice")

    def test_forgotten(self) -> None:
        """A server that one of the workers doesn't know in the end."""
        self.have(workers=2)
        self.history.roll[2] = self.history.roll[1] - {("111", "s1")}
        self.assert_found("forgotten")

        del self.history.roll[2]
        self.assert_found("forgotten")

    def test_orphans(self) -> None:
        """Workers that don't leave without their parent."""
        self.history.proxies[0].orphans = 1

        self.assert_found("orphans")

    def test_trails(self) -> None:
        """One that is broken, and none where there should be."""
        self.have(audit=True)
        self.assert_found("vacuous")

        self.history.trails = {"audit-1.log": "", "audit-2.log": "a line was changed"}
        self.assert_found("trail")

    # One answer each.

    def test_no_answer(self) -> None:
        """A packet without one, whose client and proxy were there."""
        self.first.answers.pop()
        self.count(7, 7, 0, 0)

        self.assert_found("no answer")

    def test_no_answer_after_half_closing(self) -> None:
        """A client that only shut its writing side still gets its answers."""
        self.first.answers.pop()
        self.count(7, 7, 0, 0)
        self.first.end = End.SHUT

        self.assert_found("no answer")

    def test_answer_too_many(self) -> None:
        """The last answer once more: it has no packet, and wasn't counted."""
        self.first.answers.append(self.first.answers[-1])

        self.assert_found("more answers than packets", "counters")

    def test_duplicated_answer(self) -> None:
        """An answer once more, in the place of the next."""
        self.first.answers[3] = self.first.answers[2]

        self.assert_found("second answer")

    def test_not_drained(self) -> None:
        """What was in flight when the proxy was told to stop is answered."""
        self.send(self.first)
        self.first.end, self.first.ended_at = End.CUT, BEGAN + 10.5

        self.assert_found("not drained")

    def test_cut(self) -> None:
        """A connection that broke while its proxy was there."""
        self.first.end = End.CUT

        self.assert_found("cut")

    def test_cut_before_the_proxy_was_told(self) -> None:
        """What a proxy is told later is no reason."""
        self.first.answers.pop()
        self.count(7, 7, 0, 0)
        self.first.end = End.CUT

        self.assert_found("cut", "no answer")

    def test_never_ended(self) -> None:
        """A connection that is still open."""
        self.first.end = End.OPEN

        self.assert_found("never ended")

    def test_half_an_answer(self) -> None:
        """What isn't whole at the end."""
        self.first.leftover = '{"type":'

        self.assert_found("half an answer")

    # The right answer.

    def test_answer_of_another_client(self) -> None:
        """Two clients get each other's ACK."""
        self.first.answers[0], self.second.answers[0] = self.second.answers[0], self.first.answers[0]

        self.assert_found("foreign answer")

    def test_answer_for_another_client(self) -> None:
        """The right payload, with the wrong ``destid``."""
        self.first.answers[0].fields["destid"] = "c2"

        self.assert_found("foreign answer")

    def test_answer_of_another_connection(self) -> None:
        """The same client's, but not of this connection."""
        other = self.connection("c1")
        packet = self.send(other)
        self.receive(packet, "s1")
        other.answers.append(self.first.answers[0])
        self.acknowledge(self.first, packet, "s1")
        del self.first.answers[0]
        self.count(9, 9, 0, 0)

        self.assert_found("foreign answer", "order")

    def test_wrong_answer(self) -> None:
        """A payload that belongs to no packet."""
        self.first.answers[0].fields["payload"] = "xyz"

        self.assert_found("wrong answer")

    def test_out_of_order(self) -> None:
        """Two answers of a connection have changed places."""
        answers = self.first.answers
        answers[2], answers[3] = answers[3], answers[2]

        self.assert_found("order")

    def test_acknowledged_by_server_of_another_policy(self) -> None:
        """And received by it, as a journal shows."""
        packet = self.send(self.first)
        self.receive(packet, "s3")
        self.acknowledge(self.first, packet, "s3")
        self.count(9, 9, 0, 0)

        self.assert_found("policy")

    def test_acknowledged_by_nobody(self) -> None:
        """A server that isn't one of ours."""
        self.first.answers[0].fields["srcid"] = "s9"

        self.assert_found("unknown server")

    def test_acknowledged_without_receiving(self) -> None:
        """A server of the policy whose journal doesn't have it."""
        self.first.answers[0].fields["srcid"] = "s2"

        self.assert_found("unheard")

    # Errors.

    def test_delivered_after_all(self) -> None:
        """``delivered: "no"`` of a packet that is in a journal."""
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.refuse(self.first, packet, "no-server", "no")
        self.count(9, 8, 1, 0)

        self.assert_found("delivered")

    def test_errors_that_there_are_not(self) -> None:
        """Codes that no packet here may get, delivery that a code rules out, and types that are no answer."""
        for fields in (
            {"code": "bad-packet", "delivered": "no"},
            {"code": "failed", "delivered": "unknown"},
            {"code": "no-server", "delivered": "unknown"},
            {"code": "server-lost", "delivered": "no"},
            {"code": "no-server", "delivered": "no", "type": "1"},
        ):
            self.setUp()
            self.refuse(self.first, self.send(self.first), **fields)
            self.count(9, 8, 1, 0)

            found = {violation.rule for violation in oracle.judge(self.history)}
            self.assertIn("no such error", found, fields)

    def test_error_for_another_client(self) -> None:
        """An error has a ``destid`` too."""
        self.refuse(self.first, self.send(self.first), "no-server", "no", destid="c2")
        self.count(9, 8, 1, 0)

        self.assert_found("foreign error")

    def test_errors_out_of_place(self) -> None:
        """A proxy that wasn't stopping; a packet that wasn't long; a policy that nobody ever served."""
        for code, policy in ("shutting-down", "111"), ("too-large", "111"), ("timeout", UNSERVED):
            self.setUp()
            self.refuse(self.first, self.send(self.first, policy), code, "no")
            self.count(9, 8, 1, 0)

            self.assert_found("error out of place")

    def test_late(self) -> None:
        """An answer that took longer than any deadline."""
        packet, answer = self.first.packets[3], self.first.answers[3]
        self.first.answers[3] = Answer(packet.sent_at + 60, answer.fields)

        self.assert_found("late")

    def test_late_by_a_worker_that_stood_still(self) -> None:
        """That long, and no longer."""
        self.have(workers=2)
        self.strike_worker(Fault.WORKER_STOP, self.first)
        packet, answer = self.first.packets[3], self.first.answers[3]
        self.first.answers[3] = Answer(packet.sent_at + TIMEOUT + oracle.SLACK + 0.9, answer.fields)
        self.assert_found()

        self.first.answers[3] = Answer(packet.sent_at + TIMEOUT + oracle.SLACK + 1.1, answer.fields)
        self.assert_found("late")

    # Journals.

    def test_received_twice(self) -> None:
        """A packet was tried on a second server, or a second time on the same."""
        for server_id in "s1", "s2":
            self.setUp()
            self.receive(self.first.packets[0], server_id)

            self.assert_found("received twice")

    def test_received_by_server_of_another_policy(self) -> None:
        """Though it was never answered."""
        packet = self.send(self.first)
        self.receive(packet, "s3")
        self.refuse(self.first, packet, "timeout", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found("policy")

    def test_received_and_never_sent(self) -> None:
        """A payload that no client knows."""
        self.history.receipts.append(Receipt("s1", BEGAN, "xyz", "c1", "111", ANSWERED))

        self.assert_found("never sent")

    def test_altered(self) -> None:
        """The server read another policy than was sent, or another client."""
        for client_id, policy in ("c1", "222"), ("c2", "111"):
            self.setUp()
            self.history.receipts[0] = self.history.receipts[0]._replace(client_id=client_id, policy=policy)

            self.assert_found("altered")

    # Losses.

    def test_lost_without_a_fault(self) -> None:
        """Nothing has happened to the server."""
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found("lost without a fault")

    def test_lost_to_a_server_that_went_gently(self) -> None:
        """It was to finish what it had."""
        self.strike(Event(4.0, Fault.RESTART, "s2"))
        packet = self.send(self.first)
        self.receive(packet, "s2")
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found("lost without a fault")

    def test_lost_to_another_server_than_the_killed(self) -> None:
        """One server's end is no reason to lose what another has."""
        self.strike(Event(4.0, Fault.KILL, "s2"))
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found("lost without a fault")

    # Counters, logs and files.

    def test_counters_that_do_not_add_up(self) -> None:
        """Promise 2."""
        self.count(8, 7, 0, 0)

        self.assert_found("counters")

    def test_counters_that_do_not_agree(self) -> None:
        """They add up, but every client saw an ACK."""
        for counts in (9, 9, 0, 0), (8, 7, 1, 0), (8, 7, 0, 1), (7, 7, 0, 0), (10, 8, 0, 2):
            self.setUp()
            self.count(*counts)

            self.assert_found("counters")

    def test_no_counters(self) -> None:
        """A proxy that was stopped says what it counted."""
        self.history.proxies[0].log = ""

        self.assert_found("counters")

    def test_in_flight_in_the_end(self) -> None:
        """The proxy gave up draining."""
        self.history.proxies[0].log += "\nGave up answering the last packets after 10 seconds, with 3 packets in flight"

        self.assert_found("in flight")

    def test_tracebacks(self) -> None:
        """In the proxy's log, or in a server's."""
        self.history.proxies[0].log += "\nTraceback (most recent call last):"
        self.history.logs["s3"] = "[rproxy.pool.handling#critical] The handler failed"

        self.assert_found("log")

    def test_exit_codes(self) -> None:
        """Who is told to end does so with 0."""
        self.history.proxies[0].exit_code = 1
        self.history.exit_codes["s2"] = -15

        self.assert_found("exit code")

    def test_files_left_open(self) -> None:
        """Connections of clients that are gone, to servers of the old kind, more than were asked for; other files."""
        for what in "taken", "made to 5001", "made to 5002", "made to 6000", "socket", "file", "pipe":
            self.setUp()
            self.history.open_at_end += Counter({what: 1})

            self.assert_found("open files")

    def test_registration_missing(self) -> None:
        """A server that didn't come back: its lease has no connection."""
        self.history.open_at_end -= Counter({"taken": 1})

        self.assert_found("open files")

    # Whether it tested anything.

    def test_no_ack(self) -> None:
        """A run in which nothing was acknowledged."""
        self.history.connections.clear()
        self.history.receipts.clear()
        self.count(0, 0, 0, 0)

        self.assert_found("vacuous")

    def test_fault_that_did_not_happen(self) -> None:
        """It was planned, and nothing was done, or nothing came of it."""
        event = Event(1.0, Fault.STOP, "s2", 1.0)
        for fields in {"ended": 0.0}, {"evidence": ""}:
            self.setUp()
            self.strike(event, **fields)

            self.assert_found("vacuous")

        self.history.incidents.clear()
        self.assert_found("vacuous")

    def test_order_that_was_not_carried_out(self) -> None:
        """The server received packets and answered as always."""
        self.strike(Event(0.0, Fault.RESET, "s1"), ended=BEGAN)

        self.assert_found("vacuous")

    def test_order_that_its_server_forgot(self) -> None:
        """It was started anew before a packet came; but some order has to be carried out in a run."""
        self.strike(Event(0.0, Fault.RESET, "s1"), began=BEGAN - 2.0, ended=BEGAN - 2.0)
        self.strike(Event(0.0, Fault.KILL, "s1"), began=BEGAN - 1.0, ended=BEGAN)
        self.assert_found("vacuous")

        self.strike(Event(0.0, Fault.GARBAGE, "s2", form="noise"), ended=BEGAN)
        self.history.receipts[2] = self.history.receipts[2]._replace(deed="garbage noise")
        self.assert_found()

    def test_order_that_was_carried_out(self) -> None:
        """The journal shows it."""
        self.strike(Event(4.0, Fault.RESET, "s1"), ended=BEGAN + 4.0)
        packet = self.send(self.first)
        self.receive(packet, "s1", "reset")
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.count(9, 8, 1, 0)

        self.assert_found()

    # The report.

    def test_report_tells_a_packet_from_beginning_to_end(self) -> None:
        """Who sent it and when, which journals have it, its answer, the faults; and how to run it again."""
        self.strike(Event(4.0, Fault.KILL, "s1", 0.5))
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.refuse(self.first, packet, "no-server", "no")
        self.count(9, 8, 1, 0)

        text = report.failure(self.history, oracle.judge(self.history))

        for part in (
            "seed 7: 1 VIOLATIONS",
            "--seed 7 --seconds 10 --servers 3 --clients 2 --workers 1",
            "[4.000 s] sent by c1 on connection 0 (to proxy 0), in place 4, policy='111': '7/c1/0-4 '",
            "[4.020 s] answered in place 4: {'type': '3'",
            "[4.010 s] received by s1, which did: answer",
            "fault planned for 4.00 s: kill s1 for 0.50 s; began [4.000 s], ended [5.000 s] -9",
        ):
            self.assertIn(part, text)

    def test_summary_counts(self) -> None:
        """So that one sees that a run did something."""
        self.strike(Event(4.0, Fault.KILL, "s1", 0.5))
        self.refuse(self.first, self.send(self.first), "no-server", "no")

        self.assertEqual(
            report.summary(self.history, []),
            "seed 7: ok; 9 packets; 8 acks; refused: no-server 1; 0 unanswered as their client or proxy was gone;"
            " faults: kill 1, of which 0 met no packet; the proxy: one process",
        )
