"""The admin listener as a service: there from before the proxy takes packets until it has answered the last ones."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from rproxy.admin.files import read_files
from rproxy.admin.guarding import Guard
from rproxy.admin.routes import Routes
from rproxy.admin.scraping import Scrapes, make_cooperator
from rproxy.admin.site import AdminResource, AdminSite
from rproxy.admin.streaming import Streams
from rproxy.control import Control
from rproxy.listening import ListenerService

_logger = Logger()


class Attended(Service):
    """A proxy, and the admin listener, which shows how it drains and goes when it has.

    :param proxy: the proxy's service.
    """

    def __init__(self, proxy: MultiService, listener: ListenerService, streams: Streams) -> None:
        self._proxy = proxy
        self._listener = listener
        self._streams = streams

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listener.privilegedStartService()
        self._proxy.privilegedStartService()

    def startService(self) -> None:
        super().startService()
        self._listener.startService()
        self._proxy.startService()

    def stopService(self) -> Deferred[None]:
        """Stop the proxy, then the listener; fires when both are."""
        return Deferred.fromCoroutine(self._stop()) if self.running else succeed(None)

    async def _stop(self) -> None:
        super().stopService()
        try:
            await maybeDeferred(self._proxy.stopService)
        finally:
            # First, as nothing that fails here may keep it open.
            closed = self._listener.stopService()
            self._streams.close()
            await closed


def attend(options: Any, proxy: MultiService, control: Control, reactor: Any) -> IService:
    """The proxy with the admin listener that the options ask for, or by itself if they ask for none."""
    if options["admin"] is None:
        return proxy
    streams = Streams(control, reactor, uuid4().hex, time.time)
    guard = Guard(options["admin-token"], frozenset(options["admin-host"]))
    routes = Routes(control, read_files(), Scrapes(control, make_cooperator(reactor)))
    resource = AdminResource(guard, routes, streams)
    listener = ListenerService(options["admin"], AdminSite(resource, reactor), reactor, _say)
    return Attended(proxy, listener, streams)


def _say(port: IListeningPort) -> None:
    address: Any = port.getHost()
    where = getattr(address, "port", None) or address.name.decode()
    _logger.info("Admin listener on {where}", event="listening-for-admin", where=where)
