// The server's own answers, and its refusals in its own words. A key is asked for when the server wants one.

import { find } from "./dom.js";

const KEY = "twoway-key";

export class Refusal extends Error {
  constructor(message, { status = 0, code = null, wait = null } = {}) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

const key = () => sessionStorage.getItem(KEY);
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

export const read = (path, signal) => send(path, { signal });

export function post(path, body, signal) {
  return send(path, { method: "POST", body: JSON.stringify(body), signal, headers: { "Content-Type": "application/json" } });
}

async function send(path, settings) {
  const answer = await reach(path, settings);
  const text = await answer.text();
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal("The server answered with something that is not JSON.", { status: answer.status });
  }
}

async function reach(path, settings) {
  let answer;
  try {
    answer = await fetch(path, { ...settings, headers: { ...settings.headers, ...headers() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const message = said?.error?.message ?? `The server answered ${answer.status} ${answer.statusText}.`;
  if (answer.status === 401) {
    await askForKey(message);
    return reach(path, settings);
  }
  const wait = Number(answer.headers.get("Retry-After")) || null;
  throw new Refusal(message, { status: answer.status, code: said?.error?.code ?? null, wait });
}

// Several requests that are refused at a time wait for one answer.
let asked = null;

function askForKey(why) {
  asked ??= new Promise((resolve, reject) => {
    const dialog = find("lock");
    find("lock-why").textContent = why;
    find("key").value = "";
    dialog.returnValue = "";
    dialog.querySelector("form").onsubmit = () => {
      sessionStorage.setItem(KEY, find("key").value.trim());
      dialog.returnValue = "given";
    };
    dialog.addEventListener(
      "close",
      () => {
        asked = null;
        if (dialog.returnValue === "given") resolve();
        else reject(new Refusal(why, { status: 401 }));
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asked;
}

export const picture = (id, what) => `/v1/index/items/${encodeURIComponent(id)}/${what}`;

// A picture's element and a link send no key, so with a key the picture is fetched and shown from memory.
export async function show(image, id, what, link = null) {
  const give = (address) => {
    image.src = address;
    if (link) link.href = address;
  };
  if (!key()) return give(picture(id, what));
  try {
    const answer = await reach(picture(id, what), {});
    const address = URL.createObjectURL(await answer.blob());
    if (!link) image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    give(address);
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}
