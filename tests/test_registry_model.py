"""The registry and a model of it, in any order of steps."""

from __future__ import annotations

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry import ConflictError, Registry
from rproxy.registry.claims import Claims
from rproxy.registry.registration import Key
from rproxy.registry.standing import Observer
from tests.registrycase import EAST, WEST, Connection, Router, setup


@frozen
class Held:
    """What the model knows of a registration."""

    setup: Setup
    connection: int
    expires: float | None


#: Two hosts with two connections each.
HOSTS = (EAST, EAST, WEST, WEST)

connections = st.integers(0, 3)
setups = st.builds(
    setup,
    st.sampled_from(["100", "101"]),
    st.sampled_from(["111", "222"]),
    st.sampled_from([5000, 5001]),
    lease=st.sampled_from([None, 2.0, 3.0]),
)
steps = st.lists(
    st.tuples(st.just("register"), connections, setups)
    | st.tuples(st.just("release"), connections, st.none())
    | st.tuples(st.just("expire"), st.just(0), st.none())
    | st.tuples(st.just("wait"), st.integers(1, 3), st.none()),
    max_size=40,
)


class AnyOrderTests(SynchronousTestCase):
    """Whatever comes in whatever order, what stands is what the protocol says."""

    @given(steps)
    def test_what_stands(self, steps: list[tuple[str, int, Setup | None]]) -> None:
        clock = Clock()
        router = Router()
        registry = Registry(clock.seconds, Observer(router.registered, router.ended), Claims("here", clock.seconds))
        owners = [Connection() for _host in HOSTS]
        model: dict[Key, Held] = {}
        for step, number, packet in steps:
            now = clock.seconds()
            if packet is not None:
                key = packet.policy, packet.id
                held = model.get(key)
                live = held is not None and held.expires is not None and held.expires > now
                expires = None if packet.lease is None else now + packet.lease
                if held is not None and live and HOSTS[held.connection] != HOSTS[number]:
                    with self.assertRaises(ConflictError):
                        registry.register(packet, Peer(HOSTS[number]), owners[number])
                    continue
                same = held is not None and (held.setup, held.connection) == (packet, number)
                renewed = registry.register(packet, Peer(HOSTS[number]), owners[number]) is None
                self.assertEqual(same and expires is not None, renewed)
                place = HOSTS[number], packet.policy, packet.listenport
                model = {
                    k: h for k, h in model.items() if (HOSTS[h.connection], h.setup.policy, h.setup.listenport) != place
                }
                model[key] = Held(packet, number, expires)
            elif step == "release":
                registry.release(owners[number])
                model = {k: h for k, h in model.items() if h.expires is None or h.connection != number}
            elif step == "expire":
                late = {k: h for k, h in model.items() if h.expires is not None and h.expires <= now}
                self.assertEqual({owners[h.connection] for h in late.values()}, set(registry.expire()))
                model = {k: h for k, h in model.items() if k not in late}
            else:
                clock.advance(number)
            self.assertEqual(
                {key: (HOSTS[held.connection], held.setup.listenport) for key, held in model.items()},
                {key: registration.address for key, registration in router.standing.items()},
            )
