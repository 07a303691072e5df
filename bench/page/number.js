// Every number opens: what it means, what beats it, and the images behind it.
// The samples are scripts of chunks.py below data/, loaded when somebody asks for them.
"use strict";

const FEW = 200; // rows of a long table at a time
const dialog = one("#number");
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

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
const known = (numbers) => numbers.filter((number) => number !== null);

function shown(value, places) {
  if (value === null || !Number.isFinite(value)) return DASH;
  return value.toFixed(places).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
}

// The samples of one number, a row an image; their mean as the board has it; what is beside them.
async function samples(set, about, c, m, common) {
  const who = about.contestants[c].file, what = about.metrics[m].file;
  const parts = await Promise.all(Array.from({ length: Math.ceil(about.n / about.size) }, (_, k) =>
    Promise.all([`images.${k}`, `predictions/${who}.${k}`, `values/${who}/${what}.${k}`]
      .map((name) => load(`${set}/${name}`)))));
  const named = (number) => (number === null ? null : about.classes[number] ?? `${number}`);
  const rows = parts.flatMap(([{ keys, labels, right }, { predictions }, { values, reasons }]) => {
    const why = new Map(reasons.map(([s, i, text]) => [`${s} ${i}`, text]));
    return keys.map((key, i) => {
      const seeds = values.map((_, s) => s).filter((s) => !common || right[s][i] === "1");
      const found = values.map((seed, s) => (seeds.includes(s) ? seed[i] : null));
      return {
        key, label: named(labels[i]) ?? DASH, values: found,
        predictions: seeds.map((s) => named(predictions[s][i])),
        why: [...new Set(seeds.flatMap((s) => why.get(`${s} ${i}`) ?? []))].join("; "),
        mean: known(found).length ? mean(known(found)) : null,
      };
    });
  }).filter((row) => row.mean !== null || row.why);
  const means = about.seeds.map((_, s) => known(rows.map((row) => row.values[s])))
    .filter((values) => values.length).map(mean);
  return { rows, beside: parts[0]?.[2], mean: means.length ? mean(means) : NaN };
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

// ---- What stands in the dialog

function facts(about, c, m, estimate, places) {
  const [value, low, high, rank, best, worst, images, seeds, nans] = estimate;
  const ranked = about.estimates[m].filter((row) => row?.[3] != null).length;
  const place = rank === null ? "not ranked"
    : `#${rank}${best < worst ? ` (${best}–${worst})` : ""} of ${ranked}`;
  return el("dl", { class: "facts-of" }, [
    ["Mean", el("strong", {}, shown(value, places))],
    ["95 % interval", `${shown(low, places)} to ${shown(high, places)}`], ["Rank", place],
    ["Images × seeds", `${images} × ${seeds}`],
    nans ? ["Without a number", `${nans} samples`] : null,
  ].filter(Boolean).map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text))));
}

function rivals(about, c, m, estimates, places) {
  const rank = estimates[m][c][3];
  const above = rank === null ? [] : estimates[m].map((row, i) => [row, about.contestants[i]])
    .filter(([row]) => row && row[3] !== null && row[3] < rank)
    .sort(([a], [b]) => a[3] - b[3]);
  return el("p", {}, el("strong", {}, "Ranked above it: "), rank === null
    ? "it has no rank here." : above.length ? above.flatMap(([row, who], i) => [
      i ? ", " : "", `${who.label} (${shown(row[0], places)})`]) : "nothing.");
}

function duels(about, against, places) {
  if (!against?.length) return null;
  const kinds = { better: "beats", worse: "worse" };
  return el("div", {}, el("p", {}, el("strong", {}, "Head to head"),
    " on the same images and seeds: the paired difference with its 95 % interval, and how often "
    + "it is better on one of them (ties half)."),
  el("ul", { class: "duels" }, against.map(([control, value, low, high, reads, wins]) => el("li", {},
    el("span", { class: `chip ${kinds[reads] ?? "unsure"}` }, reads), " ",
    `${reads === "better" || reads === "worse" ? "than" : "from"} `,
    `${about.contestants[control].label}: `,
    `${shown(value, places)} (${shown(low, places)} to ${shown(high, places)})`,
    wins === null ? "" : `, ${Math.round(100 * wins)} %`))));
}

