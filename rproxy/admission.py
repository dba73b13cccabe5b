"""Who may register: from a setup packet to the registry, and the answer to the server that sent it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal

from twisted.logger import Logger

from rproxy import packets
from rproxy.audit.trail import Trail
from rproxy.figures.counters import Counters
from rproxy.figures.happenings import Happened, nothing_happened
from rproxy.logs.quiet import QuietLog
from rproxy.packets import PROXY_ID, Setup
from rproxy.policies import Peer, Policies, digest
from rproxy.registry import ConflictError, Registry, TooManyError
from rproxy.registry.registration import Registration

#: Why a setup packet is refused.
Refusal = Literal["forbidden", "conflict", "overloaded"]


class Admission:
    """Enters setup packets into the registry, or says why not."""

    _logger = Logger()

    def __init__(
        self,
        policies: Policies,
        registry: Registry,
        counters: Counters,
        seconds: Callable[[], float],
        trail: Trail | None = None,
    ) -> None:
        self._policies = policies
        self._registry = registry
        self._counters = counters
        self._trail = trail
        #: See :class:`rproxy.figures.happenings.Happenings`.
        self.happened: Happened = nothing_happened
        #: Says which setup packets were refused.
        self.log_refusal = QuietLog(seconds, self._logger.warn, "refused setup messages")

    def reload(self, policies: Policies) -> list[tuple[Registration, str]]:
        """Allow what these policies allow from now on.

        :returns: the registrations that aren't allowed any more, and why. They still stand.
        """
        self._policies = policies
        return [(each, why) for each in self._registry.standing if (why := self.refuses(each)) is not None]

    def refuses(self, registration: Registration) -> str | None:
        """Why a registration isn't allowed: what is found in a store is held to the same as what is sent."""
        policy, server_id = registration.key
        return self._policies.refuses_server(policy, server_id, registration.peer, registration.token)

    def admit(self, setup: Setup, peer: Peer, owner: Hashable) -> bytes | None:
        """Take a setup packet.

        :param peer: who sent it.
        :param owner: whose end ends a registration with a lease.
        :returns: the packet to answer with; None where the server awaits no answer.
        """
        if not peer.host:
            text = "a server registers over TCP, from the address that it serves at"
            return self.refuse(setup.policy, setup.id, peer, "forbidden", text)
        forbidden = self._policies.refuses_server(setup.policy, setup.id, peer, digest(setup.token))
        if forbidden is not None:
            return self.refuse(setup.policy, setup.id, peer, "forbidden", forbidden)
        try:
            registration = self._registry.register(setup, peer, owner)
        except ConflictError as error:
            return self.refuse(setup.policy, setup.id, peer, "conflict", str(error))
        except TooManyError as error:
            return self.refuse(setup.policy, setup.id, peer, "overloaded", str(error))
        if registration is not None and registration.draining:
            self._logger.info(
                "Server id {server} drains: nothing new for it under privacy policy {policy}",
                event="draining",
                server=registration.server_id,
                policy=registration.policy,
            )
        elif registration is not None:
            self._counters.registered += 1
            self._logger.info(
                "Received setup message from server id {server} ip {host} privacy policy {policy} port {port}",
                event="registered",
                server=registration.server_id,
                policy=registration.policy,
                host=registration.host,
                port=registration.port,
            )
        if setup.lease is None:
            return None
        return packets.ack(PROXY_ID, setup.id, "draining" if setup.drain else "registered")

    def refuse_found(self, registration: Registration, text: str) -> None:
        """Count and log that what another process told of isn't allowed here."""
        self._count(registration.policy, registration.server_id, registration.host, "forbidden")
        if self.log_refusal(
            "Refused what the registry has of server id {server} ip {host} privacy policy {policy}: {why}",
            event="found-refused",
            server=registration.server_id,
            host=registration.host,
            policy=registration.policy,
            why=text,
        ):
            self.happened("refused", *registration.key, f"forbidden, {text}")

    def refuse(self, policy: str, server_id: str, peer: Peer, code: Refusal, text: str) -> bytes:
        """Count and log that a setup packet was refused, and return the packet to answer with."""
        self._count(policy, server_id, peer.host, code)
        if self.log_refusal(
            "Refused setup message from server id {server} ip {host} privacy policy {policy}: {code}, {why}",
            event="setup-refused",
            server=server_id,
            host=peer.host,
            policy=policy,
            code=code,
            why=text,
        ):
            # No more of these than there are lines: else strangers would push out what people look for.
            self.happened("refused", policy, server_id, f"{code}, {text}")
        return packets.error(PROXY_ID, server_id, code, "no", text)

    def _count(self, policy: str, server_id: str, host: str, code: Refusal) -> None:
        self._counters.setup_refused[code] += 1
        if self._trail is not None:
            self._trail.setup_refused(policy, server_id, host, code)
