"""Server-Sent Events: the figures each second, and what happens as it does, to everybody who looks on.

Nothing is kept for a reader that is slow: while it has more to read than its connection holds, it gets no figures, and
what happened meanwhile is asked for again once it has read on. So a stream costs what one answer does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.control import Control, ControlError
from rproxy.figures import Figures
from rproxy.figures.happenings import Happening

#: Seconds between two figures.
INTERVAL = 1.0
#: So many may look on at a time.
MOST = 32
#: A reader that takes nothing for so long is gone, in seconds.
PATIENCE = 60.0
#: Of what happened, what a new reader is told, in seconds.
LATELY = 900.0


class Sink(Protocol):
    """Where a stream is written to: a request of HTTP."""

    def write(self, data: bytes) -> object:
        """Send it."""

    def registerProducer(self, producer: Any, streaming: bool) -> object:
        """Have the producer paused while there is too much to send."""

    def unregisterProducer(self) -> object:
        """It is over."""

    def finish(self) -> object:
        """End the answer."""

    def loseConnection(self) -> object:
        """Drop the connection, with what wasn't sent."""


@implementer(IPushProducer)
@define(eq=False)
class Stream:
    """One reader.

    :ivar number: of the last happening that it was told.
    """

    hub: Streams
    sink: Sink
    number: int
    paused_at: float | None = field(default=None, init=False)
    #: Until it was told what it missed: what happens meanwhile is among that, and mustn't be told before the rest.
    behind: bool = field(default=True, init=False)

    def pauseProducing(self) -> None:
        if self.paused_at is None:
            self.paused_at = self.hub.seconds()

    def resumeProducing(self) -> None:
        self.paused_at = None
        if self.behind:
            self.hub.catch_up(self)

    def stopProducing(self) -> None:
        self.hub.remove(self)

    def tell(self, happenings: Sequence[Happening]) -> None:
        """Send those that it wasn't told yet."""
        for happening in happenings:
            if happening.number > self.number:
                self.number = happening.number
                self.sink.write(self.hub.event("happening", happening, f"id: {self.hub.name}.{happening.number}\n"))


class Streams:
    """All readers, and the one timer that they share.

    :param name: tells this run of the proxy from others; a reader that comes back says what it read last, and by whom.
    :param wall: the seconds since 1970.
    """

    _logger = Logger()

    def __init__(self, control: Control, clock: IReactorTime, name: str, wall: Callable[[], float]) -> None:
        self.name = name
        self.seconds: Callable[[], float] = clock.seconds
        self._control = control
        self._clock = clock
        self._wall = wall
        self._streams: list[Stream] = []
        self._call: IDelayedCall | None = None
        self._asking = False
        self._unlisten: Callable[[], None] = _nothing
        #: The figures that were shown last, and the event with them.
        self._shown: Figures | None = None
        self._event = b""

    @property
    def is_full(self) -> bool:
        """Whether nobody else may look on."""
        return len(self._streams) >= MOST

    def add(self, sink: Sink, last: str = "") -> Stream:
        """Tell one more.

        :param last: what the id of the last event was that it has.
        """
        name, _, number = last.rpartition(".")
        known = name == self.name and number.isascii() and number.isdigit() and len(number) < 19
        stream = Stream(self, sink, int(number) if known else 0)
        self._streams.append(stream)
        sink.registerProducer(stream, True)
        if len(self._streams) == 1:
            self._unlisten = self._control.listen(self._happened)
            self._call = self._clock.callLater(INTERVAL, self._tick)
        sink.write(b"retry: 1000\n\n")
        self.catch_up(stream)
        self._ask([stream])
        return stream

    def remove(self, stream: Stream) -> None:
        """It is gone."""
        if stream in self._streams:
            self._streams.remove(stream)
            if not self._streams:
                self._unlisten()
                self._shown, self._event = None, b""
                if self._call is not None:
                    self._call.cancel()
                    self._call = None

    def close(self) -> None:
        """End all."""
        for stream in list(self._streams):
            self.remove(stream)
            stream.sink.unregisterProducer()
            if stream.paused_at is None:
                stream.sink.finish()
            else:
                stream.sink.loseConnection()

    def catch_up(self, stream: Stream) -> None:
        """Tell it what happened since it was told last."""
        asked = self._control.happenings()
        asked.addCallback(self._caught_up, stream).addErrback(self._not_caught_up, stream)

    def event(self, kind: str, value: Any, further: str = "") -> bytes:
        """Return the bytes of one event."""
        return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), further.encode(), msgspec.json.encode(value))

    def _caught_up(self, happenings: Sequence[Happening], stream: Stream) -> None:
        if stream not in self._streams:
            return
        if stream.paused_at is not None:
            return
        stream.behind = False
        since = 0.0 if stream.number else self._wall() - LATELY
        told = [each for each in happenings if each.time >= since]
        # By number, as what was told late may have happened before what was told already.
        stream.tell(sorted(told, key=lambda each: each.number))

    def _not_caught_up(self, failure: Failure, stream: Stream) -> None:
        # It is told what happens from now on.
        stream.behind = False
        self._failed(failure)

    def _happened(self, happening: Happening) -> None:
        for stream in list(self._streams):
            if stream.paused_at is None and not stream.behind:
                stream.tell([happening])
            else:
                stream.behind = True

    def _tick(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._tick)
        now = self.seconds()
        for stream in list(self._streams):
            if stream.paused_at is not None and now - stream.paused_at >= PATIENCE:
                self.remove(stream)
                stream.sink.loseConnection()
        ready = [stream for stream in self._streams if stream.paused_at is None]
        if self._asking:
            _write(ready, b": no figures yet\n\n")
        elif ready:
            self._asking = True
            self._ask(ready).addBoth(self._asked)

    def _asked(self, result: object) -> None:
        self._asking = False

    def _ask(self, streams: Sequence[Stream]) -> Deferred[None]:
        # Whatever fails, and however: the next figures are asked for once these came or failed.
        asked = maybeDeferred(self._control.figures)
        told: Deferred[None] = asked.addCallback(lambda figures: _write(self._ready(streams), self._event_of(figures)))
        return told.addErrback(self._without, streams)

    def _event_of(self, figures: Figures) -> bytes:
        # Those of thousands of servers take long, and who comes between two ticks may be shown the same.
        if figures is not self._shown:
            self._shown, self._event = figures, self.event("figures", figures)
        return self._event

    def _without(self, failure: Failure, streams: Sequence[Stream]) -> None:
        self._failed(failure)
        _write(self._ready(streams), b": no process of the proxy answers\n\n")

    def _ready(self, streams: Sequence[Stream]) -> list[Stream]:
        return [stream for stream in streams if stream in self._streams and stream.paused_at is None]

    def _failed(self, failure: Failure) -> None:
        if failure.check(ControlError) is None:
            self._logger.failure("Telling those who look on failed", failure, event="stream-mishandled")


def _write(streams: Sequence[Stream], data: bytes) -> None:
    for stream in streams:
        stream.sink.write(data)


def _nothing() -> None:
    """Nobody listens."""
