// The table of policies, each with its servers below it.

import { policyTroubles, serverTrouble, stateOf, sum } from "./figures.js";
import { Rows, fromTemplate, mark, put } from "./rows.js";
import { count, listed, percent, rate, span, took, visible } from "./text.js";

/** So many policies, and servers of a policy, are shown until more are asked for. */
const SHOWN_POLICIES = 100;
const SHOWN_SERVERS = 50;
/** Policies are shown with their servers as long as there are no more servers than this. */
const OPEN_SERVERS = 40;

const collator = new Intl.Collator("en", { numeric: true });

/** Those with trouble first, then by name. */
function inOrder(things) {
  return things.sort((one, other) => other.level - one.level || collator.compare(one.name, other.name));
}

/** What is looked for: a text, and whether only where there is trouble. */
export class Filter {
  constructor(text, troubleOnly) {
    this.text = text.trim().toLowerCase();
    this.troubleOnly = troubleOnly;
  }

  get active() {
    return this.text !== "" || this.troubleOnly;
  }

  /** Whether one of the texts has it. */
  finds(...texts) {
    return texts.some((text) => text.toLowerCase().includes(this.text));
  }
}

/** The whole table. */
export class Policies {
  #rows;
  #more = document.getElementById("more-policies");
  #all = false;
  #context;

