// The answers side by side, a column for each decoder: its latency by stage, its items, and where the other decoders rank each of them.
// A column's items are a grid (ARIA): one stop of the Tab key, arrows within it and on to the next column.

import { element, milliseconds } from "./dom.js";

const STAGES = ["tokenize", "encode", "search", "merge"];
const DECODER_TO_RULE = {
  global: "An item is the mean of all its entries; the nearest mean is first.",
  local: "An item is the mean of its entries among the neighbours of this history alone.",
  whitened: "Distance in the metric of the spread within items, and a prior for what is chosen often.",
  paired: "As whitened, and raised by what those took who took this history's items.",
};

export class Answers {
  /** `actions`: onAdd(item), onWhy(item, decoder, button, byKey), onPoint(itemId or null), onRetry(decoder). */
  constructor(panel, actions) {
    this.panel = panel;
    this.actions = actions;
    this.columns = new Map();
    panel.addEventListener("keydown", (event) => this.pressed(event));
    panel.addEventListener("focusin", (event) => this.focused(event.target));
  }

  /** One column for each decoder, kept where it was there before. */
  setDecoders(decoders) {
    const kept = decoders.map((decoder) => [decoder, this.columns.get(decoder) ?? new Column(decoder, this.actions)]);
    this.columns = new Map(kept);
    this.panel.replaceChildren(...kept.map(([, column]) => column.root));
  }

  begin() {
    for (const column of this.columns.values()) column.root.setAttribute("aria-busy", "true");
  }

  clear() {
    for (const column of this.columns.values()) column.clear();
  }

  fail(decoder, problem) {
    this.columns.get(decoder)?.fail(problem);
  }

  show(decoder, answer) {
    this.columns.get(decoder)?.take(answer);
    const slowest = Math.max(...[...this.columns.values()].map((column) => column.answer?.timings_ms.total ?? 0));
    for (const column of this.columns.values()) column.draw(this.columns, slowest);
  }

  /** Mark an item in every column. */
  point(itemId) {
    for (const row of this.panel.querySelectorAll("tr[data-item]")) row.classList.toggle("pointed", row.dataset.item === itemId);
  }

  focused(target) {
    const row = target.closest("tr[data-item]");
    if (row) row.closest(".column").querySelectorAll("button[data-cell]").forEach((button) => (button.tabIndex = button === target ? 0 : -1));
  }

  pressed(event) {
    const row = event.target.closest("tr[data-item]");
    const goal = row && neighbour(event.key, event.target, row, [...this.columns.values()]);
    if (!goal) return;
    goal.focus();
    event.preventDefault();
  }
}

/** The button that a key leads to from one of a row's two. */
function neighbour(key, button, row, columns) {
  const rows = [...row.parentElement.children];
  const at = rows.indexOf(row);
  const cell = button.dataset.cell;
  const toRow = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[key];
  if (toRow !== undefined) return rows[toRow]?.querySelector(`[data-cell=${cell}]`);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (!step) return null;
  const cells = columns.flatMap((column) => {
    const same = column.body.children[Math.min(at, column.body.children.length - 1)];
    return same ? [...same.querySelectorAll("[data-cell]")] : [];
  });
  return cells[cells.indexOf(button) + step];
}

class Column {
  constructor(decoder, actions) {
    this.decoder = decoder;
    this.actions = actions;
    this.answer = null;
    this.ranksBefore = new Map();
    this.total = element("span", { class: "total" });
    this.stages = element("div", { class: "stages" });
    this.notice = element("div", { class: "notice" });
    this.body = element("tbody");
    const heading = `decoder-${decoder}`;
    const names = ["Rank", "Item", "Why"].map((name) => element("th", { scope: "col" }, name));
    const table = element("table", { role: "grid", "aria-labelledby": heading }, element("thead", { class: "unseen" }, element("tr", {}, names)), this.body);
    const title = element("h3", { id: heading }, decoder);
    this.root = element("section", { class: "column", "data-decoder": decoder, "aria-labelledby": heading }, element("header", {}, title, this.total), this.stages, this.notice, table);
    this.clear();
  }

  clear() {
    this.answer = null;
    this.ranksBefore = new Map();
    this.root.removeAttribute("aria-busy");
    this.total.textContent = "";
    for (const part of [this.stages, this.body]) part.replaceChildren();
    this.notice.replaceChildren(element("p", { class: "note" }, DECODER_TO_RULE[this.decoder] ?? ""));
  }

