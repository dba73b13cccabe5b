"""From one packet to its answer: the part of a pool server that knows what packets mean, and nothing of connections.

Whatever comes gets an answer, an error packet where need be, and nothing raises but :exc:`rproxy.framing.StreamError`:
answers match packets by order (docs/protocol.rst, promise 3), so one answer less would shift all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy import packets
from rproxy.hashing import sha1_hex
from rproxy.limits import Limits
from rproxy.logs.packets import shown
from rproxy.packets import Data, PacketError

#: Takes a payload and gives the answer's: a ``str``, a Deferred of one, or a coroutine that returns one.
Handler = Callable[[str], str | Deferred[str] | Coroutine[Any, Any, str]]

_log = Logger()


@frozen(kw_only=True)
class Handling:
    """What a pool server serves, and how."""

    server_id: str
    policies: frozenset[str]
    handler: Handler = sha1_hex
    #: The longest answer, in bytes: the proxy reads no longer one than it reads packets.
    max_packet: int = Limits().max_packet
    #: Show every packet in the log.
    log_packets: bool = False

    def take(self, raw: bytes, packet: Data | None) -> bytes | Deferred[bytes]:
        """Return the answer to a frame of :class:`rproxy.framing.Framer`, or a Deferred of it that never fails.

        Cancelling the Deferred cancels what the handler gave; it then fires with an error packet for nobody.

        :raises StreamError: the frame isn't JSON.
        """
        if packet is None:
            try:
                other = packets.decode(raw)
            except PacketError as error:
                return self.refuse(error.destid, "bad-packet", str(error))
            if not isinstance(other, Data):
                return self.refuse(getattr(other, "srcid", ""), "bad-packet", "a pool server takes data packets only")
            packet = other
        if packet.policy not in self.policies:
            # The proxy has checked it already; whoever else found the way here must not get further.
            _log.warn(
                "Refused a message from client {client}: its policy is not served here",
                event="packet-refused",
                client=packet.srcid,
            )
            return self.refuse(packet.srcid, "forbidden", "this server does not serve that policy")
        if self.log_packets:
            _log.info(
                "Received a message from client {client} payload {payload}",
                event="packet-received",
                client=packet.srcid,
                payload=shown(packet.payload),
            )
        return self._handle(packet)

    def refuse(self, client_id: str, code: str, text: str) -> bytes:
        """Return an error packet. The proxy believes no server that claims to know more than ``unknown``."""
        return packets.error(self.server_id, client_id, code, "unknown", text)

    def _handle(self, packet: Data) -> bytes | Deferred[bytes]:
        try:
            result = self.handler(packet.payload)
        except Exception:  # noqa: BLE001  # whatever it raises is the trouble of its packet, not of the others
            return self._failed(Failure(), packet.srcid)
        if iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if not isinstance(result, Deferred):
            return self._answer(result, packet.srcid)
        return result.addCallbacks(
            self._answer, self._failed, callbackArgs=(packet.srcid,), errbackArgs=(packet.srcid,)
        )

    def _answer(self, result: object, client_id: str) -> bytes:
        """Return the ACK with a handler's result, or an error packet if it can't be one."""
        try:
            if not isinstance(result, str):
                raise TypeError(f"the handler gave {type(result).__name__} instead of str")
            answer = packets.ack(self.server_id, client_id, result)
            if len(answer) > self.max_packet:
                raise ValueError(f"the handler's answer makes a packet of {len(answer)} bytes")
        except (TypeError, ValueError):  # a UnicodeEncodeError is one: half of a surrogate pair is no text
            return self._failed(Failure(), client_id)
        if self.log_packets:
            _log.info(
                "Sending a message to the client {client} payload {payload}",
                event="answer-sent",
                client=client_id,
                payload=shown(result),
            )
        return answer

    def _failed(self, failure: Failure, client_id: str) -> bytes:
        """Log why, and return an error packet that doesn't tell: an exception's text may not be for clients."""
        if failure.check(CancelledError):
            _log.info("Gave up handling a message from client {client}", event="handling-given-up", client=client_id)
        else:
            _log.failure(
                "The handler failed on a message from client {client}",
                failure,
                event="handler-failed",
                client=client_id,
            )
        return self.refuse(client_id, "failed", "the server could not process the payload")
