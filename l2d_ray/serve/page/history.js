// The history as the model reads it, oldest first; and the same in the page's address, so that a link shows what its sender saw.

import { announce, byId, element } from "./dom.js";

const MAX = 200;

export const keyOf = (entry) => entry.item_id ?? `title: ${entry.title}`;

/** What a request says for an entry. */
export const asSent = (entry) => entry.item_id ?? { title: entry.title };

export class HistoryList {
  constructor(list, { onRemove, onPoint }) {
    Object.assign(this, { list, onRemove, onPoint });
  }

  show(history) {
    const before = this.list.children.length;
    this.list.replaceChildren(...history.map((entry, index) => this.row(entry, index)));
    byId("history-empty").hidden = history.length > 0;
    byId("clear").hidden = history.length === 0;
    if (history.length > before) this.list.lastElementChild?.scrollIntoView({ block: "nearest" });
  }

  row(entry, index) {
    const remove = element("button", { type: "button", class: "remove", "aria-label": `Remove ${entry.title}`, onclick: () => this.remove(index) }, "×");
    const outside = entry.item_id === undefined ? element("span", { class: "hint" }, "read as text") : null;
    const point = (id) => () => this.onPoint(id);
    return element(
      "li",
      { onpointerenter: point(entry.item_id ?? null), onpointerleave: point(null) },
      element("span", { class: "title" }, entry.title),
      outside,
      remove,
    );
  }

  remove(index) {
    announce(`${this.list.children[index].querySelector(".title").textContent} removed.`);
    this.onRemove(index);
    const next = this.list.children[Math.min(index, this.list.children.length - 1)];
    (next?.querySelector("button") ?? byId("search")).focus();
  }
}

/** The history in the address; empty where there is none, or where it is not one that this page wrote. */
export function readAddress() {
  const written = new URLSearchParams(location.hash.slice(1)).get("history");
  if (!written) return [];
  try {
    const entries = JSON.parse(written);
    return entries.slice(0, MAX).flatMap(([id, title]) => (typeof title === "string" ? [typeof id === "string" ? { item_id: id, title } : { title }] : []));
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return [];
    throw error;
  }
}

export function writeAddress(history) {
  const entries = JSON.stringify(history.map((entry) => [entry.item_id ?? null, entry.title]));
  const hash = history.length ? `#${new URLSearchParams({ history: entries })}` : " ";
  window.history.replaceState(null, "", hash.trim() || location.pathname + location.search);
}
