"""Where a process listens, what describes that, and what is said when it can't be."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorCore, IStreamServerEndpoint
from twisted.python.failure import Failure

from rproxy.tls.files import Files, split_listen

#: Connections that the kernel holds ready until they are accepted. Twisted's default of 50 is soon full when each
#: packet is a connection, and who finds it full tries again only after a second. The kernel has its own bound
#: (net.core.somaxconn, 4096 on Linux).
BACKLOG = 1024


class ListenError(SystemExit, Exception):
    """Nothing can be listened on, so there is nothing to run for.

    As an ``Exception`` it makes twistd remove its pidfile and, where it daemonizes, tell the terminal why. As a
    ``SystemExit`` it then ends the process with exit code 1 and that one sentence on standard error, which twistd's log
    has too, not with a traceback.
    """


class ListenerService(Service):
    """Listens at an endpoint while it runs.

    It binds in ``privilegedStartService``, so that twistd can bind a privileged port and shed its uid afterwards, and
    a failure ends the process instead of leaving it to idle.

    :param description: an endpoint description, as :func:`parse_listen` returns it.
    :param on_listening: called with the port once it is bound.
    :param endpoint: what to listen at, where somebody else has bound already what the description says.
    :raises ValueError: the description is none.
    """

    def __init__(
        self,
        description: str,
        factory: IProtocolFactory,
        reactor: IReactorCore,
        on_listening: Callable[[IListeningPort], object] = lambda port: None,
        endpoint: IStreamServerEndpoint | None = None,
    ) -> None:
        self._description = description
        self._endpoint = endpoint or serverFromString(reactor, description)
        self._factory = factory
        self._on_listening = on_listening
        self._port: IListeningPort | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on, also where any free one was asked for; known once it is bound.

        :raises ValueError: it has none, as it isn't bound or doesn't listen on TCP.
        """
        number = getattr(self._port and self._port.getHost(), "port", None)
        if number is None:
            raise ValueError(f"{self._description} has no TCP port")
        return int(number)

    def privilegedStartService(self) -> None:
        """Bind.

        :raises ListenError: it can't be bound.
        """
        super().privilegedStartService()
        bound: list[IListeningPort | Failure] = []
        listening: Deferred[IListeningPort] = maybeDeferred(self._endpoint.listen, self._factory)
        listening.addBoth(bound.append)
        if not bound:
            # All of Twisted's endpoints know at once. One that needs the reactor can't be bound while privileged.
            listening.cancel()
            raise ListenError(f"Can't listen on {self._description}: this kind of endpoint isn't bound at once")
        if isinstance(bound[0], Failure):
            raise ListenError(f"Can't listen on {self._description}: {_why(bound[0])}")
        self._port = bound[0]
        _set_no_delay(self._port)
        self._on_listening(self._port)

    def startService(self) -> None:
        super().startService()
        if self._port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Accept no more; fires when the port is closed."""
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        return maybeDeferred(cast(Callable[[], Deferred[None]], port.stopListening))


def _why(failure: Failure) -> str:
    """Why a port can't be bound, and what to do about what happens most."""
    error = getattr(failure.value, "socketError", None)
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "Address already in use: stop whoever listens there, or give another port"
    return failure.getErrorMessage()


def _set_no_delay(port: IListeningPort) -> None:
    """Let small answers go out at once, on every connection that this port will accept.

    On Linux an accepted socket inherits the option from the listening one, which saves a system call for each.
    """
    listening = getattr(port, "socket", None)
    if isinstance(listening, socket.socket) and listening.family in {socket.AF_INET, socket.AF_INET6}:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def parse_listen(text: str, *, ipv6: bool = False, tls: Files | None = None) -> str:
    """Return the endpoint description that an option asks for.

    :param text: a port number, for that TCP port on all interfaces, 0 for any free one; or a description already, such
        as ``tcp:5000:interface=127.0.0.1``, which comes back as it is. One of TLS has the form that
        :func:`rproxy.tls.files.split_listen` reads.
    :param ipv6: whether a port number means IPv6 too, rather than IPv4 only.
    :param tls: the files of a TLS endpoint that names none.
    :raises ValueError: it is neither; the text says what is wrong.
    """
    if text.isascii() and text.isdigit():
        if len(text) > 5 or int(text) > 65535:
            raise ValueError(f"{text} is no port: give one from 0 (any free one) to 65535")
        return f"{'tcp6' if ipv6 else 'tcp'}:{int(text)}:backlog={BACKLOG}"
    below, files = split_listen(text, tls)
    if files is not None and below.startswith("tcp:") and ":backlog=" not in below:
        text, below = f"{text}:backlog={BACKLOG}", f"{below}:backlog={BACKLOG}"
    anything: Any = None
    try:
        # Only to see whether it can be read; the endpoint is made again with the reactor that it will use.
        serverFromString(anything, below)
    except (ValueError, TypeError, LookupError, OSError, ImportError) as error:
        raise ValueError(
            f"{text!r} is nothing to listen on ({type(error).__name__}: {error}): give a port, such as 5000, or an"
            " endpoint, such as tcp:5000:interface=127.0.0.1"
        ) from None
    return text
