"""Keeps this process's registry and the store that it shares in step.

There is one exchange with the store at a time. It carries all that happened here since the last one, and brings all
that happened elsewhere. The next one is due at once when there is something to say, to ask, or to hear of; soon, when
leases were renewed; when the next lease runs out; and now and then in any case, so that the store knows that this
process is there.

While the store is away, the proxy goes on with what it knows. When it can be reached again, both are compared as a
whole: what was lost there is put back, and what was missed here is taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.backoff import Backoff
from rproxy.registry import Registry
from rproxy.registry.records import Record, RecordKey
from rproxy.registry.registration import Registration
from rproxy.request import Request
from rproxy.stores import PRESENCE, Message, News, Position, Store, StoreError, StoreRefusedError
from rproxy.stores.asking import Asking
from rproxy.stores.telling import Telling
from rproxy.stores.waking import Alarm

#: Seconds from one question of this kind to the next: whoever asks for policies that don't exist must not be able to
#: keep a store busy that others need.
ASK_INTERVAL = 0.01
#: How long a renewal may wait for others, as a share of its lease and in seconds.
RENEWAL_SHARE = 0.1
RENEWAL_WAIT = 1.0
#: Seconds from one exchange to the next in any case.
BEAT = PRESENCE / 3
#: Seconds that a store may take for one thing, whatever it promises.
STORE_TIMEOUT = 5.0
#: Seconds that a stop may take: a proxy that stops has told what there was to tell, or will not be able to.
STOP_TIMEOUT = 3.0
#: The waits before a store that is away is tried again, in seconds.
RETRY = Backoff(0.25, 2.0)
#: Ends that nobody could be told of: beyond so many the oldest are dropped, as each can be caused by a stranger.
MOST_PENDING = 50_000

_T = TypeVar("_T")


class Replica(Service):
    """One process's part in a store.

    :param answer: what becomes of packets that the store was asked about.
    :param shared_by: called with the number of processes that share the store.
    :param in_touch: called when the store can be used, at first and again.
    :param random: numbers from 0 to 1, for jitter.
    """

    _logger = Logger()

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: IReactorTime,
        answer: Callable[[Sequence[Request]], object],
        shared_by: Callable[[int], object],
        in_touch: Callable[[], object],
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._shared_by = shared_by
        self._in_touch = in_touch
        self._random = random
        self._process = registry.claims.holder
        self._position: Position | None = None
        #: What the store hasn't been told, and the leases that were renewed since it was told.
        self._pending: dict[RecordKey, Record] = {}
        self._renewed: set[RecordKey] = set()
        self._telling = Telling(clock)
        #: Who waits for the next exchange that begins.
        self._unconfirmed: list[Deferred[None]] = []
        self._asking = Asking(clock, answer)
        self._last = 0.0
        #: For the next exchange.
        self._alarm = Alarm(clock)
        self._run: Deferred[None] | None = None
        self._stopped: Deferred[None] | None = None
        #: Why the store can't be used, and since when, in the clock's seconds; None while it can.
        self.away: str | None = None
        self.away_since: float | None = None
        #: How many processes share the store, this one too.
        self.processes = 1

    # From the registry and the router.

    def changed(self, record: Record) -> None:
        """The store is to be told of this."""
        if not self.running:
            return
        self._pending.pop(record.key, None)
        self._pending[record.key] = record
        if len(self._pending) > MOST_PENDING:
            oldest = next((key for key, each in self._pending.items() if each.registration is None), None)
            if oldest is not None:
                del self._pending[oldest]
        self._alarm.within(0.0)

    def renewed(self, key: RecordKey) -> None:
        """A lease that is held here was renewed."""
        if self.running:
            own = self._registry.claims.own((key[0], key[1]))
            self._renewed.add(key)
            self._alarm.within(min(RENEWAL_WAIT, ((own and own.record.lease) or 0.0) * RENEWAL_SHARE))

    def when_told(self, then: Callable[[], object]) -> None:
        """Call this when the store knows what has happened here until now, or can't be told soon; in order."""
        self._telling.add(then, untold=bool(self.running and self.away is None and self._pending))

    def confirm(self) -> Deferred[None]:
        """Hear of all that the others have told until now.

        :returns: fails with :class:`rproxy.stores.StoreError` where the store can't be asked.
        """
        confirmed: Deferred[None] = Deferred()
        if not self.running or self.away is not None:
            confirmed.errback(StoreError("the registry can't say whether it is still this server"))
        else:
            self._unconfirmed.append(confirmed)
            self._alarm.within(0.0)
        return confirmed

    def lapse(self, registrations: Sequence[Registration]) -> None:
        """These don't stand any more, unless all that there is says so."""
        self._registry.lapse(registrations)
        self._position = None
        self._alarm.within(0.0)

    def ask(self, request: Request) -> bool:
        """Ask the store about the policy of a packet that has no server here; False where that can't be done now.

        The packet is handed back in any case, soon.
        """
        if not self.running or self.away is not None or not self._asking.add(request):
            return False
        self._alarm.within(max(0.0, self._last + ASK_INTERVAL - self._clock.seconds()))
        return True

    # Its life.

    def startService(self) -> None:
        super().startService()
        # It goes on whatever the store does; where it ends all the same, that mustn't first be heard of at the stop.
        self._run = Deferred.fromCoroutine(self._live()).addErrback(self._mishandled)

    def stopService(self) -> Deferred[None] | None:
        """Tell the store what it doesn't know yet; leases that are held here last as long as they were told to.

        From now on nothing is told: the connections that leases hang on are closed next, for a reason that says nothing
        of their servers.
        """
        super().stopService()
        self._alarm.wake()
        run, self._run = self._run, None
        if run is not None:
            self._stopped = Deferred()
            run.chainDeferred(self._stopped)
            self._stopped.addTimeout(STOP_TIMEOUT, self._clock, onTimeoutCancel=self._stop_late)
        return self._stopped

    def _stop_late(self, result: object, timeout: float) -> None:
        self._logger.warn("The registry at {store} was left without a word", event="store-left", store=str(self._store))

    async def _live(self) -> None:
        failures = 0
        while self.running:
            try:
                await self._bounded(self._store.open(partial(self._alarm.within, 0.0)))
                await self._exchange_all()
                failures = 0
                self._back()
                await self._keep_up()
                # So that the store knows that this process isn't there any more.
                await self._exchange()
            except Exception as error:  # noqa: BLE001  # whatever it is, others aren't heard of, and may be again later
                if self.away is None and not isinstance(error, (StoreError, StoreRefusedError)):
                    self._mishandled(Failure())
                failures += 1
                self._lost(str(error))
                if self.running:
                    await self._alarm.sleep(RETRY.seconds(failures, self._random()))
        self._keep_nobody_waiting()
        try:
            await self._bounded(self._store.close())
        except StoreError as error:
            self._logger.warn(
                "The registry at {store} can't be let go of: {why}",
                event="store-not-closed",
                store=str(self._store),
                why=error,
            )

    def _mishandled(self, failure: Failure) -> None:
        self._logger.failure("The registry was mishandled", failure, event="store-mishandled")

    def _bounded(self, doing: Deferred[_T]) -> Deferred[_T]:
        """It fails if it takes too long, whatever it does."""
        return doing.addTimeout(STORE_TIMEOUT, self._clock, onTimeoutCancel=_took_too_long)

    async def _exchange_all(self) -> None:
        """Compare what is here and what is there as a whole."""
        self._position = None
        self._renewed.update(self._registry.leases)
        await self._exchange()

    async def _keep_up(self) -> None:
        while self.running:
            await self._alarm.until_due()
            if self.running:
                await self._exchange()

    async def _exchange(self) -> None:
        told, self._pending = self._pending, {}
        renewed, self._renewed = self._renewed, set()
        self._asking.begin()
        self._telling.begin()
        confirming, self._unconfirmed = self._unconfirmed, []
        self._alarm.set(BEAT)
        # What is told may be told late, or again: its lease doesn't begin anew by that.
        left = self._registry.leases_of(renewed | told.keys()) if self.running else self._registry.leases
        message = Message(self._process, self._position, list(told.values()), left, leaves=not self.running)
        try:
            news = await self._bounded(self._store.exchange(message))
            self._last = self._clock.seconds()
            self._take(news)
        except Exception:
            # Whatever it was: what was to be told still is, and nobody waits for ever.
            self._pending = told | self._pending
            self._asking.end_all()
            self._telling.end()
            _fail(confirming)
            raise
        self._telling.end()
        for each in confirming:
            each.callback(None)
        self._asking.end()

    def _take(self, news: News) -> None:
        self._position = news.position
        # What was ended or changed here meanwhile isn't undone by what it was before.
        records = [record for record in news.records if not self._is_overtaken(record)]
        self._registry.hear(records, complete=news.complete)
        if news.complete:
            self._compare(news.records)
        else:
            self._registry.put_again(news.missing)
        if self.running:
            self._shared_by(news.processes)
            self.processes = news.processes
        if news.wait is not None:
            self._alarm.within(max(0.0, news.wait))

    def _is_overtaken(self, record: Record) -> bool:
        pending = self._pending.get(record.key)
        return pending is not None and pending != record and pending.replaces(record)

    def _compare(self, records: Sequence[Record]) -> None:
        """Tell what these, which are all that the store has, don't say or say otherwise."""
        self._registry.put_back({record.key: record for record in records})
        for record in records:
            if record.holder == self._process and record.registration is not None:
                own = self._registry.claims.own((record.policy, record.server_id))
                if own is None:
                    # Its end was lost.
                    self.changed(record.ended())

    def _lost(self, why: str) -> None:
        self._registry.lose_touch()
        if self.away is None and self.running:
            self._logger.error(
                "The registry at {store} can't be used, and is gone on with what is known here: {why}",
                event="store-away",
                store=str(self._store),
                why=why,
            )
            self.away_since = self._clock.seconds()
        self.away = why
        self._keep_nobody_waiting()

    def _keep_nobody_waiting(self) -> None:
        """There is no store to be waited for."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        _fail(unconfirmed)
        self._asking.end_all()
        self._telling.end_all()

    def _back(self) -> None:
        if self.away_since is not None:
            self._logger.info(
                "The registry at {store} is back after {seconds:.1f} seconds",
                event="store-back",
                store=str(self._store),
                seconds=self._clock.seconds() - self.away_since,
            )
        self.away = self.away_since = None
        self._in_touch()


def _fail(waiting: Sequence[Deferred[None]]) -> None:
    for each in waiting:
        each.errback(StoreError("the registry didn't say whether it is still this server"))


def _took_too_long(result: object, seconds: float) -> NoReturn:
    raise StoreError(f"nothing came of it within {seconds:g} seconds")
