// Filters over the fields of the index, put together by choosing; what is sent is the index's own small language.

import { el, find } from "./dom.js";

const WORDS = { "=": "is", "!=": "is not", "<": "below", "<=": "at most", ">": "above", ">=": "at least", like: "is like (% for anything)", has: "has", null: "is missing" };
const SIGNS = {
  string: ["=", "!=", "has", "like", "null"],
  integer: ["=", "!=", "<", "<=", ">", ">=", "null"],
  number: ["=", "!=", "<", "<=", ">", ">=", "null"],
  boolean: ["=", "!=", "null"],
};
const KEYWORDS = new Set(["and", "or", "not", "in", "like", "is", "null", "between", "true", "false"]);
const OWN = ["id", "text", "place"]; // of every item; what the index is of its own stands before them
let chosen = [];

// One filter from an address may hold an "or", so several stand in brackets.
export const filter = () => (chosen.length > 1 ? chosen.map((one) => `(${one})`).join(" and ") : (chosen[0] ?? ""));

export function set(text) {
  chosen = text ? [text] : [];
  draw();
}

export function listen(fields, search) {
  const [field, sign, value, panel, open] = ["filter-field", "filter-sign", "filter-value", "filters", "filter-open"].map(find);
  open.hidden = !fields.length;
  const known = [...fields].sort((one, other) => OWN.includes(one.name) - OWN.includes(other.name));
  field.replaceChildren(...known.map(({ name }) => el("option", { value: name }, name)));
  const type = () => fields.find(({ name }) => name === field.value)?.type ?? "string";
  const signs = () => {
    sign.replaceChildren(...(SIGNS[type()] ?? SIGNS.string).map((one) => el("option", { value: one }, WORDS[one])));
    values();
  };
  const values = () => {
    value.type = ["integer", "number"].includes(type()) ? "number" : "text";
    value.step = type() === "integer" ? "1" : "any";
    value.placeholder = type() === "boolean" ? "true or false" : "";
    offer();
    value.parentElement.hidden = sign.value === "null";
  };
  const add = () => {
    if (sign.value !== "null" && !value.value.trim()) return value.focus();
    chosen.push(written(field.value, type(), sign.value, value.value));
    value.value = "";
    draw();
    search();
  };
  field.onchange = signs;
  sign.onchange = values;
  open.onclick = () => {
    panel.hidden = !panel.hidden;
    open.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) field.focus();
  };
  find("filter-add").onclick = add;
  // Enter in the panel adds the filter, and does not send the form with it left out.
  panel.onkeydown = (event) => {
    if (event.key !== "Enter" || event.target.tagName === "BUTTON") return;
    event.preventDefault();
    add();
  };
  again = search;
  if (fields.length) signs();
}

export function written(field, type, sign, value) {
  const name = /^[\p{L}_][\p{L}\p{N}_]*$/u.test(field) && !KEYWORDS.has(field.toLowerCase()) ? field : `\`${field}\``;
  if (sign === "null") return `${name} is null`;
  if (sign === "has") return `${name} has ${quoted(value)}`;
  const bare = type === "boolean" ? ["true", "false"].includes(value.trim().toLowerCase()) : type !== "string";
  return `${name} ${sign} ${bare ? value.trim().toLowerCase() : quoted(value)}`;
}

// Values that the results at hand have in the field that is chosen.
export function offer(hits = offered) {
  offered = hits;
  const name = find("filter-field").value;
  const held = (hit) => (Object.hasOwn(hit.metadata ?? {}, name) ? hit.metadata[name] : OWN.includes(name) ? hit[name] : null);
  const values = new Set(hits.map(held).filter((value) => value !== null && value !== ""));
  find("filter-values").replaceChildren(...[...values].slice(0, 50).map((value) => el("option", { value })));
}

let offered = [];
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
let again = () => {};

function draw() {
  const list = find("chosen");
  list.replaceChildren(
    ...chosen.map((one, place) => {
      const out = () => {
        chosen.splice(place, 1);
        draw();
        find("filter-open").focus();
        again();
      };
      return el("li", { class: "chip" }, el("code", {}, one), el("button", { type: "button", class: "quiet", "aria-label": `Remove the filter ${one}`, onclick: out }, "×"));
    }),
  );
}
