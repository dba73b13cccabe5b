"""What is answered at which path. It knows of HTTP what a question and an answer are, and nothing of connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import msgspec
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rproxy.admin.answers import Change, Changed, Explained, Failed, ProcessVerdict, ServerVerdict
from rproxy.admin.describing import describe
from rproxy.admin.exposition import CONTENT_TYPE
from rproxy.admin.files import File
from rproxy.admin.scraping import Scrapes
from rproxy.control import DONE, Control, ControlError, HeldElsewhereError
from rproxy.control.reporting import Explanation
from rproxy.packets import MAX_FIELD
from rproxy.policies import Peer

JSON = "application/json"

_logger = Logger()


@frozen
class Question:
    """A request that isn't refused.

    :ivar path: its parts, decoded.
    :ivar query: the last value of each name.
    :ivar peer: the IP address that it comes from, None from a Unix socket.
    :ivar gone: fires when nobody waits for the answer any more.
    """

    path: Sequence[str]
    query: Mapping[str, str]
    body: bytes
    peer: str | None
    gone: Deferred[None]


@frozen
class Answer:
    """What is answered.

    :ivar tag: of what may be kept and asked for again by it; ``""`` for what may not be kept.
    """

    status: int
    kind: str
    body: bytes
    tag: str = ""


class FailedError(Exception):
    """Nothing comes of a question; the status of HTTP, and a sentence that says what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Handler = Callable[[Question], Awaitable[Answer]]


class Routes:
    """All but the stream.

    :param files: see :func:`rproxy.admin.files.read_files`.
    """

    def __init__(self, control: Control, files: Mapping[str, File], scrapes: Scrapes) -> None:
        self._control = control
        self._files = files
        self._scrapes = scrapes
        self._description = msgspec.json.encode(describe())
        self._fixed: dict[tuple[str, ...], Handler] = {
            ("",): self._index,
            ("healthz",): self._healthz,
            ("readyz",): self._readyz,
            ("metrics",): self._metrics,
            ("api", "v1", "figures"): self._figures,
            ("api", "v1", "explain"): self._explain,
            ("api", "v1", "happenings"): self._happenings,
            ("api", "v1", "openapi.json"): self._describe,
        }

    def find(self, path: Sequence[str]) -> tuple[str, Handler] | None:
        """The one method that a path takes, GET or POST, and what answers; None for a path that there isn't."""
        match path:
            case ["api", "v1", "servers", _, what] if what in DONE:
                return "POST", self._change
            case ["static", *_]:
                return "GET", self._static
            case _:
                handler = self._fixed.get(tuple(path))
                return None if handler is None else ("GET", handler)

    async def answer(self, handler: Handler, question: Question) -> Answer:
        """Answer the question, be it with why it can't be."""
        try:
            return await handler(question)
        except FailedError as error:
            return failed(error.status, str(error))
        except ControlError as error:
            return failed(503, str(error))
        except CancelledError:
            return failed(503, "nobody waits for it any more")

    async def _index(self, question: Question) -> Answer:
        return self._file("index.html")

    async def _static(self, question: Question) -> Answer:
        return self._file("/".join(question.path[1:]))

    def _file(self, name: str) -> Answer:
        file = self._files.get(name)
        if file is None:
            raise FailedError(404, "there is no such page")
        return Answer(200, file.kind, file.content, file.tag)

    async def _healthz(self, question: Question) -> Answer:
        return Answer(200, "text/plain; charset=utf-8", b"alive\n")

    async def _readyz(self, question: Question) -> Answer:
        ready = self._control.is_ready
        return Answer(200 if ready else 503, "text/plain; charset=utf-8", b"ready\n" if ready else b"not ready\n")

    async def _metrics(self, question: Question) -> Answer:
        text = self._scrapes.text()
        question.gone.addCallback(lambda _: text.cancel())
        return Answer(200, CONTENT_TYPE, await text)

    async def _figures(self, question: Question) -> Answer:
        return _json(await self._control.figures())

    async def _happenings(self, question: Question) -> Answer:
        return _json(await self._control.happenings())

    async def _describe(self, question: Question) -> Answer:
        return Answer(200, JSON, self._description)

    async def _explain(self, question: Question) -> Answer:
        policy = _id(question.query.get("policy", ""), "policy")
        client = question.query.get("client", question.peer or "127.0.0.1")
        try:
            host = str(ip_address(client))
        except ValueError:
            raise FailedError(400, "client has to be an IP address, such as 10.0.0.9") from None
        return _json(_explained(policy, await self._control.explain(policy, Peer(host))))

    async def _change(self, question: Question) -> Answer:
        *_, server_id, what = question.path
        _id(server_id, "server id")
        try:
            change = msgspec.json.decode(question.body, type=Change)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FailedError(400, f'send {{}} or {{"policy": "111"}}: {error}') from None
        do = {"drain": self._control.drain, "resume": self._control.resume, "revoke": self._control.revoke}[what]
        whose = "" if change.policy is None else f" of policy {change.policy}"
        try:
            number = await do(server_id, change.policy)
        except HeldElsewhereError:
            text = f"server {server_id}{whose} still stands by the lease of another proxy: revoke it there too"
            raise FailedError(409, text) from None
        if not number:
            state = "was drained" if what == "resume" else "is registered"
            raise FailedError(404, f"no server {server_id}{whose} {state}: rproxy servers says which are there")
        _logger.info(
            "An operator {done} server id {server}: {registrations} registrations",
            event="changed-by-operator",
            done=DONE[what],
            server=server_id,
            registrations=number,
        )
        return _json(Changed(number))


def failed(status: int, text: str) -> Answer:
    """The answer that says why there is none."""
    return Answer(status, JSON, msgspec.json.encode(Failed(text)))


def _json(value: Any) -> Answer:
    return Answer(200, JSON, msgspec.json.encode(value))


def _id(text: str, what: str) -> str:
    # Characters that can't be in one do no harm: there is none of that name.
    if not 1 <= len(text) <= MAX_FIELD:
        raise FailedError(400, f"give a {what}: 1 to {MAX_FIELD} characters")
    return text


def _explained(policy: str, explanations: Sequence[Explanation]) -> Explained:
    return Explained(
        policy,
        [
            ProcessVerdict(
                each.refusal,
                [ServerVerdict(one.server_id, one.host, one.port, one.refusal) for one in each.servers],
            )
            for each in explanations
        ],
    )
