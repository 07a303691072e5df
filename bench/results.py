"""One run written, all runs read. Every key of every file is explained here.

    results/SUITE/plan.json                          what the suite should hold (PLAN)
    results/SUITE/proofs/METRIC.json                 whether a metric keeps its promises (PROOF)
    results/SUITE/DATASET/CONTESTANT/RUN/run.json    the run (RUN)
                                       …/samples.parquet         one row a sample (SAMPLES)
                                       …/scores/METRIC.parquet   one row a sample and draw (SCORES)
                                       …/media/images.safetensors  for the gallery (MEDIA)

Files are write-once and atomic; only plan.json and run.json are replaced, whole, when a suite
gains a contestant, a seed or a metric. No torch, no plugin is needed to read them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.core import HeatproofError, canonical
from bench.measure import Metric, Scores
from bench.spec import RunSpec
from bench.store import read_arrays, read_json, told, write_arrays, write_bytes, write_json

PLAN = {
    "suite": "name of the suite",
    "title": "what a person calls it",
    "protocol": "version of what is measured; a folder holds one protocol only",
    "runs": "list of {id, dataset, contestant, seed, fold}: the runs that make the suite whole",
    "contestants": "contestant -> its facts, also of those that cannot run (see RUN)",
    "metrics": "list of the facts of each metric, in the suite's order",
    "batteries": "list of {name, title, digest, metrics, changed}: the pinned protocols that the "
                 "suite names, and of which metrics it changed a parameter",
    "datasets": "dataset -> the facts of its card",
    "skipped": "list of {dataset, contestant, metric, reason}: what the suite cannot ask for; "
               "contestant or metric is null",
}
PROOF = {
    "metric": "name, version and params of what was proven",
    "key": "hash of that and of the lab",
    "badge": "proven, failed or refused (it has a defect, and was run by force)",
    "passed": "how many known answers it gave",
    "of": "how many it was asked for",
    "failed": "a line for each that it did not give",
    "findings": "list of {name, expected, found, ok}: every known answer",
}
RUN = {
    "spec": "the frozen RunSpec with its ids",
    "contestant": "name; title, family, paper, passes (of one map, in words), signed, additivity, "
                  "control, ceiling, classwise (whether another target gives another map), "
                  "explainer (its name) and explain (its parameters); trainer, trainer_title, "
                  "train (its parameters) and twin (the trainer whose network lacks what it adds, "
                  "or empty)",
    "dataset": "the facts of the card, and content: a checksum of the test images and masks",
    "classifier": "parameters (count), accuracy (on the scored images), grid (h, w) of the maps",
    "certificate": "on planted data: n (images), flips (what is flipped -> changed, the share of "
                   "images whose predicted class changes, low, high: its 95 % interval, must: "
                   "what it has to be) and certified, whether all are as they must; else null",
    "metrics": "metric -> its facts, for each score file beside this one",
    "additivity": "whether the maps add up to the output: declared (mean, sum or none), largest "
                  "(deviation over max(1, |output|), null where not finite), tolerance, holds, "
                  "images; null if unsupported",
    "unsupported": "null, or why this explainer cannot serve this network (then no scores follow)",
    "versions": "Python and the libraries that the numbers depend on",
    "git": "commit of the checkout, or empty",
    "device": "what it was scored on, what else its network or maps were made on, and how many "
              "processes trained the network if several did",
    "checkpoint": "sha256 of the checkpoint's file",
    "measured": "seconds by stage; passes: images that went through the network for one map; cost: "
                "by stage (train: of the network, whoever trained it) its seconds, images forward "
                "and backward (in training: that a loss was taken of), peak, the most bytes in "
                "use (of a GPU, else of the process), and device; "
                "this block alone may differ between two runs of one spec",
}
SAMPLES = pa.schema([
    ("key", pa.string()),             # stable name of the image
    ("label", pa.int64()),            # index into the card's classes
    ("group", pa.string()),           # patient or scan; empty where none
    ("prediction", pa.int64()),       # the class with the largest logit
    ("confidence", pa.float64()),     # softmax probability of the prediction
    ("logit", pa.float64()),          # logit of the explained class
    ("target", pa.int64()),           # the explained class
])
SCORES = pa.schema([
    ("key", pa.string()),
    ("draw", pa.int64()),             # repetition of a metric that draws; 0 where it does not
    ("value", pa.float64()),          # NaN where there is none
    ("reason", pa.string()),          # why it is NaN, else null
    ("curve", pa.list_(pa.float64())),  # what the value was reduced from, or null
])
MEDIA = {
    "image": "(n, C, H, W) uint8, as the classifier saw it before normalisation",
    "mask": "(n, H, W) uint8; absent where the card has no truth",
    "maps": "(n, h, w) float32, native",
    "facts": "keys, labels and predictions of the n samples",
}
READERS = 4
"""Files that are read at a time; most of it is waiting for the disk."""


@dataclass(frozen=True)
class Folder:
    """The folder of one run."""

    path: Path

    @classmethod
    def of(cls, spec: RunSpec, out: Path) -> Folder:
        """Where a spec's results lie, or would lie."""
        fold = f"fold{spec.fold}-" if spec.fold else ""
        run = f"{fold}seed{spec.seed}-{spec.id[:10]}"
        return cls(out / spec.suite / spec.dataset / spec.contestant.name / run)

    def score_path(self, metric: str) -> Path:
        """Where one metric's scores lie; a slash in its name is a folder."""
        return self.path / "scores" / f"{metric}.parquet"

    def has_score(self, metric: Metric) -> bool:
        """Whether the metric is scored. Raises if the file was made with other parameters."""
        path = self.score_path(metric.name)
        if not path.is_file():
            return False
        found = _opened(path).schema_arrow.metadata or {}
        if found.get(b"metric") != canonical(identity(metric)).encode():
            raise HeatproofError(
                f"{path} was made with other parameters or another version of {metric.name}; "
                "raise the suite's protocol and give another --out, or delete the file")
        return True

    def missing(self, metrics: Sequence[Metric]) -> list[Metric]:
        """The metrics that are not scored yet."""
        return [metric for metric in metrics if not self.has_score(metric)]

    def is_whole(self, metrics: Sequence[Metric]) -> bool:
        """Whether the run is finished for these metrics, or known to be unsupported."""
        if not (self.path / "run.json").is_file():
            return False
        run = read_json(self.path / "run.json")
        if set(RUN) - set(run):  # of another version: made again from what the cache holds
            return False
        if run["unsupported"]:
            return True
        if not (self.path / "samples.parquet").is_file():
            return False
        if not {metric.name for metric in metrics} <= set(run["metrics"]):
            return False
        # What run.json says of a metric is as good as the word in its file, and read at once.
        alike = all(run["metrics"][metric.name][key] == value
                    for metric in metrics for key, value in identity(metric).items())
        if alike:
            return all(self.score_path(metric.name).is_file() for metric in metrics)
        return not self.missing(metrics)

    def write_samples(self, columns: Mapping[str, Any]) -> None:
        """Writes samples.parquet from one array or list a column of SAMPLES."""
        table = pa.table({name: columns[name] for name in SAMPLES.names}, schema=SAMPLES)
        _write_table(self.path / "samples.parquet", table)

    def write_scores(self, metric: Metric, keys: Sequence[str], scores: Scores) -> None:
        """Writes one metric's file. A NaN without a reason, or a length that is off, raises."""
        value = np.asarray(scores.value, np.float64)
        if value.shape != (len(keys),) or len(scores.reason) != len(keys):
            raise HeatproofError(
                f"metric {metric.name} gave {value.shape} values for {len(keys)} samples; "
                "it must give one float a sample")
        reasons = [None if np.isfinite(v) else (r or "not finite")
                   for v, r in zip(value, scores.reason, strict=True)]
        curve = None if scores.curve is None else [
            None if r else list(map(float, c))
            for c, r in zip(scores.curve, reasons, strict=True)]
        table = pa.table({
            "key": list(keys), "draw": [0] * len(keys),
            "value": [v if np.isfinite(v) else np.nan for v in value.tolist()],
            "reason": reasons, "curve": curve or [None] * len(keys)}, schema=SCORES)
        stamp = {"metric": canonical(identity(metric))}
        _write_table(self.score_path(metric.name), table.replace_schema_metadata(stamp))

    def write_media(self, arrays: Mapping[str, np.ndarray[Any, Any]], facts: object) -> None:
        """Writes the gallery's arrays; see MEDIA."""
        write_arrays(self.path / "media" / "images.safetensors", arrays, facts, once=True)

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Writes run.json, the last file of a run. A key that RUN does not explain raises."""
        if set(run) != set(RUN):
            raise ValueError(f"run.json must have the keys of RUN; off: {set(run) ^ set(RUN)}")
        write_json(self.path / "run.json", run)


def identity(metric: Metric) -> dict[str, Any]:
    """What makes two files of one metric comparable."""
    return {"name": metric.name, "version": metric.version, "params": dict(metric.params)}


def write_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Writes out/SUITE/plan.json; a key that PLAN does not explain raises."""
    if set(plan) != set(PLAN):
        raise ValueError(f"plan.json must have the keys of PLAN; off: {set(plan) ^ set(PLAN)}")
    path = out / plan["suite"] / "plan.json"
    if path.is_file():
        check_protocol(path.parent, plan["protocol"])
        if read_json(path) == json.loads(json.dumps(plan)):
            return
    write_json(path, plan)


