"""The API in the words of OpenAPI 3.1, made from the types that are answered, so that it can't say anything else."""

from __future__ import annotations

from typing import Any

import msgspec

from rproxy import __version__
from rproxy.admin.answers import Change, Changed, Explained, Failed
from rproxy.control import DONE
from rproxy.figures import Figures
from rproxy.figures.happenings import Happening
from rproxy.packets import MAX_FIELD

API = "/api/v1"
_TYPES = (Figures, Happening, Explained, Change, Changed, Failed)
_REF = "#/components/schemas/{name}"
_DOES = {
    "drain": "Give the server nothing new until it is resumed",
    "resume": "Undo a drain",
    "revoke": "End the server's registrations; it may register again",
}
#: Text that can be an id or a policy (docs/reference/protocol.rst, Packets), but for its characters.
_ID = {"type": "string", "minLength": 1, "maxLength": MAX_FIELD}


def describe() -> dict[str, Any]:
    """Return the description."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rproxy",
            "version": __version__,
            "description": "What a running reverse proxy shows of itself, and what may be done to it.",
        },
        "paths": {
            f"{API}/figures": _reading("figures", "All figures of the proxy", _ref(Figures)),
            f"{API}/explain": _explain(),
            f"{API}/happenings": _reading(
                "happenings", "What happened lately, the oldest first", {"type": "array", "items": _ref(Happening)}
            ),
            f"{API}/stream": _stream(),
            f"{API}/openapi.json": _reading("openapi", "This description", {"type": "object"}, may_fail=False),
            **{f"{API}/servers/{{id}}/{what}": _change(what) for what in DONE},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _failures(**texts: str) -> dict[str, Any]:
    always = {"401": "The token is missing or wrong", "403": "Who asks may not, or not from there"}
    told = always | {status.removeprefix("_"): text for status, text in texts.items()}
    return {status: {"description": text, "content": _json(_ref(Failed))} for status, text in told.items()}


def _reading(name: str, summary: str, schema: Any, *, may_fail: bool = True) -> dict[str, Any]:
    failures = _failures(_503="No process of the proxy answers") if may_fail else _failures()
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            # On the proxy's own machine nothing is needed.
            "security": [{}, {"token": []}],
            "responses": {"200": {"description": summary, "content": _json(schema)}, **failures},
        }
    }


def _explain() -> dict[str, Any]:
    told = _reading("explain", "What would become of a packet now, and why", _ref(Explained))
    told["get"]["responses"] |= _failures(_400="The policy or the address can't be one")
    told["get"]["parameters"] = [
        {"name": "policy", "in": "query", "required": True, "schema": _ID},
        {
            "name": "client",
            "in": "query",
            "description": "The client's IP address; without it, that of whoever asks",
            "schema": {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]},
        },
    ]
    return told


def _stream() -> dict[str, Any]:
    told = _reading("stream", "Server-Sent Events: figures each second, and happenings as they happen", {})
    told["get"]["responses"]["200"]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    told["get"]["responses"] |= _failures(_503="Too many look on already")
    return told


def _change(what: str) -> dict[str, Any]:
    failures = _failures(
        _400="The body or the id can't be read",
        _404="There is no such registration",
        _413="The body is too long",
        _415="The body isn't JSON",
        _503="No process of the proxy answers",
    )
    if what == "revoke":
        failures |= _failures(_409="It still stands, by the lease of another proxy")
    return {
        "post": {
            "operationId": what,
            "summary": _DOES[what],
            "security": [{"token": []}],
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": _ID}],
            "requestBody": {"required": True, "content": _json(_ref(Change))},
            "responses": {"200": {"description": _DOES[what], "content": _json(_ref(Changed))}, **failures},
        }
    }
