"""A board as Markdown and LaTeX; and the order, labels and decimals that all of it shares."""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.board import PROVEN, QUANTUS, Board
from bench.core import PLAIN
from bench.measure import GAUGE
from bench.page import exports
from bench.verdicts import BOUGHT, CLASSIFIER, NONE, PASSES, UNSURE

KINDS = {"contestant": "Contestants", "control": "Controls", "ceiling": "Ceiling",
         "incomplete": "Incomplete, not ranked"}
"""The groups of rows, in the order of the page."""

TRACKS = {
    PROVEN: ("Proven", "the field’s measures, corrected where they are wrong"),
    QUANTUS: ("Quantus", "Quantus itself, unmodified: what the field cites"),
    "fair": ("Resolution-fair", "all maps on one coarse grid, so that a fine one has no advantage"),
    "paper": ("Papers’ own", "as the methods’ own papers report them"),
    "tuned-on-truth": ("Tuned on the truth", "a threshold chosen on the masks that score it"),
    "parity": ("Parity", "our engine with the conventions of Quantus"),
}
"""Title of each track and what it holds, in the order of the page; the first that is there ranks
by default."""

MOST = 8
"""Metrics side by side in one table of a track; of more, each family has a table."""

ADDS_UP = {"mean": ("mean", "logit"), "sum": ("sum", "probability")}
"""What of a map is which output of the network, by the additivity that a method declares."""

ARROW = {"higher": "↑", "lower": "↓"}
DASH = "–"


@dataclass(frozen=True)
class Cell:
    """One number of a board as text: `mean`, `low` and `high` in the decimals of its column.

    check: the verdict of a sanity check; empty for every other metric.
    """

    mean: str
    low: str
    high: str
    best: bool
    row: dict[str, Any]
    check: str = ""


@dataclass(frozen=True)
class Grid:
    """One data set's board, or a part of it: metrics across, contestants down, in their groups.

    part: what it holds, and slug: its file; both empty for the whole. rows: kind -> names in
    order; cells: (contestant, metric) -> Cell, or None for a dash.
    """

    dataset: str
    metrics: tuple[dict[str, Any], ...]
    rows: dict[str, list[str]]
    cells: dict[tuple[str, str], Cell | None]
    part: str = ""
    slug: str = ""


def slug(name: str) -> str:
    """`name` as a safe part of a file's name or an anchor."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip("-.") or "unnamed"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, each by the names of its columns."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def title(board: Board, name: str) -> str:
    """What a person calls a contestant: its title, and the network it explains if not its own."""
    facts = board.contestants[name]
    own = facts["trainer"] in (PLAIN, facts["explainer"])
    return str(facts["title"]) if own else f"{facts['title']} on {facts['trainer_title']}"


def label(board: Board, name: str) -> str:
    """The title of a contestant, with its name where another contestant shares the title."""
    own = title(board, name)
    shared = sum(title(board, other) == own for other in board.contestants) > 1
    return f"{own} ({name})" if shared else own


def deviation(value: float) -> str:
    """A deviation as text: 0.02 or 3.6e−7."""
    if not math.isfinite(value):
        return "not finite"
    mantissa, _, power = f"{value:.2g}".partition("e")
    return f"{mantissa}e{int(power)}".replace("-", "−") if power else mantissa


def unsummed(board: Board) -> list[tuple[dict[str, Any], str]]:
    """Each row of additivity that does not hold, and what it says in words."""
    return [
        (row, "{} on {}: the {} of its map is declared to be the {}; the largest deviation is {}, "
         "the tolerance {}.".format(
             label(board, row["contestant"]), row["dataset"], *ADDS_UP[row["declared"]],
             deviation(row["largest"]), deviation(row["tolerance"])))
        for row in records(board.additivity) if row["holds"] not in (None, True)]


def warnings(board: Board, dataset: str | None = None) -> list[str]:
    """A line for each map that does not add up as it declares, on one data set or on all."""
    return [text for row, text in unsummed(board) if dataset in (None, row["dataset"])]


def tracks(board: Board) -> list[str]:
    """The tracks that measure explanations, in their order; the first ranks by default."""
    found = dict.fromkeys(m["track"] for m in board.metrics
                          if m["family"] not in (CLASSIFIER, GAUGE))
    return sorted(found, key=lambda track: [*TRACKS, track].index(track))


def track_title(track: str) -> str:
    """What a person calls a track."""
    return TRACKS[track][0] if track in TRACKS else track.capitalize()


def grid(board: Board, dataset: str, *, common: bool = False) -> Grid:
    """The board of one data set: of all images, or of those that all networks get right.

    Its rows are ordered by the mean of their families' ranks on the track that ranks by default.
    """
    frame = board.common if common else board.estimates
    columns: dict[str, list[dict[str, Any]]] = {}
    for row in records(frame[frame["dataset"] == dataset]):
        columns.setdefault(row["metric"], []).append(row)
    estimates = [row for column in columns.values() for row in column]
    names = list(dict.fromkeys(row["contestant"] for row in estimates))
    metrics = tuple(metric for metric in board.metrics if metric["name"] in columns)
    whole = {row["contestant"] for row in estimates if row["complete"]}
    families = board.families[
        (board.families["dataset"] == dataset) & (board.families["family"] != CLASSIFIER)]
    first = next((t for t in tracks(board) if t in set(families["track"])), None)
    families = families[families["track"] == first]
    order = families.groupby("contestant")["rank"].mean().to_dict()
    rows: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in sorted(names, key=lambda name: order.get(name, math.inf)):
        facts = board.contestants[name]
        kind = ("incomplete" if name not in whole else "ceiling" if facts["ceiling"]
                else "control" if facts["control"] else "contestant")
        rows[kind].append(name)
    checked = {(row["contestant"], row["metric"]): row["verdict"]
               for row in records(board.sanity[board.sanity["dataset"] == dataset])}
    cells: dict[tuple[str, str], Cell | None] = {}
    for metric in metrics:
        column = columns[metric["name"]]
        places = decimals(column)
        best = min((row["rank"] for row in column if math.isfinite(row["rank"])), default=0)
        for row in column:
            shown = row["complete"] and math.isfinite(row["mean"])
            # Adding 0 takes the sign off a number that rounds to nothing.
            mean, low, high = (
                f"{round(row[key], places) + 0.0:.{places}f}" for key in ("mean", "low", "high"))
            at = row["contestant"], metric["name"]
            cells[at] = Cell(mean, low, high, bool(row["rank"] == best), row,
                             "" if common else checked.get(at, "")) if shown else None
    return Grid(dataset, metrics, rows, cells)


def parts(board: Board, table: Grid) -> list[Grid]:
    """A data set's board in tables to print: one a track, or a family of it; then the networks."""
    found = []
    for track in tracks(board):
        of = tuple(m for m in table.metrics
                   if m["track"] == track and m["family"] != CLASSIFIER)
        split = dict.fromkeys(m["family"] for m in of) if len(of) > MOST else [""]
        for family in split:
            found.append(replace(
                table, metrics=tuple(m for m in of if family in ("", m["family"])),
                part=f"{track_title(track)} track" + (f", {family}" if family else ""),
                slug=slug(f"{table.dataset}-{track}" + (f"-{family}" if family else ""))))
    networks = tuple(m for m in table.metrics if m["family"] == CLASSIFIER)
    found.append(replace(table, metrics=networks, part="the networks",
                         slug=slug(f"{table.dataset}-networks")))
    return [part for part in found if part.metrics]