def proof_path(out: Path, suite: str, metric: str) -> Path:
    """Where a suite's proof of one metric lies."""
    return out / suite / "proofs" / f"{metric}.json"


def write_proof(path: Path, proof: Mapping[str, Any]) -> None:
    """Writes one metric's proof; a key that PROOF does not explain raises."""
    if set(proof) != set(PROOF):
        raise ValueError(f"a proof must have the keys of PROOF; off: {set(proof) ^ set(PROOF)}")
    write_json(path, proof)


def has_proof(path: Path, metric: Metric) -> bool:
    """Whether a proof is there, of this version and these parameters."""
    return path.is_file() and read_json(path)["metric"] == json.loads(canonical(identity(metric)))


def _proofs(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The proofs of a plan's metrics; one of another version or other parameters is none."""
    found = {}
    for metric in metrics:
        path = folder / "proofs" / f"{metric['name']}.json"
        if path.is_file():
            proof = _complete(path, PROOF)
            if proof["metric"] == {key: metric[key] for key in ("name", "version", "params")}:
                found[metric["name"]] = proof
    return found


def check_protocol(folder: Path, protocol: str) -> None:
    """Raises if a suite's folder holds results of another protocol."""
    path = folder / "plan.json"
    if path.is_file() and (found := read_json(path)["protocol"]) != protocol:
        raise HeatproofError(
            f"{folder} holds results of protocol {found!r}, the suite is protocol {protocol!r}; "
            "give another folder with --out, or move the old results away")


@dataclass(frozen=True)
class Results:
    """All runs of one suite.

    plan: see PLAN, and proofs (metric -> PROOF). runs: one row a planned run that was found (id,
    dataset, contestant, seed, fold, path, info = its run.json). samples: SAMPLES with run, dataset,
    contestant, seed. scores: SCORES with run, dataset, contestant, seed, metric. In both, run,
    dataset, contestant and metric are categories. stale: folders of runs that the plan no longer
    names. A metric without a file has no rows.
    """

    folder: Path
    plan: dict[str, Any]
    runs: pd.DataFrame
    samples: pd.DataFrame
    scores: pd.DataFrame
    stale: tuple[Path, ...]


def read(folder: Path) -> Results:
    """All runs below results/SUITE. Raises if there are none, or for mixed protocols or images."""
    if not (folder / "plan.json").is_file():
        raise HeatproofError(
            f"{folder} holds no results (no plan.json); name a folder like results/demo, "
            "or run the suite first: heatproof run SUITE")
    plan = _complete(folder / "plan.json", PLAN)
    plan["proofs"] = _proofs(folder, plan["metrics"])
    wanted = {run["id"]: run for run in plan["runs"]}
    metrics = [metric["name"] for metric in plan["metrics"]]
    rows, samples, scores, stale = [], [], [], []
    for path in sorted(folder.glob("*/*/*/run.json")):
        info = _complete(path, RUN)
        spec = info["spec"]
        if spec["protocol"] != plan["protocol"]:
            raise HeatproofError(
                f"{path.parent} is of protocol {spec['protocol']!r}, the suite's folder of "
                f"{plan['protocol']!r}; a board never mixes protocols: move that run away")
        if spec["id"] not in wanted:
            stale.append(path.parent)
            continue
        place = {"run": spec["id"], "dataset": spec["dataset"],
                 "contestant": spec["contestant"]["name"], "seed": spec["seed"]}
        rows.append({**place, "fold": spec["fold"], "path": path.parent, "info": info})
        if info["unsupported"]:
            continue
        samples.append((path.parent / "samples.parquet", place))
        for metric in metrics:
            file = Folder(path.parent).score_path(metric)
            if file.is_file():
                scores.append((file, {**place, "metric": metric}))
    if not rows:
        raise HeatproofError(f"{folder} holds no finished run; run the suite first")
    _same_images(rows)
    return Results(
        folder, plan, pd.DataFrame(rows), _joined(samples, SAMPLES), _joined(scores, SCORES),
        tuple(stale))


def read_run(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """The run.json of one run, its samples and its scores as in Results, also of a stale run."""
    info = _complete(folder / "run.json", RUN)
    spec = info["spec"]
    place = {"run": spec["id"], "dataset": spec["dataset"],
             "contestant": spec["contestant"]["name"], "seed": spec["seed"]}
    samples = [] if info["unsupported"] else [(folder / "samples.parquet", place)]
    files = ((name, Folder(folder).score_path(name)) for name in info["metrics"])
    scores = [(path, {**place, "metric": name}) for name, path in files if path.is_file()]
    return info, _joined(samples, SAMPLES), _joined(scores, SCORES)


def _same_images(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises where runs of one data set were made on different images."""
    seen: dict[tuple[str, int], tuple[str, Path]] = {}
    for row in rows:
        place, content = (row["dataset"], row["fold"]), row["info"]["dataset"].get("content", "")
        if content and (before := seen.setdefault(place, (content, row["path"])))[0] != content:
            raise HeatproofError(
                f"{row['path']} and {before[1]} were made on different images of "
                f"{row['dataset']}: its files have changed between; move the runs of one of the "
                "two away and run the suite again")


def read_media(run: Path) -> tuple[dict[str, np.ndarray[Any, Any]], Any] | None:
    """The gallery's arrays and facts of one run, or None if it has none."""
    path = run / "media" / "images.safetensors"
    return read_arrays(path) if path.is_file() else None


def _complete(path: Path, keys: Mapping[str, str]) -> dict[str, Any]:
    """A JSON file's content, with all the keys that are explained here."""
    content = read_json(path)
    if not isinstance(content, dict) or (lost := sorted(set(keys) - set(content))):
        raise HeatproofError(
            f"{path} lacks {', '.join(lost) if isinstance(content, dict) else 'every key'}: it is "
            "damaged or of another version of Heatproof; run the suite again")
    return content


def _table(path: Path) -> pa.Table:
    return _opened(path).read(use_threads=False).replace_schema_metadata(None)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise HeatproofError(f"there is no file {path}; run the suite again") from None
    except pa.ArrowInvalid as error:
        raise HeatproofError(f"{path} is damaged ({error}); delete it and run again") from None


def _joined(
    found: Sequence[tuple[Path, Mapping[str, Any]]], schema: pa.Schema,
) -> pd.DataFrame:
    """The rows of all files, each with the columns that its place adds."""
    if not found:
        extra = ["run", "dataset", "contestant", "seed", "metric"]
        return pd.DataFrame(columns=[*schema.names, *extra])
    with ThreadPool(READERS) as pool:  # handed out in batches: a file is read in half a millisecond
        tables = list(pool.imap(_table, [path for path, _ in found], chunksize=16))
    # Joined first and placed after: thousands of small frames cost more than they hold.
    # Joined first and placed after: thousands of small frames cost more than they hold.
    frame = pa.concat_tables(tables).combine_chunks().to_pandas()
    count = [len(table) for table in tables]
    for name in found[0][1]:
        known, number = np.unique([place[name] for _, place in found], return_inverse=True)
        codes = np.repeat(number, count)
        # Categories: as text these columns would hold most of the memory, and of the time.
        frame[name] = known[codes] if known.dtype.kind == "i" else (
            pd.Categorical.from_codes(codes, known))
    return frame


def _write_table(path: Path, table: pa.Table) -> None:
    with told(path):
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", use_dictionary=False)
        write_bytes(path, sink.getvalue(), once=True)
