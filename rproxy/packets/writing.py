"""Packets written, as the peers in the field expect them."""

from __future__ import annotations

from typing import Literal

import msgspec

from rproxy.packets.kinds import Ack, Data, Error

_encoder = msgspec.json.Encoder()


def data(client_id: str, policy: str, payload: str) -> bytes:
    """The data packet by which client ``client_id`` asks for ``payload`` to be processed under ``policy``."""
    return _encoder.encode(Data("0", client_id, policy, payload, str(len(payload))))


def ack(source_id: str, destination_id: str, payload: str) -> bytes:
    """The ACK of ``source_id`` to ``destination_id``."""
    return _encoder.encode(Ack("2", source_id, destination_id, payload, str(len(payload))))


def setup(
    server_id: str,
    policy: str,
    port: int,
    *,
    pipeline: int | None = None,
    connections: int | None = None,
    lease: float | None = None,
    weight: int | None = None,
    drain: bool = False,
    token: str | None = None,
) -> bytes:
    """The setup packet by which server ``server_id`` offers to serve ``policy`` at ``port``.

    The four fields that every peer knows are strings, as deployed proxies expect them; the others are left out unless
    given. ``lease`` is in seconds.
    """
    if lease is not None and float(lease).is_integer():
        lease = int(lease)
    classic = {"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port)}
    modern = {"pipeline": pipeline, "connections": connections, "lease": lease, "weight": weight, "token": token}
    packet = classic | {name: value for name, value in modern.items() if value is not None}
    return _encoder.encode(packet | {"drain": True} if drain else packet)


def error(source_id: str, destination_id: str, code: str, delivered: Literal["no", "unknown"], text: str) -> bytes:
    """The error packet of ``source_id`` that tells ``destination_id`` what was not done, and why."""
    return _encoder.encode(Error("3", source_id, destination_id, code, delivered, text, str(len(text))))