// The control that comes nearest: its curves stand beside those of the number.
function bestControl(about, c, m) {
  const sign = about.metrics[m].better === "higher" ? -1 : 1;
  const found = about.contestants.map((who, i) => [i, who, about.estimates[m][i]])
    .filter(([i, who, row]) => row && who.kind === "control" && i !== c)
    .sort(([, , a], [, , b]) => sign * (a[0] - b[0]));
  return found[0]?.[0];
}

function curves(about, c, m, one, other, control) {
  const [axis, at] = about.metrics[m].axis ?? ["", []];
  const line = (points) => points.map((y, i) => [at[i], y]).filter(([, y]) => y !== null);
  const name = about.contestants[c].label, rival = about.contestants[control]?.label;
  const drawn = (mine, theirs, title) => {
    const series = [{ label: name, kind: "own", points: mine }, ...(theirs?.length
      ? [{ label: `${rival}, the best control`, kind: "control", points: theirs }] : [])]
      .filter(({ points }) => points.length > 1);
    return series.length && series[0].kind === "own" ? chart(series, title, axis) : null;
  };
  return {
    whole: drawn(one.curve, other?.curve, "Mean over all images, with its 95 % interval"),
    of: (image) => {
      const [mine, theirs] = [one, other].map((chunk) => chunk?.curves
        .find(([i]) => i === image)?.[1]);
      return mine ? drawn(line(mine), theirs && line(theirs), "Of this image") : null;
    },
  };
}

const picture = (path, alt) => el("img", {
  src: path.split("/").map(encodeURIComponent).join("/"), alt });

function pictures(about, c, row, image, curve, places) {
  const media = about.media, shot = media.images[image], map = shot.maps[c];
  const seed = about.seeds.indexOf(media.seed);
  const figure = (src, alt, text) => el("figure", {}, picture(src, alt),
    el("figcaption", {}, text));
  return el("div", { class: "pictures" },
    figure(shot.image, `Image ${row.key}`, media.outlined ? "Image, mask outlined" : "Image"),
    map ? figure(map, `Map for ${row.key}`, `Map, seed ${media.seed}`) : null,
    curve, el("p", { class: "small" }, `${row.key} · ${row.label}, predicted `
      + `${row.predictions[seed] ?? DASH} · value ${shown(row.values[seed], places)} `
      + `with seed ${media.seed}`));
}

