"""What a packet is, and nothing of what is done with it.

Reading has two speeds: ``peeking`` knows only the form that practically every packet has, and reads it for the price of
one decode; ``reading`` takes all the time it needs for everything else. Both agree on what a packet is.
"""

from rproxy.packets.kinds import MAX_FIELD, PROXY_ID, Ack, Data, Error, Packet, PacketError, Setup, size_is_wrong
from rproxy.packets.peeking import peek_ack, peek_data, peek_many_acks, peek_many_data
from rproxy.packets.reading import decode
from rproxy.packets.writing import ack, data, error, setup

__all__ = [
    "MAX_FIELD",
    "PROXY_ID",
    "Ack",
    "Data",
    "Error",
    "Packet",
    "PacketError",
    "Setup",
    "ack",
    "data",
    "decode",
    "error",
    "peek_ack",
    "peek_data",
    "peek_many_acks",
    "peek_many_data",
    "setup",
    "size_is_wrong",
]
