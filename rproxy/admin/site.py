"""The edge to HTTP: requests as the rest of the package knows them, and answers with the headers that browsers heed."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from rproxy.admin.channel import IDLE, AdminChannel, AdminRequest, OneTooMany
from rproxy.admin.guarding import Asked, Guard, Refused
from rproxy.admin.routes import Answer, Handler, Question, Routes, failed
from rproxy.admin.streaming import Streams

#: Connections at a time: 32 may be streams (rproxy.admin.streaming), and a browser has up to six. Each is an open file,
#: which clients need too.
MOST_CONNECTIONS = 128
#: So many more are told that there is no room; others are closed at once.
MOST_TOLD = 32
_STREAM = ["api", "v1", "stream"]
_EVENTS = "text/event-stream; charset=utf-8"
#: A browser can't send the token with the first request for a page.
_REFUSED = """{text}

To see the dashboard from another machine, have the browser ask as one of the proxy's own:

    ssh -L {port}:127.0.0.1:{port} HOST

and open http://127.0.0.1:{port}/ there; the admin listener has to be at a port of loopback, as --admin {port} has it.
Or put a proxy before it that does TLS and sends the token, and give its name by --admin-host
(docs/reference/admin.rst).
"""
#: What proxies say that hand on another's request.
_FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
#: Pages may use what is served here, and nothing else, and nobody may show them within theirs.
_HEADERS = {
    "Server": "rproxy",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

#: The one method that a path takes, and what answers; None for the stream.
_Found = tuple[str, Handler | None]


class AdminResource(Resource):
    """All paths: whatever is asked passes the guard first."""

    isLeaf = True
    _logger = Logger()

    def __init__(self, guard: Guard, routes: Routes, streams: Streams) -> None:
        super().__init__()
        self._guard = guard
        self._routes = routes
        self._streams = streams

    def render(self, request: Any) -> int:
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        found = self._find(request)
        answer = self._refuse(request, found) or self._begin(request, found)
        if answer is not None:
            _write(request, answer)
        return NOT_DONE_YET

    def _refuse(self, request: Any, found: _Found | None) -> Answer | None:
        """Why the request isn't even looked at, if it isn't."""
        changes = found is not None and found[0] == "POST" == request.method.decode("latin-1")
        refused = self._guard.refuse(_asked(request, changes=changes))
        if refused is None:
            return None
        if refused.status == 401:
            request.setHeader("WWW-Authenticate", 'Bearer realm="rproxy"')
        if "text/html" in (_header(request, "Accept") or ""):
            return Answer(refused.status, "text/plain; charset=utf-8", _page(refused, request).encode())
        return failed(refused.status, refused.text)

    def _find(self, request: Any) -> _Found | None:
        parts = _parts(request)
        return ("GET", None) if parts == _STREAM else self._routes.find(parts)

    def _begin(self, request: Any, found: _Found | None) -> Answer | None:
        """Answer, or find out what to: then the answer comes later."""
        if found is None:
            return failed(404, "there is nothing at this path: see /api/v1/openapi.json")
        methods = ["GET", "HEAD"] if found[0] == "GET" else [found[0]]
        if request.method.decode("latin-1") not in methods:
            request.setHeader("Allow", ", ".join(methods))
            return failed(405, f"this path takes {' and '.join(methods)} only")
        if found[1] is None:
            return self._stream(request)
        self._answer(request, found[1])
        return None

    def _answer(self, request: Any, handler: Handler) -> None:
        query = {_text(name): _text(values[-1]) for name, values in request.args.items()}
        gone: Deferred[None] = Deferred()
        question = Question(_parts(request), query, request.content.read(), _peer(request), gone)
        request.notifyFinish().addErrback(lambda _: gone.callback(None))
        answering = Deferred.fromCoroutine(cast(Any, self._routes.answer(handler, question)))
        answering.addErrback(self._failed)

        def write(answer: Answer) -> None:
            if not gone.called:
                _write(request, answer)

        answering.addCallback(write)

    def _failed(self, failure: Failure) -> Answer:
        self._logger.failure("Answering a request of the admin listener failed", failure, event="admin-mishandled")
        return failed(500, "this is a mistake in rproxy: the log has it")

    def _stream(self, request: Any) -> Answer | None:
        if self._streams.is_full:
            return failed(503, "too many look on already: close one of them")
        if request.method == b"HEAD":
            return Answer(200, _EVENTS, b"")
        request.setHeader("Content-Type", _EVENTS)
        request.setHeader("Cache-Control", "no-store")
        stream = self._streams.add(request, _header(request, "Last-Event-ID") or "")
        request.notifyFinish().addErrback(lambda _: self._streams.remove(stream))
        return None


def _write(request: Any, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    request.setHeader("Content-Type", answer.kind)
    # Pages are asked for again each time, and sent only if they have changed.
    request.setHeader("Cache-Control", "no-cache" if answer.tag else "no-store")
    if not (answer.tag and request.setETag(answer.tag.encode())):
        request.setHeader("Content-Length", str(len(answer.body)))
    # Of HEAD, and of what hasn't changed, Twisted sends the headers only.
    request.write(answer.body)
    request.finish()


def _page(refused: Refused, request: Any) -> str:
    """What a browser shows that is refused."""
    port = getattr(request.getHost(), "port", 9000)
    return _REFUSED.format(text=refused.text, port=port) if refused.status == 401 else f"{refused.text}\n"


def _parts(request: Any) -> list[str]:
    """The parts of the path; of what is no path, one that there isn't."""
    path: str = request.path.decode("latin-1")
    return [unquote(part, errors="replace") for part in path[1:].split("/")] if path.startswith("/") else [path, ""]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _header(request: Any, name: str) -> str | None:
    # As bytes: what isn't UTF-8 is for the guard to refuse.
    values = request.requestHeaders.getRawHeaders(name.encode())
    return None if values is None else b",".join(values).decode("latin-1")


def _peer(request: Any) -> str | None:
    address = request.getClientAddress()
    return None if isinstance(address, UNIXAddress) else str(address.host)


def _asked(request: Any, *, changes: bool) -> Asked:
    return Asked(
        changes=changes,
        peer=_peer(request),
        host=_header(request, "Host"),
        authorization=_header(request, "Authorization"),
        content_type=_header(request, "Content-Type"),
        origin=_header(request, "Origin"),
        fetch_site=_header(request, "Sec-Fetch-Site"),
        forwarded=any(request.requestHeaders.hasHeader(name) for name in _FORWARDED),
    )


class AdminSite(Site):
    """The listener's factory; it logs no requests, as monitors make many."""

    noisy = False
    displayTracebacks = False
    # Twisted's wraps one of these for HTTP/2, which there isn't without TLS.
    protocol = AdminChannel  # type: ignore[assignment]

    def __init__(self, resource: AdminResource, reactor: Any) -> None:
        super().__init__(resource, AdminRequest, timeout=IDLE, reactor=reactor)
        self._connections = 0

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See :class:`twisted.internet.protocol.Factory`."""
        if self._connections >= MOST_CONNECTIONS + MOST_TOLD:
            return None
        self._connections += 1
        if self._connections <= MOST_CONNECTIONS:
            return super().buildProtocol(addr)
        told = OneTooMany(self.reactor)
        told.factory = self
        return told

    def closed(self) -> None:
        """One connection is gone."""
        self._connections -= 1

    def log(self, request: Any) -> None:
        """Say nothing."""
