"""Every bound that the proxy keeps, in one frozen value.

A limit that isn't here doesn't exist; a limit that is here is enforced by the room named beside it. The command's
options (``rproxy.options``) fill it in; the defaults are those of ``docs/reference/protocol.rst``.
"""

from attrs import field, frozen
from attrs.validators import ge, gt

#: How deep objects and lists may nest in a packet, the packet itself included (docs/reference/protocol.rst, The
#: stream).
MAX_DEPTH = 32

#: How many connections a server that declared no ``pipeline`` gets at a time: its listen backlog is 10.
CLASSIC_CONNECTIONS = 8

#: The longest packet such a server gets, in bytes: it reads once, and takes what it read for one packet.
CLASSIC_READ = 2048


@frozen
class Limits:
    """What one proxy process allows. Times are seconds, sizes bytes."""

    #: The longest packet (``framing``).
    max_packet: int = field(default=1 << 20, validator=ge(64))
    #: Client connections at a time, which are all that no lease hangs on; further ones wait in the listen backlog
    #: (``proxy``).
    max_clients: int = field(default=10_000, validator=ge(1))
    #: Of those at one address, 0 for as many as there may be; further ones are refused (``downstream``).
    max_clients_per_address: int = field(default=0, validator=ge(0))
    #: Packets a second of the clients at one address, 0 for any number; beyond them they aren't read from
    #: (``addresses``).
    rate_limit: float = field(default=0.0, validator=ge(0))
    #: Unanswered bytes of the clients at one address, likewise (``addresses``).
    max_bytes_per_address: int = field(default=0, validator=ge(0))
    #: From a packet read whole to its answer, waiting included (``routes``, ``upstream``, ``connection``).
    timeout: float = field(default=30.0, validator=gt(0))
    #: How long a packet waits for a server of its policy that can take it (``routes``).
    queue_timeout: float = field(default=5.0, validator=gt(0))
    #: For a connection to a server to be made (``tap``).
    connect_timeout: float = field(default=5.0, validator=gt(0))
    #: Connections in a row that were refused or broke until a server counts as down (``health``).
    max_fails: int = field(default=1, validator=ge(1))
    #: Connections in a row on which answers didn't come in time until a server counts as down (``health``).
    max_timeouts: int = field(default=3, validator=ge(1))
    #: Until a server that came back takes its full share of the packets (``health``).
    slow_start: float = field(default=10.0, validator=ge(0))
    #: A client connection with nothing to answer is closed after so long without a packet (``downstream``).
    idle_timeout: float = field(default=300.0, validator=gt(0))
    #: From the first byte of a packet to its last (``downstream``).
    packet_timeout: float = field(default=30.0, validator=gt(0))
    #: From a connection to the end of the header that another proxy puts before it (``fronting``).
    header_timeout: float = field(default=5.0, validator=gt(0))
    #: Refuse a packet whose ``payloadsize`` is wrong, instead of counting it (``downstream``, ``connection``).
    strict: bool = False
    #: Unanswered packets of one client; it isn't read from beyond them (``downstream``).
    client_packets: int = field(default=128, validator=ge(1))
    #: Unanswered bytes of one client, beside the packet that crosses the line (``downstream``).
    client_bytes: int = field(default=1 << 20, validator=ge(1))
    #: Packets that wait in the line of one policy (``waiting``).
    queue_packets: int = field(default=10_000, validator=ge(1))
    #: Bytes that wait in the line of one policy (``waiting``).
    queue_bytes: int = field(default=64 << 20, validator=ge(1))
    #: Registrations of servers (``registry``).
    registrations: int = field(default=10_000, validator=ge(1))
    #: Registrations of one host; and of its connections where only servers come in, those that hold no lease
    #: (``registry``, ``downstream``).
    registrations_per_host: int = field(default=2_000, validator=ge(1))
    #: A registration without a lease ends when its server was down for so long (``registry.forgetting``).
    forget_after: float = field(default=24 * 3600.0, validator=gt(0))
    #: From being told to stop to having what is in flight answered (``proxyservice``).
    drain_timeout: float = field(default=30.0, validator=gt(0))
    #: How long a connection that is closed for an error is still read from, so that the error arrives (``downstream``).
    linger: float = field(default=2.0, validator=gt(0))
