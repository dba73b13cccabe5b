"""``python -m rproxy.worker``: one of the processes of ``twistd rproxy --workers N``, started by its parent.

It does what twistd would: logs, starts the services, and runs the reactor. What it is told comes by standard input, all
else by descriptors (:mod:`rproxy.workers.spawning`).
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from typing import Any

from twisted.application.app import startApplication
from twisted.application.service import Application, IService
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner

from rproxy.options import Options
from rproxy.process.sweeping import SWEEP, SweepService
from rproxy.sockets import SocketGroup
from rproxy.tap import make_proxy
from rproxy.workers.balancing import Board
from rproxy.workers.channel import Channel
from rproxy.workers.relaying import LineSender
from rproxy.workers.serving import WorkerService, answers_of
from rproxy.workers.sharing import ACCEPTS, inherited
from rproxy.workers.spawning import BOARD, CHANNEL, LISTENERS, LOG, Orders


def make_worker(orders: Orders, reactor: Any) -> IService:
    """The worker that the orders ask for."""
    options = Options()
    options.update(orders.options)
    sockets: Any = SocketGroup(reactor, ACCEPTS)
    endpoints = [inherited(sockets, descriptor, family) for descriptor, family in enumerate(orders.families, LISTENERS)]
    proxy = make_proxy(options, reactor, sockets, endpoints, orders.number)
    proxy.control.set_drained(orders.drained)
    board = Board(BOARD, options["workers"], orders.number, lambda: len(proxy.factory.clients))
    os.close(BOARD)
    sockets.gives_way = board.gives_way
    SweepService(reactor, SWEEP, board.write).setServiceParent(proxy.service)

    def connect(channel: Channel) -> None:
        factory = Factory.forProtocol(lambda: channel)
        factory.noisy = False
        reactor.adoptStreamConnection(CHANNEL, socket.AF_UNIX, factory)
        os.close(CHANNEL)

    answers = answers_of(proxy.control, orders.number)
    return WorkerService(proxy.service, proxy.factory.counters, proxy.reload, answers, connect, reactor)


def main() -> None:
    """Read the orders, and serve until told to stop."""
    globalLogBeginner.beginLoggingTo([LineSender(socket.socket(fileno=LOG))])
    orders = pickle.load(sys.stdin.buffer)
    from twisted.internet import reactor

    application = Application("rproxy")
    make_worker(orders, reactor).setServiceParent(application)
    IService(application).privilegedStartService()
    startApplication(application, False)
    reactor.run()


if __name__ == "__main__":
    main()
