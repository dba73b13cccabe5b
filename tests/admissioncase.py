"""Test cases of whole proxies in memory that have policies to keep to."""

from __future__ import annotations

from typing import Any

from rproxy.policies import Policies, Policy, ServerRule
from tests.memory import Client, MemoryServerHost, Proxy, ProxyCase


def described(**policies: Policy) -> Policies:
    """The policies of a file; a name begins with ``p``, which isn't part of it."""
    return Policies(by_name={name[1:]: policy for name, policy in policies.items()})


def served_by(*ids: str, **limits: Any) -> Policy:
    """A policy that these servers may serve."""
    return Policy(servers=ServerRule(ids=frozenset(ids)), **limits)


class AdmissionCase(ProxyCase):
    def assert_refused(self, connection: Client, said: str, code: str = "forbidden") -> None:
        """The one answer so far is this refusal."""
        (error,) = connection.take()
        self.assertEqual((error["error"], error["delivered"]), (code, "no"))
        self.assertRegex(error["payload"], said)

    def standing(self, proxy: Proxy) -> list[tuple[str, str]]:
        """The policies and ids of all registrations."""
        return [each.key for each in proxy.factory.registry.standing]

    def modern(self, proxy: Proxy, *ports: int, policy: str = "111") -> list[MemoryServerHost]:
        """Pipelining servers, with their ports for ids, that hold no lease."""
        servers = [proxy.server(port) for port in ports]
        for port in ports:
            proxy.register(str(port), policy, port, pipeline=100)
        return servers
