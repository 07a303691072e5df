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

// ---- What the page says of whatever is pointed at: written then, since most never is

document.addEventListener("mouseover", ({ target }) => {
  const cell = target.closest?.("table.board td.number"), chip = target.closest?.(".chip");
  const head = target.closest?.("th[data-metric]");
  if (chip && !chip.title) chip.title = one(".unseen", chip)?.textContent ?? "";
  if (head && !head.title) {
    const card = document.getElementById(decodeURIComponent(one("a", head)?.hash.slice(1) ?? ""));
    head.title = card ? one("p:not(.alarm, .formula)", card)?.textContent ?? "" : "";
  }
  if (!cell || cell.title || !one("small", cell)) return;
  const board = cell.closest("table"), { better } = heads(board)[cell.cellIndex].dataset;
  const [mean, rank, interval] = [".mean", ".rank", "small"].map((part) => (
    one(part, cell)?.textContent));
  cell.title = `mean ${mean}, 95 % interval ${interval.slice(2)}${rank ? `, rank ${rank}` : ""}; `
    + `${cell.dataset.n ?? board.dataset.n}; ${better} is better`;
});

// ---- Numbers as text, a table and a chart of them

const FEW = 200; // rows of a long table at a time

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
const known = (numbers) => numbers.filter((number) => number !== null);

function shown(value, places) {
  if (value === null || !Number.isFinite(value)) return DASH;
  return value.toFixed(places).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
}

// ---- A small chart of curves: series of {label, kind, points: [[x, y, low, high]]}

function chart(series, title, axis) {
  const [width, height, left, base] = [420, 190, 44, 160];
  const points = series.flatMap((each) => each.points);
  const ends = (numbers) => [Math.min(...numbers), Math.max(...numbers)];
  const [x0, x1] = ends(points.map(([x]) => x));
  const [y0, y1] = ends(points.flatMap(([, ...ys]) => ys).filter((y) => y !== null));
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - 12);
  const y = (value) => base - ((value - y0) / (y1 - y0 || 1)) * (base - 14);
  const said = series.map(({ label, points: p }) => (
    `${label}: from ${shown(p[0][1], 3)} to ${shown(p.at(-1)[1], 3)}`)).join("; ");
  const at = (px, py) => `${px.toFixed(1)},${py.toFixed(1)}`;
  return el("figure", { class: "chart" },
    el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${said}` },
      el("path", { class: "axis", d: `M${left} 8V${base}H${width - 8}` }),
      [y0, y1].map((end) => el("text", { x: left - 6, y: y(end) + 4, "text-anchor": "end" },
        shown(end, 2))),
      [x0, x1].map((end, i) => el("text", {
        x: x(end), y: base + 14, "text-anchor": i ? "end" : "start",
      }, `${Number(end.toFixed(3))}`)),
      el("text", { x: (left + width) / 2, y: base + 27, "text-anchor": "middle" }, axis),
      series.filter(({ points: p }) => p[0].length > 2).map(({ kind, points: p }) => el("polygon", {
        class: `band ${kind}`, points: [...p.map(([px, , low]) => at(x(px), y(low))),
          ...p.map(([px, , , high]) => at(x(px), y(high))).reverse()].join(" ") })),
      series.map(({ kind, points: p }) => el("path", {
        class: kind, d: `M${p.map(([px, py]) => at(x(px), y(py))).join("L")}` }))),
    el("figcaption", {}, title, el("span", { class: "keys" }, series.map(({ label, kind }) =>
      el("span", { class: kind }, label)))));
}

// The table of images, sortable by any of its columns; `choose` shows the pictures of one.
function table(columns, rows, places, choose, kept) {
  const body = el("tbody"), more = el("button", { type: "button", class: "more" });
  let order = rows, limit = FEW, sorted = null, upward = true;
  const cell = (row, read, i) => {
    const value = read(row);
    if (i === 0) {
      return el("th", { scope: "row" }, kept.has(row.key) ? el("button", {
        type: "button", class: "see", onclick: () => choose(row) }, `${value}`) : `${value}`);
    }
    return el("td", {}, typeof value === "string" ? value : shown(value, places));
  };
  const fill = () => {
    body.replaceChildren(...order.slice(0, limit).map((row) => el("tr", { "data-key": row.key },
      columns.map(([, read], i) => cell(row, read, i)))));
    more.hidden = order.length <= limit;
    more.textContent = `Show ${Math.min(FEW, order.length - limit)} more of ${order.length}`;
  };
  more.addEventListener("click", () => { limit += FEW; fill(); });
  const head = el("tr", {}, columns.map(([name, read], i) => el("th", { scope: "col" }, el(
    "button", { type: "button", class: "by", onclick: () => {
      upward = sorted === i ? !upward : true;
      sorted = i;
      order = [...rows].sort((a, b) => compare(read(a), read(b), upward));
      [...head.cells].forEach((other) => other.removeAttribute("aria-sort"));
      head.cells[i].setAttribute("aria-sort", upward ? "ascending" : "descending");
      fill();
    } }, name))));
  fill();
  return el("div", {
    class: "scroll", tabindex: 0, role: "region", "aria-label": "Values by image",
  }, el("table", { class: "samples" }, el("caption", {}, el("span", {},
      `${rows.length} images${kept.size ? "; those that are underlined have pictures" : ""}`)),
    el("thead", {}, head), body), more);
}

// ---- The samples: scripts of chunks.py below data/, loaded when somebody asks for them

const chunks = new Map();

function load(place) {
  if (!chunks.has(place)) {
    const chunk = {};
    chunk.content = new Promise((resolve, reject) => {
      chunk.resolve = resolve;
      document.head.append(el("script", {
        src: `data/${place}.js`, onerror: () => {
          chunks.delete(place);
          reject(new Error(`data/${place}.js cannot be read; publish the page again.`));
        },
      }));
    });
    chunks.set(place, chunk);
  }
  return chunks.get(place).content;
}
window.heatproof = (place, content) => chunks.get(place)?.resolve(content);

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
