// The page: the address says what is asked, the form shows it, the grid answers.

import { post, read } from "./api.js";
import * as detail from "./detail.js";
import { el, find, number, say } from "./dom.js";
import * as filters from "./filters.js";
import * as query from "./query.js";
import * as results from "./results.js";

const PAGE = 20;
const now = { hits: [], count: PAGE, asked: null, leaving: null };

async function search({ count = PAGE, keep = false } = {}) {
  const asked = query.query();
  if (!Object.keys(asked).length) {
    say("Type words, or give a picture.");
    find("words").focus();
    return;
  }
  if (!keep) remember();
  const filter = filters.filter();
  const hybrid = find("hybrid").checked && asked.text;
  const more = count > now.count;
  const from = more ? now.hits.length : 0;
  now.leaving?.abort();
  const leaving = (now.leaving = new AbortController());
  trouble();
  say(more ? "Looking for more…" : "Searching…");
  document.body.classList.add("asked");
  if (!more) results.waiting();
  find("more").hidden = true;
  try {
    const body = { ...asked, k: count, ...(filter && { filter }), ...(hybrid && { hybrid: true }) };
    const found = await post("/v1/search", body, leaving.signal);
    Object.assign(now, { hits: found.hits, count, asked });
    answer(found, filter, from);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!more) results.clear();
    say("");
    trouble(error, () => search({ count, keep: true }));
  }
}

function answer({ hits, took_ms: took }, filter, from) {
  results.draw(hits, acts, from);
  const time = Number.isFinite(took) ? ` in ${number(Math.round(took))} ms` : "";
  if (hits.length) say(`${number(hits.length)} ${hits.length === 1 ? "result" : "results"}${time}, the best first.`);
  else say(filter ? "Nothing in the index passes these filters." : "Nothing was found.");
  find("more").hidden = hits.length < now.count || hits.length <= from;
}

// An error is shown as the server says it.
function trouble(error, again) {
  const box = find("trouble");
  box.replaceChildren();
  if (!error) return;
  const status = error.status ? ` (${error.status})` : "";
  const wait = error.wait ? `Try again in ${error.wait} s` : "Try again";
  box.append(el("p", {}, error.message, el("span", { class: "small" }, status)), el("button", { type: "button", onclick: again }, wait));
}

const acts = {
  open: (place) => detail.open(now.hits, place),
  why: (place) => detail.open(now.hits, place, true),
  like(hit) {
    detail.close();
    query.set({ like: hit.id });
    window.scrollTo({ top: 0 });
    search();
  },
  // In the question of "why", the item is `id`, and what it was to be like is `like`.
  ask(id) {
    const { id: like, ...asked } = now.asked;
    return post("/v1/why", { ...asked, ...(like !== undefined && { like }), id });
  },
};

// Words, "like" and filters stand in the address, so that going back works and a search can be shared; pictures are too long for it.
function remember() {
  const { text, id } = query.query();
  const parts = Object.entries({ q: text, like: id, filter: filters.filter() }).filter(([, value]) => value);
  const address = parts.length ? `?${new URLSearchParams(parts)}` : location.pathname;
  if (address !== (location.search || location.pathname)) history.pushState(null, "", address);
}

function recall() {
  const said = new URLSearchParams(location.search);
  query.set({ text: said.get("q") ?? "", like: said.get("like") });
  filters.set(said.get("filter") ?? "");
  if (said.get("q") || said.get("like")) search({ keep: true });
  else {
    document.body.classList.remove("asked");
    results.clear();
    find("more").hidden = true;
    trouble();
    say("");
  }
}

function describe(index) {
  find("about").replaceChildren(`${number(index.count)} ${index.count === 1 ? "item" : "items"}`, el("span", { title: index.model }, results.short(index.model)));
  if (!index.count) notice("The index is empty.", "Add to it with ", "twoway index DATA --db PATH", ".");
}

function notice(first, before, command, after) {
  find("trouble").replaceChildren(el("p", { class: "notice" }, first, " ", before, el("code", {}, command), after));
}

async function start() {
  query.listen(() => search());
  detail.listen(acts);
  find("more").onclick = () => search({ count: now.count + PAGE, keep: true });
  find("hybrid").onchange = () => now.asked && search();
  window.addEventListener("popstate", recall);
  try {
    const index = await read("/v1/index");
    describe(index);
    filters.listen(index.fields, () => (now.asked || Object.keys(query.query()).length) && search());
    recall();
  } catch (error) {
    if (error.code !== "no_index") return trouble(error, () => location.reload());
    document.body.classList.add("bare");
    for (const control of find("ask").elements) control.disabled = true;
    notice("This server has a model and no index, so there is nothing to search.", "Start it with one: ", "twoway serve MODEL --db PATH", ". Its /v1/embeddings answers all the same.");
  }
}

start();
