"""What a parent and a worker ask each other: either side asks, and is answered in the order of its questions.

A message is a JSON array: ``["ask", name, arguments]``, ``["answer", value]`` or ``["error", text]``. It goes in
pieces, each with its length before it, because a piece is joined anew at each read until it is whole. Who can't be
reached any more answers nothing, so whatever was asked then fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

#: Answers a question: takes its arguments, and gives what msgspec makes JSON of, or a Deferred of it.
Handler = Callable[..., Any]

#: How a piece begins: whether more of its message follow.
_MORE, _LAST = b"+", b"."


class ChannelError(Exception):
    """A question isn't answered; the text says why."""


class TooLongError(ChannelError):
    """A message is longer than :attr:`Channel.LONGEST`."""


class FullError(ChannelError):
    """:attr:`Channel.MOST` questions wait for their answer already."""


class Channel(Int32StringReceiver):
    """One end of the connection between the two.

    :param handlers: what the other side may ask, by name.
    :param closed: called when there is no other side any more.
    """

    #: The longest piece, in bytes.
    MAX_LENGTH = 1 << 18
    #: The longest message, in bytes. The figures of a worker are the longest there are: of its 10,000 registrations
    #: (:attr:`rproxy.limits.Limits.registrations`) each takes 3 KiB where every character of its ids takes four bytes.
    LONGEST = 1 << 26
    #: So many questions may wait for their answer; the next one fails at once.
    MOST = 64

    _logger = Logger()

    def __init__(self, handlers: Mapping[str, Handler], closed: Callable[[], object]) -> None:
        self._handlers = handlers
        self._closed = closed
        self._asked: deque[tuple[str, Deferred[Any]]] = deque()
        #: Fires when all that the other side asked is answered.
        self._answering: Deferred[None] = succeed(None)
        #: Of the message that isn't whole yet, and how many bytes they are.
        self._pieces: list[bytes] = []
        self._length = 0
        #: Questions whose last answer was too long.
        self._too_long: set[str] = set()

    def ask(self, name: str, /, **arguments: Any) -> Deferred[Any]:
        """Ask the other side, and fire with its answer.

        :returns: fails with :exc:`ChannelError`. Cancel it to wait no longer.
        """
        if not self.connected:
            return fail(ChannelError("there is no other side"))
        if len(self._asked) >= self.MOST:
            return fail(FullError("too many questions wait for their answer"))
        try:
            self._send("ask", name, arguments)
        except TooLongError as error:
            return fail(error)
        # It keeps its place when it is cancelled: the answer will come.
        answer: Deferred[Any] = Deferred(lambda cancelled: cancelled.errback(ChannelError("nobody waits any longer")))
        self._asked.append((name, answer))
        return answer

    def owes(self, name: str) -> bool:
        """Whether the other side hasn't answered such a question yet that nobody waits for any longer."""
        return any(asked == name and answer.called for asked, answer in self._asked)

    def stringReceived(self, string: bytes) -> None:
        self._length += len(string)
        if self._length > self.LONGEST + self.MAX_LENGTH:
            if self._pieces:
                self._logger.error("The other side of a channel sends more than it may", event="channel-flooded")
                self.transport.abortConnection()  # type: ignore[union-attr]  # it is connected, to a stream
                self._pieces = []
            return
        self._pieces.append(string)
        if string.startswith(_LAST):
            whole = b"".join([piece[1:] for piece in self._pieces])
            self._pieces, self._length = [], 0
            self._received(*msgspec.json.decode(whole))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        asked, self._asked = self._asked, deque()
        for _, each in asked:
            if not each.called:
                each.errback(ChannelError("the other side is gone"))
        self._closed()

    def _received(self, kind: str, *what: Any) -> None:
        if kind == "ask":
            name, arguments = what
            self._answering.addCallback(lambda _: self._answer(name, arguments))
        elif self._asked:
            _, asked = self._asked.popleft()
            if not asked.called and kind == "answer":
                asked.callback(what[0])
            elif not asked.called:
                asked.errback(ChannelError(what[0]))

    def _answer(self, name: str, arguments: Mapping[str, Any]) -> Deferred[None]:
        handler = self._handlers.get(name)
        if handler is None:
            self._send("error", f"nobody answers {name!r} here")
            return succeed(None)
        answering = maybeDeferred(handler, **arguments)
        return answering.addCallback(self._answered, name).addErrback(self._failed, name)

    def _answered(self, value: Any, name: str) -> None:
        self._send("answer", value)
        self._too_long.discard(name)

    def _failed(self, failure: Failure, name: str) -> None:
        if failure.check(TooLongError) is None:
            self._logger.failure("Answering {question} failed", failure, event="question-failed", question=name)
        elif name not in self._too_long:
            # Once, as it is likely to be asked every second.
            self._too_long.add(name)
            self._logger.error(
                "Can't answer {question}: {why}", event="answer-too-long", question=name, why=str(failure.value)
            )
        text = f"{type(failure.value).__name__}: {failure.value}"
        # Half of a surrogate pair can't be sent.
        self._send("error", text.encode("utf-8", "replace").decode())

    def _send(self, *message: Any) -> None:
        raw = msgspec.json.encode(message)
        if len(raw) > self.LONGEST:
            raise TooLongError(f"a message of {len(raw)} bytes is too long, {self.LONGEST} are the most")
        if self.connected:
            room = self.MAX_LENGTH - 1
            for start in range(0, len(raw), room):
                more = start + room < len(raw)
                self.sendString((_MORE if more else _LAST) + raw[start : start + room])
