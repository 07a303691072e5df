// Every number opens: what it means, what beats it, and the images behind it.
"use strict";

const GAUGE = "gauge"; // the family that ranks nothing
const CLASSIFIER = "classifier"; // the family that ranks networks, which several may explain
const dialog = one("#number");
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
  return { rows, beside: parts[0]?.[2], mean: overSeeds(about, rows) };
}

// The mean over seeds of the means over images, as the board takes it.
function overSeeds(about, rows) {
  const means = about.seeds.map((_, s) => known(rows.map((row) => row.values[s])))
    .filter((values) => values.length).map(mean);
  return means.length ? mean(means) : NaN;
}

// ---- What stands in the dialog

const terms = (pairs) => el("dl", { class: "facts-of" }, pairs.filter(Boolean).map(
  ([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text))));
const heading = (title, ...below) => el("h2", { id: "number-title" }, title,
  el("span", {}, below.join(" · ")));
const way = (what, track, ...more) => el("p", { class: "way" },
  `${what.better === "higher" ? "↑" : "↓"} ${what.better} is better`,
  [track, what.family, ...more].filter(Boolean).map((text) => ` · ${text}`).join(""));
const again = (number, from) => el("p", { class: "small", id: "again", "data-mean": number },
  `Aggregated again here, from ${from}: ${Number(number.toPrecision(6))}.`);
// What leads on to another number.
const further = (place, text) => el("button", {
  type: "button", class: "see", onclick: () => go(place) }, text);

// Who is ranked in a metric, the best first: contestants or networks, as [label, estimate].
function ranked(about, m, estimates) {
  const networks = about.metrics[m].family === CLASSIFIER, found = new Map();
  about.contestants.forEach(({ name, label, network }, i) => {
    const row = estimates[m][i], [key, text] = networks ? [network, network] : [name, label];
    if (row?.[3] != null && !found.has(key)) found.set(key, [text, row]);
  });
  return [...found.values()].sort(([, a], [, b]) => a[3] - b[3]);
}

function standing([, , , rank, best, worst], about, m) {
  if (rank === null) return "not ranked";
  const of = `${ranked(about, m, about.estimates).length}${
    about.metrics[m].family === CLASSIFIER ? " networks" : ""}`;
  return `#${rank}${best < worst ? ` (${best}–${worst})` : ""} of ${of}`;
}

function facts(set, about, c, m, estimate, places) {
  const [value, low, high, , , , images, seeds, nans] = estimate, what = about.metrics[m];
  const most = about.metrics.findIndex((other) => other.name === `ceiling/${what.name}`);
  const limit = about.estimates[most]?.[c];
  return terms([
    ["Mean", el("strong", {}, shown(value, places))],
    ["95 % interval", `${shown(low, places)} to ${shown(high, places)}`],
    what.family === GAUGE ? null : ["Rank", standing(estimate, about, m)],
    ["Images × seeds", `${images} × ${seeds}`],
    limit ? ["At most, on its grid", further(
      [set, about.contestants[c].name, about.metrics[most].name], shown(limit[0], places))] : null,
    nans ? ["Without a number", `${nans} samples`] : null,
  ]);
}

function rivals(about, c, m, estimates, places) {
  const rank = estimates[m][c][3];
  const above = ranked(about, m, estimates).filter(([, row]) => row[3] < rank);
  return el("p", {}, el("strong", {}, "Ranked above it: "), rank === null
    ? "it has no rank here." : above.length ? above.flatMap(([label, row], i) => [
      i ? ", " : "", `${label} (${shown(row[0], places)})`]) : "nothing.");
}

const KINDS = { better: "beats", worse: "worse" };

