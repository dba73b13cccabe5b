"""The form of the log: which one there is, and where it is set."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, cast

from twisted.application.service import Application, IService, Service
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.usage import Options, UsageError
from twisted.trial.unittest import SynchronousTestCase

from rproxy import pooltap, tap
from rproxy.logs.service import PRIORITIES, LoggedService, check_format, form_of, is_journal


def written(format: str, journal: bool, level: LogLevel, text: str) -> str:
    """What a line looks like."""
    form = form_of(format, journal)
    assert form is not None
    events: list[LogEvent] = []
    Logger("rproxy.here", observer=cast(ILogObserver, events.append)).emit(level, text, event="x")
    return "".join(filter(None, map(form, events)))


class FormTests(SynchronousTestCase):
    def test_json(self) -> None:
        raw = written("json", False, LogLevel.info, "a\nb")
        self.assertEqual((raw.count("\n"), raw[-1], json.loads(raw)["message"]), (1, "\n", "a\nb"))

    def test_nothing_to_say(self) -> None:
        """An event without a text is no line."""
        for format, journal in (("json", False), ("json", True), ("text", True)):
            self.assertEqual(written(format, journal, LogLevel.info, ""), "")

    def test_text(self) -> None:
        """It is left to twistd."""
        self.assertIsNone(form_of("text", False))

    def test_journal(self) -> None:
        """Each line has its priority, and no time."""
        self.assertEqual(written("text", True, LogLevel.warn, "a\nb"), "<4>[rproxy.here#warn] a\n<4>\tb\n")
        self.assertRegex(written("json", True, LogLevel.debug, "a"), r'\A<7>\{"time".*\}\n\Z')
        found = [PRIORITIES[level] for level in LogLevel.iterconstants()]
        self.assertEqual(found, [7, 6, 4, 3, 3])

    def test_is_journal(self) -> None:
        """Only the stream that systemd connected leads there, and not one that replaced it."""
        with TemporaryFile("w") as file, TemporaryFile("w") as other:
            there = os.fstat(file.fileno())
            journal = f"{there.st_dev}:{there.st_ino}"
            self.assertTrue(is_journal(file, journal))
            for stream, named in (
                (file, ""),
                (file, "8:1"),
                (file, "rubbish"),
                (other, journal),
                (StringIO(), journal),
            ):
                self.assertFalse(is_journal(stream, named), named)


class ServiceTests(SynchronousTestCase):
    """What becomes of the application that twistd makes."""

    def observer(self, options: Options, **config: Any) -> Any:
        """The log's, where the options of twistd are these."""
        options.parent = config  # type: ignore[assignment]  # all that is asked of them
        application = Application("rproxy")
        service = LoggedService(options)
        inner = Service()
        inner.setServiceParent(service)
        service.setServiceParent(application)
        self.assertEqual(list(IService(application)), [service])  # type: ignore[call-overload]  # it is a collection
        return application.getComponent(ILogObserver)

    def options(self, *arguments: str) -> Options:
        options = tap.Options()
        options.parseOptions(arguments)
        return options

    def test_text(self) -> None:
        """twistd logs as ever."""
        self.assertIsNone(self.observer(self.options(), nodaemon=True))

    def test_json(self) -> None:
        options = self.options("--log-format", "json")
        self.assertIsNotNone(self.observer(options, nodaemon=True))
        self.assertIsNone(self.observer(options, nodaemon=True, syslog=True))

    def test_rotated_file(self) -> None:
        """In a file that twistd keeps."""
        path = self.mktemp()
        options = self.options("--log-format", "json")
        observer = self.observer(options, nodaemon=False, logfile=path)
        Logger("rproxy.here", observer=observer).info("a", event="x")
        self.assertEqual(json.loads(Path(path).read_text())["event"], "x")

    def test_without_twistd(self) -> None:
        """A service that something else runs logs as that does."""
        service = LoggedService(self.options("--log-format", "json"))
        application = Application("rproxy")
        service.setServiceParent(application)
        self.assertIsNone(application.getComponent(ILogObserver))

    def test_options(self) -> None:
        """Both services have it, and what can't be is told."""
        services: tuple[Options, ...] = (tap.Options(), pooltap.Options())
        for service in services:
            with self.assertRaisesRegex(UsageError, "--log-format xml: give text or json"):
                service.parseOptions(["--log-format", "xml"])
        options = self.options("--log-format", "json")
        options.parent = {"syslog": True}  # type: ignore[assignment]  # all that is asked of it
        with self.assertRaisesRegex(UsageError, "--log-format json: not with --syslog"):
            check_format(options)
