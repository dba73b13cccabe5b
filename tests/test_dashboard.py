"""The dashboard in a real browser, as an operator has it: what it shows, what it does, and what it withstands."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from rproxy.figures import Figures, StoreFigures
from rproxy.figures.tallies import BOUNDS, new_times, observe, quantile
from tests.browser import CHROMIUM, DRIVER, open_browser
from tests.chaos import agreement, oracle, plan, running
from tests.chaos.views import Admin
from tests.dashboard import TOKEN, StandIn, answer, forget, make_client, make_figures, make_process, make_server
from tests.pagetexts import NOTHING, READ, differences
from tests.support import PATIENCE, Group, Talk, data_packet, free_port, wait_for

pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="Chromium or its driver isn't installed")

#: What the page's own requests write into the browser's log when they are refused or nobody is there.
FAILED_REQUEST = "Failed to load resource"
#: What a proxy says of its admin listener.
ADMIN = r"Admin listener on (\d+)"
#: Of the run that the page is looked at after: the seed, seconds, servers, clients and workers.
CHAOS = (1, 3.0, 20, 40, 2)
HOSTILE = "<img src=x onerror=\"document.title='broken into'\">"
ROW = """
const [policy, server] = arguments;
const named = (rows, name) => [...rows].find(row => row.querySelector('bdi').textContent === name);
let row = named(document.querySelectorAll('tbody.policy'), policy);
if (row && server !== null) row = named(row.querySelectorAll('.servers tbody tr'), server);
return row ?? null;
"""
FIELDS = """
return Object.fromEntries([...arguments[0].querySelectorAll('[data-field]')]
    .filter(each => each.closest('tr') === arguments[0] || each.closest('tr') === arguments[0].rows?.[0])
    .map(each => [each.dataset.field, each.textContent]));
"""


class Page:
    """The page in the browser.

    :param url: where it is.
    :ivar may_fail: whether requests of it may fail.
    """

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.may_fail = False

    def visit(self) -> None:
        """Load it, and wait until it shows something."""
        self.driver.get(self.url)
        self.wait_text("#connection", "live")
        wait_for(lambda: self.find("#version").text, PATIENCE, "the figures")

    def find(self, selector: str) -> WebElement:
        """An element of the page."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript there."""
        return self.driver.execute_script(script, *arguments)

    def wait_text(self, selector: str, text: str) -> None:
        """Wait until an element's text has this."""
        wait_for(
            lambda: text in self.run("return document.querySelector(arguments[0]).textContent", selector),
            PATIENCE,
            f"{text!r} in {selector}",
        )

    def row(self, policy: str, server: str | None = None) -> dict[str, str] | None:
        """What is shown of a policy or of one of its servers, by field; None if it isn't there."""
        row = self.run(ROW, policy, server)
        return None if row is None else self.run(FIELDS, row)

    def wait_row(self, policy: str, server: str | None, **fields: str) -> dict[str, str]:
        """Wait until these fields are shown so, and return all."""

        def look() -> dict[str, str] | None:
            row = self.row(policy, server)
            return row if row is not None and fields.items() <= row.items() else None

        return wait_for(look, PATIENCE, f"{fields} of {server} in {policy}")

    def press(self, policy: str, server: str, action: str) -> None:
        """Press a server's button."""
        row = self.run(ROW, policy, server)
        row.find_element(By.CSS_SELECTOR, f"[data-action={action}]").click()

    def confirm(self, token: str | None = None) -> None:
        """Answer the dialog; a token is given only where it asks for one."""
        field = self.find("#action-token")
        assert field.is_displayed() == (token is not None)
        if token is not None:
            field.send_keys(token)
        self.find("#action-do").click()

    def scheme(self, value: str) -> None:
        """Let the system be ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def check(self) -> None:
        """What holds of each visit: no error in the console, and no request to anybody else."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        assert not [line for line in lines if not (self.may_fail and FAILED_REQUEST in line)]
        asked = list(self._watch())
        assert asked
        assert not [url for url in asked if not url.startswith(self.url)]

    def _watch(self) -> Iterator[str]:
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]


