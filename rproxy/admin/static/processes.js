// The proxy's processes, and what of them an operator has to be told at once.

import { Rows, fromTemplate, mark, put } from "./rows.js";
import { count, span, took, visible } from "./text.js";

/** Above so much a timer's being late is marked, in seconds. */
const LATE = 0.1;
/** Above this share of the files that may be open it is marked. */
const FULL = 0.8;

/** The table of them. */
export class Processes {
  #rows = new Rows(document.getElementById("processes"), () => new ProcessRow());

  /** Show them. */
  show(figures) {
    this.#rows.show(figures.processes.map((process) => [process.pid, process]));
  }
}

class ProcessRow {
  constructor() {
    const { element, fields } = fromTemplate("process-row");
    [this.element, this.fields] = [element, fields];
  }

  update(process) {
    const { fields } = this;
    put(fields.name, process.number ? `worker ${process.number} (pid ${process.pid})` : `pid ${process.pid}`);
    put(fields.uptime, span(process.uptime));
    put(fields.connections, count(process.connections));
    put(fields.files, `${count(process.open_files)} of ${count(process.max_open_files)}`);
    mark(fields.files, "data-bad", process.open_files > FULL * process.max_open_files ? "" : null);
    put(fields.lag, took(process.lag));
    put(fields.maxLag, took(process.max_lag));
    mark(fields.maxLag, "data-bad", process.max_lag > LATE ? "" : null);
    put(fields.store, storeOf(process.store));
    mark(fields.store, "data-bad", process.store.away === null ? null : "");
  }
}

function storeOf(store) {
  if (store.away !== null) return `${visible(store.name)}: away for ${span(store.away_for)}: ${visible(store.away)}`;
  return store.processes > 1 ? `${visible(store.name)}, shared by ${store.processes} processes` : visible(store.name);
}

/** The sentences of the banner; none while all is well. They change only when something does, as they are read aloud. */
export function warningsOf(figures) {
  const warnings = [];
  const away = figures.processes.filter((process) => process.store.away !== null);
  if (away.length) {
    const whose = figures.processes.length > 1 ? ` for ${away.length} of ${figures.processes.length} processes` : "";
    const { name, away: why } = away[0].store;
    warnings.push(`The store ${visible(name)} is away${whose}: ${visible(why)}. What is registered stays, and nothing new is kept.`);
  }
  if (figures.missing.length) {
    warnings.push(`Of worker ${figures.missing.join(", ")} nothing is known now: it doesn't answer, or is being replaced. Its part is missing in what you see.`);
  }
  if (figures.state === "draining") warnings.push("The proxy is stopping: it refuses new packets.");
  if (figures.state === "refusing") warnings.push("The proxy can't write its audit trail: it refuses all packets.");
  const { violations } = figures.counters;
  if (violations) warnings.push(`${count(violations)} packets were about to be given to a server of another policy, and were not. This is a mistake in rproxy: please report it.`);
  return warnings;
}
