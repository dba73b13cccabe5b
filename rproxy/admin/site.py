"""The edge to HTTP: requests as the rest of the package knows them, and answers with the headers that browsers heed."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from rproxy.admin.guarding import Asked, Guard
from rproxy.admin.routes import Answer, Handler, Question, Routes, failed
from rproxy.admin.streaming import Streams

#: The longest body, in bytes.
MOST_BYTES = 1 << 16
#: Seconds until a connection is closed that asks nothing.
IDLE = 60
_STREAM = ["api", "v1", "stream"]
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


class AdminRequest(Request):
    """A request whose body is bounded: what is beyond is dropped as it comes."""

    is_too_long = False
    _came = 0

    def gotLength(self, length: int | None) -> None:
        """See :class:`twisted.web.http.Request`; a long body would get a file."""
        super().gotLength(min(length or 0, MOST_BYTES))

    def handleContentChunk(self, data: bytes) -> None:
        self._came += len(data)
        if self._came > MOST_BYTES:
            self.is_too_long = True
        else:
            super().handleContentChunk(data)


class AdminResource(Resource):
    """All paths: whatever is asked passes the guard first."""

    isLeaf = True
    _logger = Logger()

    def __init__(self, guard: Guard, routes: Routes, streams: Streams) -> None:
        super().__init__()
        self._guard = guard
        self._routes = routes
        self._streams = streams

    def render(self, request: Any) -> Any:
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        path = request.path.decode("latin-1")[1:].split("/")
        parts = [unquote(part, errors="replace") for part in path]
        found = ("GET", None) if parts == _STREAM else self._routes.find(parts)
        method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
        refused = self._guard.refuse(_asked(request, changes=found is not None and method == found[0] == "POST"))
        if refused is not None:
            if refused.status == 401:
                request.setHeader("WWW-Authenticate", 'Bearer realm="rproxy"')
            return self._finish(request, failed(refused.status, refused.text))
        if found is None:
            return self._finish(request, failed(404, "there is nothing at this path: see /api/v1/openapi.json"))
        if method != found[0]:
            request.setHeader("Allow", "GET, HEAD" if found[0] == "GET" else found[0])
            return self._finish(request, failed(405, f"this path takes {found[0]} only"))
        if request.is_too_long:
            return self._finish(request, failed(413, f"send at most {MOST_BYTES} bytes"))
        if found[1] is None:
            return self._stream(request)
        self._answer(request, found[1], parts)
        return NOT_DONE_YET

    def _answer(self, request: Any, handler: Handler, parts: list[str]) -> None:
        query = {_text(name): _text(values[-1]) for name, values in request.args.items()}
        gone: Deferred[None] = Deferred()
        question = Question(parts, query, request.content.read(), _peer(request), gone)
        request.notifyFinish().addErrback(lambda _: gone.callback(None))
        answering = Deferred.fromCoroutine(cast(Any, self._routes.answer(handler, question)))
        answering.addErrback(self._failed)

        def write(answer: Answer) -> None:
            if not gone.called:
                request.write(self._finish(request, answer))
                request.finish()

        answering.addCallback(write)

    def _failed(self, failure: Failure) -> Answer:
        self._logger.failure("Answering a request of the admin listener failed", failure, event="admin-mishandled")
        return failed(500, "this is a mistake in rproxy: the log has it")

    def _stream(self, request: Any) -> Any:
        if self._streams.is_full:
            return self._finish(request, failed(503, "too many look on already: close one of them"))
        request.setHeader("Content-Type", "text/event-stream; charset=utf-8")
        request.setHeader("Cache-Control", "no-store")
        if request.method == b"HEAD":
            return b""
        stream = self._streams.add(request, _header(request, "Last-Event-ID") or "")
        request.notifyFinish().addErrback(lambda _: self._streams.remove(stream))
        return NOT_DONE_YET

    def _finish(self, request: Any, answer: Answer) -> bytes:
        request.setResponseCode(answer.status)
        request.setHeader("Content-Type", answer.kind)
        # Pages are asked for again each time, and sent only if they have changed.
        request.setHeader("Cache-Control", "no-cache" if answer.tag else "no-store")
        if answer.tag and request.setETag(answer.tag.encode()):
            return b""
        request.setHeader("Content-Length", str(len(answer.body)))
        return answer.body


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

    def __init__(self, resource: AdminResource, reactor: Any) -> None:
        super().__init__(resource, AdminRequest, timeout=IDLE, reactor=reactor)

    def log(self, request: Any) -> None:
        """Say nothing."""
