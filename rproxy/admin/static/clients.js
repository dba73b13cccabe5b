// The addresses whose clients take up most.

import { Rows, fromTemplate, mark, put } from "./rows.js";
import { count, size } from "./text.js";

/** The table of them. */
export class Clients {
  #rows = new Rows(document.getElementById("clients"), () => new ClientRow());
  #found = document.getElementById("clients-found");

  /** Show them. */
  show({ clients, client_addresses: addresses }) {
    this.#rows.show(clients.map((client) => [client.address, client]));
    put(this.#found, addresses ? `${count(clients.length)} of ${count(addresses)} addresses` : "none connected");
  }
}

class ClientRow {
  constructor() {
    const { element, fields } = fromTemplate("client-row");
    [this.element, this.fields] = [element, fields];
  }

  update(client) {
    const { fields } = this;
    put(fields.address, client.address);
    put(fields.connections, count(client.connections));
    put(fields.unanswered, size(client.unanswered_bytes));
    put(fields.heldBack, client.held_back ? "yes" : "no");
    mark(fields.heldBack, "data-bad", client.held_back ? "" : null);
    put(fields.refused, count(client.refused));
    mark(fields.refused, "data-bad", client.refused ? "" : null);
  }
}