  /** `actions` is asked to do things to servers, `choose` to show a policy in the chart, `again` to draw again. */
  constructor(actions, choose, again) {
    const make = () => new PolicyRow(actions, choose, again);
    this.#rows = new Rows(document.getElementById("policies"), make, () => document.getElementById("filter").focus());
    this.#more.addEventListener("click", () => {
      this.#all = true;
      again();
    });
  }

  /** Show what the filter lets through; the number of policies with trouble is returned. */
  show(figures, series, filter) {
    const opens = sum(figures.policies.map((policy) => policy.servers.length)) <= OPEN_SERVERS;
    const context = { series, filter, opens, processes: figures.processes.length };
    const all = figures.policies.map((policy) => {
      const troubles = policyTroubles(policy, series.policy(policy.name));
      return { name: policy.name, policy, troubles, level: Math.max(0, ...troubles.map(([level]) => level)), context };
    });
    const found = inOrder(all.filter((each) => this.#finds(each, filter)));
    const shown = this.#all ? found : found.slice(0, SHOWN_POLICIES);
    this.#rows.show(shown.map((each) => [each.name, each]));
    put(document.getElementById("found"), filter.active ? `${found.length} of ${all.length} found` : `${all.length}`);
    this.#more.hidden = shown.length === found.length;
    put(this.#more, `Show all ${found.length} policies`);
    return all.filter((each) => each.level).length;
  }

  #finds(each, filter) {
    if (filter.troubleOnly && !each.level) return false;
    return filter.finds(each.name, each.policy.description) || each.policy.servers.some((server) => findsServer(filter, server));
  }
}

function findsServer(filter, server) {
  return filter.finds(server.id, `${server.host}:${server.port}`, stateOf(server), ...Object.keys(server.reasons));
}

class PolicyRow {
  #fields;
  #toggle;
  #detail;
  #more;
  #servers;
  #caption;
  /** What the operator chose; null until then. */
  #open = null;
  #all = false;

  constructor(actions, choose, again) {
    const { element, fields } = fromTemplate("policy-row");
    [this.element, this.#fields] = [element, fields];
    [this.#toggle, this.#detail] = [element.querySelector(".toggle"), element.querySelector(".detail")];
    [this.#more, this.#caption] = [element.querySelector(".more"), element.querySelector("caption")];
    const make = () => new ServerRow(actions);
    this.#servers = new Rows(element.querySelector(".servers tbody"), make, () => this.#toggle.focus());
    this.#toggle.addEventListener("click", () => {
      this.#open = this.#detail.hidden;
      again();
    });
    this.#more.addEventListener("click", () => {
      this.#all = true;
      again();
    });
    element.querySelector(".to-chart").addEventListener("click", () => choose(this.name));
  }

  update({ name, policy, troubles, level, context }) {
    this.name = name;
    const series = context.series.policy(name);
    const errors = sum(policy.refused);
    put(this.#fields.name, visible(name) || "(all others)");
    mark(this.#fields.name, "title", visible(name));
    put(this.#fields.description, visible(policy.description));
    put(this.#fields.trouble, troubles.map(([, text]) => text).join(", "));
    mark(this.element, "data-level", String(level));
    put(this.#fields.servers, `${policy.servers.filter((server) => stateOf(server) === "up").length} of ${policy.servers.length} up`);
    put(this.#fields.rate, rate(series.rate));
    put(this.#fields.errorRate, rate(series.errorRate));
    mark(this.#fields.errorRate, "data-bad", series.errorRate > 0 ? "" : null);
    put(this.#fields.p50, took(series.quantile(0.5)));
    put(this.#fields.p99, took(series.quantile(0.99)));
    put(this.#fields.waiting, count(policy.waiting));
    mark(this.#fields.waiting, "data-bad", policy.waiting ? "" : null);
    put(this.#fields.inFlight, count(policy.in_flight));
    put(this.#fields.acked, count(policy.acked));
    put(this.#fields.errors, count(errors));
    this.#showDetail(policy, context);
  }

  #showDetail(policy, context) {
    const { filter } = context;
    const searched = filter.text !== "" && !filter.finds(policy.name, policy.description);
    const open = searched || (this.#open ?? context.opens);
    this.#detail.hidden = !open;
    mark(this.#toggle, "aria-expanded", String(open));
    if (!open) {
      this.#servers.show([]);
      return;
    }
    put(this.#fields.codes, codesOf(policy));
    put(this.#caption, `Servers of policy ${visible(policy.name)}`);
    const servers = searched ? policy.servers.filter((server) => findsServer(filter, server)) : policy.servers;
    const found = inOrder(servers.map((server) => ({ name: server.id, server, level: serverTrouble(server), context })));
    const shown = this.#all ? found : found.slice(0, SHOWN_SERVERS);
    this.#servers.show(shown.map((each) => [each.name, each]));
    this.#more.hidden = shown.length === found.length;
    put(this.#more, `Show all ${found.length} servers`);
  }
}

function codesOf(policy) {
  const parts = Object.entries(policy.refused).map(([code, number]) => `${visible(code)} ${count(number)}`);
  const errors = parts.length ? `Errors: ${parts.join(", ")}.` : "No errors.";
  return `${errors} Retried: ${count(policy.retried)}. Client gone: ${count(policy.client_gone)}.`;
}

class ServerRow {
  #fields;
  #buttons = {};
  #server;

  constructor(actions) {
    const { element, fields } = fromTemplate("server-row");
    [this.element, this.#fields] = [element, fields];
    for (const button of element.querySelectorAll("button")) {
      this.#buttons[button.dataset.action] = button;
      button.addEventListener("click", () => actions.ask(button.dataset.action, this.#server));
    }
  }

  update({ server, level, context }) {
    this.#server = server;
    const series = context.series.server(server);
    const state = stateOf(server);
    put(this.#fields.id, visible(server.id) || "(all others)");
    mark(this.#fields.id, "title", visible(server.id));
    put(this.#fields.address, visible(`${server.host}:${server.port}`));
    put(this.#fields.state, listed(server.states, context.processes));
    mark(this.#fields.state, "data-kind", state);
    mark(this.element, "data-level", String(level));
    put(this.#fields.reasons, listed(server.reasons, context.processes));
    put(this.#fields.rate, rate(series.rate));
    put(this.#fields.p99, took(series.quantile(0.99)));
    put(this.#fields.inFlight, count(server.in_flight));
    put(this.#fields.share, percent(server.share));
    put(this.#fields.acked, count(server.acked));
    put(this.#fields.lost, count(server.lost));
    mark(this.#fields.lost, "data-bad", series.errorRate > 0 ? "" : null);
    put(this.#fields.failure, server.down_ago === null ? "" : `${span(server.down_ago)} ago: ${visible(server.down_why)}`);
    put(this.#fields.lease, span(server.lease_left));
    this.#name();
    // What is counted together has no id to name.
    this.#buttons.drain.hidden = !server.id || (state === "draining" && !server.states.up);
    this.#buttons.resume.hidden = !server.id || !server.states.draining;
    this.#buttons.revoke.hidden = !server.id;
  }

  #name() {
    for (const button of Object.values(this.#buttons)) {
      mark(button, "aria-label", `${button.textContent} server ${visible(this.#server.id)}`);
    }
  }
}

/** How many servers there are, and are up, over all policies. */
export function serversUp(figures) {
  const servers = new Map();
  for (const policy of figures.policies) {
    for (const server of policy.servers) {
      servers.set(server.id, (servers.get(server.id) ?? true) && stateOf(server) === "up");
    }
  }
  return [[...servers.values()].filter(Boolean).length, servers.size];
}
