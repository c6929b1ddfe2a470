// Elements made by hand. Whatever comes from the index goes in as text or as an attribute's value, never as markup.

export const find = (id) => document.getElementById(id);

export function el(name, settings = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(settings)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child || child === 0));
  return made;
}

export function say(text) {
  find("said").textContent = text;
}

// Seconds as a player shows them.
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

// Numbers as a reader of this browser's language writes them.
export const number = (value) => value.toLocaleString();
export const score = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");
