// The page: the address says what is asked, the form shows it, the grid answers.

import { post, read } from "./api.js";
import * as detail from "./detail.js";
import { el, find, number, say } from "./dom.js";
import * as filters from "./filters.js";
import * as query from "./query.js";
import * as results from "./results.js";

const PAGE = 20;
const MOST = 200; // hits that the server gives of one search
const now = { hits: [], count: PAGE, asked: {}, filter: "", hybrid: false, rerank: false, leaving: null };

async function search({ count = PAGE, keep = false } = {}) {
  // More of the same is of the same question, whatever was typed since.
  const more = count > now.count;
  const { asked, filter, hybrid, rerank } = more ? now : question();
  if (!keep) {
    // Without a question there is nothing to rank; a filter alone still lists what it lets through.
    if (!Object.keys(asked).length && !filter) find("words").focus();
    remember();
  }
  const from = more ? now.hits.length : 0;
  // What has the focus goes with the old results, and whoever works by keys would be sent back to the top of the page.
  const lost = ["results", "more", "trouble"].some((id) => find(id).contains(document.activeElement));
  now.leaving?.abort();
  const leaving = (now.leaving = new AbortController());
  trouble();
  say(more ? "Looking for more…" : "Searching…");
  document.body.classList.toggle("asked", asks(asked, filter));
  if (!more) results.waiting();
  find("more").hidden = true;
  try {
    const body = { ...asked, top_k: count, ...(filter && { filter }), ...(hybrid && { hybrid: true }), ...(rerank && { rerank_top: PAGE }) };
    const found = await post("/v1/search", body, leaving.signal);
    Object.assign(now, { hits: found.hits, count, asked, filter, hybrid, rerank });
    answer(found, from);
    if (lost) results.focus(from);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!more) results.clear();
    say("");
    trouble(error, () => search({ count, keep: true }));
    if (lost) (find("trouble").querySelector("button") ?? find("words")).focus();
  }
}

function question() {
  const asked = query.query();
  const contents = Object.keys(asked).length > 0 && asked.id === undefined;
  const rerank = contents && !find("again").hidden && find("rerank").checked;
  return { asked, filter: filters.filter(), hybrid: Boolean(asked.text) && find("hybrid").checked, rerank };
}

const asks = (asked, filter) => Object.keys(asked).length > 0 || Boolean(filter);

function answer({ hits, took_ms: took }, from) {
  const ranked = Object.keys(now.asked).length > 0;
  results.draw(hits, { ...acts, ranked }, from);
  filters.offer(hits);
  const time = Number.isFinite(took) ? ` in ${number(Math.round(took))} ms` : "";
  const many = `${number(hits.length)} ${hits.length === 1 ? "result" : "results"}${time}`;
  if (hits.length) say(ranked ? `${many}, the best first.` : now.filter ? many : "A look into the index");
  else if (now.filter) say("Nothing in the index passes these filters.");
  else if (ranked) say("Nothing was found.");
  else say("");
  document.title = [now.asked.text ?? (now.asked.id !== undefined ? `like ${now.asked.id}` : ["image", "video", "audio"].some((kind) => now.asked[kind]) && "a file"), "twoway"].filter(Boolean).join(" – ");
  find("more").hidden = hits.length < now.count || hits.length <= from || now.count >= MOST;
}

// An error is shown as the server says it; what was asked wrongly is mended, and only what may pass is tried again.
function trouble(error, again) {
  const box = find("trouble");
  box.replaceChildren();
  if (!error) return;
  const status = error.status ? ` (${error.status})` : "";
  const wait = error.wait ? `Try again in ${error.wait} s` : "Try again";
  box.append(el("p", {}, error.message, el("span", { class: "small" }, status)));
  if (!error.status || error.status === 408 || error.status === 429 || error.status >= 500)
    box.append(el("button", { type: "button", onclick: again }, wait));
}

const acts = {
  open: (place) => detail.open(now.hits, place, Object.keys(now.asked).length > 0),
  why: (place) => detail.open(now.hits, place, true, true),
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

function recallQuestion() {
  const said = new URLSearchParams(location.search);
  query.set({ text: said.get("q") ?? "", like: said.get("like") });
  filters.set(said.get("filter") ?? "");
}

function recall() {
  recallQuestion();
  search({ keep: true });
}

function describe(index) {
  find("about").replaceChildren(`${number(index.count)} ${index.count === 1 ? "item" : "items"}`, el("span", { title: index.model }, results.short(index.model)));
  if (!index.count) notice("The index is empty.", "Add to it with ", "twoway index DATA --model MODEL --index PATH", ".");
}

function notice(first, before, command, after) {
  find("trouble").replaceChildren(el("p", { class: "notice" }, first, " ", before, el("code", {}, command), after));
}

async function start() {
  query.listen(() => search());
  detail.listen(acts);
  find("more").onclick = () => search({ count: now.count + PAGE, keep: true });
  find("hybrid").onchange = () => query.query().text && search();
  find("rerank").onchange = () => asks(query.query()) && search();
  window.addEventListener("popstate", recall);
  // Before anything is waited for: what is typed or dropped while the index is asked for is not to be lost.
  recallQuestion();
  try {
    const index = await read("/v1/index");
    describe(index);
    query.accept(index.takes, index.limits);
    find("again").hidden = !index.reranker;
    find("again").title = `${index.reranker} reads the first ${PAGE} together with the question, and puts them into its order`;
    filters.listen(index.fields, () => search());
    if (index.count && !now.leaving) search({ keep: true });
  } catch (error) {
    if (error.code !== "no_index") return trouble(error, () => location.reload());
    document.body.classList.add("bare");
    for (const control of find("ask").elements) control.disabled = true;
    notice("This server has a model and no index, so there is nothing to search.", "Start it with one: ", "twoway serve MODEL --index PATH", ". Its /v1/embeddings answers all the same.");
  }
}

start();
