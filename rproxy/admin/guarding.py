"""Who may ask what of the admin listener: decided from a request's headers and where it comes from, before all else.

Browsers are what makes a loopback listener dangerous: any page may have them send requests here. A page of a name that
was made to lead here (DNS rebinding) is told by its Host. A page of another site is told by Origin and Sec-Fetch-Site,
and can't give the token, nor a body of JSON without asking first, which nobody answers. What comes by way of another
proxy isn't local, wherever that proxy is.
"""

from __future__ import annotations

import re
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen

from rproxy.networks import is_within, parse_network
from rproxy.secretfile import read_secret

_LOOPBACK = (parse_network("127.0.0.0/8"), parse_network("::1/128"))
#: A shorter one could be guessed.
LEAST_TOKEN = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


@frozen
class Asked:
    """What is known of a request. A header that isn't there is None, one that is there twice has a comma.

    :ivar changes: whether it wants to change something.
    :ivar peer: the IP address that it comes from, None from a Unix socket.
    :ivar forwarded: whether a proxy says that it is another's request.
    """

    changes: bool
    peer: str | None
    host: str | None
    authorization: str | None = None
    content_type: str | None = None
    origin: str | None = None
    fetch_site: str | None = None
    forwarded: bool = False

    @property
    def is_local(self) -> bool:
        """Whether whoever asks is on this machine."""
        return not self.forwarded and (self.peer is None or is_within(self.peer, _LOOPBACK))


@frozen
class Refused:
    """Why a request isn't answered: the status of HTTP, and a sentence that says what to do."""

    status: int
    text: str


class Guard:
    """Decides it.

    :param token: what changes need, and reading from elsewhere; None where there is none.
    :param hosts: the names that this listener has beside localhost and its addresses.
    """

    def __init__(self, token: str | None, hosts: frozenset[str] = frozenset()) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower().removesuffix(".") for host in hosts) | {"localhost"}

    def refuse(self, asked: Asked) -> Refused | None:
        """Why the request is refused, None if it isn't."""
        return self._foreign(asked) or self._unauthorized(asked) or _not_json(asked)

    def _foreign(self, asked: Asked) -> Refused | None:
        host = _HOST.fullmatch(asked.host or "")
        if host is None or not self._is_here(host[1]):
            return Refused(403, "this Host isn't known here: ask by IP address or as localhost, or give --admin-host")
        if asked.fetch_site not in {None, "same-origin", "none"}:
            return Refused(403, "a page of another site asked for this: open the address by itself")
        if asked.origin is not None and asked.origin not in {f"http://{asked.host}", f"https://{asked.host}"}:
            return Refused(403, "a page of another origin asked for this: pages of this address only may")
        return None

    def _is_here(self, host: str) -> bool:
        name = host.lower().removesuffix(".")
        if name in self._hosts:
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _unauthorized(self, asked: Asked) -> Refused | None:
        if not asked.changes and asked.is_local:
            return None
        what = "changing anything" if asked.changes else "asking from another machine or by way of another proxy"
        if self._token is None:
            return Refused(403, f"{what} needs a token, and the proxy has none: start it with --admin-token FILE")
        kind, _, token = (asked.authorization or "").partition(" ")
        if kind.lower() != "bearer" or not compare_digest(token.strip().encode(), self._token):
            return Refused(401, f"{what} needs the header Authorization: Bearer, with the token of --admin-token")
        return None


def _not_json(asked: Asked) -> Refused | None:
    if asked.changes and (asked.content_type or "").partition(";")[0].strip().lower() != "application/json":
        return Refused(415, "changes are told in JSON: send Content-Type: application/json")
    return None


def read_token(path: Path) -> str:
    """Return the token that a file holds.

    :raises ValueError: it can't be read, others can read it, or what it holds can't be one.
    """
    # What isn't ASCII can't be one, whatever it is.
    token = read_secret(path, "token").decode("ascii", "replace").removesuffix("\n").removesuffix("\r")
    if len(token) < LEAST_TOKEN or not _TOKEN.fullmatch(token):
        raise ValueError(
            f"{path} doesn't hold a token: {LEAST_TOKEN} letters and digits or more, as openssl rand -hex 32 makes"
        )
    return token


def is_host(text: str) -> bool:
    """Whether a text can be the name of a host."""
    found = _HOST.fullmatch(text)
    return found is not None and found[1] == text