class StandInPage(Page):
    """The page of a stand-in."""

    def __init__(self, driver: Chrome, proxy: StandIn) -> None:
        super().__init__(driver, proxy.url)
        self.proxy = proxy

    def open(self, figures: Figures) -> None:
        """Show these figures."""
        self.proxy.show(figures)
        self.visit()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """The browser."""
    with open_browser(1400, 1000) as started:
        yield started


@pytest.fixture
def driver(browser: Chrome) -> Iterator[Chrome]:
    """The browser as if it was new."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def page(driver: Chrome) -> Iterator[StandInPage]:
    """The page of a stand-in, which is looked at again when the test is over."""
    with StandIn() as proxy:
        shown = StandInPage(driver, proxy)
        yield shown
        shown.check()


def two_policies() -> Figures:
    """Two servers of one policy, one of them for another as well."""
    return make_figures(make_server("111", "100"), make_server("111", "300"), make_server("222", "300"))


def grow(page: StandInPage, figures: Figures, *, errors: int = 0) -> None:
    """Have a server answer some packets more, and show it."""
    answer(figures, "111", "100", 40, 0.004)
    figures.policies[0].refused["timeout"] = figures.policies[0].refused.get("timeout", 0) + errors
    page.proxy.show(figures)


# What it shows.


def test_quantiles_are_the_proxys(page: StandInPage) -> None:
    """By the same classes, and in the same way."""
    page.open(make_figures())
    randomness = random.Random(5)
    samples = [new_times()]
    for _ in range(20):
        samples.append(new_times())
        for _ in range(randomness.choice([1, 7, 200])):
            observe(samples[-1], randomness.lognormvariate(-4, 3))

    bounds, found = page.driver.execute_async_script(
        """const [samples, shares, done] = arguments;
        import('/static/figures.js').then(({ BOUNDS, quantile }) =>
            done([BOUNDS, samples.map(times => shares.map(share => quantile(times, share)))]));""",
        samples,
        [0.5, 0.99],
    )

    assert tuple(bounds) == BOUNDS
    for times, pair in zip(samples, found, strict=True):
        expected = [quantile(times, share) for share in (0.5, 0.99)]
        assert pair == (pytest.approx(expected) if None not in expected else expected)


def test_shows_what_comes(page: StandInPage) -> None:
    """Rates and times come by themselves; what a restart set back is never shown as negative."""
    figures = two_policies()
    page.open(figures)
    page.wait_row("111", None, servers="2 of 2 up", rate=NOTHING, acked="0")
    page.run(
        """window.seen = [];
        new MutationObserver(changes => changes.forEach(each => window.seen.push(each.target.textContent)))
            .observe(document.querySelector('main'), {subtree: true, characterData: true, childList: true});"""
    )

    def grows() -> bool:
        grow(page, figures)
        row = page.row("111", "100")
        assert row is not None
        return row["rate"] not in {NOTHING, "0"} and row["p99"].endswith(" ms")

    wait_for(grows, PATIENCE, "a rate")
    page.wait_text("#summary [data-field=p99]", " ms")
    forget(figures)
    page.proxy.show(figures)
    page.wait_row("111", "100", rate=NOTHING)
    wait_for(grows, PATIENCE, "a rate after a restart")

    assert not [text for text in page.run("return window.seen") if text.startswith(("-", "\u2212"))]
    assert "received" in page.find("#chart-rate").find_element(By.XPATH, "..").text
    assert "rate" in (page.find("#chart-rate").get_attribute("aria-label") or "")


def test_rows_are_changed_and_not_replaced(page: StandInPage) -> None:
    """And the row with the focus stays where the focus is, however the others move."""
    figures = two_policies()
    page.open(figures)
    page.run(ROW.replace("return row ?? null", "window.row = row; row.querySelector('button').focus()"), "111", "300")

    figures.policies[0].servers[1].states = {"down": 1}
    grow(page, figures)
    page.wait_row("111", "300", state="down")

    assert page.run("return window.row.contains(document.activeElement)")
    ids = page.run("return [...window.row.parentElement.rows].map(row => row.querySelector('bdi').textContent)")
    assert ids == ["300", "100"]


def test_trouble_comes_first(page: StandInPage) -> None:
    """With what it is, and what each server's is."""
    figures = two_policies()
    [server] = figures.policies[1].servers
    server.states, server.reasons = {"down": 1}, {"it is down: 3 failures": 1}
    server.down_ago, server.down_why, server.lease_left = 75.0, "connection refused", 29.4
    figures.policies[1].waiting = 7
    page.open(figures)

    policy, shown = page.wait_row("222", None), page.wait_row("222", "300")

    assert policy["trouble"] == "no server is up, 7 waiting, 1 down"
    assert page.find("tbody.policy bdi").text == "222"
    assert (shown["state"], shown["reasons"]) == ("down", "it is down: 3 failures")
    assert (shown["failure"], shown["lease"]) == ("75 s ago: connection refused", "29 s")
    assert page.find("#summary [data-field=trouble]").text == "1"
    assert page.run("return document.title") == "(1) rproxy"