  fail(problem) {
    this.clear();
    const wait = problem.retryAfterS ? ` Again in ${problem.retryAfterS} s.` : "";
    const retry = element("button", { type: "button", onclick: () => this.actions.onRetry(this.decoder) }, "Try again");
    this.notice.replaceChildren(element("p", { class: "problem", role: "alert" }, problem.message + wait), retry);
  }

  take(answer) {
    this.ranksBefore = ranksOf(this.answer);
    this.isFirst = this.answer === null;
    this.answer = answer;
    this.root.removeAttribute("aria-busy");
    this.isTaken = true;
  }

  /** Draw what was taken; the focus stays on the same row and cell. */
  draw(columns, slowest) {
    if (!this.answer) return;
    const { timings_ms: timings, complete, items } = this.answer;
    const isPartial = complete && complete.shards_ok < complete.shards_total;
    this.total.textContent = milliseconds(timings.total);
    this.drawStages(timings, slowest);
    this.notice.replaceChildren(...(isPartial ? [element("p", { class: "partial" }, `${complete.shards_ok} of ${complete.shards_total} shards answered.`)] : []));
    const held = this.body.contains(document.activeElement) ? document.activeElement : null;
    const at = held ? [...this.body.children].indexOf(held.closest("tr")) : -1;
    this.body.replaceChildren(...items.map((item, index) => this.row(item, index, columns)));
    if (held) this.body.children[Math.min(at, items.length - 1)]?.querySelector(`[data-cell=${held.dataset.cell}]`)?.focus();
    this.isTaken = false;
  }

  drawStages(timings, slowest) {
    const said = STAGES.map((stage) => `${stage} ${milliseconds(timings[stage])}`).join(", ");
    this.stages.setAttribute("role", "img");
    this.stages.setAttribute("aria-label", `Of ${milliseconds(timings.total)}: ${said}`);
    this.stages.title = said;
    this.stages.replaceChildren(
      ...STAGES.map((stage) => {
        const part = element("span", { class: stage });
        part.style.inlineSize = `${(100 * timings[stage]) / Math.max(slowest, Number.MIN_VALUE)}%`;
        return part;
      }),
    );
  }

  row(item, index, columns) {
    const tabindex = index === 0 ? 0 : -1;
    const { onAdd, onWhy, onPoint } = this.actions;
    const add = element("button", { type: "button", class: "title", "data-cell": "add", tabindex, title: item.title, onclick: () => onAdd(item) }, item.title);
    const ask = (event) => onWhy(item, this.decoder, event.currentTarget, event.detail === 0);
    const why = element("button", { type: "button", class: "quiet", "data-cell": "why", tabindex: -1, "aria-label": `Why ${item.title}`, onclick: ask }, "why");
    const change = this.change(item);
    const meta = element("p", { class: "meta" }, element("span", { class: "score", title: "score" }, score(item.score)), elsewhere(item, this.decoder, columns), change);
    return element(
      "tr",
      { "data-item": item.item_id, class: this.isTaken && change?.classList.contains("new") ? "arrived" : null, onpointerenter: () => onPoint(item.item_id), onpointerleave: () => onPoint(null) },
      element("th", { scope: "row", class: "rank" }, String(item.rank)),
      element("td", {}, add, meta),
      element("td", { class: "ask" }, why),
    );
  }

  /** How the item's rank differs from the answer before. */
  change(item) {
    if (this.isFirst || this.ranksBefore.size === 0) return null;
    const before = this.ranksBefore.get(item.item_id);
    if (before === undefined) return element("span", { class: "change new" }, "new");
    const up = before - item.rank;
    if (up === 0) return null;
    return element("span", { class: "change", "aria-label": `${up > 0 ? "up" : "down"} ${Math.abs(up)}` }, `${up > 0 ? "▲" : "▼"}${Math.abs(up)}`);
  }
}

const ranksOf = (answer) => new Map((answer?.items ?? []).map((item) => [item.item_id, item.rank]));

const score = (value) => (Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(4));

/** The item's rank by each of the other decoders, in their colours; a dash where they do not have it. */
function elsewhere(item, decoder, columns) {
  const others = [...columns.values()].filter((column) => column.decoder !== decoder && column.answer);
  if (!others.length) return null;
  const ranks = others.map((column) => {
    const rank = ranksOf(column.answer).get(item.item_id);
    const said = rank ? `rank ${rank} by ${column.decoder}` : `not listed by ${column.decoder}`;
    return element("span", { class: "other", "data-decoder": column.decoder, title: said, role: "img", "aria-label": said }, rank ? String(rank) : "–");
  });
  return element("span", { class: "others" }, ranks);
}
