"""What ``--registry`` says: which store, where it is, and what is needed to get in.

What may hold a password is never quoted, neither in errors nor by ``repr``: a password that was written wrongly stands
where nobody expects it.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from attrs import field, frozen

from rproxy.secretfile import read_secret
from rproxy.tls.files import SYSTEM, Files

_FORMS = "give memory:, sqlite:PATH, redis://HOST:PORT/DB or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
_REDIS = re.compile(r"redis(?P<tls>s?)(?P<sentinel>\+sentinel)?://(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_PREFIX = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_FILES = ("ca", "cert", "key")


@frozen
class MemoryUrl:
    """``memory:``: registrations are gone with the process."""


@frozen
class SqliteUrl:
    """``sqlite:PATH``.

    :ivar path: absolute, as a daemon changes its folder.
    """

    path: Path


@frozen
class RedisUrl:
    """``redis://``, ``rediss://`` for TLS, ``redis+sentinel://`` and ``rediss+sentinel://``.

    :ivar hosts: the server, or the sentinels.
    :ivar service: the name that sentinels know the master by; None without sentinels.
    :ivar prefix: what the names of all keys begin with.
    :ivar tls: None without TLS; its files are absolute.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    prefix: str = "rproxy"
    tls: Files | None = None


def parse_registry(text: str) -> MemoryUrl | SqliteUrl | RedisUrl:
    """Read the option.

    :raises ValueError: it can't be understood; the text says what to write.
    """
    if text == "memory:":
        return MemoryUrl()
    if text.startswith("sqlite:"):
        return _sqlite(text.removeprefix("sqlite:"))
    found = _REDIS.fullmatch(text)
    if found is None:
        raise ValueError(_FORMS)
    return _redis(found["rest"], bool(found["sentinel"]), bool(found["tls"]))


def read_password(path: Path) -> str:
    """Return the password that a file holds, without the line break behind it.

    :raises ValueError: it can't be read, others can read it, or there is no password in it.
    """
    try:
        password = read_secret(path, "password").decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"the password {path} is no text in UTF-8") from None
    if not password or "\n" in password:
        raise ValueError(f"{path} doesn't hold a password: it has to be its only line")
    return password


def _sqlite(path: str) -> SqliteUrl:
    # Some read three slashes as a relative path, and some as an absolute one.
    if path.startswith("//"):
        raise ValueError("give sqlite:PATH without //, such as sqlite:/var/lib/rproxy/registry")
    if path in {"", ".", ".."} or path.endswith("/") or "\0" in path:
        raise ValueError("sqlite: needs the path of a file, such as sqlite:/var/lib/rproxy/registry")
    if path == ":memory:":
        raise ValueError("give memory:, not sqlite::memory:")
    return SqliteUrl(Path(path).absolute())


def _redis(rest: str, by_sentinel: bool, by_tls: bool) -> RedisUrl:
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    if "@" in path + query or "#" in rest:
        raise ValueError("in a password, write @ as %40, / as %2F, ? as %3F, # as %23 and % as %25")
    username, _, password = userinfo.partition(":")
    parameters = _parameters(query)
    service, db = _path(path, by_sentinel)
    prefix = parameters.pop("prefix", "rproxy")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("prefix= takes up to 64 letters, digits and _ . : -")
    return RedisUrl(
        _hosts(hosts, by_sentinel),
        service,
        db,
        _decoded(username) or None,
        _decoded(password) or None,
        prefix,
        _files(parameters, by_tls),
    )


def _hosts(text: str, by_sentinel: bool) -> tuple[tuple[str, int], ...]:
    hosts = []
    for each in text.split(","):
        found = _HOST.fullmatch(each)
        if found is None:
            raise ValueError("the host can't be read: give HOST or HOST:PORT, an IPv6 address in brackets")
        port = int(found["port"] or (26379 if by_sentinel else 6379))
        if not 0 < port < 1 << 16:
            raise ValueError("a port is a number from 1 to 65535")
        hosts.append((found["ipv6"] or found["host"], port))
    if len(hosts) > 1 and not by_sentinel:
        raise ValueError("redis:// takes one host: for several sentinels, give redis+sentinel://")
    return tuple(hosts)


def _path(text: str, by_sentinel: bool) -> tuple[str | None, int]:
    service = None
    if by_sentinel:
        service, _, text = text.partition("/")
        service = _decoded(service)
        if not service:
            raise ValueError("redis+sentinel:// needs the master's name behind the hosts, as in HOST:26379/mymaster/0")
    if text and not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("the database is a number, as in redis://HOST:6379/0")
    return service, int(text or 0)


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for each in query.split("&") if query else ():
        name, _, value = each.partition("=")
        if name not in {"prefix", *_FILES} or name in parameters or not value:
            raise ValueError("behind the ?, give prefix=NAME, ca=FILE, cert=FILE and key=FILE, each once, & between")
        parameters[name] = _decoded(value)
    return parameters


def _files(parameters: dict[str, str], by_tls: bool) -> Files | None:
    if not by_tls:
        if parameters:
            raise ValueError("ca=, cert= and key= are for TLS: give rediss:// or rediss+sentinel://")
        return None
    if ("cert" in parameters) != ("key" in parameters):
        raise ValueError("cert= and key= go together: give both, or neither")
    paths = {name: value if value == SYSTEM else str(Path(value).absolute()) for name, value in parameters.items()}
    return Files(paths.get("ca", SYSTEM), paths.get("cert"), paths.get("key"))


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what stands behind a % is no text in UTF-8") from None
    if not decoded.isprintable():
        raise ValueError("there are characters in it that can't be printed")
    return decoded