def test_processes_and_their_store(page: StandInPage) -> None:
    """A store that is away is told above all."""
    away = StoreFigures(name="redis", away="connection refused", away_for=12.0)
    workers = [make_process(number=1, pid=1), make_process(number=2, pid=2, store=away, max_lag=0.3)]
    page.open(make_figures(make_server("111", "100", states={"up": 1, "down": 1}), processes=workers))

    page.wait_text("#banners", "The store redis is away for 1 of 2 processes: connection refused.")
    page.wait_text("#processes", "worker 2 (pid 2)")
    page.wait_text("#processes", "redis: away for 12 s: connection refused")
    page.wait_row("111", "100", state="up (1), down (1)")
    assert page.find("#summary [data-field=connections]").text == "6"

    page.proxy.show(make_figures())
    wait_for(lambda: page.find("#banners").text == "", PATIENCE, "the end of the banner")


def test_clients(page: StandInPage) -> None:
    """The addresses in the order of the figures, how many more there are, and who is held back or refused."""
    big = make_client("2001:db8::/64", unanswered_bytes=3 << 20, held_back=2, connections=1200)
    page.open(make_figures(clients=[big, make_client("10.9.0.1", refused=3)], client_addresses=345))

    page.wait_text("#clients-found", "2 of 345 addresses")
    rows = page.run(
        "return [...document.querySelectorAll('#clients tr')].map(row => [...row.cells].map(each => each.textContent))"
    )
    assert rows == [["2001:db8::/64", "1,200", "3.0 MiB", "yes", "0"], ["10.9.0.1", "1", "0 B", "no", "3"]]
    assert page.run("return [...document.querySelectorAll('#clients [data-bad]')].map(each => each.textContent)") == [
        "yes",
        "3",
    ]
    named = page.find("#clients").find_element(By.XPATH, "ancestor::*[@role='group']")
    assert (named.accessible_name, named.get_attribute("tabindex")) == ("Clients", "0")

    page.run("window.row = document.querySelector('#clients tr:last-child')")
    page.proxy.show(make_figures(clients=[make_client("10.9.0.1", unanswered_bytes=900)], client_addresses=1))
    page.wait_text("#clients", "900 B")
    page.wait_text("#clients-found", "1 of 1 addresses")
    assert page.run("return window.row === document.querySelector('#clients tr')")
    page.proxy.show(make_figures())
    page.wait_text("#clients-found", "none connected")


def test_a_worker_that_is_away_and_back(page: StandInPage) -> None:
    """It is told; that its part is there again isn't taken for packets that came just now."""
    workers = [make_process(number=1, pid=1), make_process(number=2, pid=2)]
    figures = two_policies()
    answer(figures, "111", "100", 40, 0.004)
    figures.processes, figures.missing = workers[:1], [2]
    page.open(figures)
    page.wait_text("#banners", "Of worker 2 nothing is known now")
    page.wait_row("111", "100", rate="0")

    answer(figures, "111", "100", 10_000, 0.004)
    figures.processes, figures.missing = workers, []
    page.proxy.show(figures)

    page.wait_row("111", "100", acked="10,040", rate=NOTHING)
    page.wait_row("111", "100", rate="0")


