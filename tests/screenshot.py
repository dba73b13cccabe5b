"""Makes docs/images/dashboard.png: the page of a proxy that runs, with two policies, servers in trouble, and clients.

``python -m tests.screenshot`` takes ten minutes, as many as the page's charts show. Clients have the addresses that a
balancer's PROXY headers give them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import random
import re
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from urllib.request import Request, urlopen

from attrs import frozen
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from rproxy.hashing import sha1_hex
from tests.browser import open_browser
from tests.dashboard import TOKEN
from tests.support import PATIENCE, ROOT, Group, Talk, data_packet, free_port, wait_for

POLICIES = """
[policy.111]
description = "Names and addresses"
[policy.222]
description = "Statistics"
"""
#: The servers that stay up, and their policies.
SERVERS = (("100", "111"), ("300", "111"), ("200", "222"))
#: An old server, which is one that is still registered when it is gone; and one that is drained.
LOST, DRAINED = "400", "300"
#: When, as shares of the whole time.
DRAIN_AT, LOSE_AT = 0.55, 0.7
WIDTH = 1280


@frozen
class Clients:
    """Clients at one address: how many connections, each with so many packets a second of so many characters."""

    address: str
    connections: int
    policy: str
    rate: float
    characters: int


CLIENTS = (
    Clients("198.51.100.7", 12, "111", 1.6, 900),
    Clients("198.51.100.21", 8, "222", 1.5, 300),
    Clients("203.0.113.44", 4, "111", 3.0, 1200),
    Clients("2001:db8:40:1::5", 6, "222", 1.0, 500),
    Clients("192.0.2.130", 1, "333", 0.4, 40),
)
#: One that sends more than an address may.
GREEDY = Clients("192.0.2.66", 1, "111", 60.0, 1500)
RATE_LIMIT = 30


def handle(payload: str) -> Deferred[str]:
    """The handler of the servers, which take their time, and more for longer payloads."""
    clock = IReactorTime(reactor)
    return deferLater(clock, random.lognormvariate(-4.6, 0.9) + len(payload) / 25_000, sha1_hex, payload)


async def connect(port: int, clients: Clients) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as the balancer does for such a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    kind, here = ("TCP6", "2001:db8::1") if ":" in clients.address else ("TCP4", "192.0.2.1")
    writer.write(f"PROXY {kind} {clients.address} {here} {random.randrange(1024, 65536)} 8000\r\n".encode())
    return reader, writer


async def ask(port: int, clients: Clients, number: int, seconds: float) -> None:
    """One client: the next packet a moment after each answer, more of them in the middle of the time."""
    reader, writer = await connect(port, clients)
    begin = time.monotonic()
    while True:
        writer.write(data_packet(str(number), clients.policy, "x" * clients.characters))
        await reader.readuntil(b"}")
        busy = 0.7 + 0.5 * math.sin(math.pi * (time.monotonic() - begin) / seconds)
        await asyncio.sleep(random.expovariate(clients.rate * busy))


async def flood(port: int, clients: Clients) -> None:
    """One that doesn't wait for answers."""
    reader, writer = await connect(port, clients)

    async def read() -> None:
        while await reader.read(1 << 16):
            pass

    async def write() -> None:
        while True:
            writer.write(data_packet("66", clients.policy, "x" * clients.characters))
            await writer.drain()
            await asyncio.sleep(1 / clients.rate)

    await asyncio.gather(read(), write())


async def serve_old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server that will be lost: a packet a connection, as those of the old kind."""
    with suppress(OSError):
        packet = json.loads(await reader.read(2048))
        await asyncio.sleep(random.lognormvariate(-4, 0.6))
        payload = sha1(packet["payload"].encode(), usedforsecurity=False).hexdigest()
        answer = {"type": "2", "srcid": LOST, "destid": packet["srcid"], "payload": payload, "payloadsize": "40"}
        writer.write(json.dumps(answer).encode())
        await reader.read()
    writer.close()


async def load(port: int, old: int, seconds: float) -> None:
    """All clients, and the old server until it is lost."""
    server = await asyncio.start_server(serve_old, "127.0.0.1", old)
    tasks: list[Awaitable[None]] = [flood(port, GREEDY)]
    tasks += [ask(port, each, n, seconds) for each in CLIENTS for n in range(each.connections)]
    everybody = asyncio.gather(*tasks)
    await asyncio.wait([everybody], timeout=seconds * LOSE_AT)
    server.close()
    with suppress(OSError, asyncio.IncompleteReadError):
        await everybody


def drain(admin: str) -> None:
    """Have an operator drain a server."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with urlopen(Request(f"{admin}api/v1/servers/{DRAINED}/drain", b"{}", headers, method="POST"), timeout=PATIENCE):
        pass


def look(driver: Chrome) -> bytes:
    """Open all policies, wait until the greedy client has the most and is held back, and take the picture."""
    for toggle in driver.find_elements(By.CSS_SELECTOR, ".toggle[aria-expanded=false]"):
        toggle.click()
    greedy = re.compile(rf"{GREEDY.address} .* KiB yes")
    wait_for(lambda: greedy.match(driver.find_element(By.ID, "clients").text), 3 * PATIENCE, "who is held back")
    height = driver.execute_script("document.activeElement.blur(); return document.documentElement.scrollHeight")
    whole = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": whole})
    return base64.b64decode(taken["data"])


def run(steps: Iterable[tuple[float, Callable[[], object]]]) -> None:
    """Do each after so many seconds from now on."""
    begin = time.monotonic()
    for after, do in steps:
        time.sleep(max(0.0, begin + after - time.monotonic()))
        do()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshot", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the proxy runs before [%(default)g]")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "dashboard.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Group() as group, open_browser(WIDTH, 1000) as driver:
        policies, token = Path(name, "policies.toml"), Path(name, "token")
        policies.write_text(POLICIES)
        token.write_text(TOKEN)
        token.chmod(0o600)
        plain, fronted, admin, old = (free_port() for _ in range(4))
        group.proxy(
            *("--listen", f"tcp:{plain}:interface=127.0.0.1"),
            *("--listen", f"haproxy:tcp:{fronted}:interface=127.0.0.1", "--proxy-from", "127.0.0.1"),
            *("--admin", f"tcp:{admin}:interface=127.0.0.1", "--admin-token", str(token)),
            *("--policies", str(policies), "--rate-limit", str(RATE_LIMIT)),
        )
        for server, policy in SERVERS:
            group.pool_server(plain, server, policy, "--handler", "tests.screenshot:handle", cwd=ROOT)
        with Talk(plain) as setup:
            setup.send(json.dumps({"type": "1", "id": LOST, "privPolyId": "222", "listenport": str(old)}).encode())
        url = f"http://127.0.0.1:{admin}/"
        driver.get(url)
        threading.Thread(target=lambda: asyncio.run(load(fronted, old, args.seconds)), daemon=True).start()
        run(
            [
                (args.seconds * DRAIN_AT, lambda: drain(url)),
                (args.seconds, lambda: args.output.write_bytes(look(driver))),
            ]
        )


if __name__ == "__main__":
    main()