def decimals(column: list[dict[str, Any]]) -> int:
    """How many decimals tell the means of one metric apart, and no more: 0 to 6."""
    known = [row for row in column if math.isfinite(row["mean"])]
    if not known:
        return 2
    means = [row["mean"] for row in known]
    width = statistics.median(row["high"] - row["low"] for row in known)
    spread = max(max(means) - min(means), width)
    if not math.isfinite(spread) or spread <= 0:
        return 2
    return min(max(2 - math.floor(math.log10(spread)), 0), 6)


def write(board: Board, folder: Path) -> list[Path]:
    """The files written: CSV and Parquet of each frame; Markdown and LaTeX of each part.

    LaTeX has the interval in brackets, and once more, in `-pm.tex`, as ±.
    """
    folder.mkdir(parents=True)
    paths = exports.write_frames(board, folder)
    for dataset in dict.fromkeys(board.estimates["dataset"]):
        for part in parts(board, grid(board, dataset)):
            for ending, text in ((".md", markdown(board, part)), (".tex", latex(board, part)),
                                 ("-pm.tex", latex(board, part, brackets=False))):
                paths.append(folder / f"{part.slug}{ending}")
                paths[-1].write_text(text, encoding="utf-8", newline="\n")
    return paths


def _head(metric: dict[str, Any]) -> str:
    return str(metric["title"]) + (" (has a defect, not ranked)" if metric.get("defect") else "")


def _check(cell: Cell) -> str:
    """A sanity verdict in a word or two, with a space before it; or nothing."""
    if cell.check in ("", NONE, BOUGHT):
        return ""
    return f" {PASSES}" if cell.check == PASSES else " not told apart" if cell.check.startswith(
        UNSURE) else " fails"


def markdown(board: Board, table: Grid) -> str:
    """One data set's table in GitHub's Markdown: mean, interval and rank; the best in bold."""
    lines = ["| " + " | ".join(["Contestant", "Kind", *(
        f"{_md(_head(m))} {ARROW[m['better']]}" for m in table.metrics)]) + " |",
        "|" + "---|" * 2 + "---:|" * len(table.metrics)]
    for kind, names in table.rows.items():
        for name in names:
            cells = [_md(f"{title(board, name)} ({name})"), kind]
            for metric in table.metrics:
                cell = table.cells[name, metric["name"]]
                if cell is None:
                    cells.append(DASH)
                    continue
                mean = f"**{cell.mean}**" if cell.best else cell.mean
                rank = cell.row["rank"]
                place = f" #{rank:g}" if math.isfinite(rank) else ""
                cells.append(f"{mean} [{cell.low}, {cell.high}]{place}{_check(cell)}")
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"{_md(board.title)}, protocol {_md(board.protocol)}, {_md(table.dataset)}, "
              f"{_md(table.part)}: mean over seeds and images, 95 % bootstrap interval, rank. "
              "↑ higher and ↓ lower is better. Best ranked in bold; – is incomplete or without a "
              "number and not ranked; ceilings are given the mask and not ranked. A sanity check "
              "is no ranking: it passes where it is better than every control."]
    here = board.additivity[board.additivity["dataset"] == table.dataset]
    holds = [f"{row['contestant']} ({' = '.join(ADDS_UP[row['declared']])}, off by at most "
             f"{deviation(row['largest'])})" for row in records(here) if row["holds"]]
    lines += ["", f"Maps that add up to the output: {_md('; '.join(holds))}."] if holds else []
    lines += [line for warning in warnings(board, table.dataset)
              for line in ("", f"**Warning**: {_md(warning)}")]
    return "\n".join(lines) + "\n"


