"""Who may register: from a setup packet to the registry, and the answer to the server that sent it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

from twisted.logger import Logger

from rproxy import packets
from rproxy.metrics import Counters
from rproxy.packets import PROXY_ID, Setup
from rproxy.registry import ConflictError, Registry, TooManyError
from rproxy.trail import Trail


class Admission:
    """Enters setup packets into the registry, or says why not."""

    _logger = Logger()

    def __init__(self, registry: Registry, counters: Counters, trail: Trail | None = None) -> None:
        self._registry = registry
        self._counters = counters
        self._trail = trail

    def admit(self, setup: Setup, host: str | None, owner: Hashable) -> bytes | None:
        """Take a setup packet.

        :param host: the address it came from, None if that is no host's.
        :param owner: whose end ends a registration with a lease.
        :returns: the packet to answer with; None where the server awaits no answer.
        """
        if host is None:
            return self._refuse(
                setup, host, "forbidden", "a server registers over TCP, from the address that it serves at"
            )
        try:
            registration = self._registry.register(setup, host.removeprefix("::ffff:"), owner)
        except ConflictError as error:
            return self._refuse(setup, host, "conflict", str(error))
        except TooManyError as error:
            return self._refuse(setup, host, "overloaded", str(error))
        if registration is not None and registration.draining:
            self._logger.info(
                "Server id {registration.server_id} drains: nothing new for it under privacy policy"
                " {registration.policy}",
                registration=registration,
            )
        elif registration is not None:
            self._counters.registered += 1
            self._logger.info(
                "Received setup message from server id {registration.server_id} ip {registration.host}"
                " privacy policy {registration.policy} port {registration.port}",
                registration=registration,
            )
        if setup.lease is None:
            return None
        return packets.ack(PROXY_ID, setup.id, "draining" if setup.drain else "registered")

    def _refuse(
        self, setup: Setup, host: str | None, code: Literal["forbidden", "conflict", "overloaded"], text: str
    ) -> bytes:
        self._counters.setup_refused[code] += 1
        if self._trail is not None:
            self._trail.setup_refused(setup, host, code)
        self._logger.warn(
            "Refused setup message from server id {server_id} privacy policy {policy}: {code}, {text}",
            server_id=setup.id,
            policy=setup.policy,
            code=code,
            text=text,
        )
        return packets.error(PROXY_ID, setup.id, code, "no", text)
