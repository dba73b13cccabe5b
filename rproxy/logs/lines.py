"""What one line of the log says, apart from how it is written: by itself as JSON, or relayed to another process.

Each line of rproxy's own has a stable name, which a call to a :class:`twisted.logger.Logger` gives as ``event``; its
other arguments are the line's fields (docs/logs.rst). Values are cut, as strangers choose many of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from math import isfinite
from typing import Any

from attrs import frozen
from twisted.logger import LogEvent, LogLevel, formatEvent

from rproxy.audit.lines import stamp

#: What lines are called that aren't rproxy's own: those of Twisted, of a handler, or what was printed.
OTHER = "other"
#: What stands in each line; no field may be called so.
COMMON = ("time", "level", "event", "message", "logger", "worker", "traceback")
#: How much of a value, a message and a traceback is written, in characters.
LONGEST_VALUE = 500
LONGEST_MESSAGE = 2000
LONGEST_TRACEBACK = 8000


@frozen
class Line:
    """One line of the log.

    :ivar time: in seconds since 1970.
    :ivar namespace: of the logger.
    :ivar fields: nothing but what JSON has.
    :ivar worker: whose line it is; 0 in a process that is no worker.
    """

    time: float
    level: str
    namespace: str
    event: str
    message: str
    fields: Mapping[str, Any]
    traceback: str = ""
    worker: int = 0

    @property
    def text(self) -> str:
        """The message, and the traceback below it."""
        return f"{self.message}\n{self.traceback}" if self.traceback else self.message


def line_of(event: LogEvent) -> Line:
    """Return what an event says."""
    relayed = event.get("log_line")
    if relayed is not None:
        assert isinstance(relayed, Line)
        return relayed
    name = event.get("event")
    failure = event.get("log_failure")
    return Line(
        time=event.get("log_time", time.time()),
        level=(event.get("log_level") or LogLevel.info).name,
        namespace=event.get("log_namespace", ""),
        event=OTHER if name is None else str(name),
        message=_writable(formatEvent(event)),
        fields={} if name is None else _fields(event),
        traceback="" if failure is None else _writable(_traceback(failure)),
    )


def _fields(event: LogEvent) -> dict[str, object]:
    return {key: _plain(value) for key, value in event.items() if key != "event" and not key.startswith("log_")}


def _writable(text: str) -> str:
    """The text without half surrogates, which no file takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_json(line: Line) -> str:
    """Return the line as one line of ASCII, without its end."""
    said: dict[str, Any] = {
        "time": stamp(line.time),
        "level": line.level,
        "event": line.event,
        "message": _cut(line.message, LONGEST_MESSAGE),
        "logger": line.namespace,
    }
    if line.worker:
        said["worker"] = line.worker
    for name, value in line.fields.items():
        said.setdefault(name, value)
    if line.traceback:
        # Its end says what happened.
        said["traceback"] = line.traceback[-LONGEST_TRACEBACK:]
    return json.dumps(said)


def _traceback(failure: Any) -> str:
    try:
        return str(failure.getTraceback()).rstrip("\n")
    except Exception:  # noqa: BLE001 - it may show any object, and one of these fails
        return "(UNABLE TO OBTAIN TRACEBACK FROM EVENT)"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, Mapping):
        return {_cut(str(key), LONGEST_VALUE): _plain(each) for key, each in value.items()}
    return _cut(str(value), LONGEST_VALUE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
