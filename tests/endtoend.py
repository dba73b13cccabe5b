"""What tests from end to end share: names, answers to expect, and the lines that people know."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import Any

from attrs import frozen

from tests.classic import sha1_hex
from tests.support import Group, Talk, Twistd, messages, script

HOST = "127.0.0.1"
SECONDS = 20.0
#: In every payload that goes through the shared proxy, which doesn't log packets.
SECRET = "xyz-secret"
RPROXY = script("rproxy")
TWISTD = script("twistd")


@frozen
class Shared:
    """A proxy and its pool servers: 100 and 101 of policy 111, and 200 of policy 222."""

    group: Group
    proxy: Twistd

    @property
    def port(self) -> int:
        """The proxy's."""
        return self.proxy.port


def assert_ack(answer: dict[str, Any], client_id: str, payload: str) -> None:
    """Check that it is the ACK with the SHA-1 of that payload."""
    # Servers of the old kind give no size.
    found = answer["type"], answer["destid"], answer["payload"], answer.get("payloadsize", "40")
    assert found == ("2", client_id, sha1_hex(payload), "40"), answer


def assert_error(answer: dict[str, Any], code: str, delivered: str, client_id: str, server_id: str = "rproxy") -> None:
    """Check that it is such an error packet."""
    found = answer["type"], answer["error"], answer["delivered"], answer["destid"], answer["srcid"]
    assert found == ("3", code, delivered, client_id, server_id), answer
    assert answer["payloadsize"] == str(len(answer["payload"]))


def register_port(proxy: int, server_id: str, policy: str, port: int) -> None:
    """Register a server of the old kind at a port of this machine."""
    with closing(Talk(proxy)) as talk:
        setup = {"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port)}
        talk.send(json.dumps(setup).encode())


#: How the lines begin that people and scripts know.
_KNOWN = re.compile(
    r"Running the |Received a |Received setup |Forwarding a |Server (running|serving) |Listening on |Connecting to |"
    r"Sending a "
)


def known_lines(process: Twistd) -> list[str]:
    """Return those lines of its log."""
    return [message for message in messages(process.log) if _KNOWN.match(message)]
