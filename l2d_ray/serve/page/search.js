// The search: a combobox with a list (ARIA 1.2). Focus stays in the field; the list is followed by aria-activedescendant.

import { announce, element, plural } from "./dom.js";

const WAIT_MS = 120;
const WORD = /[\p{L}\p{N}_]+/gu;

export class Search {
  /** `find(text, signal)` gives items; `onPick` takes one, or `{title}` for a title outside the catalogue. */
  constructor(input, list, { find, onPick, onProblem }) {
    Object.assign(this, { input, list, find, onPick, onProblem });
    this.choices = [];
    this.active = -1;
    this.pending = null;
    this.timer = 0;
    input.addEventListener("input", () => this.typed());
    input.addEventListener("keydown", (event) => this.pressed(event));
    input.addEventListener("blur", () => this.close());
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
  }

  typed() {
    clearTimeout(this.timer);
    this.pending?.abort();
    const text = this.input.value.trim();
    if (text) this.timer = setTimeout(() => this.look(text), WAIT_MS);
    else this.close();
  }

  async look(text) {
    this.pending = new AbortController();
    try {
      const found = await this.find(text, this.pending.signal);
      this.show(found, text);
    } catch (error) {
      if (error.name !== "AbortError") this.onProblem(error);
    }
  }

  show(found, text) {
    this.choices = [...found, { title: text, outside: true }];
    this.list.replaceChildren(...this.choices.map((item, index) => this.option(item, index, text)));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.activate(found.length ? 0 : -1);
    announce(found.length ? `${plural(found.length, "item")} found.` : "No item found.");
  }

  option(item, index, text) {
    const words = item.outside ? [element("span", { class: "hint" }, "Outside the catalogue: "), `“${item.title}”`] : marked(item.title, text);
    const id = item.outside ? null : element("span", { class: "hint" }, item.item_id);
    const attributes = { role: "option", id: `found-${index}`, "aria-selected": "false", onclick: () => this.pick(index) };
    return element("li", attributes, element("span", {}, words), id);
  }

  pressed(event) {
    const last = this.choices.length - 1;
    const isOpen = !this.list.hidden;
    if (event.key === "ArrowDown" && isOpen) this.activate(this.active === last ? 0 : this.active + 1);
    else if (event.key === "ArrowUp" && isOpen) this.activate(this.active <= 0 ? last : this.active - 1);
    else if (event.key === "ArrowDown") this.typed();
    else if (event.key === "Enter" && isOpen && this.active >= 0) this.pick(this.active);
    else if (event.key === "Escape" && isOpen) this.close();
    else if (event.key === "Escape") this.input.value = "";
    else return;
    event.preventDefault();
  }

  activate(index) {
    this.list.children[this.active]?.setAttribute("aria-selected", "false");
    this.active = index;
    const option = this.list.children[index];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  pick(index) {
    const { item_id, title } = this.choices[index];
    this.input.value = "";
    this.close();
    this.onPick(item_id === undefined ? { title } : { item_id, title });
  }

  close() {
    clearTimeout(this.timer);
    this.pending?.abort();
    this.choices = [];
    this.activate(-1);
    this.list.hidden = true;
    this.list.replaceChildren();
    this.input.setAttribute("aria-expanded", "false");
  }
}

/** The title with what was typed marked: a typed word is the beginning of a word of the title, without case and accents. */
function marked(title, text) {
  const typed = folded(text).match(WORD) ?? [];
  return title.split(/([\p{L}\p{N}_]+)/u).map((part) => {
    const word = typed.find((beginning) => folded(part).startsWith(beginning));
    return word ? element("span", {}, element("mark", {}, part.slice(0, word.length)), part.slice(word.length)) : part;
  });
}

const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
