"""What the registry tells of, passed on: to the trail, the router, the log, and whoever watches."""

from __future__ import annotations

from twisted.logger import Logger

from rproxy.audit.trail import Trail
from rproxy.figures.happenings import Happened, nothing_happened
from rproxy.registry.claims import Claims
from rproxy.registry.registration import Registration
from rproxy.routing import Router


class Enrolment:
    """Hears of each registration that begins and ends.

    :param claims: who says that a server serves a policy.
    :ivar happened: told of it.
    """

    _logger = Logger()

    def __init__(self, router: Router, claims: Claims, trail: Trail | None) -> None:
        self._router = router
        self._claims = claims
        self._trail = trail
        self.happened: Happened = nothing_happened

    def registered(self, registration: Registration) -> None:
        """A setup packet said that a server serves a policy, or drains."""
        if self._trail is not None:
            # First, because the router may write packets to it at once.
            self._trail.registered(registration)
        self._router.registered(registration, counts=not registration.draining)
        text = f"{registration.host} port {registration.port}"
        self.happened("draining" if registration.draining else "registered", *registration.key, text)

    def found(self, registration: Registration) -> None:
        """Another process told of one."""
        self._logger.info(
            "Found in the registry: server id {server} ip {host} privacy policy {policy} port {port}",
            event="registration-found",
            server=registration.server_id,
            policy=registration.policy,
            host=registration.host,
            port=registration.port,
        )
        if self._trail is not None:
            self._trail.registered(registration)
        # One that also holds its lease here would be told if it went.
        found = registration.lease is not None and self._claims.own(registration.key) is None
        self._router.registered(registration, up=False, found=found)
        self.happened("found", *registration.key, f"{registration.host} port {registration.port}")

    def ended(self, registration: Registration) -> None:
        """A registration ended."""
        self._logger.info(
            "Registration of server id {server} for privacy policy {policy} ended",
            event="registration-ended",
            server=registration.server_id,
            policy=registration.policy,
        )
        self._router.ended(registration)
        self.happened("ended", *registration.key, "")
