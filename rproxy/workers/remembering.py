"""What workers counted that are no more, or that don't answer: a proxy's counters don't sink when it replaces one."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from rproxy.figures import Figures, PolicyFigures, ServerFigures, add_times, merge


@define
class Memory:
    """The last figures that were heard of each worker, and what all those counted that were replaced."""

    _last: dict[int, Figures] = field(factory=dict, init=False)
    _past: Figures | None = field(default=None, init=False)

    def replaced(self, number: int) -> None:
        """Another worker has that number now."""
        last = self._last.pop(number, None)
        if last is not None:
            past = _only_counted(last)
            self._past = past if self._past is None else merge([self._past, past])

    def add_to(self, heard: Mapping[int, Figures]) -> Figures:
        """The figures of all workers, with what is remembered of the others.

        What a worker counted after it was heard of last is lost with it, and so are the packets that it had: once it
        is replaced, they count as those of clients that are gone.

        :param heard: by the numbers of those that answer; at least one.
        """
        self._last.update(heard)
        silent = [figures for number, figures in self._last.items() if number not in heard]
        together = merge(list(heard.values()))
        for past in (*silent, *([] if self._past is None else [self._past])):
            _add(together, past)
        return together


def _only_counted(figures: Figures) -> Figures:
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
            servers=policy.servers,
        )
        for policy in figures.policies
    ]
    return Figures(
        version=figures.version, state=figures.state, counters=counters, in_flight=0, policies=policies, processes=[]
    )


def _add(figures: Figures, past: Figures) -> None:
    """Add what was counted in the past; servers are those that there are now."""
    both = merge([figures, past])
    figures.counters = both.counters
    figures.in_flight = both.in_flight
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
        now.refused = {
            code: now.refused.get(code, 0) + policy.refused.get(code, 0) for code in {**now.refused, **policy.refused}
        }
        now.total_times = add_times((now.total_times, policy.total_times))
        before = {server.id: server for server in policy.servers}
        for server in now.servers:
            if server.id in before:
                _add_server(server, before[server.id])


def _add_server(now: ServerFigures, before: ServerFigures) -> None:
    now.acked += before.acked
    now.lost += before.lost
    now.downs += before.downs
    now.registrations += before.registrations
    now.total_times = add_times((now.total_times, before.total_times))
    now.times = add_times((now.times, before.times))
