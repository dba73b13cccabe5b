"""The registration: made, kept, made again, and ended, at proxies of both kinds."""

from __future__ import annotations

from collections import Counter
from random import Random

from attrs import evolve
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.limits import Limits
from rproxy.packets import Setup
from rproxy.pool.leasing import ANSWER_TIMEOUT, DRAIN_TIMEOUT, Offer
from rproxy.pool.patience import OLD_PROXY_INTERVAL, RETRY, RETRY_REFUSED, SILENCES, WAITS
from rproxy.pool.registrar import LAST_TRY, Registrar
from rproxy.tls.files import TLSError
from tests.endpoints import Peer
from tests.transports import logged_lines, lose

LEASE = 15.0
OFFER = Offer(server_id="100", policy="111", port=5000, pipeline=128, connections=2, lease=LEASE, weight=3)
ACK = packets.ack("rproxy", "100", "registered")


def setup(**changes: object) -> Setup:
    """The setup packet of the offer."""
    offered = {"pipeline": 128, "connections": 2, "lease": 15, "weight": 3, **changes}
    return Setup(type="1", id="100", policy="111", listenport=5000, **offered)  # type: ignore[arg-type]


class RegistrarCase(SynchronousTestCase):
    """A registrar that was started, without jitter: it always waits as long as it may."""

    jitter = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = Peer()
        self.registrar = Registrar(self.proxy, "proxy:8000", OFFER, self.clock, lambda: self.jitter)
        self.registrar.startService()

    def register(self) -> None:
        """Connect and be acknowledged."""
        self.proxy.accept()
        self.proxy.answer(ACK)
        self.proxy.received()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, a little at a time, with a proxy that acknowledges each setup packet."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            for _ in self.proxy.received():
                self.proxy.answer(ACK)

    def reconnects_after(self) -> float:
        """Let time pass until there is another attempt to connect; return how long that took, in seconds."""
        (reconnect,) = self.clock.getDelayedCalls()
        seconds = reconnect.getTime() - self.clock.seconds()
        self.assertEqual(self.proxy.attempts, [])
        self.clock.advance(seconds + 1e-6)
        self.assertEqual(len(self.proxy.attempts), 1)
        return round(seconds, 3)

    def assert_waits(self, seconds: float) -> None:
        self.assertEqual(self.reconnects_after(), seconds)


class SetupTests(RegistrarCase):
    """What is sent."""

    def test_packet(self) -> None:
        """Strings for the four fields that every peer knows, numbers for the others."""
        self.proxy.accept()

        self.assertEqual(
            self.proxy.transport.taken(),
            b'{"type":"1","id":"100","privPolyId":"111","listenport":"5000",'
            b'"pipeline":128,"connections":2,"lease":15,"weight":3}',
        )
        self.assertTrue(self.proxy.transport.keep_alive)

    def test_token(self) -> None:
        """Where one was given."""
        self.assertEqual(packets.decode(evolve(OFFER, token="secret").packet()), setup(token="secret"))

    def test_broken_lease(self) -> None:
        """A lease may have fractions."""
        self.assertEqual(packets.decode(evolve(OFFER, lease=1.5).packet()), setup(lease=1.5))

    def test_classic(self) -> None:
        """Nothing but the four fields, and no drain, unless asked for."""
        self.assertEqual(
            packets.setup("100", "111", 5000), b'{"type":"1","id":"100","privPolyId":"111","listenport":"5000"}'
        )

    def test_registered(self) -> None:
        """The log tells of it, once."""
        self.proxy.accept()
        self.proxy.received()
        with logged_lines() as lines:
            self.proxy.answer(ACK)
            self.pass_time(30)

        self.assertEqual(lines, ["Registered for privacy policy 111 at proxy:8000"])


