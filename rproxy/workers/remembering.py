"""What workers counted that are no more, or that don't answer: a proxy's counters don't sink when it replaces one.

However many workers come and go, no more policies and servers are told apart than a single process would: each worker
has those that it heard of first, and they need not be the same ones. So the parent has its own (:class:`_Apart`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import define, field
from msgspec.structs import replace

from rproxy.figures import Figures, PolicyFigures, ServerFigures
from rproxy.figures.merging import add_counters, add_up, merge
from rproxy.figures.tallies import MOST_POLICIES, MOST_SERVERS, OTHERS, add_times, new_times
from rproxy.registry.registration import Key
from rproxy.workers.processes import Process


@define
class _Apart:
    """Which policies and servers are told apart: the first ones that any worker told of.

    They are so for the rest of the proxy's life, and the others never are. So nothing that was counted for one of them
    is ever moved, and no counter sinks.
    """

    _policies: set[str] = field(factory=set, init=False)
    _servers: set[Key] = field(factory=set, init=False)

    def note(self, figures: Figures) -> None:
        """Tell apart what these figures do, as far as there is room."""
        for policy in figures.policies:
            if policy.name != OTHERS and len(self._policies) < MOST_POLICIES:
                self._policies.add(policy.name)
            for server in policy.servers:
                if server.policy in self._policies and len(self._servers) < MOST_SERVERS:
                    self._servers.add((server.policy, server.id))

    def has(self, server: ServerFigures) -> bool:
        """Whether what a server did is told."""
        return (server.policy, server.id) in self._servers

    def fold(self, figures: Figures) -> Figures:
        """The same figures, with what isn't told apart among :data:`OTHERS`.

        Its policies come in parts: each has its counts first, and its servers in the end.
        """
        servers: dict[str, list[ServerFigures]] = {}
        for policy in figures.policies:
            for server in policy.servers:
                # Not by the policy's name: a worker has a server among its others that another worker has not.
                shown = servers.setdefault(server.policy if server.policy in self._policies else OTHERS, [])
                shown.append(server if self.has(server) else _without_counts(server))
        counts = [
            replace(policy, servers=[])
            if policy.name in self._policies
            else replace(policy, name=OTHERS, description="", servers=[])
            for policy in figures.policies
        ]
        return replace(figures, policies=counts + [PolicyFigures(name=name, servers=servers[name]) for name in servers])


@define
class Memory:
    """The last figures that were heard of each process, and what all those counted that are replaced."""

    _apart: _Apart = field(factory=_Apart, init=False)
    _last: dict[Process, Figures] = field(factory=dict, init=False)
    _past: Figures | None = field(default=None, init=False)

    def hear(self, heard: Mapping[Process, Figures], there: Collection[Process]) -> None:
        """Remember what processes say.

        What a process counted after it was heard of last is lost with it, and so are the packets that it had: once it
        is replaced, they count as those of clients that are gone.

        :param there: the newest of each number. One that was replaced meanwhile may be heard, too: these are its last
            words.
        """
        for figures in heard.values():
            self._apart.note(figures)
        for process, figures in heard.items():
            self._last[process] = self._apart.fold(figures)
        for process in [each for each in self._last if each not in there]:
            past = self._only_counted(self._last.pop(process))
            self._past = merge([past] if self._past is None else [self._past, past])

    def together(self, answering: Collection[Process]) -> Figures:
        """The figures of all workers, with what is remembered of those that don't answer.

        :param answering: at least one, and all of them were heard and are there.
        """
        together = merge([self._last[process] for process in answering])
        silent = [figures for process, figures in self._last.items() if process not in answering]
        for past in (*silent, *([] if self._past is None else [self._past])):
            _add(together, past)
        return together

    def _only_counted(self, figures: Figures) -> Figures:
        """What stays true of figures when their process is gone."""
        counters = dict(figures.counters)
        gone = counters["client_gone"]
        assert isinstance(gone, int)
        counters["client_gone"] = gone + figures.in_flight
        policies = [
            PolicyFigures(
                name=policy.name,
                received=policy.received,
                acked=policy.acked,
                refused=policy.refused,
                client_gone=policy.client_gone + policy.in_flight,
                retried=policy.retried,
                total_times=policy.total_times,
                servers=[server for server in policy.servers if self._apart.has(server)],
            )
            for policy in figures.policies
        ]
        return Figures(
            version=figures.version,
            state=figures.state,
            counters=counters,
            in_flight=0,
            policies=policies,
            processes=[],
        )


def _without_counts(server: ServerFigures) -> ServerFigures:
    """As a process shows a server that it doesn't tell apart."""
    return replace(
        server, registrations=0, acked=0, lost=0, downs=0, down_ago=None, down_why="", total_times=new_times(),
        times=new_times(),
    )  # fmt: skip


def _add(figures: Figures, past: Figures) -> None:
    """Add what was counted in the past; servers are those that there are now."""
    figures.counters = add_counters([figures.counters, past.counters])
    figures.in_flight += past.in_flight
    here = {policy.name: policy for policy in figures.policies}
    for policy in past.policies:
        now = here.get(policy.name)
        if now is None:
            now = here[policy.name] = PolicyFigures(name=policy.name)
            figures.policies.append(now)
        now.received += policy.received
        now.acked += policy.acked
        now.client_gone += policy.client_gone
        now.retried += policy.retried
        now.in_flight += policy.in_flight
        now.refused = add_up((now.refused, policy.refused))
        now.total_times = add_times((now.total_times, policy.total_times))
        _add_servers(now.servers, policy.servers)


def _add_servers(servers: Iterable[ServerFigures], past: Iterable[ServerFigures]) -> None:
    before_of = {(server.policy, server.id): server for server in past}
    if not before_of:
        return
    for now in servers:
        before = before_of.get((now.policy, now.id))
        if before is not None:
            now.acked += before.acked
            now.lost += before.lost
            now.downs += before.downs
            now.registrations += before.registrations
            now.total_times = add_times((now.total_times, before.total_times))
            now.times = add_times((now.times, before.times))
