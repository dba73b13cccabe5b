// The page: the stream of figures and happenings in, tables and charts out.

import { Actions, Token } from "./actions.js";
import { Charts, History } from "./chart.js";
import { Clients } from "./clients.js";
import { AllSeries } from "./figures.js";
import { Happenings } from "./happenings.js";
import { Filter, Policies, serversUp } from "./policies.js";
import { Processes, warningsOf } from "./processes.js";
import { fieldsOf, mark, put } from "./rows.js";
import { Stream } from "./stream.js";
import { count, rate, took, visible } from "./text.js";
import { startTheme } from "./theme.js";

const STATES = { live: "live", lost: "connection lost, trying again", token: "token needed" };
const element = (id) => document.getElementById(id);

class Dashboard {
  #token = new Token();
  #actions = new Actions(this.#token);
  #series = new AllSeries();
  #history = new History();
  #charts = new Charts(this.#history);
  #policies = new Policies(this.#actions, (name) => this.#charts.choose(name), () => this.draw());
  #clients = new Clients();
  #processes = new Processes();
  #happenings = new Happenings();
  #summary = fieldsOf(element("summary"));
  #stream = new Stream("api/v1/stream", () => this.#token.headers, (...event) => this.#take(...event), (...state) => this.#tell(...state));
  #figures = null;
  #connection = ["", ""];
  #planned = false;

  start() {
    for (const name of ["filter", "trouble-only"]) element(name).addEventListener("input", () => this.draw());
    document.addEventListener("visibilitychange", () => this.draw());
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest("input, select, dialog") || event.ctrlKey || event.metaKey || event.altKey;
      if (event.key !== "/" || typing) return;
      event.preventDefault();
      element("filter").focus();
    });
    startTheme(() => this.#charts.draw());
    this.#stream.run();
  }

  #take(name, value) {
    if (name === "figures") {
      this.#figures = value;
      this.#series.add(performance.now() / 1000, value);
      this.#history.add(Date.now() / 1000, value, this.#series);
    } else if (name === "happening") this.#happenings.add(value);
    this.#plan();
  }

  // What comes together is drawn once.
  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      this.draw();
    });
  }

  #tell(state, why) {
    if (state === "token") this.#actions.askToken(why, () => this.#stream.again());
    if (this.#connection[0] === state && this.#connection[1] === why) return;
    put(element("notice"), state === "live" && this.#connection[0] ? "Connected again." : "");
    this.#connection = [state, why];
    put(element("connection"), STATES[state]);
    mark(element("connection"), "data-kind", { live: "up", lost: "down", token: "held" }[state]);
    mark(document.body, "data-stale", state === "live" ? null : "");
    this.#warn();
  }

  draw() {
    // Nobody sees it; what comes is remembered.
    if (document.hidden) return;
    performance.clearMeasures("draw");
    const began = performance.now();
    const filter = new Filter(element("filter").value, element("trouble-only").checked);
    this.#happenings.show(filter);
    if (this.#figures) this.#show(this.#figures, filter);
    performance.measure("draw", { start: began });
  }

  #show(figures, filter) {
    const trouble = this.#policies.show(figures, this.#series, filter);
    this.#clients.show(figures);
    this.#processes.show(figures);
    this.#sum(figures, trouble);
    put(element("version"), figures.version);
    put(element("state"), figures.state);
    mark(element("state"), "data-kind", figures.state === "ready" ? "up" : "draining");
    element("state").hidden = false;
    this.#charts.offer(figures.policies.map(({ name }) => [name, visible(name) || "(all others)"]));
    this.#charts.draw();
    this.#warn();
  }

  #sum(figures, trouble) {
    const { proxy } = this.#series;
    const [up, servers] = serversUp(figures);
    const total = (list, name) => count(list.reduce((all, each) => all + each[name], 0));
    put(this.#summary.rate, rate(proxy.rate));
    put(this.#summary.errors, rate(proxy.errorRate));
    mark(this.#summary.errors, "data-bad", proxy.errorRate > 0 ? "" : null);
    put(this.#summary.p50, took(proxy.quantile(0.5)));
    put(this.#summary.p99, took(proxy.quantile(0.99)));
    put(this.#summary.inFlight, count(figures.in_flight));
    put(this.#summary.waiting, total(figures.policies, "waiting"));
    put(this.#summary.connections, total(figures.processes, "connections"));
    put(this.#summary.servers, `${up} of ${servers}`);
    mark(this.#summary.servers, "data-bad", up < servers ? "" : null);
    put(this.#summary.trouble, count(trouble));
    mark(this.#summary.trouble, "data-bad", trouble ? "" : null);
    document.title = trouble ? `(${trouble}) rproxy` : "rproxy";
  }

  #warn() {
    const [state, why] = this.#connection;
    const texts = {
      lost: [`Connection lost, trying again (${why}). What you see is old.`],
      token: ["The proxy shows nothing without its admin token. Load this page again to be asked for it."],
    };
    const warnings = [...(texts[state] ?? []), ...(this.#figures ? warningsOf(this.#figures) : [])];
    const shown = [...element("banners").children].map((each) => each.textContent);
    if (warnings.join("\n") === shown.join("\n")) return;
    element("banners").replaceChildren(
      ...warnings.map((text) => Object.assign(document.createElement("p"), { className: "banner", textContent: text })),
    );
  }
}

new Dashboard().start();
