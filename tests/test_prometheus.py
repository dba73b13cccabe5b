"""What stands in etc/ for Prometheus and Grafana: the rules fire, and everything asks for metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support import PATIENCE, ROOT
from tests.test_admin_metrics import NEEDS_PROMTOOL, PROMTOOL, full_figures, text_of

PROMETHEUS = ROOT / "etc" / "prometheus"
RULES = PROMETHEUS / "rproxy.rules.yml"
EXAMPLES = PROMETHEUS / "rproxy.test.yml"
DASHBOARD = ROOT / "etc" / "grafana" / "rproxy.json"

#: What Grafana puts into expressions, that isn't PromQL.
RANGE = "$__rate_interval"


def named(text: str) -> set[str]:
    """The metrics that a text names."""
    return set(re.findall(r"\brproxy_\w+", text))


def shown() -> dict[str, set[str]]:
    """The names in the lines that a proxy gives, and the labels that they have."""
    lines = text_of(full_figures()).decode().splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        if not line.startswith("#"):
            found.setdefault(re.split(r"[{ ]", line)[0], set()).update(re.findall(r'[{,](\w+)="', line))
    return found


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Its exit code, and what it said."""
    assert PROMTOOL is not None
    argv = [PROMTOOL, *map(str, arguments)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return result.returncode, result.stdout + result.stderr


class RulesTests(SynchronousTestCase):
    """The alerts."""

    def test_metrics(self) -> None:
        """Each that they name exists; so does each in the examples, with these labels."""
        names = shown()
        self.assertEqual(named(RULES.read_text("utf-8")) - {*names}, set())
        text = EXAMPLES.read_text("utf-8")
        for name, labels in re.findall(r"- series: (rproxy_\w+)\{(.*)\}", text):
            used = set(re.findall(r"(\w+)=", labels)) - {"instance", "job"}
            self.assertEqual((name, used), (name, names[name]))
        self.assertGreater(len(named(text)), 10)

    def test_examples(self) -> None:
        """Each alert has an example in which it fires, and a time at which it doesn't."""
        alerts = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))
        looks = re.findall(r"- alertname: (\w+)\n +eval_time: \w+(\n +exp_alerts:)?", EXAMPLES.read_text("utf-8"))
        self.assertEqual({alert for alert, fires in looks if fires}, {*alerts})
        self.assertEqual({alert for alert, fires in looks if not fires}, {*alerts})

    def test_texts(self) -> None:
        """Each says how bad it is, what it is, and what to think of it."""
        rules = RULES.read_text("utf-8").split("- alert: ")[1:]
        for rule in rules:
            for key in (r"severity: (?:critical|warning)", r"summary: \S", r"description: \S"):
                self.assertEqual(len(re.findall(key, rule)), 1, rule)

    @NEEDS_PROMTOOL
    def test_promtool(self) -> None:
        """They fire in the examples, and are silent."""
        for arguments in (("check", "rules", RULES), ("test", "rules", EXAMPLES)):
            code, said = promtool(*arguments)
            self.assertEqual(code, 0, said)

    @NEEDS_PROMTOOL
    def test_configuration(self) -> None:
        """The example of one is right, and has the rules."""
        code, said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
        self.assertEqual(code, 0, said)
        self.assertIn("1 rule files found", said)


class DashboardTests(SynchronousTestCase):
    """What Grafana shows."""

    def setUp(self) -> None:
        self.dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
        self.panels: list[dict[str, Any]] = self.dashboard["panels"]
        self.variables = {variable["name"]: variable for variable in self.dashboard["templating"]["list"]}

    def expressions(self) -> Iterator[str]:
        """All of them."""
        for panel in self.panels:
            yield from (target["expr"] for target in panel.get("targets", ()))

    def test_fields(self) -> None:
        """It has what Grafana imports a dashboard by."""
        types = {"title": str, "uid": str, "schemaVersion": int, "panels": list, "templating": dict, "time": dict}
        for name, type_ in types.items():
            self.assertIsInstance(self.dashboard[name], type_, name)
        # Grafana gives it a number of its own.
        self.assertNotIn("id", self.dashboard)
        self.assertEqual([*self.variables], ["datasource", "instance", "policy", "server"])
        self.assertEqual(self.variables["datasource"]["type"], "datasource")

    def test_panels(self) -> None:
        """Each has a place of its own, a title, what it means, and where its numbers come from."""
        ids = [panel["id"] for panel in self.panels]
        self.assertEqual(len({*ids}), len(ids))
        taken: set[tuple[int, int]] = set()
        for panel in self.panels:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            self.assertFalse(taken & cells, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells
            if panel["type"] != "row":
                self.assertTrue(panel["description"].endswith("."), panel["title"])
                for asked in (panel, *panel["targets"]):
                    self.assertEqual(asked["datasource"], {"type": "prometheus", "uid": "${datasource}"})
                letters = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len({*letters}), len(letters))

    def test_subjects(self) -> None:
        """What an operator looks for is there."""
        rows = [panel["title"] for panel in self.panels if panel["type"] == "row"]
        subjects = ["The proxy", "Policies", "Latency", "Errors", "Servers", "The store and the processes"]
        self.assertEqual(rows, subjects)
        self.assertIn("heatmap", {panel["type"] for panel in self.panels})

    def test_metrics(self) -> None:
        """Each metric that it names exists, with the labels that it is asked for."""
        names = shown()
        queries = [variable["query"]["query"] for variable in self.variables.values() if variable["type"] == "query"]
        texts = [*self.expressions(), *queries]
        self.assertGreater(len(texts), 40)
        for text in texts:
            self.assertTrue(named(text), text)
            self.assertEqual(named(text) - {*names}, set(), text)
            for name, labels in re.findall(r"(rproxy_\w+)\{([^}]*)\}", text):
                asked = set(re.findall(r'(\w+)=~?"', labels)) - {"instance"}
                self.assertEqual(asked - names[name], set(), text)

    def test_variables(self) -> None:
        """Each that is used is there, and each is used."""
        used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text("utf-8"))) - {RANGE[1:], "__all"}
        self.assertEqual(used, {*self.variables})

    @NEEDS_PROMTOOL
    def test_promtool(self) -> None:
        """Prometheus understands each expression."""
        rules = [
            {"record": f"panel:{number}", "expr": text.replace(RANGE, "5m")}
            for number, text in enumerate(self.expressions())
        ]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "rules.yml"
            # Each JSON is a YAML.
            path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
            code, said = promtool("check", "rules", path)
        self.assertEqual(code, 0, said)
        self.assertIn(f"{len(rules)} rules found", said)
