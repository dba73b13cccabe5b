"""What a parent and a worker ask each other: either side asks, and is answered in the order of its questions.

A message is a JSON array, with its length before it: ``["ask", name, arguments]``, ``["answer", value]`` or ``["error",
text]``. Who can't be reached any more answers nothing, so whatever was asked then fails.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

#: Answers a question: takes its arguments, and gives what JSON has, or a Deferred of it.
Handler = Callable[..., Any]


class ChannelError(Exception):
    """A question isn't answered; the text says why."""


class Channel(Int32StringReceiver):
    """One end of the connection between the two.

    :param handlers: what the other side may ask, by name.
    :param closed: called when there is no other side any more.
    """

    #: The longest message, in bytes.
    MAX_LENGTH = 1 << 24
    #: So many questions may wait for their answer; the next one fails at once.
    MOST = 64

    _logger = Logger()

    def __init__(self, handlers: Mapping[str, Handler], closed: Callable[[], object]) -> None:
        self._handlers = handlers
        self._closed = closed
        self._asked: deque[Deferred[Any]] = deque()
        #: Fires when all that the other side asked is answered.
        self._answering: Deferred[None] = succeed(None)

    def ask(self, name: str, /, **arguments: Any) -> Deferred[Any]:
        """Ask the other side, and fire with its answer.

        :returns: fails with :exc:`ChannelError`. Cancel it to wait no longer.
        """
        if not self.connected:
            return fail(ChannelError("there is no other side"))
        if len(self._asked) >= self.MOST:
            return fail(ChannelError("too many questions wait for their answer"))
        # It keeps its place when it is cancelled: the answer will come.
        answer: Deferred[Any] = Deferred(lambda cancelled: cancelled.errback(ChannelError("nobody waits any longer")))
        self._asked.append(answer)
        self._send("ask", name, arguments)
        return answer

    def stringReceived(self, string: bytes) -> None:
        kind, *what = json.loads(string)
        if kind == "ask":
            name, arguments = what
            self._answering.addCallback(lambda _: self._answer(name, arguments))
        elif self._asked:
            asked = self._asked.popleft()
            if not asked.called and kind == "answer":
                asked.callback(what[0])
            elif not asked.called:
                asked.errback(ChannelError(what[0]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        asked, self._asked = self._asked, deque()
        for each in asked:
            if not each.called:
                each.errback(ChannelError("the other side is gone"))
        self._closed()

    def _answer(self, name: str, arguments: Mapping[str, Any]) -> Deferred[None]:
        handler = self._handlers.get(name)
        if handler is None:
            self._send("error", f"nobody answers {name!r} here")
            return succeed(None)
        answering = maybeDeferred(handler, **arguments)
        return answering.addCallback(lambda value: self._send("answer", value)).addErrback(self._failed, name)

    def _failed(self, failure: Failure, name: str) -> None:
        self._logger.failure("Answering {question} failed", failure, event="question-failed", question=name)
        self._send("error", f"{type(failure.value).__name__}: {failure.value}")

    def _send(self, *message: Any) -> None:
        raw = json.dumps(message).encode()
        if len(raw) > self.MAX_LENGTH:
            raise ChannelError(f"a message of {len(raw)} bytes is too long")
        if self.connected:
            self.sendString(raw)
