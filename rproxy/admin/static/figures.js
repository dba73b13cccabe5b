// What the figures mean: rates and quantiles of the last seconds, and who is in trouble. Knows nothing of the page.

/** The upper bounds of the classes of times, in seconds: those of rproxy/figures/tallies.py, which a test compares. */
export const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/** Over how many seconds rates and quantiles are taken. */
const WINDOW = 10;
/** Less than this says nothing: what was kept back on the way comes all at once. */
const LEAST = 0.5;

/**
 * The time within which that share of all things was done, in seconds, as rproxy.figures.tallies.quantile has it; null
 * of nothing.
 */
export function quantile(times, share) {
  let wanted = sum(times.slice(0, -1)) * share;
  if (!wanted) return null;
  let low = 0;
  for (let place = 0; place < BOUNDS.length; place++) {
    const count = times[place];
    if (count >= wanted) return low + ((BOUNDS[place] - low) * wanted) / count;
    wanted -= count;
    low = BOUNDS[place];
  }
  return BOUNDS.at(-1);
}

/** The sum of a list's numbers, or of an object's. */
export function sum(numbers) {
  let total = 0;
  for (const number of Array.isArray(numbers) ? numbers : Object.values(numbers)) total += number;
  return total;
}

/** All times together. */
export function addTimes(parts) {
  const total = new Array(BOUNDS.length + 2).fill(0);
  for (const times of parts) for (let place = 0; place < total.length; place++) total[place] += times[place];
  return total;
}

/**
 * Counters that only grow, looked at each second: what they grew by lately.
 *
 * One that shrank is that of a process which began anew. What was before says nothing of it, and is forgotten: there is
 * no rate for a second then, and never a negative one.
 */
export class Series {
  #samples = [];

  /** Take a look: at so many seconds, the things done, the errors, and the classes of times. */
  add(at, done, errors, times) {
    const last = this.#samples.at(-1);
    if (last && (done < last.done || errors < last.errors || times.some((count, place) => count < last.times[place]))) {
      this.#samples = [];
    }
    this.#samples.push({ at, done, errors, times });
    while (at - this.#samples[0].at > WINDOW) this.#samples.shift();
  }

  /** Things done a second; null where that isn't known yet. */
  get rate() {
    return this.#growth((sample) => sample.done);
  }

  /** Errors a second. */
  get errorRate() {
    return this.#growth((sample) => sample.errors);
  }

  /** As quantile, of the last seconds. */
  quantile(share) {
    const ends = this.#ends();
    return ends && quantile(ends[1].times.map((count, place) => count - ends[0].times[place]), share);
  }

  #growth(counter) {
    const ends = this.#ends();
    return ends && (counter(ends[1]) - counter(ends[0])) / (ends[1].at - ends[0].at);
  }

  #ends() {
    const ends = [this.#samples[0], this.#samples.at(-1)];
    return this.#samples.length && ends[1].at - ends[0].at >= LEAST ? ends : null;
  }
}

/** The series of the proxy, of each policy and of each server; those that are no more are forgotten. */
export class AllSeries {
  #policies;
  #servers;
  #processes = "";

  constructor() {
    this.#forget();
  }

  /** Take a look at everything. */
  add(at, figures) {
    // Of a process that comes in, or is back, all that it ever did would count as done now.
    const processes = JSON.stringify(figures.processes.map((process) => process.pid));
    if (processes !== this.#processes) this.#forget();
    this.#processes = processes;
    const { received, refused } = figures.counters;
    this.proxy.add(at, received, sum(refused), addTimes(figures.policies.map((policy) => policy.total_times)));
    const [policies, servers] = [new Map(), new Map()];
    for (const policy of figures.policies) {
      const series = this.#policies.get(policy.name) ?? new Series();
      series.add(at, policy.received, sum(policy.refused), policy.total_times);
      policies.set(policy.name, series);
      for (const server of policy.servers) {
        const key = keyOf(server);
        const own = this.#servers.get(key) ?? new Series();
        own.add(at, server.acked, server.lost, server.total_times);
        servers.set(key, own);
      }
    }
    [this.#policies, this.#servers] = [policies, servers];
  }

  #forget() {
    /** The proxy's. */
    this.proxy = new Series();
    [this.#policies, this.#servers] = [new Map(), new Map()];
  }

  /** A policy's. */
  policy(name) {
    return this.#policies.get(name);
  }

  /** A server's. */
  server(server) {
    return this.#servers.get(keyOf(server));
  }
}

/** What tells a server under a policy from all others. */
export function keyOf(server) {
  return JSON.stringify([server.policy, server.id]);
}

/** The state that an operator has to know first: the worst that any process has it in. */
export function stateOf(server) {
  return ["down", "held", "draining"].find((state) => server.states[state]) ?? "up";
}

/** 2 where packets suffer, 1 where somebody should look, 0. */
export function serverTrouble(server) {
  return { down: 2, held: 1, draining: 1, up: 0 }[stateOf(server)];
}

/** What is wrong with a policy, the worst first: each a level as of serverTrouble, and a text. */
export function policyTroubles(policy, series) {
  const troubles = [];
  const up = policy.servers.filter((server) => server.states.up || server.states.held).length;
  const count = (state) => policy.servers.filter((server) => stateOf(server) === state).length;
  if (!up) troubles.push([2, policy.servers.length ? "no server is up" : "no server"]);
  if (series?.errorRate > 0) troubles.push([2, "errors"]);
  if (policy.waiting) troubles.push([up ? 1 : 2, `${policy.waiting} waiting`]);
  if (count("down")) troubles.push([1, `${count("down")} down`]);
  if (count("held")) troubles.push([1, `${count("held")} held`]);
  if (count("draining")) troubles.push([1, `${count("draining")} draining`]);
  return troubles;
}