def test_happenings_come_by_themselves(page: StandInPage) -> None:
    """The newest first."""
    page.open(two_policies())
    page.proxy.tell(number=1, time=1e9, policy="111", server="100", text="at 10.0.0.7:5000")
    page.proxy.tell(number=2, time=1e9 + 1, kind="down", policy="111", server="100", text="3 failures in a row")

    page.wait_text("#happenings tr:first-child", "3 failures in a row")
    page.wait_text("#happenings tr:last-child", "at 10.0.0.7:5000")


def test_filter(page: StandInPage) -> None:
    """Finds policies and servers; what isn't found isn't there."""
    figures = two_policies()
    figures.policies[1].description = "for the accounts"
    page.open(figures)
    search = page.find("#filter")

    page.find("body").send_keys("/")
    assert page.driver.switch_to.active_element == search
    search.send_keys("ACCOUNTS")
    page.wait_text("#found", "1 of 2 found")
    assert page.row("111") is None
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys("100")
    page.wait_text("#found", "1 of 2 found")
    page.wait_row("111", "100")
    assert page.row("111", "300") is None


# What it does.


def test_actions(page: StandInPage) -> None:
    """Each is asked for once more, and the token once."""
    page.may_fail = True
    page.open(two_policies())

    page.press("111", "100", "drain")
    page.wait_text("#action-title", "Drain server 100 of policy 111?")
    page.confirm("a-wrong-token")
    page.wait_text("#action-error", "This token isn't that of --admin-token")
    assert page.row("111", "100") == page.wait_row("111", "100", state="up")
    page.confirm(TOKEN)
    page.wait_row("111", "100", state="draining")
    page.wait_text("#notice", "Drained server 100 for policy 111.")

    page.press("111", "100", "resume")
    page.confirm()
    page.wait_row("111", "100", state="up")

    page.press("111", "300", "revoke")
    page.find("#action-all").click()
    page.confirm()
    page.wait_text("#notice", "Revoked server 300 for 2 policies.")
    wait_for(lambda: page.row("111", "300") is None and page.row("222", "300") is None, PATIENCE, "its end")


