"""Whether every packet reached only servers that were registered for its policy when it was written to them.

A packet's line says which line of the trail was the last one when the packet was written. What is registered is known
for every line: so the question has an answer that no clock has a part in.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from attrs import define

from rproxy.audit.lines import (
    AnyLine,
    Doubt,
    Draining,
    Ended,
    Gap,
    Opened,
    Packet,
    Registered,
    Standing,
    Started,
    Stopped,
    Terms,
    Written,
)
from rproxy.audit.verifying import Finding, Place, counted


@define
class _Known:
    """A registration, from which line to which."""

    terms: Terms
    since: float
    until: float = inf


class PolicyCheck:
    """Holds packets against registrations, line by line.

    :param report: told of whatever isn't as it should be, or can't be told.
    """

    def __init__(self, report: Callable[[Finding], object]) -> None:
        self._report = report
        self._known: dict[int, _Known] = {}
        #: From which line on every registration is known.
        self._since: float = inf
        self._running = False
        #: Packets; those that were written to a server; how often that was to a rightful one, and how often it can't be
        #: told, because lines that would tell weren't given.
        self.packets = 0
        self.written = 0
        self.proved = 0
        self.untold = 0

    def broken(self) -> None:
        """Lines are missing, or not genuine: what is registered isn't known any more."""
        self._since = inf

    def terms(self, registration: int) -> Terms | None:
        """What is known of a registration of the proxy that wrote the last line."""
        known = self._known.get(registration)
        return None if known is None else known.terms

    def take(self, place: Place, line: AnyLine) -> None:
        """Take the next genuine line."""
        match line:
            case Packet():
                self._packet(place, line)
            case Registered() | Draining():
                self._known[line.registration] = _Known(line, line.seq)
            case Standing():
                # Told again, so what is known of it stays. From before this file it may be known to nobody.
                self._known.setdefault(line.registration, _Known(line, self._since))
            case Ended():
                if line.registration in self._known:
                    self._known[line.registration].until = line.seq
            case Opened() if self._since == inf:
                self._known.clear()
                self._since = line.seq
            case Started():
                self._start(place, line)
            case Stopped():
                self._running = False
            case Gap() | Doubt():
                self._gap(place, line)

    def _start(self, place: Place, line: Started) -> None:
        if self._running:
            text = "the proxy begins anew without having stopped: packets that were in flight then may have no line"
            self._report(Finding(place, text, wrong=False))
        self._running = True
        self._known.clear()
        self._since = line.seq

    def _gap(self, place: Place, line: Gap | Doubt) -> None:
        if isinstance(line, Doubt):
            # No fault: where something was lost, the chain is broken, and where it isn't, all is there.
            text = (
                f"since {line.since} the disk failed to keep {line.size} bytes of lines before this one ({line.error}):"
                " if the chain is broken before it, that may be why"
            )
            self._report(Finding(place, text, wrong=False))
            return
        text = (
            f"since {line.since} there is no line of {counted(line.packets, 'packet')}, {line.written} of them written"
            f" to a server, of {counted(line.registrations, 'event')} of registrations and of"
            f" {counted(line.refused, 'refused setup packet')}"
        )
        # A refusal leaves what is registered as it is, so one without a line leaves no question open.
        self._report(Finding(place, text, wrong=bool(line.written or line.registrations)))
        if line.registrations:
            self.broken()

    def _packet(self, place: Place, line: Packet) -> None:
        self.packets += 1
        self.written += bool(line.servers)
        if (line.delivered == "no") is not (not line.servers):
            self._report(Finding(place, f"delivered is {line.delivered}, with {len(line.servers)} servers"))
        for each in line.servers:
            known = self._known.get(each.registration)
            if each.after < self._since:
                self.untold += 1
            elif (wrong := _wrong(line, each, known)) is None:
                self.proved += 1
            else:
                text = f"a packet of policy {line.policy} was written to server {each.server}, {wrong}"
                self._report(Finding(place, text))


def _wrong(packet: Packet, written: Written, known: _Known | None) -> str | None:
    """Why a server was not to have a packet, None if it was."""
    if known is None:
        return f"whose registration {written.registration} there was not"
    terms = known.terms
    if terms.policy != packet.policy:
        return f"which was registered for policy {terms.policy}"
    if terms.server != written.server:
        return f"with the registration of server {terms.server}"
    if isinstance(terms, Draining) or (isinstance(terms, Standing) and terms.draining):
        return "which was draining"
    if not known.since <= written.after < known.until:
        return "which was not registered then"
    return None
