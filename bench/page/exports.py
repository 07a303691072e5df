"""A board for programs: every frame as CSV and Parquet, and all of it as one JSON with a schema."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.board import COLUMNS, Board
from bench.results import Results

SCHEMA = Path(__file__).with_name("board.schema.json")
"""The JSON Schema (2020-12) of board.json; it says of each column what it is and of which kind."""

FORMAT = 1
"""The version of the schema; raised when something is taken away or gets another meaning."""

DIGITS = 10
"""Significant digits of a number, in all of CSV, Parquet and JSON: the last ones of a double depend
on the machine, and the same results must give the same bytes on all."""

_ARROW = {"words": pa.string(), "numbers": pa.float64(), "counts": pa.int64(), "flags": pa.bool_()}


def write(board: Board, results: Results, folder: Path) -> list[Path]:
    """The two files written: board.json, and beside it the schema that it keeps."""
    text = json.dumps(document(board, results), ensure_ascii=False, allow_nan=False,
                      separators=(",", ":"))
    paths = folder / "board.json", folder / SCHEMA.name
    for path, content in zip(paths, (text + "\n", SCHEMA.read_text("utf-8")), strict=True):
        path.write_text(content, encoding="utf-8", newline="\n")
    return list(paths)


def write_frames(board: Board, folder: Path) -> list[Path]:
    """The files written: a CSV and a Parquet of each frame of the board, in an existing folder.

    A Parquet has the types of the schema, also where a frame is empty; zstd, the same bytes for
    the same frame and release of pyarrow.
    """
    kinds, paths = _kinds(), []
    for name in COLUMNS:
        frame: pd.DataFrame = getattr(board, name)
        paths += [folder / f"{name}.csv", folder / f"{name}.parquet"]
        frame.to_csv(paths[-2], index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
        columns = {key: _series(values, kinds.get(key)) for key, values in _columns(frame).items()}
        sink = io.BytesIO()
        pq.write_table(pa.table({
            key: pa.array(values, _ARROW.get(kinds.get(key, "")), from_pandas=True)
            for key, values in columns.items()}), sink, compression="zstd", use_dictionary=False)
        paths[-1].write_bytes(sink.getvalue())
    return paths


def document(board: Board, results: Results) -> dict[str, Any]:
    """The board as JSON takes it: see SCHEMA. NaN is null, an infinite number a string."""
    versions = Counter(tuple(sorted((key, str(version)) for key, version in
                                    info["versions"].items())) for info in results.runs["info"])
    return {
        "$schema": SCHEMA.name, "format": FORMAT, "suite": board.suite, "title": board.title,
        "protocol": board.protocol, **{key: _plain(value) for key, value in {
            "metrics": board.metrics, "contestants": board.contestants,
            "datasets": results.plan["datasets"], "proofs": board.proofs,
            "batteries": board.batteries, "resampled": board.resampled,
            "notes": board.notes}.items()},
        "versions": [{"n_runs": n, "versions": dict(found)} for found, n in versions.most_common()],
        "frames": {name: _columns(getattr(board, name)) for name in COLUMNS}}


def frames(document: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The frames of a board.json that was read, with the types that the schema names."""
    kinds = _kinds()
    return {name: pd.DataFrame({key: _series(values, kinds.get(key))
                                for key, values in columns.items()})
            for name, columns in document["frames"].items()}


def _kinds() -> dict[str, str]:
    """Column -> words, numbers, counts or flags."""
    described = json.loads(SCHEMA.read_text("utf-8"))["$defs"]["frame"]["properties"]
    return {name: about["$ref"].removeprefix("#/$defs/") for name, about in described.items()}


def _series(values: list[Any], kind: str | None) -> pd.Series:
    """A column with its type back; a count or a flag that is null leaves all as objects."""
    if kind == "numbers":
        return pd.Series([math.nan if value is None else float(value) for value in values],
                         dtype="float64")
    whole = {"counts": "int64", "flags": "bool"}.get(kind or "")
    return pd.Series(values, dtype=whole if whole and None not in values else object)


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): [_value(value) for value in frame[name].tolist()] for name in frame.columns}


def _value(value: object) -> object:
    """A cell, or a fact, as JSON has it."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        if math.isfinite(value):
            return float(f"{value:.{DIGITS}g}")
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else _value(value)
