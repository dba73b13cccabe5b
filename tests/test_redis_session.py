"""Two connections to a Redis, without one: notes, answers, and who hangs."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rproxy.counting import Count
from rproxy.stores import StoreError
from rproxy.stores.redis.link import TIMEOUT, Link
from rproxy.stores.redis.script import EXCHANGE
from rproxy.stores.redis.session import Session
from tests.transports import Transport


class SessionTests(SynchronousTestCase):
    """Two connections, without a server."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.count = Count()
        self.notes: list[bytes] = []
        self.asking, self.told = self.link(), self.link()
        self.session = Session(self.clock, self.asking, self.told, self.notes.append)
        begun = Deferred.fromCoroutine(self.session.begin("c"))
        self.told.dataReceived(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        self.assertIsNone(self.successResultOf(begun))

    def link(self) -> Link:
        link = Link(self.clock, "there", TIMEOUT, self.count)
        link.makeConnection(Transport())
        return link

    def dropped(self) -> list[bool]:
        """Which connections were."""
        return [link.transport.disconnecting for link in (self.asking, self.told)]

    def test_notes_however_they_come(self) -> None:
        """All in one piece, or byte by byte; and none once it is over."""
        note = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\nhere\r\n"
        self.told.dataReceived(note * 2000)
        for place in range(len(note)):
            self.told.dataReceived(note[place : place + 1])
        self.assertEqual(self.notes, [b"here"] * 2001)

        def end(note: bytes) -> None:
            self.notes.append(note)
            self.session.end("enough")

        self.told.noted = end
        self.told.dataReceived(note * 3)
        self.told.dataReceived(note)
        self.assertEqual(len(self.notes), 2002)

    def test_a_listener_that_hangs(self) -> None:
        """It is asked for a word when it was silent for some time, and given some time to answer."""
        self.told.transport.clear()
        for _ in range(3):
            self.session.check()
            self.clock.advance(TIMEOUT)
            self.session.check()
            self.session.check()
            self.assertEqual(self.told.transport.value().count(b"PING"), 1)
            self.told.transport.clear()
            self.clock.advance(TIMEOUT / 2)
            self.told.dataReceived(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")

        self.clock.advance(TIMEOUT)
        self.session.check()
        self.clock.advance(TIMEOUT / 2)
        self.session.check()
        self.assertEqual(self.dropped(), [False, False])
        self.clock.advance(TIMEOUT / 2)
        with self.assertRaises(StoreError):
            self.session.check()
        self.assertEqual(self.dropped(), [True, True])

    def test_one_takes_the_other_along(self) -> None:
        """Who waits for an answer is told why."""
        asked = Deferred.fromCoroutine(self.asking.ask("PING"))
        self.told.connectionLost(Failure(ConnectionDone()))

        self.assertEqual(self.dropped(), [True, False])
        self.asking.connectionLost(Failure(ConnectionDone()))
        self.assertIn("lost", str(self.failureResultOf(asked, StoreError).value))
        self.assertEqual(self.count.number, 0)

    def test_errors_have_a_meaning(self) -> None:
        """Also those that an older Redis quotes from within a script; others are quoted."""
        script = "ERR Error running script (call to f_0): @user_script:12: -"
        for said, meaning in (
            ("LOADING Redis is loading the dataset in memory", "is still reading its data"),
            ("MOVED 3999 127.0.0.1:6381", "a node of a cluster"),
            (script + "READONLY You can't write against a read only replica.", "is a replica"),
            ("MISCONF Redis is configured to save RDB snapshots", "can't save"),
            ("ERR what else", "what else"),
        ):
            asked = Deferred.fromCoroutine(self.asking.run(EXCHANGE, [], []))
            self.asking.dataReceived(b"-" + said.encode() + b"\r\n")
            self.assertIn(meaning, str(self.failureResultOf(asked, StoreError).value))

    def test_a_password_is_never_quoted(self) -> None:
        """Not even by who does so."""
        entered = Deferred.fromCoroutine(self.asking.enter(None, "READONLY"))
        self.asking.dataReceived(b"-ERR unknown command 'AUTH', with args beginning with: 'READONLY'\r\n")
        self.assertNotIn("READONLY", str(self.failureResultOf(entered, StoreError).value))