def test_token_is_kept_nowhere(page: StandInPage) -> None:
    """Not in the browser's stores, and not after it is to be forgotten."""
    page.open(two_policies())
    page.press("111", "100", "drain")
    page.confirm(TOKEN)
    page.wait_row("111", "100", state="draining")

    assert TOKEN not in page.run("return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    page.find("#forget").click()
    page.press("111", "100", "resume")
    page.wait_text("#action-title", "Resume")
    assert page.find("#action-token").is_displayed()


def test_looking_from_elsewhere(page: StandInPage) -> None:
    """Where even that needs the token, it is asked for, and changes need it no second time."""
    page.may_fail = True
    page.proxy.show(two_policies())
    page.proxy.demand_token()
    page.driver.get(page.url)
    page.wait_text("#connection", "token needed")
    page.wait_text("#action-error", "Asking from another machine needs the token")
    page.confirm("a-wrong-token")
    wait_for(lambda: page.find("#action").is_displayed(), PATIENCE, "the second question")
    page.confirm(TOKEN)

    page.wait_text("#connection", "live")
    page.wait_row("111", "100", state="up")
    page.press("111", "100", "drain")
    page.confirm()
    page.wait_row("111", "100", state="draining")


def test_nothing_is_done_unless_confirmed(page: StandInPage) -> None:
    """Cancelling leaves all as it is."""
    figures = two_policies()
    page.open(figures)
    page.press("111", "100", "revoke")
    page.find("#action-cancel").click()

    page.proxy.show(figures)
    page.wait_row("111", "100", state="up")
    assert not page.find("#action").is_displayed()


def test_drain_by_keyboard_only(page: StandInPage) -> None:
    """The focus goes from the page's top to a server's button, into the dialog, and back."""
    page.open(make_figures(make_server("111", "100")))
    for _ in range(40):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        if page.driver.switch_to.active_element.get_attribute("aria-label") == "Drain server 100":
            break
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("aria-label") == "Drain server 100"
    assert focused.value_of_css_property("outline-style") == "solid"

    focused.send_keys(Keys.ENTER)
    assert page.driver.switch_to.active_element == page.find("#action-token")
    page.driver.switch_to.active_element.send_keys(TOKEN, Keys.ENTER)

    page.wait_row("111", "100", state="draining")


def test_connection_lost(page: StandInPage) -> None:
    """It is told, tried again, and all goes on; what happened before isn't told twice."""
    page.may_fail = True
    figures = two_policies()
    page.open(figures)
    page.proxy.tell(time=1e9, policy="111", server="100", text="once")
    page.wait_text("#happenings", "once")
    port = page.proxy.port
    page.proxy.stop()
    page.wait_text("#connection", "connection lost, trying again")
    page.wait_text("#banners", "Connection lost, trying again")

    with StandIn(port) as proxy:
        proxy.tell(time=1e9, policy="111", server="100", text="once")
        figures.policies[0].servers[0].states = {"down": 1}
        proxy.show(figures)
        page.wait_text("#connection", "live")
        page.wait_row("111", "100", state="down")
        assert page.find("#banners").text == ""
        assert page.find("#notice").text == "Connected again."
        assert len(page.driver.find_elements(By.CSS_SELECTOR, "#happenings tr")) == 1
        page.check()
        page.driver.get(page.proxy.url)


# A real proxy.


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_a_real_proxy(driver: Chrome, group: Group, tmp_path: Path, workers: str) -> None:
    """Its figures are shown, its servers are drained and resumed, and its restart is survived."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    ports = f"tcp:{free_port()}:interface=127.0.0.1", f"tcp:{free_port()}:interface=127.0.0.1"
    arguments = "--listen", ports[0], "--workers", workers, "--admin", ports[1], "--admin-token", str(token)
    proxy = group.proxy(*arguments)
    group.pool_server(proxy.port, HOSTILE, "111")
    page = Page(driver, f"http://127.0.0.1:{proxy.wait_for_log(ADMIN)[1]}/")
    page.visit()

    def send() -> bool:
        with Talk(proxy.port) as client:
            assert client.ask(data_packet("0", "111", "hello"))["type"] == "2"
        row = page.row("111", HOSTILE)
        return row is not None and row["rate"] not in {NOTHING, "0"} and row["p99"] != NOTHING

    wait_for(send, PATIENCE, "a rate")
    page.wait_text("#happenings", "registered")
    page.press("111", HOSTILE, "drain")
    page.may_fail = True
    page.confirm("a-wrong-token")
    page.wait_text("#action-error", "--admin-token")
    page.confirm(TOKEN)
    row = page.wait_row("111", HOSTILE, state="draining")
    assert "operator" in row["reasons"]
    page.press("111", HOSTILE, "resume")
    page.confirm()
    page.wait_row("111", HOSTILE, state="up")

    group.stop(proxy)
    page.wait_text("#connection", "connection lost, trying again")
    proxy = group.proxy(*arguments)
    page.wait_text("#connection", "live")
    page.wait_row("111", HOSTILE, state="up")
    wait_for(send, PATIENCE, "a rate after the restart")
    page.check()


def test_after_chaos(driver: Chrome, tmp_path: Path) -> None:
    """After faults of everybody, each figure in the page's tables is the API's."""
    shown: dict[str, dict[str, str]] = {}
    different = ["nothing was looked at"]

    def visit(port: int) -> None:
        page, admin = Page(driver, f"http://127.0.0.1:{port}/"), Admin(port)
        page.visit()

        def look() -> bool:
            before = admin.figures()
            shown.clear()
            shown.update(page.run(READ))
            different[:] = differences(shown, before, admin.figures())
            return not different

        # What differs to the end is told below.
        with suppress(AssertionError):
            wait_for(look, PATIENCE, "the page to show what the API does")
        page.check()
        # It would else see the proxy go.
        driver.get("about:blank")

    history = running.run(plan.make(*CHAOS), tmp_path, visit)

    assert not different
    assert not [*oracle.judge(history), *agreement.judge(history)]
    kinds = Counter(name.split()[0] for name in shown)
    assert kinds.keys() - {"client"} == {"summary", "policy", "server", "process"}
    assert kinds["server"] == sum(len(server.policies) for server in history.plan.servers)
    # What is the same could be taken for one another.
    assert history.views is not None
    assert any(policy["received"] != policy["acked"] for policy in history.views.after["policies"])


# What it withstands.


def test_hostile_texts(page: StandInPage) -> None:
    """Whatever servers call themselves is shown as that, and does nothing."""
    ids = [HOSTILE, "x" * 256, "שרת 7", "a/b?c#d%2e"]
    figures = make_figures(*(make_server(HOSTILE, each) for each in [*ids, "\u202etxt.exe"]))
    figures.policies[0].description = HOSTILE
    figures.policies[0].refused = {HOSTILE: 1}
    figures.policies[0].servers[0].reasons = {HOSTILE: 1}
    figures.policies[0].servers[0].down_ago, figures.policies[0].servers[0].down_why = 1.0, HOSTILE
    figures.processes[0].store = StoreFigures(name=HOSTILE, away=HOSTILE, away_for=1.0)
    page.open(figures)
    page.proxy.tell(kind=HOSTILE, policy=HOSTILE, server=HOSTILE, text=HOSTILE)

    page.wait_text("#happenings", HOSTILE)
    page.wait_text("#banners", HOSTILE)
    for each in ids:
        assert page.row(HOSTILE, each) is not None
    # What would turn round the text beside it is made visible.
    assert page.row(HOSTILE, r"\u{202e}txt.exe") is not None
    assert not page.driver.find_elements(By.TAG_NAME, "img")
    assert page.run("return document.title") == "rproxy"
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")

    page.press(HOSTILE, "a/b?c#d%2e", "drain")
    page.confirm(TOKEN)
    page.wait_row(HOSTILE, "a/b?c#d%2e", state="draining")


def test_five_hundred_servers(page: StandInPage) -> None:
    """Each second's figures are drawn in place, and the page goes on to react."""
    servers = [make_server("111", f"server-{number}") for number in range(500)]
    figures = make_figures(*servers, make_server("222", "300"))
    page.open(figures)
    page.run(
        """window.tasks = [];
        new PerformanceObserver(list => window.tasks.push(...list.getEntries().map(each => each.duration)))
            .observe({type: 'longtask'});"""
    )
    page.run(ROW, "111", None).find_element(By.CSS_SELECTOR, ".toggle").click()
    page.wait_row("111", "server-0")
    assert page.row("111", "server-499") is None
    page.run(ROW, "111", None).find_element(By.CSS_SELECTOR, ".more").click()
    page.wait_row("111", "server-499")

    took = []
    for number in range(1, 11):
        for server in servers:
            server.acked += number
            server.in_flight = number
            server.lease_left = 30.0 + number
            observe(server.total_times, 0.001 * number)
        page.proxy.show(figures)
        page.wait_row("111", "server-499", inFlight=str(number))
        took.append(page.run("return performance.getEntriesByName('draw').at(-1).duration"))
    search = page.find("#filter")
    search.send_keys("server-77")
    page.wait_text("#found", "1 of 2 found")

    assert page.row("111", "server-77") is not None
    assert page.row("111", "server-78") is None
    print("milliseconds to draw 500 servers:", took)
    print("milliseconds of long tasks:", page.run("return window.tasks"))


def test_light_and_dark(page: StandInPage) -> None:
    """As the system is, unless another is chosen, which is remembered."""

    def back() -> str:
        return page.find("body").value_of_css_property("background-color")

    page.scheme("light")
    page.open(two_policies())
    light = back()
    page.scheme("dark")
    dark = wait_for(lambda: back() if back() != light else None, PATIENCE, "darkness")

    theme = Select(page.find("#theme"))
    theme.select_by_value("light")
    assert back() == light
    page.scheme("light")
    theme.select_by_value("dark")
    assert back() == dark
    page.driver.refresh()
    page.wait_text("#connection", "live")
    assert back() == dark


def test_on_a_phone(page: StandInPage) -> None:
    """The page is no wider than the screen, with the longest ids there are."""
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open(make_figures(make_server("p" * 256, "x" * 256), make_server("222", "300", reasons={"y" * 300: 1})))
    page.proxy.tell(policy="p" * 256, server="x" * 256, text="z" * 300)
    page.wait_text("#happenings", "zzz")

    assert page.run("return document.documentElement.scrollWidth") == 360
    page.press("222", "300", "drain")
    assert page.find("#action-token").is_displayed()
    assert page.run("return document.documentElement.scrollWidth") == 360
