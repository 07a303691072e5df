// Sorting, filters, switches and weights, kept in the address. Whatever is shown is set as text.
// number.js, which opens the numbers, goes on from here.
"use strict";

const DASH = "–";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "title", "polygon"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}

// ---- The state, which the address keeps: #anchor&key=value&…

let anchor = "";
let state = new URLSearchParams();

function readAddress() {
  const [first, ...rest] = location.hash.slice(1).split("&");
  anchor = first.includes("=") ? "" : first;
  // A plain anchor is a link inside the page, and leaves what the page shows as it is.
  if (!anchor || rest.length) state = new URLSearchParams(location.hash.slice(1 + anchor.length));
}

function writeAddress() {
  const plain = (text) => encodeURIComponent(text).replace(/%(2F|2C|3A|40)/g, decodeURIComponent);
  const parts = [...state].map(([key, value]) => `${plain(key)}=${plain(value)}`);
  history.replaceState(null, "", `#${[anchor, ...parts].filter(Boolean).join("&")}`);
}

function put(key, value) {
  if (value) state.set(key, value);
  else state.delete(key);
  anchor = "";
  writeAddress();
}

// ---- Switches and filters

const switches = one("form.switches");

function showSwitches() {
  for (const input of switches.elements) {
    if (!input.name) continue;
    const asked = state.get(input.name);
    const known = all(`[name="${input.name}"]`, switches);
    if (input.type === "radio") {
      input.checked = known.some((other) => other.value === asked) ? input.value === asked
        : input === known[0];
    } else input.value = asked ?? "";
    if (input.selectedIndex === -1) input.selectedIndex = 0;
  }
}

function filter() {
  const { q, kind, family } = switches.elements;
  const words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const left = new Set(), whole = new Set();
  for (const row of all("main tr[data-family]")) {
    const text = row.cells[0].textContent.toLowerCase();
    row.hidden = !(words.every((word) => text.includes(word))
      && (!kind.value || row.parentNode.className === kind.value)
      && (!family.value || row.dataset.family === family.value));
    whole.add(row.dataset.name);
    if (!row.hidden) left.add(row.dataset.name);
  }
  for (const head of all("main tr.kind")) {
    head.hidden = !all("tr:not(.kind)", head.parentNode).some((row) => !row.hidden);
  }
  one("output", switches).value = left.size < whole.size
    ? `${left.size || "none"} of ${whole.size}` : "";
}

switches.addEventListener("submit", (event) => event.preventDefault());
switches.addEventListener("input", ({ target }) => {
  const first = target.type === "radio" && all(`[name="${target.name}"]`, switches)[0] === target;
  put(target.name, first ? "" : target.value);
  filter();
});

// ---- Sorting: best first, worst first, as published; the groups of rows stay apart

const published = new Map(all("main tbody").map((body) => [body, [...body.rows]]));

function heads(table) {
  const rows = [...table.tHead.rows];
  return rows.length > 1 ? [rows[0].cells[0], ...rows[1].cells] : [...rows[0].cells];
}

// `upward` is how the numbers run from the top; what has none comes last either way.
function compare(a, b, upward) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return upward ? order : -order;
}

function sort(table, column, reversed) {
  heads(table).forEach((head) => head.removeAttribute("aria-sort"));
  const head = heads(table)[column];
  const upward = head && (head.dataset.better === "lower") !== reversed;
  head?.setAttribute("aria-sort", upward ? "ascending" : "descending");
  const key = (row) => (column === 0 ? row.cells[0].textContent
    : row.cells[column]?.dataset.v === undefined ? null : Number(row.cells[column].dataset.v));
  for (const body of table.tBodies) {
    const rows = [...published.get(body)];
    if (head) {
      rows.sort((a, b) => b.matches(".kind") - a.matches(".kind")
        || (a.matches(".kind") ? 0 : compare(key(a), key(b), upward)));
    }
    body.append(...rows);
  }
}

function nextSort(table, column) {
  const name = `s.${table.dataset.key}`, now = state.get(name);
  const next = now === `${column}` ? `${column}r` : now === `${column}r` ? "" : `${column}`;
  put(name, next);
  showSort(table);
}

