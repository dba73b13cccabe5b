"""How a service of ``twistd`` writes its log: the form that it was asked for, on the stream that twistd chose.

twistd makes the service before it begins to log, and takes the application's :class:`ILogObserver` then, if it has one
and no ``--logger`` was given. So the observer is set when the service gets its parent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from twisted.application.service import MultiService
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, LogLevel, eventAsText
from twisted.python import usage
from twisted.python.components import Componentized

from rproxy.logs.lines import as_json, line_of

#: What a line of each level begins with in the journal of systemd; see sd-daemon(3). Those of a failure are errors.
PRIORITIES: Mapping[LogLevel, int] = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 3,
}

#: Writes an event as one or more lines; None for none.
Form = Callable[[LogEvent], str | None]


def _parse(text: str) -> str:
    if text not in {"text", "json"}:
        raise usage.UsageError(f"--log-format {text}: give text or json")
    return text


#: The option of both services.
OPTION = ["log-format", None, "text", "How the log is written: text, or json for an object in each line", _parse]


def check_format(options: usage.Options) -> None:
    """See that the format is possible.

    :raises UsageError: it isn't, where twistd was told to write.
    """
    config = options.parent
    if options["log-format"] == "json" and config is not None and config.get("syslog"):
        raise usage.UsageError("--log-format json: not with --syslog, which has a format of its own")


class LoggedService(MultiService):
    """The services of a process that twistd runs, with the log that the options ask for.

    :param options: of ``twistd rproxy`` or ``twistd rpoolserver``.
    """

    def __init__(self, options: usage.Options) -> None:
        super().__init__()
        self._format = options["log-format"]
        #: Those of twistd itself, if it is twistd.
        self._config = options.parent

    def setServiceParent(self, parent: Any) -> None:
        """Join an application, and set how it logs."""
        if isinstance(parent, Componentized) and self._config is not None and not self._config.get("syslog"):
            form = form_of(self._format, self._is_journal())
            if form is not None:
                observer = _twistd_observer(self._config)
                observer.formatEvent = form
                parent.setComponent(ILogObserver, observer)
        super().setServiceParent(parent)

    def _is_journal(self) -> bool:
        assert self._config is not None
        name = self._config.get("logfile")
        to_stdout = name == "-" or (not name and bool(self._config.get("nodaemon")))
        return to_stdout and is_journal(sys.stdout, os.environ.get("JOURNAL_STREAM", ""))


def _twistd_observer(config: Any) -> FileLogObserver:
    """What twistd would log by, which knows the file, how that is rotated, and what a daemon may not do."""
    # Not in a worker, which twistd doesn't run.
    from twisted.scripts._twistd_unix import UnixAppLogger

    observer = UnixAppLogger(config)._getLogObserver()
    assert isinstance(observer, FileLogObserver)
    return observer


def is_journal(stream: IO[str], journal: str) -> bool:
    """Whether a stream leads to systemd's journal.

    :param journal: what ``JOURNAL_STREAM`` has: a device and an inode.
    """
    if not journal:
        return False
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{there.st_dev}:{there.st_ino}"


def form_of(format: str, journal: bool) -> Form | None:
    """Return how lines are written; None for twistd's own way.

    :param format: ``text`` or ``json``.
    :param journal: they are for systemd's.
    """
    if format == "json":
        return _prefixed(_json) if journal else _json
    return _prefixed(_text) if journal else None


def _json(event: LogEvent) -> str | None:
    line = line_of(event)
    return f"{as_json(line)}\n" if line.text else None


def _text(event: LogEvent) -> str | None:
    text = eventAsText(event, includeTimestamp=False)
    return text.replace("\n", "\n\t") + "\n" if text else None


def _prefixed(form: Form) -> Form:
    """Have each line begin with its priority."""

    def write(event: LogEvent) -> str | None:
        text = form(event)
        if text is None:
            return None
        priority = PRIORITIES[event.get("log_level") or LogLevel.info]
        # Only the newline ends a line of the journal's.
        return "".join(f"<{priority}>{line}\n" for line in text.removesuffix("\n").split("\n"))

    return write
