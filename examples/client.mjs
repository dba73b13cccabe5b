// A client of rproxy for Node.js 18.3 or newer, with nothing but its standard library.
//
//     node examples/client.mjs [--revproc [HOST:]PORT] [--id ID] [--timeout SECONDS] --pp POLICY PAYLOAD...
//
// It sends all payloads over one connection, shuts its writing side, and prints the answers, which come in the order of
// the packets. Exit codes: 0 if every answer was the SHA-1 of its payload, 1 if not, 2 if the arguments are wrong.

import { createHash } from "node:crypto";
import { connect } from "node:net";
import { parseArgs } from "node:util";

// The longest answer, in bytes: the proxy takes no longer one either, unless it is told otherwise.
const MAX_ANSWER = 1 << 20;
const USAGE =
  "usage: node client.mjs [--revproc [HOST:]PORT] [--id ID] [--timeout SECONDS] --pp POLICY PAYLOAD...";

const [QUOTE, BACKSLASH] = Buffer.from('"\\');
const OPENING = Buffer.from("{[");
const CLOSING = Buffer.from("}]");
const SPACE = Buffer.from(" \t\r\n");

// Bytes in, whole JSON objects out, however TCP cut them: there is neither a length nor a separator. What ends an object
// is the brace that closes it, and braces in strings don't count. In UTF-8 no part of another character looks like one.
class Framer {
  #bytes = Buffer.alloc(0);
  #at = 0; // how far they were looked at; nothing is looked at twice
  #depth = 0;
  #inString = false;
  #escaped = false;
  #utf8 = new TextDecoder("utf-8", { fatal: true });

  *feed(chunk) {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    let start = 0;
    for (; this.#at < this.#bytes.length; this.#at++) {
      const byte = this.#bytes[this.#at];
      const wasInside = this.#depth > 0;
      this.#look(byte);
      if (this.#depth > 0) continue;
      if (wasInside) yield JSON.parse(this.#utf8.decode(this.#bytes.subarray(start, this.#at + 1)));
      else if (!SPACE.includes(byte)) throw new Error("an answer is no JSON object");
      start = this.#at + 1;
    }
    this.#bytes = this.#bytes.subarray(start);
    this.#at = this.#bytes.length;
    if (this.#at > MAX_ANSWER) throw new Error("an answer is too long");
  }

  #look(byte) {
    if (this.#escaped) this.#escaped = false;
    else if (this.#inString && byte === BACKSLASH) this.#escaped = true;
    else if (byte === QUOTE && this.#depth > 0) this.#inString = !this.#inString;
    else if (this.#inString) return;
    else if (OPENING.includes(byte)) this.#depth++;
    else if (CLOSING.includes(byte)) this.#depth--;
  }
}

// A line as JSON would write it in ASCII: whatever comes from elsewhere does nothing to a terminal.
function shown(line) {
  const escape = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(line).slice(1, -1).replace(/[^ -~]/g, escape);
}

function refuse(why) {
  console.error(`${USAGE}\nclient.mjs: ${shown(why)}`);
  process.exit(2);
}

function readArguments() {
  const string = { type: "string" };
  const options = { revproc: string, id: string, pp: string, timeout: string };
  let values, payloads;
  try {
    ({ values, positionals: payloads } = parseArgs({ options, allowPositionals: true }));
  } catch (error) {
    refuse(error.message);
  }
  const { revproc = "8000", id = "1", pp: policy, timeout = "60" } = values;
  if (policy === undefined || payloads.length === 0) refuse("a policy and a payload are needed");
  const address = /^(?:\[?(.+?)\]?:)?(\d+)$/.exec(revproc);
  if (!address || !(address[2] > 0 && address[2] < 65536)) refuse(`--revproc is no [HOST:]PORT: ${revproc}`);
  // A timer of Node.js takes no more than 2^31 milliseconds.
  if (!(timeout > 0 && timeout <= 1e6)) refuse(`--timeout is no number of seconds: ${timeout}`);
  const [, host = "127.0.0.1", port] = address;
  return { host, port: Number(port), id, policy, payloads, seconds: Number(timeout) };
}

function encode(id, policy, payload) {
  // A string counts its UTF-16 code units; payloadsize counts characters.
  const payloadsize = String([...payload].length);
  return JSON.stringify({ type: "0", srcid: id, privPoliId: policy, payload, payloadsize });
}

const { host, port, id, policy, payloads, seconds } = readArguments();
const unanswered = [...payloads];
let connected = false;

function failed(payload, code, delivered, text) {
  console.error(shown(`${payload}: ${code} (delivered: ${delivered}), ${text}`));
  process.exitCode = 1;
}

// Tell what becomes of the oldest packet.
function answered(packet) {
  const { srcid, destid, error, delivered, payload: text } = packet;
  const type = String(packet.type);
  if (unanswered.length === 0) throw new Error("an answer came unasked");
  if (typeof text === "string" && type === "3") {
    failed(unanswered.shift(), error, delivered, text);
  } else if (typeof text === "string" && type === "2" && String(destid) === id) {
    const payload = unanswered.shift();
    const correct = text === createHash("sha1").update(payload).digest("hex");
    const verdict = correct ? "correct" : "incorrect";
    console.log(shown(`${payload}: ${text} from server ${srcid}, SHA-1 ${verdict}`));
    if (!correct) process.exitCode = 1;
  } else {
    throw new Error("an answer is none, or is for somebody else");
  }
}

// Leave. Of what has no answer, only what was never connected for may be sent again.
function end(code, text) {
  clearTimeout(timer);
  socket.destroy();
  while (unanswered.length > 0) failed(unanswered.shift(), code, connected ? "unknown" : "no", text);
}

const framer = new Framer();
const socket = connect({ host, port });
const timer = setTimeout(() => end("timeout", `no answer within ${seconds} seconds`), seconds * 1000);
socket.on("connect", () => {
  connected = true;
});
socket.on("data", (chunk) => {
  try {
    for (const packet of framer.feed(chunk)) answered(packet);
    if (unanswered.length === 0) end();
  } catch (error) {
    end("connection-lost", error.message);
  }
});
// Where a host has several addresses, and none can be reached, the error has a code and no message.
socket.on("error", (error) => end("connection-lost", error.message || error.code));
// It comes last in any case; mostly nothing is left to tell then.
socket.on("close", () => end("connection-lost", "the proxy closed the connection"));
socket.end(payloads.map((payload) => encode(id, policy, payload)).join(""));
