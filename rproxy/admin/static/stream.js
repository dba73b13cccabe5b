// The Server-Sent Events of the proxy, over fetch: unlike EventSource it may send a token, tells which answer came
// instead of a stream, and can be given up when nothing comes any more.

/** Seconds without a byte after which the connection is taken for lost: figures come each second. */
const PATIENCE = 10;
/** Seconds until it is tried again: the first time, and at most. */
const PAUSES = [0.5, 5];

/** Cuts a stream of text into events: calls `tell` with each event's name and data. */
export class EventReader {
  #rest = "";
  #tell;

  constructor(tell) {
    this.#tell = tell;
  }

  /** Take some text, however it was cut. */
  feed(text) {
    const blocks = (this.#rest + text).replaceAll("\r\n", "\n").split("\n\n");
    this.#rest = blocks.pop();
    for (const block of blocks) this.#read(block);
  }

  #read(block) {
    let name = "message";
    const data = [];
    for (const line of block.split("\n")) {
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
    }
    if (data.length) this.#tell(name, data.join("\n"));
  }
}

/**
 * Keeps a stream open for as long as the page is.
 *
 * `onEvent` gets each event's name and value. `onState` gets `live`, or `lost` with why, or `token` with why: the
 * proxy wants a token, which `headers` has to have when `again` is called.
 */
export class Stream {
  #url;
  #headers;
  #onEvent;
  #onState;
  #pause = PAUSES[0];
  #wake = () => {};

  constructor(url, headers, onEvent, onState) {
    [this.#url, this.#headers, this.#onEvent, this.#onState] = [url, headers, onEvent, onState];
  }

  /** Begin, and go on for ever. */
  async run() {
    for (;;) {
      const [state, why] = await this.#once();
      this.#onState(state, why);
      await new Promise((resolve) => {
        this.#wake = resolve;
        // Without another token it would be refused again.
        if (state !== "token") setTimeout(resolve, this.#pause * 1000);
      });
      this.#pause = Math.min(this.#pause * 2, PAUSES[1]);
    }
  }

  /** Try again at once. */
  again() {
    this.#wake();
  }

  async #once() {
    const control = new AbortController();
    let watch;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => control.abort(), PATIENCE * 1000);
    };
    try {
      alive();
      const answer = await fetch(this.#url, { headers: this.#headers(), cache: "no-store", signal: control.signal });
      if (!answer.ok) return [answer.status === 401 ? "token" : "lost", await errorOf(answer)];
      await this.#read(answer.body, alive);
      return ["lost", "the proxy closed it"];
    } catch (error) {
      return ["lost", control.signal.aborted ? `nothing came for ${PATIENCE} s` : error.message];
    } finally {
      clearTimeout(watch);
      control.abort();
    }
  }

  async #read(body, alive) {
    const reader = new EventReader((name, data) => {
      this.#pause = PAUSES[0];
      this.#onState("live", "");
      this.#onEvent(name, JSON.parse(data));
    });
    for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
      alive();
      reader.feed(text);
    }
  }
}

/** The text of an answer that refuses: the API's own sentence where it has one. */
export async function errorOf(answer) {
  try {
    return String((await answer.json()).error);
  } catch {
    return `the proxy answered ${answer.status} ${answer.statusText}`.trim();
  }
}

// Not each browser lets a stream be iterated over.
async function* chunks(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}
