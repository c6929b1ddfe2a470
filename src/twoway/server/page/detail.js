// One result, large: its picture, or what it plays, what it says, where it comes from, and why it matched.

import { el, find, score } from "./dom.js";
import { explained, picture, title } from "./results.js";
import { overlay, timeline } from "./why.js";

let at = { hits: [], place: 0, ranked: true, why: false };
let acts = null;

export function listen(given) {
  acts = given;
  const dialog = find("detail");
  dialog.addEventListener("close", () => {
    dialog.querySelector("video, audio")?.pause();
    find("results").children[at.place]?.querySelector(".mat")?.focus();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    // The arrows of what plays are its own.
    const step = !event.altKey && !event.ctrlKey && !event.metaKey && !event.target.matches("video, audio") && { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && at.hits[at.place + step]) open(at.hits, at.place + step, at.ranked, at.why);
  });
}

export function close() {
  find("detail").close();
}

// `ranked` says that there was a question, without which there is no score and no why.
export function open(hits, place, ranked, why = false) {
  at = { hits, place, ranked, why };
  const hit = hits[place];
  const dialog = find("detail");
  // The page is rendered when it is opened, and only then.
  const link = hit.page && el("a", { target: "_blank", rel: "noopener" }, "Open the page");
  dialog.classList.toggle("read", Boolean(hit.page));
  dialog.replaceChildren(shown(hit, link), told(hit, link));
  if (!dialog.open) dialog.showModal();
  dialog.querySelector("h2").focus();
  if (why && explained(hit)) explain(hit);
}

function shown(hit, link) {
  const step = (by, sign, name) =>
    el("button", { type: "button", class: `quiet step ${name}`, "aria-label": `The ${name} result`, disabled: !at.hits[at.place + by], onclick: () => open(at.hits, at.place + by, at.ranked, at.why) }, sign);
  const large = hit.media ? recording(hit) : hit.page ? picture(hit, title(hit), "page", link) : hit.thumbnail && picture(hit, title(hit));
  const body = large ? el("div", { class: "canvas" }, ...[large].flat()) : el("p", { class: "page" }, hit.text || hit.id);
  return el("figure", {}, step(-1, "‹", "previous"), body, step(1, "›", "next"));
}

// A video or a sound opens at its second, and ends where its segment does. Behind a video lies the frame that its small picture shows.
function recording(hit) {
  const { kind, url, start, end } = hit.media;
  const player = el(kind, { controls: true, preload: "metadata", "aria-label": title(hit), src: `${url}#t=${start ?? 0}${end ? `,${end}` : ""}` });
  player.addEventListener("error", () => {
    player.replaceWith(el("p", { class: "lost" }, "This browser cannot play it, or its file has moved or changed."));
    still(true);
  });
  const small = hit.thumbnail && picture(hit, title(hit));
  if (small && kind === "video") small.hidden = true;
  return [small, player].filter(Boolean);
}

// Shows the small picture in place of the video, or the video again.
function still(on) {
  const [player, small] = ["video", "img"].map((name) => find("detail").querySelector(`.canvas ${name}`));
  if (on) player?.pause();
  if (player) player.hidden = on;
  if (small) small.hidden = !on && Boolean(player);
}

function told(hit, link) {
  const before = [["Place by the mean", hit.place_before_maxsim], ["Place before reranking", hit.place_before]];
  const rows = [["Score", at.ranked ? score(hit.score) : ""], ...before, ["From", hit.place], ["Id", hit.id], ...Object.entries(hit.metadata ?? {})];
  const facts = rows.filter(([, value]) => value !== null && value !== "" && value !== undefined);
  const why = el("button", { id: "why", type: "button", "aria-pressed": "false", onclick: () => toggle(hit) }, "Why this matched");
  return el(
    "section",
    {},
    el("h2", { id: "detail-title", tabindex: -1 }, title(hit)),
    link && el("p", {}, link),
    hit.text && hit.text.trim() !== title(hit) && el("p", { class: "text" }, hit.text),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
    el(
      "p",
      { class: "acts" },
      at.ranked && explained(hit) && why,
      el("button", { type: "button", onclick: () => acts.like(hit) }, "More like this"),
      el("button", { type: "button", class: "quiet", onclick: close }, "Close"),
    ),
    el("div", { id: "why-said", class: "why", role: "status", "aria-live": "polite" }),
  );
}

function toggle(hit) {
  at.why = !at.why;
  if (at.why) return explain(hit);
  find("detail").querySelector("canvas")?.remove();
  still(false);
  find("why-said").replaceChildren();
  find("why").setAttribute("aria-pressed", "false");
}

async function explain(hit) {
  const [said, frame] = [find("why-said"), find("detail").querySelector(".canvas")];
  find("why").setAttribute("aria-pressed", "true");
  said.replaceChildren({ video: "Looking at its frames…", audio: "Listening to it…" }[hit.media?.kind] ?? "Looking at its patches…");
  const current = () => said.isConnected && at.why;
  try {
    const found = await acts.ask(hit.id);
    if (!current()) return;
    const player = frame.querySelector("video, audio");
    still(!found.moments);
    if (found.moments && player) said.replaceChildren(...timeline(found, player));
    else if (found.grid || found.words) said.replaceChildren(...overlay(found, frame));
    else said.replaceChildren(el("p", {}, "Its file has moved or changed, so no moment of it can be shown."));
  } catch (error) {
    if (current()) said.replaceChildren(el("p", { class: "wrong" }, error.message));
  }
}
