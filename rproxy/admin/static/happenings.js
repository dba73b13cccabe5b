// What happened lately, the newest first.

import { Rows, fromTemplate, mark, put } from "./rows.js";
import { clock, visible } from "./text.js";

/** So many are kept, and so many are shown. */
const KEPT = 1000;
const SHOWN = 100;

/** The table of them. */
export class Happenings {
  #kept = new Map();
  #rows = new Rows(document.getElementById("happenings"), () => new HappeningRow());

  /** Remember one; a stream that began anew tells those of the last while again. */
  add(happening) {
    const { number, time, kind, policy, server } = happening;
    this.#kept.set(JSON.stringify([time, number, kind, policy, server]), happening);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
  }

  /** Show what the filter lets through. */
  show(filter) {
    const found = [...this.#kept].filter(([, each]) => filter.finds(each.policy, each.server, each.kind, each.text));
    // Several processes tell of theirs, each in its own time.
    found.sort(([, one], [, other]) => other.time - one.time || other.number - one.number);
    this.#rows.show(found.slice(0, SHOWN));
  }
}

class HappeningRow {
  constructor() {
    const { element, fields } = fromTemplate("happening-row");
    [this.element, this.fields] = [element, fields];
  }

  update({ time, kind, policy, server, text }) {
    put(this.fields.time, clock(time));
    mark(this.fields.time, "datetime", new Date(time * 1000).toISOString());
    put(this.fields.kind, visible(kind));
    mark(this.fields.kind, "data-kind", kind);
    put(this.fields.policy, visible(policy));
    put(this.fields.server, visible(server));
    put(this.fields.text, visible(text));
  }
}
