"""The admin listener, in memory: what it answers, whom it refuses, and what those who look on are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs

from rproxy.admin.channel import MOST_BYTES
from rproxy.admin.describing import describe
from rproxy.admin.exposition import CONTENT_TYPE
from rproxy.admin.files import read_files
from rproxy.admin.guarding import Asked, Guard, read_token
from rproxy.admin.streaming import MOST, PATIENCE
from rproxy.control import DONE, ControlError
from rproxy.figures import Figures
from rproxy.figures.happenings import Happening
from tests.adminclient import ELSEWHERE, TOKEN, UNIX, Admin, control_of, hang_up
from tests.memory import ProxyCase

READING = (
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/v1/figures",
    "/api/v1/explain?policy=111",
    "/api/v1/happenings",
    "/api/v1/openapi.json",
    "/static/js/page.js",
)
CHANGING = tuple(f"/api/v1/servers/100/{what}" for what in DONE)


class AdminCase(ProxyCase):
    def setUp(self) -> None:
        self.running = self.proxy()
        self.control = control_of(self.running)
        self.admin = Admin(self.control)

    def serve(self, server_id: str = "100", port: int = 5000, **modern: Any) -> Any:
        server = self.running.server(port)
        self.running.register(server_id, "111", port, pipeline=8, lease=30, **modern)
        return server


class GuardTests(AdminCase):
    """Who may ask what; each rule with an attack that it stops."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def statuses(self, paths: tuple[str, ...], **asked: Any) -> set[int]:
        method = self.admin.post if paths is CHANGING else self.admin.get
        return {method(path, **asked).status for path in paths}

    def assert_unchanged(self) -> None:
        """No change came of what was refused."""
        (server,) = self.admin.get("/api/v1/figures").json["policies"][0]["servers"]
        self.assertEqual(server["states"], {"up": 1})

    def test_reading_here(self) -> None:
        """On loopback and a Unix socket nothing is needed."""
        self.assertEqual(self.statuses(READING), {200})
        self.assertEqual(self.statuses(READING, peer=UNIX, Host="localhost"), {200})

    def test_reading_from_elsewhere(self) -> None:
        """Another machine needs the token; so does whoever comes by way of a proxy on this one."""
        headers = ("Forwarded", "Via", "X_Forwarded_For", "X_Forwarded_Host", "X_Forwarded_Proto", "X_Real_IP")
        ways: list[dict[str, Any]] = [{"peer": ELSEWHERE}, *({header: "10.0.0.9"} for header in headers)]
        for further in ways:
            self.assertEqual(self.statuses(READING, **further), {401})
            wrong = {"Authorization": "Bearer 0123456789abcdeX"}
            self.assertEqual(self.statuses(READING, **further, **wrong), {401})
            self.assertEqual(self.statuses(READING, **further, Authorization=f"Bearer {TOKEN}"), {200})

    def test_no_token_file(self) -> None:
        """Then nobody changes anything, and nobody reads from elsewhere; it is said which option there is."""
        self.admin = Admin(self.control, token=None)
        self.assertEqual(self.statuses(CHANGING), {403})
        self.assertEqual(self.statuses(READING, peer=ELSEWHERE), {403})
        self.assertIn("--admin-token", self.admin.post(CHANGING[0]).json["error"])
        self.assert_unchanged()

    def test_token(self) -> None:
        """A change without it, or with another, is refused, also on loopback."""
        for wrong in (None, "", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}0", f"Bearer {TOKEN[:-1]}", "Bearer é"):
            self.assertEqual(self.statuses(CHANGING, Authorization=wrong), {401}, wrong)
        # Not UTF-8, nor anything else.
        for header in ("Authorization", "Origin", "Host"):
            bytes_: dict[str, Any] = {header: "\udcff"}
            self.assertIn(self.admin.post(CHANGING[0], **bytes_).status, {401, 403})
        reply = self.admin.post(CHANGING[0], Authorization=None)
        self.assertEqual(reply.headers["www-authenticate"], 'Bearer realm="rproxy"')
        self.assert_unchanged()

    def test_rebinding(self) -> None:
        """A page whose name was made to lead here has its own name as the Host."""
        for host in ("evil.example", "evil.example:9000", "localhost.evil.example", "evil.localhost",
                     "127.0.0.1.evil.example", "", None, "[::1", "127.0.0.1@evil.example",
                     "127.0.0.1\r\nHost: evil.example"):  # fmt: skip
            self.assertLessEqual(self.statuses(READING, Host=host), {400, 403}, host)
            self.assertLessEqual(self.statuses(CHANGING, Host=host), {400, 403}, host)
        self.assert_unchanged()

    def test_hosts(self) -> None:
        """Addresses and localhost will do, and names that are given."""
        self.admin = Admin(self.control, hosts=frozenset({"Proxy.example.org"}))
        for host in "localhost", "LOCALHOST:9000", "10.1.2.3:9000", "[::1]:9000", "proxy.example.org:9000":
            self.assertEqual(self.admin.get("/healthz", Host=host).status, 200, host)

    def test_cross_site(self) -> None:
        """What pages of other sites have a browser send, in each of the ways that it shows by."""
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:9001"},
            {"Origin": "http://localhost:9000"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            self.assertEqual(self.statuses(READING, **headers), {403}, headers)
            self.assertEqual(self.statuses(CHANGING, **headers), {403}, headers)
        self.assert_unchanged()
        same: dict[str, Any] = {"Origin": "http://127.0.0.1:9000", "Sec_Fetch_Site": "same-origin"}
        self.assertEqual(self.admin.post("/api/v1/servers/100/drain", **same).status, 200)

    def test_browser(self) -> None:
        """What a browser shows of a page that it isn't given says what to do, in words and not in JSON."""
        accept: dict[str, Any] = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        reply = self.admin.get("/", ELSEWHERE, **accept)
        self.assertEqual((reply.status, reply.headers["content-type"]), (401, "text/plain; charset=utf-8"))
        for said in "another machine", "ssh -L 12345:127.0.0.1:12345 HOST", "--admin-host":
            self.assertIn(said, reply.body.decode())
        # As ssh -L has it, at whatever port.
        self.assertEqual(self.admin.get("/", Host="localhost:8000", **accept).status, 200)
        reply = self.admin.get("/", Host="proxy.example", **accept)
        self.assertEqual((reply.status, reply.headers["content-type"]), (403, "text/plain; charset=utf-8"))
        self.assertIn("--admin-host", reply.body.decode())
        self.assertIn("error", self.admin.get("/api/v1/figures", ELSEWHERE).json)

    def test_simple_requests(self) -> None:
        """A form can't send JSON, and nobody is told that it may."""
        for kind in (None, "text/plain", "application/x-www-form-urlencoded", "text/json"):
            self.assertEqual(self.statuses(CHANGING, Content_Type=kind), {415}, kind)
        # Twisted finds out first that the body isn't of that kind.
        self.assertEqual(self.statuses(CHANGING, Content_Type="multipart/form-data; boundary=x"), {400})
        for path in (*READING, *CHANGING):
            reply = self.admin.ask("OPTIONS", path, Origin="http://evil.example")
            self.assertEqual(reply.status, 403)
            self.assertFalse([name for name in reply.headers if name.startswith("access-control")])
        self.assert_unchanged()

    def test_get_changes_nothing(self) -> None:
        for path in CHANGING:
            reply = self.admin.get(path, Authorization=f"Bearer {TOKEN}")
            self.assertEqual((reply.status, reply.headers["allow"]), (405, "POST"))
        self.assert_unchanged()

    def test_headers(self) -> None:
        """What keeps pages apart stands on every answer, also on refusals."""
        for path in (*READING, "/nothing", "/api/v1/explain"):
            for reply in self.admin.get(path), self.admin.get(path, Host="evil.example"):
                self.assertIn("default-src 'none'", reply.headers["content-security-policy"])
                self.assertNotIn("unsafe", reply.headers["content-security-policy"])
                self.assertIn("frame-ancestors 'none'", reply.headers["content-security-policy"])
                self.assertEqual(reply.headers["x-content-type-options"], "nosniff")
                self.assertEqual(reply.headers["x-frame-options"], "DENY")
                self.assertEqual(reply.headers["cross-origin-resource-policy"], "same-origin")
                self.assertEqual(reply.headers["cross-origin-opener-policy"], "same-origin")
                self.assertEqual(reply.headers["referrer-policy"], "no-referrer")

    @given(st.text(max_size=40), st.text(max_size=40))
    @settings(max_examples=200, deadline=None)
    def test_no_other_token(self, token: str, host: str) -> None:
        """No text but the token opens anything, and none breaks the guard."""
        guard = Guard(TOKEN)
        asked = Asked(True, "127.0.0.1", "localhost", f"Bearer {token}", "application/json")
        self.assertEqual(guard.refuse(asked) is None, token.strip() == TOKEN)
        guard.refuse(Asked(False, host, host, token, host, host, host))

    def test_token_file(self) -> None:
        """It is read if it can be one, and nobody else can read it."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "token"
            for text, mode, said in (
                (f"{TOKEN}\n", 0o600, None),
                (f"{TOKEN}\n", 0o644, "open to everybody"),
                ("short\n", 0o600, "doesn't hold a token"),
                (f"{TOKEN} {TOKEN}\n", 0o600, "doesn't hold a token"),
                ("", 0o600, "doesn't hold a token"),
            ):
                path.write_text(text)
                path.chmod(mode)
                if said is None:
                    self.assertEqual(read_token(path), TOKEN)
                else:
                    self.assertIn(said, str(self.assertRaises(ValueError, read_token, path)))
            with self.assertRaisesRegex(ValueError, r"the token \S+/password can't be read: No such file"):
                read_token(Path(folder) / "password")


class ReadingTests(AdminCase):
    def test_figures_agree(self) -> None:
        """They are the router's own counters, after traffic of every kind."""
        first, second = self.serve(), self.serve("101", 5001)
        client = self.running.client()
        client.ask("xyz1", "xyz2", "xyz3")
        self.running.client().ask("lost", policy="999")
        for server in first, second:
            for connection in server.connections:
                connection.answer(1)
        figures = msgspec.json.decode(self.admin.get("/api/v1/figures").body, type=Figures)
        counters = self.running.factory.counters
        self.assertEqual(figures.counters, counters.snapshot())
        self.assertEqual((counters.received, counters.acked, counters.in_flight), (4, 2, 1))
        self.assertEqual(figures.in_flight, 1)
        (policy,) = (each for each in figures.policies if each.name == "111")
        self.assertEqual((policy.received, policy.acked, policy.in_flight), (3, 2, 1))
        self.assertEqual(
            [(each.id, each.acked, each.in_flight) for each in policy.servers], [("100", 1, 1), ("101", 1, 0)]
        )

    def test_ready(self) -> None:
        self.assertEqual(self.admin.get("/readyz").body, b"ready\n")
        self.running.factory.drain()
        self.assertEqual((self.admin.get("/readyz").status, self.admin.get("/healthz").status), (503, 200))
        self.assertEqual(self.admin.get("/api/v1/figures").json["state"], "draining")

    def test_metrics(self) -> None:
        self.serve()
        reply = self.admin.get("/metrics")
        self.assertEqual(reply.headers["content-type"], CONTENT_TYPE)
        self.assertIn(b'rproxy_server_state{policy="111",server="100",state="up"} 1.0', reply.body.splitlines())

    def test_explain(self) -> None:
        self.serve()
        told = self.admin.get("/api/v1/explain?policy=111").json
        server = {"server_id": "100", "host": "10.0.0.5", "port": 5000, "refusal": None}
        self.assertEqual(told, {"policy": "111", "processes": [{"refusal": None, "servers": [server]}]})
        told = self.admin.get("/api/v1/explain?policy=%3Cb%3E").json
        self.assertEqual(told["processes"], [{"refusal": "no server serves policy <b>", "servers": []}])

    def test_explain_mistakes(self) -> None:
        for query in (
            "",
            "?policy=",
            f"?policy={'x' * 300}",
            "?policy=111&client=host",
            "?policy=1&client=",
        ):
            self.assertEqual(self.admin.get(f"/api/v1/explain{query}").status, 400, query)

    def test_pages(self) -> None:
        """They come with a tag, and by it only once."""
        reply = self.admin.get("/")
        self.assertEqual((reply.body, reply.headers["etag"]), (b"<!doctype html>", '"1"'))
        self.assertEqual(reply.headers["cache-control"], "no-cache")
        again = self.admin.get("/", If_None_Match='"1"')
        self.assertEqual((again.status, again.body), (304, b""))

    def test_nothing_but_pages(self) -> None:
        """No path leads out of the folder."""
        out = ("../admin.py", "%2e%2e/__init__.py", "..%2f__init__.py", "/etc/passwd", "", "js")
        others = ("/static", "//etc/passwd", "/nothing", "/api/v1/", "/api/v1/servers/100")
        for path in (*(f"/static/{name}" for name in out), *others):
            self.assertEqual(self.admin.get(path).status, 404, path)

    def test_folder(self) -> None:
        with TemporaryDirectory() as folder:
            (Path(folder) / "js").mkdir()
            (Path(folder) / "js" / "a.js").write_text("1")
            (file,) = (files := read_files(Path(folder))).values()
            self.assertEqual((list(files), file.kind), (["js/a.js"], "text/javascript; charset=utf-8"))
            (Path(folder) / "js" / "a.js").write_text("2")
            self.assertNotEqual(read_files(Path(folder))["js/a.js"].tag, file.tag)
        self.assertEqual(read_files(Path("/nowhere")), {})

    def test_head(self) -> None:
        """It is answered as GET is, without the body, and the log has nothing of it, also where it is refused."""
        with capturedLogs() as events:
            for path in (*READING, "/nothing", CHANGING[0], "/api/v1/explain", "/static/none"):
                for host in "127.0.0.1", "evil.example":
                    reply, get = self.admin.ask("HEAD", path, Host=host), self.admin.get(path, Host=host)
                    self.assertEqual((reply.status, reply.headers.keys()), (get.status, get.headers.keys()), path)
                    self.assertEqual(reply.body, b"")
            reply = self.admin.ask("HEAD", "/api/v1/happenings")
            self.assertEqual((reply.status, reply.headers["content-length"]), (200, "2"))
            reply = self.admin.ask("HEAD", "/api/v1/stream")
            self.assertEqual((reply.status, reply.headers["content-type"][:17]), (200, "text/event-stream"))
        self.assertEqual(events, [])

    def test_other_methods(self) -> None:
        with capturedLogs() as events:
            for method in "PUT", "DELETE", "TRACE", "FOO", "POST", "OPTIONS", "PATCH":
                reply = self.admin.ask(method, "/api/v1/figures")
                self.assertEqual((reply.status, reply.headers["allow"]), (405, "GET, HEAD"), method)
                self.assertEqual(reply.json, {"error": "this path takes GET and HEAD only"})
                if method != "POST":
                    reply = self.admin.ask(method, CHANGING[0])
                    self.assertEqual((reply.status, reply.headers["allow"]), (405, "POST"), method)
        self.assertEqual(events, [])

    def test_description(self) -> None:
        """It names every path of the API, and each of its references leads somewhere."""
        told = self.admin.get("/api/v1/openapi.json").json
        self.assertEqual(told, json.loads(json.dumps(describe())))
        text = json.dumps(told)
        for name in told["components"]["schemas"]:
            self.assertIn(f"#/components/schemas/{name}", text)
        for path, methods in told["paths"].items():
            (method,) = methods
            reply = self.admin.ask("PUT", path.replace("{id}", "100"))
            self.assertEqual(reply.headers["allow"].partition(",")[0].lower(), method)
        refused = told["paths"]["/api/v1/stream"]["get"]["responses"]["503"]
        self.assertEqual(refused["description"], "Too many look on already")

    def test_nobody_answers(self) -> None:
        """Where all processes of the proxy are gone, that is what is said."""
        self.admin.control.figures = lambda: fail(ControlError("no worker answers"))  # type: ignore[method-assign]
        reply = self.admin.get("/api/v1/figures")
        self.assertEqual((reply.status, reply.json), (503, {"error": "no worker answers"}))

    def test_mistake_of_ours(self) -> None:
        """The log has it, and not the answer."""
        self.admin.control.figures = lambda: fail(ValueError("secret"))  # type: ignore[method-assign]
        reply = self.admin.get("/api/v1/figures")
        self.assertEqual(reply.status, 500)
        self.assertNotIn(b"secret", reply.body)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_gone_before_the_answer(self) -> None:
        """Nothing is written to who doesn't wait."""
        late: Deferred[Figures] = Deferred()
        self.admin.control.figures = lambda: late  # type: ignore[method-assign]
        channel, transport = self.admin.open("GET", "/api/v1/figures")
        hang_up(channel)
        late.errback(ControlError("late"))
        self.assertEqual(transport.value(), b"")


class ChangingTests(AdminCase):
    def test_drain_and_resume(self) -> None:
        """A drained server gets nothing, however often it registers, until it is resumed."""
        server = self.serve()
        client = self.running.client()
        self.assertEqual(self.admin.post("/api/v1/servers/100/drain").json, {"registrations": 1})
        for _ in range(2):
            client.ask("xyz1")
            self.assertEqual(sum(len(each.packets) for each in server.connections), 0)
            self.running.register("100", "111", 5000, pipeline=8, lease=30)
        (process,) = self.admin.get("/api/v1/explain?policy=111").json["processes"]
        self.assertEqual(process["servers"][0]["refusal"], "an operator had it drained")
        self.assertEqual(self.admin.post("/api/v1/servers/100/resume").json, {"registrations": 1})
        self.running.pump()
        self.assertEqual(sum(len(each.packets) for each in server.connections), 2)
        kinds = [each["kind"] for each in self.admin.get("/api/v1/happenings").json]
        self.assertEqual([kind for kind in kinds if kind in DONE.values()], ["drained", "resumed"])

    def test_resume_of_one_that_left(self) -> None:
        """It isn't drained when it comes again."""
        connection = self.running.register("100", "111", 5000, pipeline=8, lease=30)
        self.running.server(5000)
        self.admin.post("/api/v1/servers/100/drain")
        connection.close()
        self.assertEqual(self.admin.post("/api/v1/servers/100/resume").json, {"registrations": 1})
        self.assertEqual(self.admin.post("/api/v1/servers/100/resume").status, 404)
        self.running.register("100", "111", 5000, pipeline=8, lease=30)
        (server,) = self.admin.get("/api/v1/figures").json["policies"][0]["servers"]
        self.assertEqual(server["states"], {"up": 1})

    def test_one_after_the_other(self) -> None:
        """A drain leaves those be that were drained before, and a resume those that weren't named."""
        self.serve()
        self.serve("200", 6000)
        for path, drained in (("100/drain", ["100"]), ("200/drain", ["100", "200"]), ("100/resume", ["200"])):
            self.assertEqual(self.admin.post(f"/api/v1/servers/{path}").json, {"registrations": 1})
            servers = self.admin.get("/api/v1/figures").json["policies"][0]["servers"]
            self.assertEqual([each["id"] for each in servers if each["states"] == {"draining": 1}], drained)

    def test_one_policy(self) -> None:
        self.serve()
        self.running.register("100", "222", 5000, pipeline=8, lease=30)
        self.assertEqual(self.admin.post("/api/v1/servers/100/drain", {"policy": "222"}).json, {"registrations": 1})
        states = {
            each["name"]: each["servers"][0]["states"] for each in self.admin.get("/api/v1/figures").json["policies"]
        }
        self.assertEqual(states, {"111": {"up": 1}, "222": {"draining": 1}})

    def test_revoke(self) -> None:
        self.serve()
        self.assertEqual(self.admin.post("/api/v1/servers/100/revoke").json, {"registrations": 1})
        self.assertEqual(self.running.factory.registry.standing, [])
        kinds = [each["kind"] for each in self.admin.get("/api/v1/happenings").json]
        self.assertEqual(kinds, ["registered", "ended", "revoked"])

    def test_none(self) -> None:
        self.serve()
        for path in CHANGING:
            reply = self.admin.post(path.replace("100", "nobody"), {"policy": "111"})
            self.assertEqual(reply.status, 404)
            self.assertIn("no server nobody of policy 111", reply.json["error"])

    def test_odd_ids(self) -> None:
        """An id is one part of the path, whatever it has."""
        self.running.register("a/b ü%", "111", 5000, pipeline=8, lease=30)
        self.assertEqual(self.admin.post("/api/v1/servers/a%2Fb%20%C3%BC%25/drain").status, 200)
        self.assertEqual(self.admin.post(f"/api/v1/servers/{'x' * 300}/drain").status, 400)

    def test_bodies(self) -> None:
        headers: dict[str, Any] = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
        for body in (b"", b"[]", b"{", b'{"policy": 1}', b'{"polcy": "111"}', b'{"policy": ""}', b"\xff", b"[" * 5000,
                     b'{"policy": "\xff"}'):  # fmt: skip
            self.assertEqual(self.admin.ask("POST", CHANGING[0], body, **headers).status, 400, body)
        self.assertEqual(self.admin.ask("POST", CHANGING[0], b" " * (MOST_BYTES + 1), **headers).status, 413)


class StreamTests(AdminCase):
    def events(self, transport: Any) -> list[tuple[str, Any]]:
        """What came since the last time: kinds and values, comments as such."""
        raw = transport.value().decode()
        transport.clear()
        # Each write is a chunk, with its length before it.
        lines = [line for line in raw.replace("\r\n", "\n").split("\n") if line]
        found, kind = [], ""
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.append((kind, json.loads(value)))
            elif not name and value:
                found.append(("comment", value))
        return found

    def producer(self, transport: Any) -> Any:
        """Who is told when the connection takes no more."""
        return transport.producer

    def kinds(self, transport: Any) -> list[str]:
        return [value["kind"] if kind == "happening" else kind for kind, value in self.events(transport)]

    def test_stream(self) -> None:
        """What happened lately, the figures at once and each second, and what happens as it does."""
        self.serve()
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.assertIn(b"text/event-stream", transport.value())
        self.assertEqual(self.kinds(transport), ["registered", "figures"])
        self.admin.clock.advance(1)
        self.assertEqual(self.kinds(transport), ["figures"])
        self.admin.post("/api/v1/servers/100/drain")
        self.assertEqual(self.kinds(transport), ["drained"])

    def test_reconnect(self) -> None:
        """Who comes back is told what it missed; who knows another run is told all."""
        self.serve()
        channel, transport = self.admin.open("GET", "/api/v1/stream")
        self.assertIn(b"id: run1.1\n", transport.value())
        hang_up(channel)
        self.admin.post("/api/v1/servers/100/drain")
        for last, told in (
            ("run1.1", ["drained"]),
            ("run0.7", ["registered", "drained"]),
            ("run1.x", ["registered", "drained"]),
        ):
            _, transport = self.admin.open("GET", "/api/v1/stream", Last_Event_ID=last)
            self.assertEqual(self.kinds(transport), [*told, "figures"])

    def test_slow_reader(self) -> None:
        """It gets no more while it doesn't read, whatever happens, and then all that happened, and figures of now."""
        channel, transport = self.admin.open("GET", "/api/v1/stream")
        _, quick = self.admin.open("GET", "/api/v1/stream")
        self.events(transport)
        self.producer(transport).pauseProducing()
        for _ in range(20):
            self.admin.clock.advance(1)
            self.serve()
        self.assertEqual(transport.value(), b"")
        self.assertEqual(len(self.events(quick)), 41)
        self.producer(transport).resumeProducing()
        self.assertEqual(self.kinds(transport), ["registered"] * 20)
        self.admin.clock.advance(1)
        self.assertEqual(self.kinds(transport), ["figures"])
        hang_up(channel)

    def test_slow_while_figures_come(self) -> None:
        """They aren't for a reader that has enough to read by then."""
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.events(transport)
        late: Deferred[Figures] = Deferred()
        figures = self.successResultOf(self.control.figures())
        self.control.figures = lambda: late  # type: ignore[method-assign]
        self.admin.clock.advance(1)
        self.producer(transport).pauseProducing()
        late.callback(figures)
        self.assertEqual(transport.value(), b"")

    def test_dead_reader(self) -> None:
        """Who reads nothing for long is dropped."""
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.producer(transport).pauseProducing()
        self.admin.clock.pump([1] * int(PATIENCE + 1))
        self.assertTrue(transport.disconnecting)

    def test_end(self) -> None:
        """When the last one goes, nothing goes on."""
        channels = [self.admin.open("GET", "/api/v1/stream")[0] for _ in range(2)]
        for channel in channels:
            hang_up(channel)
        self.assertEqual([call for call in self.admin.clock.getDelayedCalls() if "_tick" in str(call)], [])
        self.assertEqual((self.admin.streams._shown, self.admin.streams._event), (None, b""))
        self.admin.post("/api/v1/servers/100/drain")

    def test_bound(self) -> None:
        for _ in range(MOST):
            self.admin.open("GET", "/api/v1/stream")
        self.assertEqual(self.admin.get("/api/v1/stream").status, 503)

    def test_close(self) -> None:
        """When the proxy has stopped, streams end in order."""
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.admin.streams.close()
        self.assertTrue(transport.value().endswith(b"0\r\n\r\n"))

    def test_happens_while_it_catches_up(self) -> None:
        """What happened before comes first, and isn't lost."""
        self.serve()
        late: Deferred[Sequence[Happening]] = Deferred()
        before = self.control.happenings
        self.control.happenings = lambda: late  # type: ignore[method-assign]
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.admin.post("/api/v1/servers/100/drain")
        late.callback(self.successResultOf(before()))
        self.assertEqual([kind for kind in self.kinds(transport) if kind != "figures"], ["registered", "drained"])

    def test_no_happenings(self) -> None:
        """Where nobody says what happened before, it is told what happens from now on."""
        self.serve()
        self.control.happenings = lambda: fail(ControlError("nobody"))  # type: ignore[method-assign]
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.admin.post("/api/v1/servers/100/drain")
        self.assertEqual(self.kinds(transport), ["figures", "drained"])

    def test_figures_once(self) -> None:
        """All who are shown the same figures are sent the same bytes, made once."""
        made = []
        event = self.admin.streams.event

        def spy(kind: str, value: object, further: str = "") -> bytes:
            made.append(kind)
            return event(kind, value, further)

        self.admin.streams.event = spy  # type: ignore[method-assign]
        streams = [self.admin.open("GET", "/api/v1/stream")[1] for _ in range(5)]
        self.assertEqual(made, ["figures"])
        self.assertEqual([self.kinds(transport) for transport in streams], [["figures"]] * 5)

    def test_figures_late(self) -> None:
        """While they aren't there, a comment shows that the stream is alive; never asked for twice at a time."""
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.events(transport)
        late: Deferred[Figures] = Deferred()
        figures = self.successResultOf(self.control.figures())
        asks = [late]
        self.control.figures = asks.pop  # type: ignore[method-assign]
        self.admin.clock.pump([1, 1, 1])
        self.assertEqual((asks, self.kinds(transport)), ([], ["comment", "comment"]))
        late.callback(figures)
        self.assertEqual(self.kinds(transport), ["figures"])
        self.control.figures = lambda: fail(ControlError("nobody"))  # type: ignore[method-assign]
        self.admin.clock.advance(1)
        self.assertEqual(self.kinds(transport), ["comment"])

    def test_figures_that_fail_once(self) -> None:
        """A mistake of ours is logged, and costs those who look on no more than these figures."""
        _, transport = self.admin.open("GET", "/api/v1/stream")
        self.events(transport)
        figures = self.control.figures
        self.control.figures = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        self.admin.clock.advance(1)
        self.assertEqual(self.kinds(transport), ["comment"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.control.figures = figures  # type: ignore[method-assign]
        self.admin.clock.advance(1)
        self.assertEqual(self.kinds(transport), ["figures"])
