// The page's elements, changed in place: a table isn't built again because a number in it changed.

/** A copy of a template's element, and its fields by name. */
export function fromTemplate(id) {
  const element = document.getElementById(id).content.firstElementChild.cloneNode(true);
  return { element, fields: fieldsOf(element) };
}

/** The elements with a data-field below another, by name. */
export function fieldsOf(element) {
  return Object.fromEntries([...element.querySelectorAll("[data-field]")].map((each) => [each.dataset.field, each]));
}

/** Show a text, and nothing but a text, in an element that has no other content. */
export function put(element, text) {
  const shown = element.firstChild;
  if (!shown) {
    if (text !== "") element.append(text);
  } else if (shown.data !== text) shown.data = text;
}

/** Set an attribute where it has another value; null removes it. */
export function mark(element, name, value) {
  if (element.getAttribute(name) === value) return;
  if (value === null) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

/**
 * The rows below an element, one for each thing, by key.
 *
 * `make` returns a new row of a thing: an object with an `element`, and `update`, which gets the thing.
 */
export class Rows {
  #parent;
  #make;
  #rows = new Map();
  #onLostFocus;

  constructor(parent, make, onLostFocus = () => {}) {
    [this.#parent, this.#make, this.#onLostFocus] = [parent, make, onLostFocus];
  }

  /** Show these things, given as pairs of key and thing, in this order. */
  show(things) {
    const rows = new Map();
    for (const [key, thing] of things) {
      const row = this.#rows.get(key) ?? this.#make(thing);
      row.update(thing);
      rows.set(key, row);
    }
    for (const [key, row] of this.#rows) if (!rows.has(key)) this.#remove(row.element);
    this.#rows = rows;
    this.#order([...rows.values()].map((row) => row.element));
  }

  #remove(element) {
    const focused = element.contains(document.activeElement);
    element.remove();
    if (focused) this.#onLostFocus();
  }

  // The row with the focus isn't moved, as it would lose it: the others move around it.
  #order(elements) {
    let place = this.#first();
    for (const element of elements) {
      if (element !== place && element.contains(document.activeElement)) {
        while (place !== element) {
          const next = place.nextElementSibling;
          this.#parent.append(place);
          place = next;
        }
      }
      if (element === place) place = place.nextElementSibling;
      else this.#parent.insertBefore(element, place);
    }
  }

  // A table's heading stays where it is.
  #first() {
    const first = this.#parent.firstElementChild;
    return first?.tagName === "THEAD" ? first.nextElementSibling : first;
  }
}
