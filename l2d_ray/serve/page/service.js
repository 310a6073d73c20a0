// What is served: the line at the top; the shards, the memory versions, and what waits to enter the memory.

import { byId, bytes, count, element, plural } from "./dom.js";

export function showServed(status) {
  const entries = status.shards.reduce((sum, shard) => sum + shard.num_entries, 0);
  const isWhole = status.shards.length === status.shards_total;
  const shards = isWhole ? String(status.shards_total) : `${status.shards.length} of ${status.shards_total}`;
  const parts = [
    ["memory", `v${status.memory_version}`],
    ["model", status.model_fingerprint.slice(0, 10)],
    ["entries", count(entries)],
    ["items", count(status.num_items)],
    ["shards", shards],
  ];
  const spans = parts.map(([name, value]) => element("span", {}, element("span", { class: "name" }, name), ` ${value}`));
  if (!isWhole) spans.at(-1).classList.add("partial");
  byId("served").replaceChildren(...spans);
}

export function showService(panel, status) {
  panel.replaceChildren(shardTable(status), element("dl", { class: "facts" }, versions(status.versions), waiting(status.backlog)));
}

function shardTable(status) {
  const byNumber = new Map(status.shards.map((shard) => [shard.shard, shard]));
  const rows = Array.from({ length: status.shards_total }, (_, number) => shardRow(number, byNumber.get(number)));
  const names = ["Shard", "Entries", "Items", "Statistics", "Loaded entries"];
  const head = element("thead", {}, element("tr", {}, names.map((name) => element("th", { scope: "col" }, name))));
  const caption = element("caption", {}, `${plural(status.shards_total, "shard")}, index ${status.index_kind}`);
  return element("table", { class: "shards" }, caption, head, element("tbody", {}, rows));
}

function shardRow(number, shard) {
  const name = element("th", { scope: "row" }, String(number));
  if (!shard) return element("tr", {}, name, element("td", { colspan: 4, class: "partial" }, "does not answer"));
  const held = [count(shard.num_entries), count(shard.num_items), bytes(shard.statistics_bytes), shard.entries_bytes ? bytes(shard.entries_bytes) : "none"];
  return element("tr", {}, name, held.map((text) => element("td", {}, text)));
}

function versions({ versions: served, current, is_pinned }) {
  const shown = served.map((version) => element("li", { "aria-current": version === current ? "true" : null }, `v${version}`));
  const said = is_pinned ? "newer ones wait" : "follows the newest";
  return [element("dt", {}, "Memory versions"), element("dd", {}, element("ul", { class: "versions" }, shown), element("span", { class: "hint" }, said))];
}

function waiting(backlog) {
  if (!backlog) return [];
  const { num_interactions, num_edits, num_forgotten, oldest_age_s } = backlog;
  const age = oldest_age_s === null ? "" : `, the oldest for ${Math.round(oldest_age_s)} s`;
  const said = `${plural(num_interactions, "interaction")}${age}; ${plural(num_edits, "edit")}; ${plural(num_forgotten, "user")} to forget`;
  return [element("dt", {}, "Waits to enter the memory"), element("dd", {}, said)];
}