function duels(set, about, c, m, against, places) {
  if (!against?.length) return null;
  return el("div", {}, el("p", {}, el("strong", {}, "Head to head"),
    " on the same images and seeds: the paired difference with its 95 % interval, and how often "
    + "it is better on one of them (ties half)."),
  el("ul", { class: "duels" }, against.map(([control, value, low, high, reads, wins]) => el(
    "li", {},
    el("span", { class: `chip ${KINDS[reads] ?? "unsure"}` }, reads),
    reads in KINDS ? " than " : " from ", further([set, about.contestants[c].name,
      about.metrics[m].name, "minus", about.contestants[control].name],
    about.contestants[control].label),
    `: ${shown(value, places)} (${shown(low, places)} to ${shown(high, places)})`,
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

function pictures(about, of, row, image, curve, places) {
  const media = about.media, shot = media.images[image];
  const seed = about.seeds.indexOf(media.seed);
  const figure = (src, alt, text) => el("figure", {}, picture(src, alt),
    el("figcaption", {}, text));
  return el("div", { class: "pictures" },
    figure(shot.image, `Image ${row.key}`, media.outlined ? "Image, mask outlined" : "Image"),
    of.map((c) => figure(shot.maps[c], of.length > 1 ? `Map of ${about.contestants[c].label} for `
      + row.key : `Map for ${row.key}`, of.length > 1 ? about.contestants[c].label
      : `Map, seed ${media.seed}`)),
    curve, el("p", { class: "small" }, `${row.key} · ${row.label}, predicted `
      + `${row.predictions[seed] ?? DASH} · value ${shown(row.values[seed], places)} `
      + `with seed ${media.seed}`));
}

const byImage = [["Image", (row) => row.key], ["Class", (row) => row.label]];
const bySeed = (about) => (about.seeds.length > 1
  ? about.seeds.map((seed, s) => [`Seed ${seed}`, (row) => row.values[s]]) : []);

function predicted({ predictions }) {
  const said = [...new Set(predictions.map((p) => p ?? DASH))];
  return said.length > 1 ? predictions.map((p) => p ?? DASH).join(" · ") : said.join("");
}

// The images that have pictures of all these contestants: key -> place; a strip of buttons.
function gallery(about, rows, of, show) {
  const kept = new Map((about.media?.images ?? []).map((image, i) => [image.key, i])
    .filter(([, i]) => of.every((c) => about.media.images[i].maps[c])));
  const panel = el("div", { "aria-live": "polite" });
  const choose = (row) => {
    panel.replaceChildren(show(row, kept.get(row.key)));
    all("tr, .strip button", dialog).forEach((each) => each.classList.toggle("chosen",
      each.dataset.key === row.key));
  };
  const pictured = rows.filter((row) => kept.has(row.key));
  const strip = el("div", { class: "strip", role: "group", "aria-label": "Images with pictures" },
    pictured.map((row) => el("button", {
      type: "button", "data-key": row.key, title: row.key, onclick: () => choose(row) }, picture(
      about.media.images[kept.get(row.key)].maps[of[0]], `Pictures of ${row.key}`))));
  return { kept, choose, parts: [pictured.length > 1 ? strip : null, panel],
    first: () => pictured.length && choose(pictured[0]) };
}

function indices(of, list) {
  const found = of.map((name) => list.findIndex((each) => each.name === name));
  if (found.includes(-1)) throw new Error("There is no such number on this page.");
  return found;
}

async function number(set, name, metric, common, decimals) {
  const about = await load(`${set}/board`);
  const [[c], [m]] = [indices([name], about.contestants), indices([metric], about.metrics)];
  const estimates = common ? about.common : about.estimates, estimate = estimates[m][c];
  if (!estimate) throw new Error("There is no such number on this page.");
  const what = about.metrics[m], ranks = what.family !== GAUGE;
  const { rows, beside, mean: whole } = await samples(set, about, c, m, common);
  const control = ranks ? bestControl(about, c, m) : undefined;
  const other = control === undefined || !(beside.curve.length || beside.curves.length) ? null
    : await load(`${set}/values/${about.contestants[control].file}/${what.file}.0`);
  const drawn = curves(about, c, m, beside, other, control);
  const shots = gallery(about, rows, [c], (row, image) => pictures(about, [c], row, image,
    drawn.of(image), decimals));
  const columns = [...byImage, ["Predicted", predicted], ["Mean over seeds", (row) => row.mean],
    ...bySeed(about),
    ...(rows.some((row) => row.why) ? [["Why there is none", (row) => row.why]] : [])];
  return [
    heading(what.title, about.contestants[c].label, about.title),
    way(what, ranks && `${what.track} track`, what.range && `range ${what.range}`, what.units,
      common && "only images that all networks get right"),
    what.defect ? el("p", { class: "alarm" }, `Has a defect, and is not ranked: ${what.defect}`)
      : null,
    facts(set, about, c, m, estimate, decimals),
    ranks ? rivals(about, c, m, estimates, decimals) : null,
    common ? null : duels(set, about, c, m, beside.against, decimals),
    what.about ? el("h3", {}, "What it measures") : null, el("p", {}, what.about),
    what.formula ? el("p", { class: "formula" }, what.formula) : null,
    el("h3", {}, "The images behind it"), common ? null : drawn.whole,
    ...shots.parts, table(columns, rows, decimals + 1, shots.choose, shots.kept),
    again(whole, "the values of this table"), shots.first,
  ];
}

// One contestant minus another, image by image: what effects and head-to-heads are made of.
async function difference(set, name, metric, rival, wanted) {
  const decimals = Math.max(wanted, 3); // as the page shows effects
  const about = await load(`${set}/board`);
  const [[a, b], [m]] = [indices([name, rival], about.contestants),
    indices([metric], about.metrics)];
  const [mine, theirs] = await Promise.all([a, b].map((c) => samples(set, about, c, m, false)));
  const effect = about.effects.find(({ first, second }) => first === a && second === b);
  const found = effect?.found[m]
    ?? mine.beside.against.find(([other]) => other === b)?.slice(1, 5);
  if (!found) throw new Error("There is no such number on this page.");
  const [value, low, high, reads] = found, what = about.metrics[m];
  const [first, second] = [a, b].map((c) => about.contestants[c].label);
  const other = new Map(theirs.rows.map((row) => [row.key, row]));
  const rows = mine.rows.filter((row) => other.has(row.key)).map((row) => {
    const beside = other.get(row.key);
    const values = row.values.map((one, s) => (one === null || beside.values[s] === null ? null
      : one - beside.values[s]));
    return { ...row, values, own: row.mean, theirs: beside.mean,
      mean: known(values).length ? mean(known(values)) : null };
  }).filter((row) => row.mean !== null);
  const shots = gallery(about, rows, [a, b], (row, image) => pictures(about, [a, b], row, image,
    null, decimals));
  const columns = [...byImage, [first, (row) => row.own], [second, (row) => row.theirs],
    ["Difference", (row) => row.mean], ...bySeed(about)];
  return [
    heading(`${what.title}: ${effect ? `${effect.effect} effect` : "paired difference"}`,
      `${first} − ${second}`, about.title),
    way(what, `${what.track} track`, what.units),
    terms([["Mean difference", el("strong", {}, shown(value, decimals))],
      ["95 % interval", `${shown(low, decimals)} to ${shown(high, decimals)}`],
      ["Reads", el("span", { class: `chip ${KINDS[reads] ?? "unsure"}` }, reads)],
      ...[[first, name, a], [second, rival, b]].map(([label, one, c]) => about.estimates[m][c]
        && [label, further([set, one, metric], shown(about.estimates[m][c][0], decimals))])]),
    el("p", {}, "Paired: of the same images and seeds, those that both have a number for."),
    el("h3", {}, "The images behind it"), ...shots.parts,
    table(columns, rows, decimals + 1, shots.choose, shots.kept),
    again(overSeeds(about, rows), "the differences of this table"), shots.first,
  ];
}

// The rank and the verdict in a family: the metrics that they are made of, each of which opens.
async function family(set, name, key) {
  const about = await load(`${set}/board`), [c] = indices([name], about.contestants);
  const found = about.families.find((each) => each.key === key), told = found?.judged[c];
  if (!told) throw new Error("There is no such rank on this page.");
  const members = about.metrics.map((what, m) => [what, about.estimates[m][c], m])
    .filter(([what, row]) => row && what.track === found.track && what.family === found.family);
  const [total, rank, best, worst, n] = told.ranks ?? [];
  const counted = members.filter(([, row]) => row[3] !== null);
  const head = ["Metric", "Mean", "95 % interval", "Rank"];
  return [
    heading(`${found.family}: ${told.ranks ? "family rank" : "verdict"}`,
      about.contestants[c].label, about.title),
    el("p", { class: "way" }, `${found.track} track`),
    terms([told.ranks ? ["Family rank", el("strong", {}, `#${rank}`)] : null,
      best < worst ? ["95 % interval", `#${best} to #${worst}`] : null,
      told.ranks ? ["Mean of its ranks", `${Number(total.toPrecision(4))}`] : null,
      told.verdict ? ["Against the controls", told.verdict] : null]),
    told.detail && told.detail !== told.verdict ? el("p", {}, `${told.detail}.`) : null,
    told.ranks ? el("p", {}, "Those that have a rank in "
      + `${n > 1 ? `each of these ${n} metrics` : "this metric"}, controls as well, are ordered by `
      + "the mean of their ranks.") : null,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Its metrics" },
      el("table", { class: "samples" }, el("caption", {}, el("span", {}, "Each opens")),
        el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
        el("tbody", {}, members.map(([what, row, m]) => {
          const decimals = decimalsOf([set, name, what.name]);
          return el("tr", {}, el("th", { scope: "row" },
            further([set, name, what.name], what.title), el("span", { class: "direction" },
              `${what.better === "higher" ? "↑" : "↓"} ${what.better} is better`)),
          el("td", {}, shown(row[0], decimals)),
          el("td", {}, `${shown(row[1], decimals)} to ${shown(row[2], decimals)}`),
          el("td", {}, standing(row, about, m)));
        })))),
    told.ranks ? again(mean(counted.map(([, row]) => row[3])), "the mean of these ranks") : null,
  ];
}

// ---- Opening and closing: open=SET/CONTESTANT/METRIC, then /common, /minus/OTHER or /family/KEY

const trail = []; // what was open before what is

async function showNumber() {
  const asked = state.get("open");
  if (!asked) {
    if (dialog.open) dialog.close();
    return;
  }
  const [set, name, metric, kind, other] = asked.split("/").map(decodeURIComponent);
  const close = el("button", { type: "button", class: "close", "aria-label": "Close",
    onclick: () => dialog.close() }, "✕");
  const back = trail.length ? el("button", { type: "button", class: "back",
    onclick: () => { put("open", trail.pop()); showNumber(); } }, "‹ Back") : "";
  const wait = el("p", { role: "status", id: "number-title" }, "Loading …");
  dialog.replaceChildren(close, wait);
  if (!dialog.open) dialog.showModal();
  try {
    const decimals = decimalsOf([set, name, metric]);
    const found = await (kind === "minus" ? difference(set, name, metric, other, decimals)
      : kind === "family" ? family(set, name, other)
        : number(set, name, metric, kind === "common", decimals));
    if (state.get("open") !== asked) return;
    dialog.replaceChildren(close, back, ...found.filter((part) => part instanceof Node));
    found.filter((part) => typeof part === "function").forEach((act) => act());
    dialog.scrollTop = 0;
    (back || close).focus();
  } catch (error) {
    wait.textContent = error.message;
  }
}

function go(place) {
  if (dialog.open) trail.push(state.get("open"));
  put("open", place.map(encodeURIComponent).join("/"));
  showNumber();
}

// As many decimals as the page itself shows of a number, at most; of 99.1 % they are three.
function decimalsOf(place) {
  const found = all("td.number").filter((each) => {
    const [set, name, metric, kind] = address(each);
    return !kind && [set, name, metric].every((part, i) => part === place[i]);
  }).map((cell) => one(".mean", cell).textContent);
  return found.length ? Math.max(...found.map((text) => (
    text.match(/\.(\d+)/)?.[1].length ?? 0) + (text.includes("%") ? 2 : 0))) : 3;
}

function address(cell) {
  const board = cell.closest("table"), row = cell.parentNode.dataset;
  const head = heads(board)[cell.cellIndex].dataset, set = head.set ?? board.dataset.set;
  if (head.minus) return [set, head.name, row.metric, "minus", head.minus];
  if (head.judges) return [set, row.name, "", "family", head.judges];
  return [set, row.name, head.metric, ...(board.dataset.common ? ["common"] : [])];
}

dialog.addEventListener("close", () => {
  trail.length = 0;
  put("open", "");
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // the backdrop
});

// A number becomes a button; of a verdict and a rank, which open the same, the first.
function opener(cell, i) {
  const part = one(".mean", cell) ?? one(".chip, .place", cell);
  const button = el("button", {
    type: "button", class: part.matches(".mean") ? part.className : "mean", tabindex: i ? -1 : 0,
    "aria-description": "Opens what is behind it; arrow keys move", "aria-haspopup": "dialog" });
  part.replaceWith(button);
  button.append(...(part.matches(".mean") ? part.childNodes : [part]));
}

for (const board of all("main table").filter((table) => one("td.number", table))) {
  all("td.number", board).forEach(opener);
  board.addEventListener("click", ({ target }) => {
    const cell = target.closest("td.number");
    if (cell && !target.closest("a")) go(address(cell));
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
