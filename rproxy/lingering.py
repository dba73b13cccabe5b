"""Closing a connection so that the last answer arrives.

A socket that is closed while its peer still sends answers with a reset, and the reset overtakes what was written last
(RFC 9112, section 9.6 tells the same of HTTP). So the writing side is shut first, and the peer is read from and
discarded until it closes too, for a bounded time.
"""

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.tcp import Connection


def close_lingering(transport: Connection, clock: IReactorTime, seconds: float) -> IDelayedCall:
    """Shut the writing side once what was written is sent, and drop the connection ``seconds`` later.

    The protocol discards what it still receives, and cancels the returned call when its connection is lost. A transport
    that can't be shut one way (TLS) is closed whole: its own closing handshake lingers.
    """
    shut = getattr(transport, "loseWriteConnection", transport.loseConnection)
    shut()
    return clock.callLater(seconds, transport.abortConnection)
