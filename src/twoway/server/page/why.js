// Which patches pull, drawn over the picture: the stronger a cell pulls, the stronger its colour. Of a video or a sound, when it pulls.

import { clock, el, score } from "./dom.js";

const COLOUR = [232, 89, 12]; // the one of --heat
const STRONGEST = 0.78;
const FAINTEST = 0.15;

export function overlay(found, frame) {
  if (found.method === "words") return words(found.words, frame);
  lay(found, frame);
  return legend(found);
}

// Of a model that compares words with patches, each word has a map of its own; the one that matches best is shown first.
function words(found, frame) {
  const said = el("p", {});
  const choose = (one) => {
    lay(one, frame);
    said.textContent = `“${one.word}” and its nearest patch: ${score(one.score)}. ${told(one)}`;
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(found[place] === one)));
  };
  const buttons = found.map((one) => el("button", { type: "button", onclick: () => choose(one) }, one.word, " ", el("span", { class: "score" }, score(one.score))));
  choose(found.reduce((best, one) => (one.score > best.score ? one : best)));
  return [el("p", { class: "lead" }, "Each word looks for the patch nearest to it. Choose a word to see where it looks."), el("p", { class: "words" }, ...buttons), scale("least like it"), said];
}

function lay(found, frame) {
  frame.querySelector("canvas")?.remove();
  const canvas = el("canvas", { role: "img", "aria-label": told(found) });
  frame.append(canvas);
  cover(canvas, frame.querySelector("img"), found.grid, found.share);
  canvas.addEventListener("pointermove", (event) => point(canvas, found, event));
}

// Draws over a picture, again whenever its size changes. What it has little to do with is shown faintly, though its cells differ as much.
function cover(canvas, image, grid, share) {
  canvas.style.opacity = Math.max(FAINTEST, share ?? 1);
  const paint = () => draw(canvas, image, grid);
  if (image.complete) paint();
  else image.addEventListener("load", paint, { once: true });
  new ResizeObserver((_, watch) => (canvas.isConnected ? paint() : watch.disconnect())).observe(image);
}

// The moments of a video, each with its frame, or of a sound: how strongly each pulls; one that is pressed is played.
export function timeline(found, player) {
  const { moments } = found;
  const strongest = moments.reduce((one, other) => (other.pull > one.pull ? other : one));
  const list = el("ol", { class: moments[0].frame ? "moments frames" : "moments" }, ...moments.map((moment) => step(moment, found.share, player)));
  const span = (moment) => `${clock(moment.start)} to ${clock(moment.end)}`;
  const when = moments.some((moment) => moment.shade > 0) ? `The strongest is ${span(strongest)}.` : "All pull alike.";
  const how = {
    parts: () => `It scores ${score(found.score)}, a sum: ${score(found.score - found.rest)} from what is shown or heard, ${score(found.rest)} from the template around it.`,
    occlusion: () => `It scores ${score(found.score)}. Each moment was greyed or silenced in turn; its bar is how far the score falls without it.`,
  }[found.method];
  return [el("p", { class: "lead" }, lead(found, player.localName === "video" ? "video" : "sound")), list, el("p", {}, when), el("p", {}, how())];
}

function step(moment, share, player) {
  const play = () => {
    player.currentTime = moment.start;
    player.play();
  };
  const image = moment.frame && el("img", { src: moment.frame, alt: "", draggable: "false" });
  const canvas = image && moment.grid && el("canvas", { "aria-hidden": "true" });
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--pull", moment.shade);
  const pull = `${moment.pull >= 0 ? "+" : ""}${moment.pull.toFixed(4)}`;
  const said = { "aria-label": `Play from ${clock(moment.start)}, pull ${pull}`, title: `${clock(moment.start)}: ${pull}`, onclick: play };
  const made = el("li", {}, el("button", { type: "button", class: "quiet", ...said }, image && el("span", { class: "frame" }, image, canvas), bar, el("span", {}, clock(moment.start))));
  if (canvas) cover(canvas, image, moment.grid, share);
  return made;
}

function draw(canvas, image, grid) {
  const { offsetLeft: left, offsetTop: top, clientWidth: width, clientHeight: height } = image;
  if (!width || !height) return;
  const dense = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: width * dense, height: height * dense });
  Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  const [high, wide] = [canvas.height / grid.length, canvas.width / grid[0].length];
  grid.forEach((row, y) =>
    row.forEach((shade, x) => {
      pen.fillStyle = `rgb(${COLOUR.join(" ")} / ${(STRONGEST * shade).toFixed(3)})`;
      pen.beginPath();
      pen.roundRect(x * wide + dense / 2, y * high + dense / 2, wide - dense, high - dense, Math.min(wide, high) / 10);
      pen.fill();
    }),
  );
}

function strongest(grid) {
  const flat = grid.flat();
  const best = flat.indexOf(Math.max(...flat));
  return { row: Math.floor(best / grid[0].length), column: best % grid[0].length, differs: Math.max(...flat) > 0 };
}

function told({ grid }) {
  const { row, column, differs } = strongest(grid);
  const size = `The pull of ${grid.length} by ${grid[0].length} patches.`;
  return differs ? `${size} The strongest is in row ${row + 1}, column ${column + 1}.` : `${size} All pull alike.`;
}

function point(canvas, { grid, pulls }, event) {
  const box = canvas.getBoundingClientRect();
  const row = Math.floor(((event.clientY - box.top) / box.height) * grid.length);
  const column = Math.floor(((event.clientX - box.left) / box.width) * grid[0].length);
  const pull = pulls?.[row]?.[column];
  canvas.title = pull === undefined ? "" : `row ${row + 1}, column ${column + 1}: ${pull >= 0 ? "+" : ""}${pull.toFixed(4)}`;
}

// What matched most, first: the map is of the picture alone, and a page is often found by its words.
function lead({ share, note }, what = "picture") {
  if (note) return `${note[0].toUpperCase()}${note.slice(1)}.`;
  if (share === null || share === undefined) return `Its text and its ${what} match equally well without each other.`;
  if (share === 1) return `By its ${what}.`;
  const percent = `${Math.round(100 * share)}% of the match`;
  if (share < 0.4) return `Mostly by its text; its ${what} is ${percent}.`;
  return share > 0.6 ? `Mostly by its ${what}, ${percent}.` : `By its text and its ${what} alike; the ${what} is ${percent}.`;
}

const scale = (least) => el("p", { class: "scale" }, el("span", {}, least), el("span", { class: "ramp", "aria-hidden": "true" }), el("span", {}, "most"));

function legend(found) {
  const how = {
    parts: () => `This small picture alone scores ${score(found.score)}, a sum: ${score(found.score - found.rest)} from its patches, ${score(found.rest)} from the template around them.`,
    occlusion: () => `This small picture alone scores ${score(found.score)}. Each patch was greyed in turn; its colour is how far the score falls without it.`,
  }[found.method];
  return [el("p", { class: "lead" }, lead(found)), scale("pulls least"), el("p", {}, told(found)), ...(how ? [el("p", {}, how())] : [])];
}
