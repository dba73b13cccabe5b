"""Closing a connection so that the last answer arrives.

A socket that is closed while its peer still sends answers with a reset, and the reset overtakes what was written last
(RFC 9112, section 9.6 tells the same of HTTP). So the writing side is shut first, and the peer is read from and
discarded until it closes too, for a bounded time that begins when everything was sent: Twisted tells of that by
``writeConnectionLost``.
"""

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.tcp import Connection


def shut_writing(transport: Connection) -> None:
    """Shut the writing side once what was written is sent.

    One that can't be shut one way (TLS) is closed whole: its own closing handshake lingers, for as long as
    :data:`rproxy.tls.handshaking.CLOSE_TIMEOUT`.
    """
    if ISSLTransport.providedBy(transport):
        transport.loseConnection()
    else:
        transport.loseWriteConnection()