function showSort(table) {
  const [, column, reversed] = /^(\d+)(r?)$/.exec(state.get(`s.${table.dataset.key}`) ?? "") ?? [];
  const asked = column !== undefined && heads(table)[column]?.dataset.better;
  if (asked || one("[aria-sort]", table)) sort(table, asked ? +column : -1, reversed === "r");
}

const sortable = all("table[data-key]").filter((table) => one("thead .by", table));
for (const table of sortable) {
  heads(table).forEach((head, column) => {
    const label = one(".by", head);
    if (!label) return;
    label.replaceWith(el("button", {
      type: "button", class: "by", title: [label.title, "Sort by this column"].filter(Boolean)
        .join("\n\n"), onclick: () => nextSort(table, column),
    }, label.textContent));
  });
}

// ---- Weights of the families

// The ranks of numbers, 1 the lowest; equal ones share their mean rank, as in stats.ranks.
function ranks(numbers) {
  const rounded = numbers.map((number) => Number(number.toFixed(10)));
  return rounded.map((a) => 1 + rounded.filter((b) => b < a).length
    + (rounded.filter((b) => b === a).length - 1) / 2);
}

// The weighted means of rows of ranks; "–" is a family that a data set lacks.
function combine(rows, weights) {
  return rows.map((row) => {
    const there = row.map((rank, i) => [Number(rank), weights[i]]).filter(([rank]) => rank > 0);
    const total = there.reduce((sum, [, weight]) => sum + weight, 0);
    return there.reduce((sum, [rank, weight]) => sum
      + rank * (total ? weight / total : 1 / there.length), 0);
  });
}

function weigh(form) {
  const sliders = all("input", form), total = sliders.reduce((sum, s) => sum + Number(s.value), 0);
  const weights = sliders.map((slider) => (total ? Number(slider.value) / total
    : 1 / sliders.length));
  sliders.forEach((slider, i) => {
    const share = `${Math.round(100 * weights[i])} %`;
    slider.nextElementSibling.value = share;
    slider.setAttribute("aria-valuetext", share);
  });
  for (const body of all("table.weighed tbody", form.parentNode)) {
    const rows = published.get(body).filter((row) => row.dataset.ranks);
    const combined = combine(rows.map((row) => row.dataset.ranks.split(" ")), weights);
    const place = ranks(combined);
    rows.forEach((row, i) => {
      one(".combined", row).textContent = combined[i].toFixed(2);
      if (body.className === "contestant") one(".stand", row).textContent = `#${place[i]}`;
    });
    body.append(...rows.map((row, i) => [row, place[i]]).sort(([, a], [, b]) => a - b)
      .map(([row]) => row));
  }
}

function showWeights(form) {
  const asked = (state.get(form.dataset.key) ?? "").split(",").map(Number);
  const sliders = all("input", form);
  const fits = asked.length === sliders.length && asked.every(Number.isFinite)
    && state.has(form.dataset.key);
  sliders.forEach((slider, i) => { slider.value = fits ? asked[i] : 1; });
  if (fits) form.parentNode.open = true;
  weigh(form);
}

for (const form of all("form.weights")) {
  const keep = () => {
    const values = all("input", form).map((slider) => slider.value);
    put(form.dataset.key, values.every((value) => value === values[0]) ? "" : values.join(","));
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => weigh(form));
  form.addEventListener("change", keep);
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    put(form.dataset.key, "");
    showWeights(form);
  });
}

// ---- Start

function show() {
  showSwitches();
  filter();
  sortable.forEach(showSort);
  all("form.weights").forEach(showWeights);
}

window.addEventListener("hashchange", () => {
  readAddress();
  if (anchor && state.size) writeAddress();
  show();
  showNumber();
});

function toggleTheme(kept) {
  try {
    const before = localStorage.getItem("heatproof-theme")
      ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    const theme = kept ? before : before === "dark" ? "light" : "dark";
    if (!kept || localStorage.getItem("heatproof-theme")) {
      document.documentElement.style.colorScheme = theme;
    }
    if (!kept) localStorage.setItem("heatproof-theme", theme);
  } catch { /* A browser may forbid a page from disk to keep anything. */ }
}

readAddress();
document.documentElement.classList.add("scripted");
all(".scripted[hidden]").forEach((part) => { part.hidden = false; });
toggleTheme(true);
one("#theme").addEventListener("click", () => toggleTheme(false));
show();
if (anchor && state.size) document.getElementById(anchor)?.scrollIntoView();