// The table of images, sortable by any of its columns; `choose` shows the pictures of one.
function table(about, rows, places, choose, kept) {
  const same = (list) => new Set(list).size === 1;
  const columns = [
    ["Image", (row) => row.key], ["Class", (row) => row.label],
    ["Predicted", (row) => {
      const said = row.predictions.map((p) => p ?? DASH);
      return same(said) ? said[0] : said.join(" · ");
    }],
    ["Mean over seeds", (row) => row.mean], ...(about.seeds.length > 1
      ? about.seeds.map((seed, s) => [`Seed ${seed}`, (row) => row.values[s]]) : []),
    ...(rows.some((row) => row.why) ? [["Why there is none", (row) => row.why]] : []),
  ];
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

async function content(set, name, metric, common, places) {
  const about = await load(`${set}/board`);
  const c = about.contestants.findIndex((who) => who.name === name);
  const m = about.metrics.findIndex((what) => what.name === metric);
  const estimates = common ? about.common : about.estimates;
  const estimate = estimates[m]?.[c];
  if (!estimate) throw new Error("There is no such number on this page.");
  const { rows, beside, mean: again } = await samples(set, about, c, m, common);
  const control = bestControl(about, c, m);
  const other = control === undefined || !(beside.curve.length || beside.curves.length) ? null
    : await load(`${set}/values/${about.contestants[control].file}/${about.metrics[m].file}.0`);
  const drawn = curves(about, c, m, beside, other, control);
  const what = about.metrics[m];
  const images = (about.media?.images ?? []).map((image, i) => [image, i])
    .filter(([image]) => image.maps[c]);
  const kept = new Map(images.map(([image, i]) => [image.key, i]));
  const panel = el("div", { "aria-live": "polite" });
  const strip = el("div", { class: "strip", role: "group", "aria-label": "Images with pictures" },
    rows.filter((row) => kept.has(row.key)).map((row) => el("button", {
      type: "button", "data-key": row.key, title: `${row.key}: ${shown(row.mean, places)}`,
      onclick: () => choose(row) }, picture(images.find(([image]) => image.key === row.key)[0]
      .maps[c], `Pictures of ${row.key}`))));
  const choose = (row) => {
    panel.replaceChildren(pictures(about, c, row, kept.get(row.key),
      drawn.of(kept.get(row.key)), places));
    all("tr, .strip button", dialog).forEach((each) => each.classList.toggle("chosen",
      each.dataset.key === row.key));
  };
  const values = table(about, rows, places + 1, choose, kept);
  return { about, parts: [
    el("h2", { id: "number-title" }, what.title, el("span", {},
      `${about.contestants[c].label} · ${about.title}`)),
    el("p", { class: "way" },
      `${what.better === "higher" ? "↑" : "↓"} ${what.better} is better`,
      [`${what.track} track`, what.family, what.range && `range ${what.range}`, what.units,
        common && "only images that all networks get right"].filter(Boolean)
        .map((text) => ` · ${text}`).join("")),
    what.defect ? el("p", { class: "alarm" }, `Has a defect, and is not ranked: ${what.defect}`)
      : null,
    facts(about, c, m, estimate, places), rivals(about, c, m, estimates, places),
    common ? null : duels(about, beside.against, places),
    what.about ? el("h3", {}, "What it measures") : null, el("p", {}, what.about),
    what.formula ? el("p", { class: "formula" }, what.formula) : null,
    el("h3", {}, "The images behind it"), common ? null : drawn.whole,
    strip.children.length > 1 ? strip : null, panel, values,
    el("p", { class: "small", id: "again", "data-mean": again },
      `Aggregated again here, from the values of this table: ${Number(again.toPrecision(6))}.`),
  ], first: () => {
    const row = rows.find((each) => kept.has(each.key));
    if (row) choose(row);
  } };
}

// ---- Opening and closing

async function showNumber() {
  const asked = state.get("open");
  if (!asked) {
    if (dialog.open) dialog.close();
    return;
  }
  const [set, name, metric, common] = asked.split("/").map(decodeURIComponent);
  const close = el("button", { type: "button", class: "close", "aria-label": "Close",
    onclick: () => dialog.close() }, "✕");
  const wait = el("p", { role: "status", id: "number-title" }, "Loading …");
  dialog.replaceChildren(close, wait);
  if (!dialog.open) dialog.showModal();
  try {
    const found = await content(set, name, metric, common === "common",
      places(set, name, metric));
    if (state.get("open") !== asked) return;
    dialog.replaceChildren(close, ...found.parts.filter(Boolean));
    found.first();
  } catch (error) {
    wait.textContent = error.message;
  }
}

// As many decimals as the page itself shows of this number.
function places(set, name, metric) {
  const cell = all("table.board td.number").find((each) => {
    const [s, n, m] = address(each);
    return s === set && n === name && m === metric;
  });
  return cell ? one(".mean", cell).textContent.replace(/ .*/, "").split(".")[1]?.length ?? 0 : 3;
}

function address(cell) {
  const board = cell.closest("table");
  const set = cell.dataset.set ?? board.dataset.set;
  const { metric } = heads(board)[cell.cellIndex].dataset;
  return [set, cell.parentNode.dataset.name, metric, ...(board.dataset.common ? ["common"] : [])];
}

dialog.addEventListener("close", () => put("open", ""));
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // the backdrop
});

for (const board of all("table.board, table.verdicts")) {
  all("td.number .mean", board).forEach((number, i) => number.replaceWith(el("button", {
    type: "button", class: number.className, tabindex: i ? -1 : 0,
    "aria-description": "Opens the images behind it; arrow keys move", "aria-haspopup": "dialog",
  }, number.textContent)));
  board.addEventListener("click", ({ target }) => {
    const cell = target.closest("td.number");
    if (!cell || target.closest("a")) return;
    put("open", address(cell).map(encodeURIComponent).join("/"));
    showNumber();
  });
  // One stop of the Tab key a table; from there the arrows go to every number.
  board.addEventListener("focusin", ({ target }) => {
    if (!target.matches("button.mean")) return;
    all("button.mean[tabindex='0']", board).forEach((other) => { other.tabIndex = -1; });
    target.tabIndex = 0;
  });
  board.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[event.key], cell = event.target.closest("td.number");
    if (!step || !cell) return;
    event.preventDefault();
    const lines = all("tbody tr:not(.kind):not([hidden])", board);
    let [line, column] = [lines.indexOf(cell.parentNode), cell.cellIndex], found = null;
    while (!found && lines[line] && lines[line].cells[column]) {
      [line, column] = [line + step[0], column + step[1]];
      found = lines[line]?.cells[column] && one("button.mean", lines[line].cells[column]);
    }
    found?.focus();
  });
}
showNumber();