class LeaseTests(RegistrarCase):
    """The lease is renewed, over the same connection."""

    def test_renewals(self) -> None:
        """Every third of it."""
        self.register()

        for _ in range(5):
            self.clock.advance(LEASE / 3 - 0.1)
            self.assertEqual(self.proxy.received(), [])
            self.clock.advance(0.1)
            self.assertEqual(self.proxy.received(), [setup()])
            self.proxy.answer(ACK)
        self.assertFalse(self.proxy.transport.disconnecting)

    def test_late_acknowledgements(self) -> None:
        """They may be late, as long as they come within a lease."""
        self.register()

        for _ in range(4):
            self.clock.advance(LEASE / 3)
            self.clock.advance(LEASE / 3)
            self.assertEqual(len(self.proxy.received()), 2)
            self.proxy.answer(ACK + ACK)
        self.assertFalse(self.proxy.transport.disconnecting)

    def test_unacknowledged(self) -> None:
        """A proxy that acknowledges nothing for a lease is given up, and looked for again."""
        self.register()

        with logged_lines() as lines:
            self.clock.advance(LEASE / 3)
            for _ in range(149):
                self.clock.advance(0.1)
            self.assertFalse(self.proxy.transport.disconnecting)
            self.clock.advance(0.2)
        self.assertTrue(self.proxy.transport.disconnecting)
        self.assertEqual(lines, ["proxy:8000 acknowledges no renewal for privacy policy 111"])

        lose(self.proxy.protocol)
        self.assert_waits(RETRY.first)
        self.register()

    def test_acknowledged_in_part(self) -> None:
        """Each acknowledgement gives the next one a lease, and no more."""
        self.register()
        self.clock.advance(LEASE / 3)
        self.clock.advance(LEASE / 3)
        self.proxy.answer(ACK)

        for _ in range(3):
            self.assertFalse(self.proxy.transport.disconnecting)
            self.clock.advance(LEASE / 3)
        self.assertTrue(self.proxy.transport.disconnecting)

    def test_lost(self) -> None:
        """A lost connection is made again soon, and the registration with it."""
        self.register()
        self.pass_time(10)

        with logged_lines() as lines:
            lose(self.proxy.protocol, ConnectionLost)
        self.assertEqual(lines, ["Lost the registration for privacy policy 111 at proxy:8000"])
        self.assert_waits(RETRY.first)
        self.proxy.accept()

        self.assertEqual(self.proxy.received(), [setup()])

    def test_lost_again_and_again(self) -> None:
        """Who is registered and lost each time doesn't come back ever so quickly."""
        for wait in (0.5, 1.0, 2.0, 2.0):
            self.register()
            lose(self.proxy.protocol, ConnectionLost)
            self.assert_waits(wait)
        self.register()
        self.pass_time(10)

        lose(self.proxy.protocol, ConnectionLost)

        self.assert_waits(RETRY.first)

    def test_timers(self) -> None:
        """None is left behind by a connection that ends, and nothing is told of one that was to."""
        self.register()
        self.clock.advance(LEASE / 3)

        with logged_lines() as lines:
            self.registrar.stopService()
            lose(self.proxy.protocol)

        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(lines, [])


