// The grid of what was found. One card at a time is in the order of tabs; arrows go from card to card, as in a table.

import { show } from "./api.js";
import { clock, el, find, score } from "./dom.js";
import { accepts } from "./query.js";

const SNIPPET = 300; // characters of a page below its picture; the style shows three lines of them
const SMALL = 160; // pixels; a smaller picture is not blown up to the whole card

export function waiting(count = 8) {
  const list = find("results");
  list.setAttribute("aria-busy", "true");
  list.replaceChildren(...Array.from({ length: count }, () => el("li", { class: "card ghost", "aria-hidden": "true" }, el("div", { class: "mat" }))));
}

export function clear() {
  find("results").removeAttribute("aria-busy");
  find("results").replaceChildren();
}

// `acts` has what a card can do: open, like, why; `from` is where new cards begin when more are shown.
export function draw(hits, acts, from = 0) {
  clear();
  find("results").append(...hits.map((hit, place) => card(hit, place, acts)));
  current(Math.min(from, hits.length - 1));
}

// The first of the new cards, else the last there is, else the field.
export function focus(from) {
  const cards = [...find("results").children];
  ((cards[from] ?? cards.at(-1))?.querySelector(".mat") ?? find("words")).focus();
}

// A page of a PDF is called by file and page; anything else by what it says, else what its own data calls it, else its id.
export const title = (hit) =>
  hit.page ? `${short(hit.metadata.file)}, page ${hit.metadata.page}` : hit.text?.trim().split("\n")[0] || String(hit.metadata?.title ?? hit.metadata?.name ?? "") || short(hit.id);

// Of a hit that was reranked, the reranker's score and the place before; of one that it could not read, the place alone.
const reranked = (hit) => hit.place_before !== undefined;
const value = (hit) => score(reranked(hit) && hit.relevance !== null ? hit.relevance : hit.score);

// What a model can be asked about: a video or a sound that it takes, or a small picture; that of a sound shows how loud it is.
export const explained = (hit) => (hit.media?.kind === "audio" ? accepts("audio") : hit.thumbnail);

// The last part of a place is what tells it from others: `reports/2024/plan.pdf page 3` is `plan.pdf page 3`.
export const short = (place) => (place || "").split(/[\\/]/).pop();

// `what` is the small picture or the page at reading size; `link`, where there is one, leads to it. Without a page the small picture stands.
export function picture(hit, alt = "", what = "thumbnail", link = null) {
  const image = el("img", { alt, draggable: "false" });
  image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL));
  const lost = () => {
    if (what !== "page" || !hit.thumbnail) return image.replaceWith(el("span", { class: "lost" }, "The picture cannot be shown."));
    what = "thumbnail";
    link?.replaceWith(el("span", { class: "lost" }, "The page cannot be shown: its file has moved or changed. This is its small picture."));
    show(image, hit.id, what);
  };
  image.addEventListener("error", lost);
  show(image, hit.id, what, link);
  return image;
}

function card(hit, place, acts) {
  const name = title(hit);
  const shown = hit.thumbnail ? picture(hit) : el("span", { class: "page" }, hit.text || hit.id);
  const time = hit.media && el("span", { class: "time" }, hit.media.start === null ? "▶" : `▶ ${clock(hit.media.start)}`);
  return el(
    "li",
    { class: "card", "data-id": hit.id, onkeydown: move, onfocusin: () => current(place) },
    el("button", { type: "button", class: "mat", "aria-label": `${place + 1}. ${name}${acts.ranked ? `, score ${value(hit)}` : ""}${reranked(hit) ? `, was ${hit.place_before}` : ""}. Open`, onclick: () => acts.open(place) }, shown, time),
    el("p", { class: "line" }, el("span", { class: "title", title: hit.text || hit.id }, name), reranked(hit) && el("span", { class: "was", title: `Its place before reranking${hit.by_thumbnail ? "; judged by its small picture" : ""}` }, `was ${hit.place_before}`), acts.ranked && el("span", { class: "score" }, value(hit))),
    hit.page
      ? el("p", { class: "snippet", title: hit.place }, hit.text.trim().slice(0, SNIPPET))
      : el("p", { class: "place", title: hit.place }, short(hit.place) === name ? null : short(hit.place)),
    el(
      "p",
      { class: "acts" },
      el("button", { type: "button", class: "quiet", "aria-label": `More like ${name}`, onclick: () => acts.like(hit) }, "More like this"),
      acts.ranked && explained(hit) && el("button", { type: "button", class: "quiet", "aria-label": `Why ${name} matched`, onclick: () => acts.why(place) }, "Why"),
    ),
  );
}

function current(place) {
  [...find("results").children].forEach((one, number) => {
    for (const button of one.querySelectorAll("button")) button.tabIndex = number === place ? 0 : -1;
  });
}

function move(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own, such as going back
  const cards = [...find("results").children];
  const place = cards.indexOf(event.currentTarget);
  // How many stand in a row is what the layout made of the screen's width.
  const columns = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: cards.length - 1 - place };
  const next = cards[place + (steps[event.key] ?? NaN)];
  if (!next) return;
  event.preventDefault();
  next.querySelector(".mat").focus();
}
