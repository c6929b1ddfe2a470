// The grid of what was found. One card at a time is in the order of tabs; arrows go from card to card, as in a table.

import { show } from "./api.js";
import { el, find, score } from "./dom.js";

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

// What an item says, else what its own data calls it, else its id.
export const title = (hit) => hit.text?.trim().split("\n")[0] || String(hit.metadata?.title ?? hit.metadata?.name ?? "") || short(hit.id);

// The last part of a place is what tells it from others: `reports/2024/plan.pdf page 3` is `plan.pdf page 3`.
export const short = (place) => (place || "").split(/[\\/]/).pop();

export function picture(hit, alt = "") {
  const image = el("img", { alt, draggable: "false" });
  image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL));
  image.addEventListener("error", () => image.replaceWith(el("span", { class: "lost" }, "The picture cannot be shown.")));
  show(image, hit.id);
  return image;
}

function card(hit, place, acts) {
  const name = title(hit);
  const shown = hit.thumbnail ? picture(hit) : el("span", { class: "page" }, hit.text || hit.id);
  return el(
    "li",
    { class: "card", "data-id": hit.id, onkeydown: move, onfocusin: () => current(place) },
    el("button", { type: "button", class: "mat", "aria-label": `${place + 1}. ${name}${acts.ranked ? `, score ${score(hit.score)}` : ""}. Open`, onclick: () => acts.open(place) }, shown),
    el("p", { class: "line" }, el("span", { class: "title", title: hit.text || hit.id }, name), acts.ranked && el("span", { class: "score" }, score(hit.score))),
    el("p", { class: "place", title: hit.place }, short(hit.place) === name ? null : short(hit.place)),
    el(
      "p",
      { class: "acts" },
      el("button", { type: "button", class: "quiet", "aria-label": `More like ${name}`, onclick: () => acts.like(hit) }, "More like this"),
      acts.ranked && hit.thumbnail && el("button", { type: "button", class: "quiet", "aria-label": `Why ${name} matched`, onclick: () => acts.why(place) }, "Why"),
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
