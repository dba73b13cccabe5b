// Draining, resuming and revoking a server: asked once more, with the token that the proxy wants for it.

import { put } from "./rows.js";
import { errorOf } from "./stream.js";
import { visible } from "./text.js";

const EFFECTS = {
  drain: "It is given nothing new, until it is resumed. What it was given already, it may answer.",
  resume: "It is given packets again.",
  revoke: "Its registration ends now. It may register again, unless the policies don't allow it.",
};
const NAMES = { drain: "Drain", resume: "Resume", revoke: "Revoke" };
const DONE = { drain: "Drained", resume: "Resumed", revoke: "Revoked" };

/** The admin token, as long as the page is loaded, and nowhere else. */
export class Token {
  #value = "";
  #button = document.getElementById("forget");

  constructor() {
    this.#button.addEventListener("click", () => this.keep(""));
  }

  get known() {
    return this.#value !== "";
  }

  /** Keep it; `""` forgets it. */
  keep(value) {
    this.#value = value;
    this.#button.hidden = !value;
  }

  /** What a request has to carry. */
  get headers() {
    return this.#value ? { Authorization: `Bearer ${this.#value}` } : {};
  }
}

/** The dialog, which is the only way to an action. */
export class Actions {
  #token;
  #dialog = element("action");
  #wanted = null;
  #busy = false;

  constructor(token) {
    this.#token = token;
    element("action-cancel").addEventListener("click", () => this.#dialog.close());
    element("action-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#go();
    });
  }

  /** Ask whether to do it to a server's registration for a policy. */
  ask(action, server) {
    this.#wanted = { action, server };
    put(element("action-title"), `${NAMES[action]} server ${visible(server.id)} of policy ${visible(server.policy)}?`);
    put(element("action-effect"), EFFECTS[action]);
    put(element("action-do"), NAMES[action]);
    element("action-all").checked = false;
    this.#show("", !this.#token.known);
    this.#dialog.showModal();
    element(this.#token.known ? "action-do" : "action-token").focus();
  }

  /** Ask for the token alone: even reading needs it here. `why` is the proxy's word, `then` is called with the token. */
  askToken(why, then) {
    if (this.#dialog.open) {
      this.#dialog.addEventListener("close", () => this.askToken(why, then), { once: true });
      return;
    }
    this.#wanted = { then };
    put(element("action-title"), "Which token?");
    put(element("action-effect"), "From where you are, this proxy shows itself only to who has its admin token.");
    put(element("action-do"), "Go on");
    this.#show(why, true);
    this.#dialog.showModal();
    element("action-token").focus();
  }

  async #go() {
    if (this.#busy) return;
    const typed = element("action-token").value.trim();
    // What no header can carry is no token.
    if (/[^\x21-\x7e]/.test(typed)) return this.#show("A token has letters, digits and signs only.", true);
    if (typed) this.#token.keep(typed);
    if (this.#wanted.then) {
      this.#dialog.close();
      return this.#wanted.then();
    }
    this.#busy = true;
    element("action-do").disabled = true;
    try {
      await this.#post();
    } catch (error) {
      this.#show(`The proxy can't be reached: ${error.message}`, false);
    } finally {
      this.#busy = false;
      element("action-do").disabled = false;
    }
  }

  async #post() {
    const { action, server } = this.#wanted;
    const all = element("action-all").checked;
    const answer = await fetch(`api/v1/servers/${encodeURIComponent(server.id)}/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...this.#token.headers },
      body: JSON.stringify(all ? {} : { policy: server.policy }),
    });
    if (answer.ok) {
      const { registrations } = await answer.json();
      this.#dialog.close();
      const where = all ? `${registrations} ${registrations === 1 ? "policy" : "policies"}` : `policy ${visible(server.policy)}`;
      put(element("notice"), `${DONE[action]} server ${visible(server.id)} for ${where}.`);
      return;
    }
    const why = await errorOf(answer);
    if (answer.status === 401) this.#token.keep("");
    this.#show(why, answer.status === 401);
    if (answer.status === 401) element("action-token").focus();
  }

  #show(error, asksToken) {
    put(element("action-error"), error);
    element("action-token").value = "";
    element("action-token-field").hidden = !asksToken;
    element("action-all").parentElement.hidden = !this.#wanted.action;
  }
}

function element(id) {
  return document.getElementById(id);
}
