"""The policies file: from TOML to :class:`rproxy.policies.Policies`, or to the line with the mistake.

Its form is in docs/reference/policies.rst. Files that it names are relative to it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from attrs import evolve
from msgspec import UNSET, Meta, Struct, UnsetType

from rproxy.arguments import is_id
from rproxy.networks import Network, parse_network
from rproxy.packets import MAX_FIELD
from rproxy.policies import ClientRule, Policies, Policy, ServerRule, digest
from rproxy.policies.lines import Keys, line_of
from rproxy.secretfile import read_secret

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


#: The tables that a policy has, by the keys that lead to them from its own.
_TABLES: dict[tuple[str, ...], type[_Table]] = {(): _Policy, ("servers",): _Servers, ("clients",): _Clients}
#: What TOML calls a value is what people do.
_KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "date": "a date",
    "time": "a time",
    "datetime": "a date and time",
}

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

    :raises ValueError: it can't be read, others may read or write it, or there is no token in it.
    """
    try:
        lines = read_secret(path, "token file").decode().split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"the token file {path} is no text in UTF-8") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise ValueError(f"{path} has no token: put one into it, in a line of its own")
    if not all(map(is_id, tokens)):
        # It isn't shown: whoever reads the log is not to know it.
        raise ValueError(f"no server can give a token of {path}: it has 1 to {MAX_FIELD} printable characters")
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
        number = int(line[1]) if line else text.rstrip().count("\n") + 1
        raise PoliciesError(number, f"this is no TOML: {error}") from None
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or as many brackets.
        raise PoliciesError(0, f"this can't be read: {error}") from None
    reader = _Reader(text, read_tokens)
    for name in tables:
        if name != "policy":
            raise reader.mistake((name,), f"expected tables [policy.NAME], got {name}")
    if not isinstance(tables.get("policy", {}), dict):
        raise reader.mistake(("policy",), "expected tables [policy.NAME], got a value")
    return {name: reader.policy(name, table) for name, table in tables.get("policy", {}).items()}


class _Reader:
    """Makes policies of tables, and finds the lines of mistakes."""

    def __init__(self, text: str, read_tokens: Callable[[str], list[str]]) -> None:
        self._text = text
        self._read_tokens = read_tokens

    def mistake(self, path: Keys, text: str) -> PoliciesError:
        """What is wrong with the value at a path of keys."""
        return PoliciesError(line_of(self._text, path), text)

    def policy(self, name: str, table: Any) -> Policy:
        """One policy."""
        path = "policy", name
        if not is_id(name):
            raise self.mistake(path, f"{name!r} is no policy: it has 1 to {MAX_FIELD} printable characters")
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

    def _servers(self, table: _Servers, path: Keys) -> ServerRule:
        for number, each in enumerate(table.ids or ()):
            if not is_id(each):
                text = f"{each!r} is no server id: it has 1 to {MAX_FIELD} printable characters"
                raise self.mistake((*path, "ids", number), text)
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

    def _clients(self, table: _Clients, path: Keys) -> ClientRule:
        return ClientRule(self._networks(table.networks, path), table.certificate, _names(table.names))

    def _networks(self, texts: list[str] | UnsetType, path: Keys) -> tuple[Network, ...] | None:
        if texts is UNSET:
            return None
        networks = []
        for number, text in enumerate(texts):
            try:
                networks.append(parse_network(text))
            except ValueError as error:
                raise self.mistake((*path, "networks", number), f"{error}: give networks such as 10.0.1.0/24") from None
        return tuple(networks)


def _names(texts: list[str] | UnsetType) -> frozenset[str] | None:
    return None if texts is UNSET else frozenset(texts)


def _translate(path: Keys, error: str) -> tuple[Keys, str]:
    """Where msgspec found something wrong, and what, in the words of the file."""
    text, _, where = error.rpartition(" - at `$")
    if not text:
        text, where = where, ""
    keys = tuple(re.findall(r"\.([\w-]+)", where))
    unknown = re.fullmatch(r".* unknown field `(.*)`", text, re.DOTALL)
    if unknown is not None:
        names = ", ".join(sorted(_TABLES[keys].__struct_encode_fields__))
        return (*path, *keys, unknown[1]), f"{unknown[1]} is no key that stands here: expected one of {names}"
    text = re.sub(r"`(\w+)(?: \| \w+)*`", lambda kind: _KINDS.get(kind[1], kind[1]), text)
    items = [int(number) for number in re.findall(r"\[(\d+)\]", where)]
    return (*path, *keys, *items), ".".join(keys) + (": " if keys else "") + text[:1].lower() + text[1:]
