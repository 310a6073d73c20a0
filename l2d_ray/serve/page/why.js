// Why an item was recommended: what pairs with the history on the left say, and the samples of the memory that speak for it.

import { byId, element, plural } from "./dom.js";

export class Why {
  constructor(panel) {
    this.panel = panel;
    this.heading = byId("why-heading");
    this.opener = null;
    byId("why-panel").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.opener?.focus();
    });
  }

  /** `opener`: where Escape goes back to; the heading takes the focus where a key opened the panel. */
  begin(item, opener, byKey) {
    this.opener = opener;
    this.heading.textContent = `Why ${item.title}`;
    this.panel.setAttribute("aria-busy", "true");
    if (byKey) this.heading.focus();
    byId("why-panel").scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.heading.textContent = "Why";
    this.panel.removeAttribute("aria-busy");
    this.panel.replaceChildren(element("p", { class: "empty" }, "Choose “why” beside an item: the histories in the memory that speak for it."));
  }

  fail(problem) {
    this.panel.removeAttribute("aria-busy");
    this.panel.replaceChildren(element("p", { class: "problem", role: "alert" }, problem.message));
  }

  /** `reasons`: nearest first, each with its distance and the titles of its history; `because`: items of the history, null where none are told. */
  show({ reasons, because }, history) {
    this.panel.removeAttribute("aria-busy");
    const shared = new Set(history.map((entry) => entry.title));
    const said = reasons.length
      ? `${plural(reasons.length, "history", "histories")} that ended in this item, nearest first; what yours shares is marked.`
      : "No entry of the memory was near enough to speak for it.";
    const widest = Math.max(...reasons.map((reason) => reason.distance), Number.MIN_VALUE);
    const list = element("ol", { class: "reasons" }, reasons.map((reason) => reasonRow(reason, shared, widest)));
    this.panel.replaceChildren(...causes(because ?? []), element("p", { class: "note" }, said), ...(reasons.length ? [list] : []));
  }
}

function causes(because) {
  if (!because.length) return [];
  const rows = because.map((cause) =>
    element("li", {}, element("span", { class: "share" }, `${Math.round(100 * cause.share)} %`), element("span", {}, cause.title)),
  );
  const said = "Of your history, users of the memory took these shortly before or after it, with the share of each:";
  return [element("p", { class: "note" }, said), element("ol", { class: "causes" }, rows)];
}

function reasonRow(reason, shared, widest) {
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  bar.style.inlineSize = `${(100 * reason.distance) / widest}%`;
  const kept = reason.history.length ? reason.history : ["a history that is no longer kept"];
  const titles = kept.map((title) => element("li", { class: shared.has(title) ? "shared" : null }, element("span", {}, title)));
  return element(
    "li",
    {},
    element("p", { class: "distance" }, element("span", {}, `distance ${reason.distance.toPrecision(3)}`), element("span", { class: "track" }, bar)),
    element("ol", { class: "path", "aria-label": "History, oldest first" }, titles),
  );
}