class UnreachableTests(RegistrarCase):
    """A proxy that isn't there."""

    def test_backoff(self) -> None:
        """It is looked for ever more seldom, but not so seldom that its clients would miss us for long."""
        with logged_lines() as lines:
            for wait in (0.5, 1.0, 2.0, 2.0, 2.0):
                self.proxy.refuse()
                self.assert_waits(wait)

        self.assertEqual(len(lines), 1)
        self.assertIn("Can't connect to proxy:8000, and will go on trying: Connection was refused", lines[0])

    def test_told_again(self) -> None:
        """The log has it once each time that the proxy goes."""
        self.proxy.refuse()
        self.reconnects_after()
        self.register()
        lose(self.proxy.protocol, ConnectionLost)
        self.reconnects_after()

        with logged_lines() as lines:
            self.proxy.refuse()

        self.assertEqual(len(lines), 1)

    def test_resets(self) -> None:
        """What accepts connections and breaks each of them is told of like one that refuses, and as often."""
        with logged_lines() as lines:
            for _ in range(3):
                self.proxy.accept()
                lose(self.proxy.protocol, ConnectionLost)
                self.reconnects_after()
            self.proxy.refuse()
            self.reconnects_after()
        self.assertEqual(len(lines), 1)
        self.assertIn("Can't connect to proxy:8000, and will go on trying: Connection to the other side was", lines[0])

        for heard in packets.error("rproxy", "100", "conflict", "no", ""), b"":
            self.proxy.accept()
            self.proxy.answer(heard)
            lose(self.proxy.protocol)
            self.reconnects_after()
            with logged_lines() as lines:
                self.proxy.accept()
                lose(self.proxy.protocol, ConnectionLost)
            self.assertEqual(len(lines), 1)
            self.reconnects_after()

    def test_reset_when_stopped(self) -> None:
        """It is no news then."""
        self.proxy.accept()
        with logged_lines() as lines:
            self.registrar.stopService()
            lose(self.proxy.protocol, ConnectionLost)

        self.assertEqual(lines, [])

    def test_jitter(self) -> None:
        """A wait may be anything up to that, the first one too, so that not all servers come at once."""
        self.register()
        self.jitter = 0.1
        lose(self.proxy.protocol, ConnectionLost)
        self.assert_waits(0.05)
        for jitter, wait in (0.5, 0.5), (0.0, 0.0), (0.25, 0.5):
            self.jitter = jitter
            self.proxy.refuse()
            self.assert_waits(wait)

    def test_long_gone(self) -> None:
        """However long a proxy was gone, it is found well before it refuses a packet for want of a server."""
        self.register()
        lose(self.proxy.protocol, ConnectionLost)
        while self.clock.seconds() < 3600:
            self.reconnects_after()
            self.proxy.refuse()

        self.assertLess(self.reconnects_after(), Limits().queue_timeout / 2)
        self.proxy.accept()
        self.assertEqual(self.proxy.received(), [setup()])

    def test_stop(self) -> None:
        """An attempt is given up, without a word."""
        with logged_lines() as lines:
            self.successResultOf(self.registrar.stopService())

        self.assertEqual(self.proxy.cancelled, 1)
        self.assertEqual(lines, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ManyTests(SynchronousTestCase):
    """Hundreds of pool servers that lose the same proxy at the same moment."""

    def test_spread(self) -> None:
        """They come back one by one, and all of them soon after it is there again."""
        clock, random = Clock(), Random(1)
        peers = [Peer() for _ in range(300)]
        for peer in peers:
            Registrar(peer, "proxy:8000", OFFER, clock, random.random).startService()
            peer.accept()
            peer.answer(ACK)
        for peer in peers:
            lose(peer.protocol, ConnectionLost)

        first = [call.getTime() for call in clock.getDelayedCalls()]
        in_each = Counter(int(seconds * 20) for seconds in first)
        self.assertEqual(len(first), len(peers))
        # The first half second in ten parts, with about 30 in each.
        self.assertEqual(set(in_each), {*range(10)})
        self.assertLess(max(in_each.values()), 60)

        while clock.seconds() < 10:
            clock.advance(0.05)
            for peer in peers:
                if peer.attempts:
                    peer.refuse()
        clock.pump([0.05] * 41)
        self.assertEqual([peer for peer in peers if not peer.attempts], [])


class RefusedTests(RegistrarCase):
    """A proxy that won't have it."""

    def refuse(self, code: str) -> None:
        self.proxy.accept()
        self.proxy.answer(packets.error("rproxy", "100", code, "no", "because\n"))
        self.assertTrue(self.proxy.transport.disconnecting)
        lose(self.proxy.protocol)

    def test_backoff(self) -> None:
        """It is asked again ever more seldom, and never at once."""
        for wait in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
            self.jitter = 1.0
            self.refuse("forbidden")
            self.assert_waits(wait)
        self.jitter = 0.0
        self.refuse("forbidden")
        self.assert_waits(15.0)

    def test_forgiven(self) -> None:
        """Which begins anew when it has agreed."""
        self.refuse("conflict")
        self.reconnects_after()
        self.refuse("conflict")
        self.reconnects_after()
        self.register()
        lose(self.proxy.protocol, ConnectionLost)
        self.reconnects_after()

        self.refuse("conflict")

        self.assert_waits(RETRY_REFUSED.first)

    def test_certificate(self) -> None:
        """One that doesn't take this server's certificate lets it connect first."""
        with logged_lines() as lines:
            self.proxy.accept()
            self.proxy.protocol.connectionLost(Failure(TLSError("the other side refuses: unknown ca")))

        self.assertEqual(
            lines, ["proxy:8000 refuses privacy policy 111: forbidden, the other side refuses: unknown ca"]
        )
        self.assert_waits(RETRY_REFUSED.first)

    def test_logged(self) -> None:
        """With the code and the text, which can't forge a line."""
        with logged_lines() as lines:
            self.refuse("bad-packet")

        self.assertEqual(lines, ["proxy:8000 refuses privacy policy 111: bad-packet, because\\n"])

    def test_shutting_down(self) -> None:
        """A proxy that stops is looked for again soon."""
        self.register()
        self.proxy.answer(packets.error("rproxy", "100", "shutting-down", "no", ""))
        lose(self.proxy.protocol)

        self.assert_waits(RETRY.first)

    def test_refused_renewal(self) -> None:
        """A renewal may be refused too; that ends the registration."""
        self.register()
        self.clock.advance(LEASE / 3)
        self.proxy.answer(packets.error("rproxy", "100", "forbidden", "no", "") + ACK)

        self.assertTrue(self.proxy.transport.disconnecting)
        lose(self.proxy.protocol)
        self.assert_waits(RETRY_REFUSED.first)

    def test_more_after_it(self) -> None:
        """Whatever comes behind a refusal, or later, doesn't change it."""
        refusal = packets.error("rproxy", "100", "conflict", "no", "because")
        for behind, later in (ACK, b""), (refusal, b""), (b"", ACK):
            self.proxy.accept()
            with logged_lines() as lines:
                self.proxy.answer(refusal + behind)
                self.proxy.answer(later)
            self.assertEqual(lines, ["proxy:8000 refuses privacy policy 111: conflict, because"])
            self.assertFalse(self.registrar.is_registered)
            lose(self.proxy.protocol)
            self.reconnects_after()

    def test_nonsense(self) -> None:
        """An answer that is none: for another server, no ACK, more than was asked for, no JSON."""
        for nonsense in packets.ack("rproxy", "101", ""), packets.data("1", "111", ""), ACK + ACK, b"x", b"{}":
            self.proxy.accept()
            with logged_lines() as lines:
                self.proxy.answer(nonsense)
            self.assertIn("proxy:8000 refuses privacy policy 111: bad-packet", lines[-1])
            self.assertTrue(self.proxy.transport.disconnecting)
            # What comes after it isn't looked at.
            with logged_lines() as lines:
                self.proxy.answer(ACK)
            self.assertEqual(lines, [])
            lose(self.proxy.protocol)
            self.reconnects_after()


class OldProxyTests(RegistrarCase):
    """A proxy that reads once and closes, and never says a word."""

    def test_closes(self) -> None:
        """It is told again every minute, over a fresh connection, and the log has it once."""
        with logged_lines() as lines:
            for _ in range(3):
                self.proxy.accept()
                self.assertEqual(self.proxy.received(), [setup()])
                lose(self.proxy.protocol)
                self.assert_waits(OLD_PROXY_INTERVAL)

        self.assertEqual(len(lines), 1)
        self.assertIn("proxy:8000 doesn't answer setup packets, as old proxies do", lines[0])

    def test_keeps_silent(self) -> None:
        """One that doesn't close is left after a while, in an orderly way, having got one packet."""
        self.proxy.accept()
        self.clock.advance(ANSWER_TIMEOUT - 0.1)
        self.assertFalse(self.proxy.transport.disconnecting)

        self.clock.advance(0.2)

        self.assertTrue(self.proxy.transport.disconnecting)
        self.assertFalse(self.proxy.transport.disconnected)
        self.assertEqual(self.proxy.received(), [setup()])
        lose(self.proxy.protocol)
        self.assertLessEqual(self.reconnects_after(), RETRY.most)

    def test_keeps_silent_again_and_again(self) -> None:
        """It may be busy, or starting, for some seconds; then it is an old one."""
        for _ in range(WAITS - 1):
            self.keep_silent()
            self.assertLessEqual(self.reconnects_after(), RETRY.most)
        self.keep_silent()
        self.assert_waits(OLD_PROXY_INTERVAL)

    def test_keeps_silent_and_closes(self) -> None:
        """One that closes is no longer waited for."""
        self.keep_silent()
        self.reconnects_after()
        self.proxy.accept()
        lose(self.proxy.protocol)
        self.assert_waits(OLD_PROXY_INTERVAL)

    def keep_silent(self) -> None:
        self.proxy.accept()
        self.clock.advance(ANSWER_TIMEOUT + 0.1)
        lose(self.proxy.protocol)

    def test_reset(self) -> None:
        """A connection that breaks doesn't make an old proxy."""
        self.proxy.accept()
        lose(self.proxy.protocol, ConnectionLost)

        self.assert_waits(RETRY.first)

    def test_restarts(self) -> None:
        """An old proxy that is gone is told as soon as it is back."""
        self.proxy.accept()
        lose(self.proxy.protocol)
        self.reconnects_after()

        self.proxy.refuse()

        self.assert_waits(RETRY.first)

    def test_has_answered(self) -> None:
        """A proxy that is known to answer may be silent a few times: something before it may have accepted."""
        self.register()
        self.pass_time(10)
        lose(self.proxy.protocol, ConnectionLost)
        self.reconnects_after()
        for _ in range(SILENCES - 1):
            self.proxy.accept()
            lose(self.proxy.protocol)
            self.assertLessEqual(self.reconnects_after(), RETRY.most)

        self.proxy.accept()
        lose(self.proxy.protocol)

        self.assert_waits(OLD_PROXY_INTERVAL)

    def test_in_a_row(self) -> None:
        """An answer in between makes it one that answers again."""
        self.register()
        for _ in range(3):
            for _ in range(SILENCES - 1):
                lose(self.proxy.protocol)
                self.assertLessEqual(self.reconnects_after(), RETRY.most)
                self.proxy.accept()
            self.proxy.answer(ACK)

    def test_replaced(self) -> None:
        """One that is replaced by a new one is registered with, and told of again if it goes back."""
        with logged_lines() as lines:
            self.proxy.accept()
            lose(self.proxy.protocol)
            self.reconnects_after()
            self.register()
            for _ in range(SILENCES):
                lose(self.proxy.protocol)
                self.reconnects_after()
                self.proxy.accept()
            lose(self.proxy.protocol)

        self.assertEqual(len([line for line in lines if "as old proxies do" in line]), 2)

    def test_stop(self) -> None:
        """Being stopped while it hasn't answered makes none."""
        self.proxy.accept()
        with logged_lines() as lines:
            stopped = self.registrar.stopService()
            lose(self.proxy.protocol)

        self.successResultOf(stopped)
        self.assertEqual(lines, [])


class DrainTests(RegistrarCase):
    """No more packets are asked for."""

    def test_acknowledged(self) -> None:
        """Fires when that setup packet is, not one before it."""
        self.register()
        self.clock.advance(LEASE / 3)
        self.assertEqual(self.proxy.received(), [setup()])

        drained = self.registrar.drain()
        self.assertEqual(self.proxy.received(), [setup(drain=True)])
        self.proxy.answer(ACK)
        self.assertNoResult(drained)
        self.proxy.answer(ACK)

        self.assertTrue(self.successResultOf(drained))
        self.assertFalse(self.proxy.transport.disconnecting)

    def test_renewals(self) -> None:
        """The lease goes on, without asking for packets again."""
        self.register()
        self.registrar.drain()
        self.proxy.answer(ACK)
        self.proxy.received()

        self.clock.advance(LEASE / 3)

        self.assertEqual(self.proxy.received(), [setup(drain=True)])

    def test_unacknowledged_behind_another(self) -> None:
        """Where two setup packets have no answer, the second has as long as the lease from the first one's answer."""
        self.register()
        self.clock.advance(LEASE / 3)
        self.registrar.drain()
        self.proxy.answer(ACK)

        self.clock.pump([0.1] * (round(10 * LEASE) - 1))
        self.assertFalse(self.proxy.transport.disconnecting)
        self.clock.pump([0.1] * 2)
        self.assertTrue(self.proxy.transport.disconnecting)

    def test_timeout(self) -> None:
        """A proxy that doesn't acknowledge it isn't waited for; what it then says is no surprise."""
        self.register()

        drained = self.registrar.drain()
        self.clock.advance(DRAIN_TIMEOUT)

        self.assertFalse(self.successResultOf(drained))
        self.proxy.answer(ACK)
        self.assertFalse(self.proxy.transport.disconnecting)

    def test_lost(self) -> None:
        """Nor one that is lost, and it isn't looked for again."""
        self.register()

        drained = self.registrar.drain()
        lose(self.proxy.protocol)

        self.assertFalse(self.successResultOf(drained))
        self.clock.pump([1.0] * 100)
        self.assertEqual(self.proxy.attempts, [])
        self.successResultOf(self.registrar.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """Nor one that refuses."""
        self.register()

        drained = self.registrar.drain()
        self.proxy.answer(packets.error("rproxy", "100", "forbidden", "no", ""))
        lose(self.proxy.protocol)

        self.assertFalse(self.successResultOf(drained))

    def test_between_connections(self) -> None:
        """A proxy that has answered is found once more, also where that is being tried: it may know the server yet."""
        for waits in 0.0, RETRY.bound(1):
            self.setUp()
            self.register()
            lose(self.proxy.protocol, ConnectionLost)
            self.clock.advance(waits)

            drained = self.registrar.drain()
            self.proxy.accept()
            self.assertEqual(self.proxy.received(), [setup(), setup(drain=True)])
            self.proxy.answer(ACK)
            self.assertNoResult(drained)
            self.proxy.answer(ACK)

            self.assertTrue(self.successResultOf(drained))
            stopped = self.registrar.stopService()
            self.assertTrue(self.proxy.transport.disconnecting)
            lose(self.proxy.protocol)
            self.successResultOf(stopped)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_restarting(self) -> None:
        """One that has accepted the next connection, and is still starting, is asked over that."""
        self.register()
        lose(self.proxy.protocol, ConnectionLost)
        self.reconnects_after()
        self.proxy.accept()

        drained = self.registrar.drain()
        self.assertEqual(self.proxy.received(), [setup(), setup(drain=True)])
        self.proxy.answer(ACK, ACK)

        self.assertTrue(self.successResultOf(drained))

    def test_gone(self) -> None:
        """It is tried once, and not for long, and nobody is told that it goes on."""
        for refuses in False, True:
            self.setUp()
            self.register()
            lose(self.proxy.protocol, ConnectionLost)
            with logged_lines() as lines:
                drained = self.registrar.drain()
                if refuses:
                    self.proxy.refuse()
                    self.clock.advance(0)
                else:
                    self.clock.advance(LAST_TRY - 0.1)
                    self.assertNoResult(drained)
                    self.clock.pump([0.1, 0])
                    self.assertEqual(self.proxy.cancelled, 1)

            self.assertFalse(self.successResultOf(drained))
            self.assertEqual(lines, [])
            self.assertEqual(self.proxy.attempts, [])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_became_old(self) -> None:
        """One that has answered, and is taken for an old one since, isn't tried."""
        self.register()
        lose(self.proxy.protocol)
        for _ in range(SILENCES):
            self.reconnects_after()
            self.proxy.accept()
            lose(self.proxy.protocol)

        self.assertFalse(self.successResultOf(self.registrar.drain()))
        self.assertEqual(self.proxy.attempts, [])

    def test_no_connection(self) -> None:
        """Where there is none, and never was, none is made."""
        for refused in False, True:
            self.setUp()
            if refused:
                self.proxy.refuse()
            drained = self.registrar.drain()
            self.assertFalse(self.successResultOf(drained))
            self.clock.pump([1.0] * 100)
            self.assertEqual(self.proxy.attempts, [])

    def test_unanswered(self) -> None:
        """Nor is a second packet sent where the first has no answer: an old proxy would trip over it."""
        self.proxy.accept()
        self.proxy.received()

        drained = self.registrar.drain()
        self.assertEqual(self.proxy.received(), [])
        self.assertTrue(self.proxy.transport.disconnecting)
        lose(self.proxy.protocol)

        self.assertFalse(self.successResultOf(drained))

    def test_stop(self) -> None:
        """Closing the connection ends the registration."""
        self.register()
        self.registrar.drain()
        self.proxy.answer(ACK)

        stopped = self.registrar.stopService()
        self.assertNoResult(stopped)
        self.assertTrue(self.proxy.transport.disconnecting)
        lose(self.proxy.protocol)

        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
