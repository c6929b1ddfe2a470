// What is asked: words, a picture, video or sound that was dropped, pasted, picked or recorded, both, or "like this one". The form shows it.

import { show } from "./api.js";
import { clock, el, find, say } from "./dom.js";

const WORDS = { image: "picture", video: "video", audio: "sound" };
const now = { media: null, kind: "image", name: "", like: null };
let takes = Object.keys(WORDS);
let bounds = { sound_seconds: 60, body_bytes: 1 << 20 };
let recorder = null;

// What the model takes, of which one may be given, and what the server takes of it.
export function accept(kinds, given) {
  takes = Object.keys(WORDS).filter((kind) => kinds.includes(kind));
  bounds = { ...bounds, ...given };
  find("record").hidden = !accepts("audio") || !navigator.mediaDevices?.getUserMedia || !window.MediaRecorder;
  find("file").accept = takes.map((kind) => `${kind}/*`).join();
  find("pick").hidden = !takes.length;
  const words = takes.map((kind) => WORDS[kind]);
  document.querySelector(".options .hint").textContent = words.length ? `Drop or paste a ${words.join(" or ")} anywhere.` : "";
}

export const accepts = (kind) => takes.includes(kind);

// What the server is asked; nothing where nothing is given.
export function query() {
  const text = find("words").value.trim();
  if (now.like !== null) return { id: now.like };
  return { ...(text && { text }), ...(now.media && { [now.kind]: now.media }) };
}

export const like = () => now.like;

export function set({ text = "", like = null }) {
  find("words").value = text;
  Object.assign(now, { like, media: null, name: "" });
  draw();
}

export function listen(search) {
  const words = find("words");
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  // New words take the place of "like this one"; the two are no one question.
  words.addEventListener("input", () => {
    if (now.like !== null) {
      now.like = null;
      draw();
    }
  });
  find("pick").addEventListener("click", () => find("file").click());
  find("record").addEventListener("click", () => (recorder ? recorder.stop() : record(search)));
  find("file").addEventListener("change", () => {
    take(find("file").files, search);
    find("file").value = "";
  });
  document.addEventListener("paste", (event) => {
    // Office programs put a picture of what was copied beside its text; then the text is meant.
    if (event.clipboardData.files.length && !event.clipboardData.types.includes("text/plain")) {
      event.preventDefault();
      take(event.clipboardData.files, search);
    }
  });
  drops(search);
  draw = () => drawWith(search);
}

function drops(search) {
  // Entering and leaving is told for every element on the way, so they are counted.
  let depth = 0;
  const over = (inside) => find("drop").classList.toggle("over", inside);
  const carries = (event) => event.dataTransfer && [...event.dataTransfer.types].some((type) => type === "Files" || type === "text/uri-list");
  document.addEventListener("dragenter", (event) => carries(event) && over(++depth > 0));
  document.addEventListener("dragleave", (event) => carries(event) && over(--depth > 0));
  document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files, search);
    else say("That is an address, and addresses are not opened. Save the file and drop that.");
  });
}

function take(files, search) {
  const kind = (file) => takes.find((one) => file.type.startsWith(`${one}/`));
  const file = [...files].find(kind);
  if (!file) {
    const words = takes.map((one) => WORDS[one]);
    say(files.length ? `${files[0].name || "That"} is no ${words.join(" or ")}, and this model takes no other files.` : "");
    return;
  }
  read(file, kind(file), file.name || `pasted ${WORDS[kind(file)]}`, search);
}

function read(file, kind, name, search) {
  const reader = new FileReader();
  reader.onerror = () => say(`${name} cannot be read.`);
  reader.onload = () => {
    Object.assign(now, { media: reader.result, kind, name, like: null });
    draw();
    search();
  };
  reader.readAsDataURL(file);
}

// Records until the button is pressed again, or as long as the server takes; then the sound is searched with.
async function record(search) {
  let stream;
  recorder = { stop() {} }; // while the browser asks: pressed again meanwhile, it begins no second recording that nothing could end
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    recorder = null;
    return say("The microphone cannot be used. Allow it for this page, and press again.");
  }
  const pieces = [];
  const begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1000;
  const mine = (recorder = new MediaRecorder(stream));
  const pressed = (on) => find("record").setAttribute("aria-pressed", on);
  mine.addEventListener("dataavailable", ({ data }) => {
    pieces.push(data);
    if (mine.state !== "recording") return;
    say(`Recording, ${clock(seconds())}. Press the microphone again to search.`);
    // A request is in base64, four letters for three bytes, with words beside; the next piece comes in a second.
    const bytes = pieces.reduce((sum, { size }) => sum + size, 0);
    if (seconds() > bounds.sound_seconds - 2 || bytes > 0.7 * bounds.body_bytes) mine.stop();
  });
  mine.addEventListener("stop", () => {
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    pressed(false);
    const sound = new Blob(pieces, { type: mine.mimeType });
    if (sound.size) read(sound, "audio", `recorded ${clock(seconds())}`, search);
    else say("Nothing was recorded.");
  });
  pressed(true);
  say("Recording. Press the microphone again to search.");
  mine.start(1000);
}

let draw = () => {};

// The picture, or the item that others are to be like, stands in the field with a button that takes it out.
function drawWith(search) {
  const given = find("given");
  given.hidden = !now.media && now.like === null;
  given.replaceChildren();
  if (given.hidden) return;
  const image = el(now.media && now.kind === "video" ? "video" : "img", { alt: "", muted: true, onerror: (event) => event.target.remove() });
  if (now.media) image.src = now.media;
  else show(image, now.like, "thumbnail");
  const what = now.media ? now.name : `like ${now.like}`;
  const out = () => {
    Object.assign(now, { media: null, name: "", like: null });
    draw();
    find("words").focus();
    search();
  };
  given.append(image, el("span", { title: what }, what), el("button", { type: "button", class: "quiet", "aria-label": `Take out: ${what}`, onclick: out }, "×"));
}
