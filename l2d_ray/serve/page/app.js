// The page: its state, and who is told when it changes. Every change of the history or the settings asks all shown decoders at once.

import { Answers } from "./answers.js";
import { Api } from "./api.js";
import { announce, byId, element } from "./dom.js";
import { HistoryList, asSent, keyOf, readAddress, writeAddress } from "./history.js";
import { askForKey } from "./key.js";
import { LatentSpace } from "./map.js";
import { Search } from "./search.js";
import { showServed, showService } from "./service.js";
import { Why } from "./why.js";

const STATUS_EVERY_MS = 10_000;
const NUM_EXAMPLES = 4;

const api = new Api(askForKey);
const state = { history: readAddress(), decoders: [], shown: [], answers: new Map(), version: null };
let asking = new AbortController();
let explaining = new AbortController();
let asked = 0;

const why = new Why(byId("why"));
const answers = new Answers(byId("answers"), { onAdd: add, onWhy: explain, onPoint: point, onRetry: (decoder) => ask([decoder]) });
const space = new LatentSpace(byId("map"), { onAdd: add, onPoint: point });
const list = new HistoryList(byId("history"), { onRemove: (index) => setHistory(state.history.toSpliced(index, 1)), onPoint: point });
new Search(byId("search"), byId("found"), {
  find: async (text, signal) => (await api.findItems(text, signal)).items,
  onPick: add,
  onProblem: (problem) => announce(problem.message),
});

function add({ item_id, title }) {
  const entry = item_id === undefined ? { title } : { item_id, title };
  if (state.history.some((known) => keyOf(known) === keyOf(entry))) {
    announce(`${title} is in the history already.`);
    return;
  }
  setHistory([...state.history, entry]);
}

function setHistory(history) {
  state.history = history;
  writeAddress(history);
  list.show(history);
  space.setHistory(history);
  explaining.abort();
  why.clear();
  ask(state.shown);
}

function point(itemId) {
  answers.point(itemId);
  space.point(itemId);
}

function body(decoder) {
  const diversity = byId("diversity").valueAsNumber;
  return {
    history: state.history.map(asSent),
    k: byId("k").valueAsNumber,
    decoder,
    exclude_history: byId("exclude").checked,
    ...(diversity > 0 ? { diversity } : {}),
  };
}

/** Ask these decoders; what was asked before is no longer waited for. */
async function ask(decoders) {
  asking.abort();
  asking = new AbortController();
  const number = ++asked;
  if (!state.history.length) {
    state.answers.clear();
    answers.clear();
    space.setAnswers(new Map());
    return;
  }
  answers.begin();
  await Promise.all(decoders.map((decoder) => askOne(decoder, asking.signal)));
  if (number === asked) announce(summary());
}

async function askOne(decoder, signal) {
  try {
    const answer = await api.recommend(body(decoder), signal);
    state.answers.set(decoder, answer);
    answers.show(decoder, answer);
    drawRings();
  } catch (problem) {
    if (problem.name === "AbortError") return;
    answers.fail(decoder, problem);
  }
}

const drawRings = () => space.setAnswers(new Map(state.shown.map((decoder) => [decoder, (state.answers.get(decoder)?.items ?? []).map((item) => item.item_id)])));

function summary() {
  const said = state.shown.flatMap((decoder) => {
    const best = state.answers.get(decoder)?.items[0];
    return best ? [`${decoder}: ${best.title}`] : [];
  });
  return said.length ? `Best by ${said.join("; by ")}.` : "";
}

async function explain(item, decoder, opener, byKey) {
  explaining.abort();
  explaining = new AbortController();
  why.begin(item, opener, byKey);
  try {
    const answer = await api.recommend({ ...body(decoder), explain: true }, explaining.signal);
    why.show(answer.items.find((found) => found.item_id === item.item_id) ?? { reasons: [], because: null }, state.history);
  } catch (problem) {
    if (problem.name !== "AbortError") why.fail(problem);
  }
}

/** The switches of the decoders that are served. */
function setDecoders(decoders) {
  state.decoders = decoders;
  state.shown = decoders;
  const box = (decoder) =>
    element("label", { "data-decoder": decoder }, element("input", { type: "checkbox", name: "decoder", value: decoder, checked: true, onchange: chooseDecoders }), ` ${decoder}`);
  byId("decoders").replaceChildren(element("legend", {}, "Decoders"), ...decoders.map(box));
  answers.setDecoders(decoders);
}

function chooseDecoders() {
  state.shown = [...byId("decoders").querySelectorAll("input:checked")].map((box) => box.value);
  answers.setDecoders(state.shown);
  drawRings();
  ask(state.shown);
}

async function refresh() {
  const status = await api.status();
  showServed(status);
  showService(byId("service"), status);
  if (status.decoders.join() !== state.decoders.join()) setDecoders(status.decoders);
  const isNew = status.memory_version !== state.version;
  state.version = status.memory_version;
  if (isNew) await loadMap();
  return isNew;
}

async function loadMap() {
  let map;
  try {
    map = await api.map();
  } catch (problem) {
    byId("map-note").textContent = `No map: ${problem.message}`;
    return;
  }
  space.setMap(map);
  space.setHistory(state.history);
  const examples = map.points.slice(0, NUM_EXAMPLES).map((item) => element("li", {}, element("button", { type: "button", onclick: () => add(item) }, item.title)));
  byId("examples").replaceChildren(...examples);
  byId("examples-label").hidden = examples.length === 0;
}

/** The state of the service; a new version is asked at once. */
async function look() {
  try {
    if (await refresh()) await ask(state.shown);
  } catch (problem) {
    byId("served").replaceChildren(element("span", { class: "problem", role: "alert" }, problem.message));
  }
}

/** Look again and again while somebody does. */
async function watch() {
  if (document.visibilityState === "visible") await look();
  setTimeout(watch, STATUS_EVERY_MS);
}

byId("clear").addEventListener("click", () => {
  setHistory([]);
  byId("search").focus();
});
byId("settings").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["k", "diversity", "exclude"]) byId(id).addEventListener("change", () => byId("settings").reportValidity() && ask(state.shown));
byId("diversity").addEventListener("input", () => (byId("diversity-value").textContent = byId("diversity").value));
byId("key-button").hidden = api.key === null;
byId("key-button").addEventListener("click", async () => {
  if (await api.renewKey(null)) await look();
});
window.addEventListener("hashchange", () => setHistory(readAddress()));

list.show(state.history);
watch();