def latex(board: Board, table: Grid, *, brackets: bool = True) -> str:
    """One data set's table for a paper that loads booktabs and graphicx; the best in bold.

    brackets: the ends of the interval. Otherwise ±, which has one width for both arms where an
    interval has two: the longer one, so that what is printed is never narrower than what was found.
    """
    n = len(table.metrics)
    spans, rules, first = [], [], 2
    for family in dict.fromkeys(m["family"] for m in table.metrics):
        width = sum(m["family"] == family for m in table.metrics)
        spans.append(f"\\multicolumn{{{width}}}{{c}}{{{_tex(family.capitalize())}}}")
        rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    interval = ("with its 95\\,\\% bootstrap interval" if brackets else
                "$\\pm$ the longer arm of its 95\\,\\% bootstrap interval")
    lines = [
        "% Needs \\usepackage{booktabs,graphicx}, and \\usepackage[T1]{fontenc} for names beyond "
        "ASCII.", "\\begin{table}", "\\centering", "\\small",
        f"\\caption{{{_tex(board.title)} (protocol {_tex(board.protocol)}), {_tex(table.dataset)}, "
        f"{_tex(table.part)}. Mean over seeds and images {interval}. Best ranked in bold; -- is "
        "not ranked because it is incomplete or has no number. $\\uparrow$ higher and "
        "$\\downarrow$ lower is better.}",
        f"\\label{{tab:{slug(board.suite)}-{table.slug}}}",
        "% Only what is wider than the text is made smaller.",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{@{{}}l{'r' * n}@{{}}}}", "\\toprule",
        f" & {' & '.join(spans)} \\\\", "".join(rules),
        " & ".join(["", *(f"{_tex(_head(m))} {_TEX_ARROW[m['better']]}" for m in table.metrics)])
        + " \\\\"]
    for kind, names in table.rows.items():
        if names:
            lines += ["\\midrule",
                      f"\\multicolumn{{{n + 1}}}{{@{{}}l}}{{\\emph{{{KINDS[kind]}}}}} \\\\"]
        for name in names:
            cells = [_tex_cell(table.cells[name, m["name"]], brackets) for m in table.metrics]
            lines.append(" & ".join([_tex(label(board, name)), *cells]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell | None, brackets: bool) -> str:
    if cell is None:
        return "--"
    mean, low, high = (text.replace("-", "$-$") for text in (cell.mean, cell.low, cell.high))
    around = f"[{low}, {high}]"
    if not brackets:
        # From the numbers as they are printed: the two ends must lie within the two that are told.
        places = len(cell.mean.partition(".")[2])
        arm = max(float(cell.mean) - float(cell.low), float(cell.high) - float(cell.mean))
        around = f"$\\pm$ {arm:.{places}f}"
    mean = f"\\textbf{{{mean}}}" if cell.best else mean
    return f"{mean} {{\\scriptsize {around}{_check(cell)}}}"


def _md(text: object) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]|~$#>])", r"\\\1", plain)


_TEX_ARROW = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
_TEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "≤": r"$\leq$", "≥": r"$\geq$",
        "→": r"$\to$", "ς": r"$\varsigma$", **{sign: f"\\{sign}" for sign in "&%$#_"}}


def _tex(text: object) -> str:
    """Text that LaTeX sets as it is, Greek letters as mathematics."""
    return "".join(_TEX.get(sign) or _greek(sign) or sign
                   for sign in " ".join(str(text).split()))


def _greek(sign: str) -> str:
    """A plain Greek letter by LaTeX's name of it; a capital like a Latin one is that one."""
    word = unicodedata.name(sign, "").split()
    if len(word) != 4 or word[0] != "GREEK" or word[2] != "LETTER":
        return ""
    name = word[3].lower().replace("lamda", "lambda")  # Unicode's own spelling
    if name == "omicron":
        return "o" if word[1] == "SMALL" else "O"
    if word[1] == "CAPITAL":
        return _LATIN.get(name, f"$\\{name.capitalize()}$")
    return f"$\\{name}$"


_LATIN = {"alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I",
          "kappa": "K", "mu": "M", "nu": "N", "rho": "P", "tau": "T", "chi": "X"}
"""Greek capitals that have no command, for they look like these."""
