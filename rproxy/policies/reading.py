"""The policies file: from TOML to :class:`rproxy.policies.Policies`, or to the line with the mistake.

Its form is in docs/policies.rst. Files that it names are relative to it.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import msgspec
from attrs import evolve
from msgspec import UNSET, Meta, Struct, UnsetType

from rproxy.arguments import is_id
from rproxy.policies import ClientRule, Network, Policies, Policy, ServerRule, digest

Path_ = tuple[str, ...]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class PoliciesError(Exception):
    """The file can't be used; the text says where and why.

    :ivar line: counted from 1; 0 for the file as a whole.
    """

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Table(Struct, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """A table of the file. A key that isn't named is a mistake: it would be a rule that isn't kept."""


class _Servers(_Table, frozen=True):
    ids: list[Name] | UnsetType = UNSET
    networks: list[str] | UnsetType = UNSET
    names: list[Name] | UnsetType = UNSET
    token_file: Name | UnsetType = UNSET


class _Clients(_Table, frozen=True):
    networks: list[str] | UnsetType = UNSET
    certificate: bool = False
    names: list[Name] | UnsetType = UNSET


class _Policy(_Table, frozen=True):
    description: str = ""
    servers: _Servers = _Servers()
    clients: _Clients = _Clients()
    timeout: Seconds | UnsetType = UNSET
    queue_timeout: Seconds | UnsetType = UNSET
    queue_packets: Count | UnsetType = UNSET
    in_flight: Count | UnsetType = UNSET
    rate: Annotated[float, Meta(gt=0, le=1e9)] | UnsetType = UNSET
    retry: bool = False
    upstream_tls: bool | UnsetType = UNSET


#: The limits that a policy may have of its own.
LIMITS = ("timeout", "queue_timeout", "queue_packets", "in_flight", "rate")


def read(path: Path, base: Policies) -> Policies:
    """Read a policies file.

    :param base: what the file says nothing of.
    :raises PoliciesError: it can't be read, or something in it is wrong; the text begins with its name and the line.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PoliciesError(0, f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        policies = parse(text, lambda name: read_tokens(path.parent / name))
    except PoliciesError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise PoliciesError(error.line, f"{where}: {error}") from None
    return evolve(base, by_name=policies)


def read_tokens(path: Path) -> list[str]:
    """Read a token file: one token a line, so that an old one and a new one can both do for a while.

    :raises ValueError: it can't be read, others may read it, or there is no token in it.
    """
    try:
        if path.stat().st_mode & stat.S_IROTH:
            raise ValueError(f"everybody may read {path}: chmod o= it")
        tokens = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    if not tokens:
        raise ValueError(f"{path} has no token: put one into it, in a line of its own")
    return tokens


def parse(text: str, read_tokens: Callable[[str], list[str]]) -> Mapping[str, Policy]:
    """Read what a policies file says.

    :param read_tokens: returns the tokens in the file of that name, or raises ValueError.
    :raises PoliciesError: something in it is wrong.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"\(at line (\d+)", str(error))
        number = int(line[1]) if line else len(text.splitlines()) or 1
        raise PoliciesError(number, f"this is no TOML: {error}") from None
    reader = _Reader(text, read_tokens)
    for name in tables.keys() - {"policy"}:
        raise reader.mistake((name,), f"expected tables [policy.NAME], got {name}")
    if not isinstance(tables.get("policy", {}), dict):
        raise reader.mistake(("policy",), "expected tables [policy.NAME], got a value")
    return {name: reader.policy(name, table) for name, table in tables.get("policy", {}).items()}


class _Reader:
    """Makes policies of tables, and finds the lines of mistakes."""

    def __init__(self, text: str, read_tokens: Callable[[str], list[str]]) -> None:
        self._text = text
        self._read_tokens = read_tokens

    def mistake(self, path: Path_, text: str) -> PoliciesError:
        """What is wrong with the value at a path of keys."""
        return PoliciesError(line_of(self._text, path), text)

    def policy(self, name: str, table: Any) -> Policy:
        """One policy."""
        path = "policy", name
        if not is_id(name):
            raise self.mistake(path, f"{name!r} is no policy: it has 1 to 256 printable characters")
        try:
            found = msgspec.convert(table, _Policy)
        except msgspec.ValidationError as error:
            raise self.mistake(*_translate(path, str(error))) from None
        limits = {key: value for key in (*LIMITS, "upstream_tls") if (value := getattr(found, key)) is not UNSET}
        return Policy(
            description=found.description,
            servers=self._servers(found.servers, (*path, "servers")),
            clients=self._clients(found.clients, (*path, "clients")),
            retry=found.retry,
            **limits,
        )

    def _servers(self, table: _Servers, path: Path_) -> ServerRule:
        for each in table.ids or ():
            if not is_id(each):
                raise self.mistake((*path, "ids"), f"{each!r} is no server id: it has 1 to 256 printable characters")
        tokens = None
        if table.token_file is not UNSET:
            try:
                tokens = tuple(digest(token) or b"" for token in self._read_tokens(table.token_file))
            except ValueError as error:
                raise self.mistake((*path, "token-file"), str(error)) from None
        return ServerRule(
            ids=_names(table.ids),
            networks=self._networks(table.networks, path),
            names=_names(table.names),
            tokens=tokens,
        )

    def _clients(self, table: _Clients, path: Path_) -> ClientRule:
        return ClientRule(self._networks(table.networks, path), table.certificate, _names(table.names))

    def _networks(self, texts: list[str] | UnsetType, path: Path_) -> tuple[Network, ...] | None:
        if texts is UNSET:
            return None
        try:
            return tuple(map(ip_network, texts))
        except ValueError as error:
            raise self.mistake((*path, "networks"), f"{error}: give networks such as 10.0.1.0/24") from None


def _names(texts: list[str] | UnsetType) -> frozenset[str] | None:
    return None if texts is UNSET else frozenset(texts)


def _translate(path: Path_, error: str) -> tuple[Path_, str]:
    """Where msgspec found something wrong, and what, in the words of the file."""
    text, _, where = error.partition(" - at `$")
    keys = re.findall(r"\.([\w-]+)", where)
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown is not None:
        return (*path, *keys, unknown[1]), f"{unknown[1]} is no key that a policy has here"
    text = re.sub(r"`(\w+) \| \w+`", r"\1", text).replace("`", "")
    text = text.replace("object", "a table").replace("array", "a list")
    return (*path, *keys), ".".join(keys) + (": " if keys else "") + text[:1].lower() + text[1:]


def line_of(text: str, path: Path_) -> int:
    """The line, counted from 1, on which the value at a path of keys begins, or its innermost table that is there.

    The parser doesn't tell where it found what. But the lines down to the end of a value are TOML that has it, and all
    shorter beginnings of the file that are TOML haven't; this is only asked about a file with a mistake.
    """
    lines = text.splitlines(keepends=True)
    complete = 0
    for number in range(1, len(lines) + 1):
        try:
            tables: Any = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        for key in path:
            tables = tables.get(key) if isinstance(tables, dict) else None
        if tables is not None:
            while not lines[complete].strip() or lines[complete].lstrip().startswith("#"):
                complete += 1
            return complete + 1
        complete = number
    return line_of(text, path[:-1]) if len(path) > 1 else 1
