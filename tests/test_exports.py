"""A board for programs: CSV, Parquet and JSON say the same, and the JSON keeps its schema."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import HOSTILE

from bench import board, results
from bench.page import exports, tables

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads(exports.SCHEMA.read_text(encoding="utf-8"))
keeps = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def found(planted):
    return planted


@pytest.fixture(scope="module")
def ranked(planted_board):
    return planted_board


@pytest.fixture(scope="module")
def written(ranked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "tables"
    tables.write(ranked, folder)
    return folder


@pytest.fixture(scope="module")
def document(found, ranked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    exports.write(ranked, found, folder)
    assert (folder / "board.schema.json").read_bytes() == exports.SCHEMA.read_bytes()
    return json.loads((folder / "board.json").read_text(encoding="utf-8"))


def equal(first, second):
    """Whether two columns hold the same, to ten digits; None and NaN are nothing alike."""
    for a, b in zip(first, second, strict=True):
        if pd.isna(a) or pd.isna(b):
            assert pd.isna(a)
            assert pd.isna(b)
        else:
            assert a == (pytest.approx(b, rel=1e-9, abs=1e-300) if isinstance(b, float) else b)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_board_keeps_its_schema(document):
    keeps.validate(document)


@pytest.mark.parametrize("path", sorted(ROOT.glob("leaderboard/*/board.json")), ids=str)
def test_every_board_that_is_published_here_keeps_the_schema(path):
    keeps.validate(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("damage", [
    lambda board: board.pop("protocol"),
    lambda board: board.update(format=2),
    lambda board: board["metrics"][0].update(better="sideways"),
    lambda board: board["frames"].pop("estimates"),
    lambda board: board["frames"]["estimates"]["mean"].append("much"),
    lambda board: board["frames"]["estimates"]["n_images"].append(0.5),
    lambda board: board["frames"]["additivity"]["holds"].append("yes"),
    lambda board: board["contestants"]["softcam"].pop("control"),
])
def test_the_schema_finds_what_is_wrong(document, damage):
    broken = copy.deepcopy(document)
    damage(broken)
    with pytest.raises(jsonschema.ValidationError):
        keeps.validate(broken)


def test_every_column_of_a_board_is_described():
    described = SCHEMA["$defs"]["frame"]["properties"]
    lost = {column for columns in board.COLUMNS.values() for column in columns} - set(described)
    assert not lost, f"say in bench/page/board.schema.json what they are: {sorted(lost)}"
    assert all(about["description"] for about in described.values())


def test_json_comes_back_as_the_same_frames(document, ranked):
    frames = exports.frames(document)
    assert list(frames) == list(board.COLUMNS)
    for name, frame in frames.items():
        before = getattr(ranked, name)
        assert list(frame.columns) == list(before.columns)
        for column in frame.columns:
            equal(frame[column], before[column])
    assert frames["estimates"]["rank"].dtype == np.float64
    assert frames["estimates"]["n_images"].dtype == np.int64
    assert frames["estimates"]["complete"].dtype == bool


def test_json_has_what_a_reader_must_know_of_the_numbers(document, found):
    assert document["title"] == "Synthetic <em>suite</em>"
    assert document["contestants"]["gradcam"]["title"] == HOSTILE
    assert document["datasets"]["letters"]["homepage"] == "https://example.org/letters"
    assert document["proofs"]["correlation"]["badge"] == "failed"
    (versions,) = document["versions"]
    assert versions["versions"]["torch"] == "2.8.0"
    assert versions["n_runs"] == len(found.runs)


def test_what_is_no_number_is_null_and_what_is_infinite_a_word(found, ranked):
    frame = ranked.estimates.head(3).assign(mean=[np.nan, np.inf, -np.inf])
    odd = exports.document(replace(ranked, estimates=frame), found)
    assert odd["frames"]["estimates"]["mean"] == [None, "Infinity", "-Infinity"]
    keeps.validate(odd)
    back = exports.frames(json.loads(json.dumps(odd, allow_nan=False)))["estimates"]["mean"]
    assert [math.isnan(back[0]), back[1], back[2]] == [True, math.inf, -math.inf]


def test_a_column_that_nobody_described_goes_everywhere(found, ranked, tmp_path):
    more = replace(ranked, swaps=ranked.swaps.assign(new=1.5))
    document = exports.document(more, found)
    keeps.validate(document)
    assert set(document["frames"]["swaps"]["new"]) == {1.5}
    exports.write_frames(more, tmp_path)
    assert set(pq.read_table(tmp_path / "swaps.parquet")["new"].to_pylist()) == {1.5}
    assert set(pd.read_csv(tmp_path / "swaps.csv")["new"]) == {1.5}


def test_parquet_and_csv_say_the_same(written, ranked):
    for name in board.COLUMNS:
        stored = pq.read_table(written / f"{name}.parquet")
        assert stored.column_names == list(getattr(ranked, name).columns)
        for column in stored.column_names:
            equal(stored[column].to_pylist(), getattr(ranked, name)[column].tolist())
        assert len(pd.read_csv(written / f"{name}.csv")) == len(stored)


def test_parquet_has_the_same_types_on_an_empty_board(ranked, written, tmp_path):
    exports.write_frames(replace(ranked, **{
        name: getattr(ranked, name).iloc[:0] for name in board.COLUMNS}), tmp_path)
    for name in board.COLUMNS:
        assert pq.read_schema(tmp_path / f"{name}.parquet") == pq.read_schema(
            written / f"{name}.parquet")
    types = pq.read_schema(tmp_path / "missing.parquet")
    assert types.field("seed").type == pa.int64()
    assert types.field("reason").type == pa.string()


def test_the_same_board_gives_the_same_bytes(found, ranked, written, tmp_path):
    tables.write(ranked, tmp_path / "tables")
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "tables" / path.name).read_bytes(), path.name
    exports.write(ranked, found, tmp_path)
    before = (tmp_path / "board.json").read_bytes()
    again = results.read(found.folder)
    exports.write(ranked, again, tmp_path)
    assert (tmp_path / "board.json").read_bytes() == before


def test_a_contestant_called_infinity_keeps_its_name(found, ranked, tmp_path):
    odd = replace(ranked, certificates=ranked.certificates.assign(contestant="Infinity"))
    assert set(exports.frames(exports.document(odd, found))["certificates"]["contestant"]) == {
        "Infinity"}
    exports.write_frames(odd, tmp_path)
    assert pq.read_table(tmp_path / "certificates.parquet")["contestant"][0].as_py() == "Infinity"


def rows(text):
    """The rows of a LaTeX table that hold numbers, each as its cells."""
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in text.splitlines()
            if line.endswith(r"\\") and "multicol" not in line and "scriptsize" in line]


def test_latex_with_plus_and_minus_is_never_narrower_than_the_interval(written):
    pairs = zip(*(rows((written / f"shapes-proven{ending}").read_text(encoding="utf-8"))
                  for ending in (".tex", "-pm.tex")), strict=True)
    checked = 0
    for exact, around in pairs:
        for one, other in zip(exact[1:], around[1:], strict=True):
            mean, low, high = (float(number) for number in re.findall(
                r"-?\d+\.\d+", one.replace("$-$", "-")))
            arm = float(re.search(r"\\pm\$ (\d+\.\d+)", other)[1])
            assert mean - arm <= low + 1e-9
            assert mean + arm >= high - 1e-9
            assert arm == pytest.approx(max(mean - low, high - mean), abs=1e-9)
            checked += 1
    assert checked == 9 * 5


def test_latex_stands_on_its_own_and_groups_the_families(written):
    for path in written.glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("% Needs \\usepackage{booktabs,graphicx}")
        opened = re.findall(r"\\begin\{(\w+)\}", text)
        assert opened == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))
        body = re.sub(r"\\.", "", text)
        assert body.count("{") == body.count("}")
        assert body.count("$") % 2 == 0
    text = (written / "shapes-proven.tex").read_text(encoding="utf-8")
    assert " & \\multicolumn{2}{c}{Faithfulness} & \\multicolumn{1}{c}{Localisation}" in text
    assert "\\cmidrule(lr){2-3}\\cmidrule(lr){4-4}" in text
    assert "[$-$0." in text
    assert "$\\pm$ the longer arm" in (written / "shapes-proven-pm.tex").read_text(encoding="utf-8")


def test_latex_sets_greek_letters_as_mathematics() -> None:
    from bench.page.tables import _tex

    assert _tex("LRP-ε λ Δ Α ο ς 5 % a_b é") == (
        r"LRP-$\epsilon$ $\lambda$ $\Delta$ A o $\varsigma$ 5 \% a\_b é")
