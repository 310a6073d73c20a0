// What is served: the line at the top, and the shards and versions.

import { byId, bytes, count, element, plural } from "./dom.js";

export function showServed(status) {
  const shards = status.shards.length;
  const entries = status.shards.reduce((sum, shard) => sum + shard.num_entries, 0);
  const items = status.shards.reduce((sum, shard) => sum + shard.num_items, 0);
  const parts = [
    ["memory", `v${status.memory_version}`],
    ["model", status.model_fingerprint.slice(0, 10)],
    ["entries", count(entries)],
    ["items", count(items)],
    ["shards", String(shards)],
  ];
  byId("served").replaceChildren(...parts.map(([name, value]) => element("span", {}, element("span", { class: "name" }, name), ` ${value}`)));
}

export function showService(panel, status) {
  const names = ["Shard", "Entries", "Items", "Statistics", "Loaded entries"];
  const rows = status.shards.map((shard) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, String(shard.shard)),
      [count(shard.num_entries), count(shard.num_items), bytes(shard.statistics_bytes), shard.entries_bytes ? bytes(shard.entries_bytes) : "none"].map((text) => element("td", {}, text)),
    ),
  );
  const head = element("thead", {}, element("tr", {}, names.map((name) => element("th", { scope: "col" }, name))));
  const caption = element("caption", {}, `${plural(status.shards.length, "shard")}, index ${status.index_kind}`);
  panel.replaceChildren(element("table", { class: "shards" }, caption, head, element("tbody", {}, rows)));
}
