// The last ten minutes: rates and times, of one policy or of all.

import { fieldsOf, mark, put } from "./rows.js";
import { clock, rate, took } from "./text.js";

/** How many seconds are kept. */
const KEPT = 600;
/** Seconds without figures that are shown as a gap. */
const GAP = 4;
const HEIGHT = 170;

/** The points of one curve set: lists of times and of the four values. */
class Points {
  #lists = [[], [], [], [], []];

  get lists() {
    return this.#lists;
  }

  /** The last value of each list. */
  get last() {
    return this.#lists.map((list) => list.at(-1) ?? null);
  }

  add(time, values) {
    const before = this.#lists[0].at(-1);
    if (before !== undefined && time - before > GAP) this.#push([before + 1, null, null, null, null]);
    this.#push([time, ...values]);
    while (time - this.#lists[0][0] > KEPT) for (const list of this.#lists) list.shift();
  }

  #push(values) {
    values.forEach((value, place) => this.#lists[place].push(value));
  }
}

/** What was seen of the proxy and of each policy, for as long as the page is open, or ten minutes. */
export class History {
  #points = new Map();

  /** Remember what the series say now. Of policies that are no more nothing is kept. */
  add(time, figures, series) {
    const points = new Map();
    const keep = (key, one) => {
      const own = this.#points.get(key) ?? new Points();
      own.add(time, [one.rate, one.errorRate, one.quantile(0.5), one.quantile(0.99)]);
      points.set(key, own);
    };
    keep("all", series.proxy);
    for (const { name } of figures.policies) keep(`policy ${name}`, series.policy(name));
    this.#points = points;
  }

  /** The points of `all`, or of `policy NAME`. */
  of(key) {
    return this.#points.get(key) ?? new Points();
  }
}

/** Both charts, and the choice of whose they are. */
export class Charts {
  #history;
  #select = document.getElementById("chart-policy");
  #plots;
  #texts = [];

  constructor(history) {
    this.#history = history;
    this.#plots = [
      new Plot("chart-rate", [1, 2], ["rate", "errors"], rate),
      new Plot("chart-times", [3, 4], ["p50", "p99"], took),
    ];
    this.#select.addEventListener("change", () => this.draw());
  }

  /** Offer these policies: pairs of name and text. */
  offer(policies) {
    const texts = policies.map(([name, text]) => `${name}\n${text}`);
    if (texts.length === this.#texts.length && texts.every((text, place) => text === this.#texts[place])) return;
    this.#texts = texts;
    const chosen = this.#select.value;
    this.#select.replaceChildren(new Option("all", "all"), ...policies.map(([name, text]) => new Option(text, `policy ${name}`)));
    this.#select.value = chosen;
    if (this.#select.selectedIndex < 0) this.#select.value = "all";
  }

  /** Show a policy's. */
  choose(name) {
    this.#select.value = `policy ${name}`;
    this.draw();
    this.#select.focus();
  }

  /** Show what is known now. */
  draw() {
    const points = this.#history.of(this.#select.value);
    for (const plot of this.#plots) plot.draw(points);
  }
}

class Plot {
  #element;
  #places;
  #names;
  #format;
  #fields;
  #plot;
  #points = new Points();

  constructor(id, places, names, format) {
    this.#element = document.getElementById(id);
    this.#fields = fieldsOf(this.#element.parentElement);
    [this.#places, this.#names, this.#format] = [places, names, format];
    this.#plot = new uPlot(this.#options(), [[], [], []], this.#element);
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(this.#element);
  }

  draw(points) {
    this.#points = points;
    const { lists } = points;
    this.#plot.setData([lists[0], ...this.#places.map((place) => lists[place])], true);
    const now = this.#names.map((name, index) => `${name} ${this.#format(points.last[this.#places[index]])}`);
    mark(this.#element, "aria-label", `A chart of the last 10 minutes. Now: ${now.join(", ")}`);
    this.#tell();
  }

  // What is under the pointer, or what came last.
  #tell() {
    const index = this.#plot.cursor.idx;
    const values = index == null ? this.#points.last : this.#points.lists.map((list) => list[index] ?? null);
    this.#names.forEach((name, order) => put(this.#fields[name], this.#format(values[this.#places[order]])));
    put(this.#fields.time, index == null || values[0] === null ? "" : `at ${clock(values[0])}`);
  }

  #size() {
    return { width: Math.max(this.#element.clientWidth, 120), height: HEIGHT };
  }

  #options() {
    const axis = { stroke: () => colour("faint"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false } };
    const line = (name) => ({ stroke: () => colour(name), width: 1.5, points: { show: false } });
    return {
      ...this.#size(),
      legend: { show: false },
      cursor: { sync: { key: "rproxy" }, drag: { x: false, y: false } },
      hooks: { setCursor: [() => this.#plot && this.#tell()] },
      scales: {
        x: { range: (_, low, high) => [(high ?? KEPT) - KEPT, high ?? KEPT] },
        y: { range: (_, low, high) => [0, high * 1.1 || 1] },
      },
      axes: [
        { ...axis, size: 28, values: "{HH}:{mm}" },
        { ...axis, size: 62, values: (_, marks) => marks.map((number) => this.#format(number)) },
      ],
      series: [{}, ...this.#names.map(line)],
    };
  }
}

const probe = document.createElement("span");
probe.hidden = true;

// A custom property's own value may be `light-dark(…)`, which no canvas knows; a colour made of it is plain.
function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
