"""How many files the process may have open: each connection is one.

The limit that a process starts with is often 1,024, for the sake of programs that use ``select``; what it may raise the
limit to by itself is far more.
"""

from __future__ import annotations

import resource

from twisted.application.service import Service
from twisted.logger import Logger


class OpenFilesService(Service):
    """Raises the limit as far as it may when it starts.

    :param wanted: say so in the log if no more than that come of it.
    """

    _logger = Logger()

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted

    def startService(self) -> None:
        super().startService()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            # systemd may have done so, and then forbid it.
            if soft != hard:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            self._logger.warn(
                "Can't raise the limit of open files from {soft} to {hard}: {why}",
                event="open-files-limited",
                soft=soft,
                hard=hard,
                why=error,
            )
        if resource.RLIM_INFINITY != soft <= self._wanted:
            self._logger.warn(
                "Only {soft} files may be open, and {wanted} connections are allowed: raise the limit (ulimit -Hn, or"
                " LimitNOFILE of systemd), or allow fewer connections",
                event="open-files-few",
                soft=soft,
                wanted=self._wanted,
            )
