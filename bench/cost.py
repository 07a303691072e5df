"""What cells will cost, by what the runs of all suites beside them have measured.

A suite that was never run, or that has another battery, other epochs or another number of samples,
is predicted from seconds an epoch and seconds a sample, each by the nearest that is measured. What
no run.json tells, the words in the cache do: proofs, and networks that no run was made on yet.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

from bench.cells import Cell, word
from bench.passes import kind_of
from bench.results import Folder
from bench.run import Place
from bench.spec import RunSpec

LONGEST = 1e9
"""Seconds, some thirty years, from which on a measurement is none."""
NAMED = 5
"""Metrics that are named in a line."""
EXPLAIN = "the maps"
"""Stands beside the names of metrics for what they score."""

Like = tuple[str | None, ...]
ALIKE = ("dwn", "dw", "dn", "d", "n", "")
"""What has to be equal, nearest first: data set, who (trainer or contestant), network."""
ALIKE_MAPS = ("dwn", "dw", "wn", "w", "dn", "d", "n", "")
"""The same for maps, whose cost is more the explainer's than the data set's."""


@dataclass(frozen=True)
class Cost:
    """What cells will cost.

    seconds: of one process, a stage. peak: the most bytes, a stage, that those had in use which it
    is predicted from; absent where none says so. guessed: cells of which none quite alike is
    measured, so that the nearest stand in for it. unknown: cells of which nothing, or not all, is
    known; what is known of them is counted. metrics: those that nobody has measured. device: where
    it was measured; other kinds of device are left out.
    """

    seconds: Mapping[str, float]
    peak: Mapping[str, int]
    guessed: int
    unknown: int
    metrics: tuple[str, ...] = ()
    device: str = ""

    @property
    def hours(self) -> float:
        """Hours of one process that does all."""
        return sum(self.seconds.values()) / 3600

    def gpu_hours(self, gpus: Mapping[str, int]) -> float:
        """Hours of GPUs, by how many a job of each stage has."""
        return sum(seconds * gpus.get(stage, 0) for stage, seconds in self.seconds.items()) / 3600

    @property
    def basis(self) -> str:
        """What it goes by, in words."""
        first = ", ".join(self.metrics[:NAMED])
        more = f" and {len(self.metrics) - NAMED} more" if len(self.metrics) > NAMED else ""
        notes = [f"measured on {self.device}" if self.device else "as measured"]
        if self.guessed:
            notes.append(f"{self.guessed} by the nearest that is measured")
        if self.unknown:
            notes.append(f"{self.unknown} unknown"
                         + (f": metrics {first}{more}" if first else ""))
        return ", ".join(notes)

    def __str__(self) -> str:
        def by_stage(values: Mapping[str, float], form: str) -> str:
            return ", ".join(f"{stage} {value:{form}}" for stage, value in values.items())

        unit, length, form = ("hours", 3600, ".2f") if self.hours >= 0.1 else ("seconds", 1, ".1f")
        spent = {stage: seconds / length for stage, seconds in self.seconds.items()}
        gib = {stage: peak / 2**30 for stage, peak in self.peak.items()}
        memory = (f", at most {max(gib.values()):.1f} GiB ({by_stage(gib, '.1f')})"
                  if gib else "")
        return (f"about {sum(spent.values()):{form}} {unit} of one process "
                f"({by_stage(spent, form)}){memory}; {self.basis}")


@dataclass(frozen=True)
class Prediction:
    """What one cell will cost: see Cost. unknown: what of it nobody has measured."""

    seconds: float = 0.0
    peak: int = 0
    guessed: bool = False
    unknown: tuple[str, ...] = ()


def cost(left: Mapping[str, Cell], cells: Mapping[str, Cell], place: Place) -> Cost:
    """What the cells that are left will cost together; cells: all of their suite."""
    known = Known.of(cells, place)
    found = {key: known.predicted(cell) for key, cell in left.items()}
    seconds: dict[str, float] = {}
    peak: dict[str, int] = {}
    for key, one in found.items():
        stage = left[key].stage
        if one.seconds or not one.unknown:
            seconds[stage] = seconds.get(stage, 0.0) + one.seconds
        if one.peak:
            peak[stage] = max(peak.get(stage, 0), one.peak)
    names = {metric for key, one in found.items() if left[key].stage == "score"
             for metric in one.unknown} - {EXPLAIN}
    return Cost(seconds, peak, sum(one.guessed for one in found.values()),
                sum(bool(one.unknown) for one in found.values()), tuple(sorted(names)),
                known.device)


@dataclass(frozen=True)
class Training:
    """What one network took.

    key: its data set, trainer and backbone. samples: how many images its recipe asks for; 0 is all,
    which are `images` (0 where nobody counted). epoch: seconds of one. kind: of device.
    """

    key: tuple[str, str, str]
    samples: int
    epoch: float
    images: int = 0
    peak: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Measured:
    """What of one run.json a prediction needs.

    key: its data set, contestant and backbone. rates: metric, or EXPLAIN -> seconds a sample.
    peak: stage -> bytes. samples: what its spec asks for; images: how many that were.
    """

    key: tuple[str, str, str]
    model: str
    device: str
    samples: int
    images: int
    rates: Mapping[str, float]
    peak: Mapping[str, int]
    training: Training | None

    @property
    def kind(self) -> str:
        """The kind of device: cpu, cuda."""
        return kind_of(self.device)


class Known:
    """All that is measured, by what it is like."""

    def __init__(self, runs: Iterable[Measured], trainings: Iterable[Training],
                 words: Iterable[tuple[Cell, float]], place: Place, device: str) -> None:
        self.place, self.device = place, device
        self._runs: dict[Like, list[Measured]] = {}
        self._trainings: dict[Like, list[Training]] = {}
        self._words: dict[tuple[str, ...], list[float]] = {}
        for run in runs:
            for axes in ALIKE_MAPS:
                self._runs.setdefault(_like(axes, run.key), []).append(run)
        for training in trainings:
            for axes in ALIKE:
                self._trainings.setdefault(_like(axes, training.key), []).append(training)
        for cell, seconds in words:
            for kind in _kinds(cell):
                self._words.setdefault(kind, []).append(seconds)
        self._rate = cache(self._rated)
        self._epoch = cache(self._epoch_of)
        self._training_images = cache(self._images_trained_on)
        self._test_images = cache(self._images_scored)

    @classmethod
    def of(cls, cells: Mapping[str, Cell], place: Place) -> Known:
        """What the results of all suites below place.out say, and the words of these cells."""
        found = [run for path in sorted(place.out.glob("*/*/*/*/run.json"))
                 if (run := measured(path))]
        kinds = Counter(run.kind for run in found)
        kind = kinds.most_common(1)[0][0] if kinds else ""
        runs = [run for run in found if run.kind == kind]
        trainings: dict[str, Training] = {}  # a network has many runs, and was trained once
        for run in sorted(found, key=lambda run: not (run.training and run.training.peak)):
            if run.training and run.training.kind == kind:
                trainings.setdefault(run.model, run.training)
        elsewhere = {run.model for run in found if run.training} - set(trainings)
        words = []
        for key, cell in cells.items():
            said = word(key, place.cache)
            seconds = _seconds(said.get("seconds"))
            if said.get("state") != "done" or seconds is None:
                continue
            if cell.stage != "train":
                words.append((cell, seconds))
            elif cell.spec and _trains(cell.spec) and cell.spec.model_id not in elsewhere:
                recipe = cell.spec.recipe
                trainings.setdefault(cell.spec.model_id, Training(
                    _key(cell), recipe.samples, seconds / recipe.epochs))
        return cls(runs, trainings.values(), words, place, _device(runs))

    def predicted(self, cell: Cell) -> Prediction:
        """What one cell will cost."""
        if cell.spec is None:
            return self._by_words(cell) or Prediction(unknown=(cell.stage,))
        return self._train(cell) if cell.stage == "train" else self._score(cell)

    def _by_words(self, cell: Cell) -> Prediction | None:
        kinds = _kinds(cell)
        for kind in kinds:
            if kind in self._words:
                return Prediction(fmean(self._words[kind]), guessed=kind != kinds[0])
        return None

    def _train(self, cell: Cell) -> Prediction:
        assert cell.spec
        if not _trains(cell.spec):
            return Prediction()
        epoch = self._epoch(_key(cell), cell.spec.recipe.samples)
        if epoch is None:
            return Prediction(unknown=("train",))
        return replace(epoch, seconds=epoch.seconds * cell.spec.recipe.epochs)

    def _epoch_of(self, key: tuple[str, str, str], samples: int) -> Prediction | None:
        """One epoch where it is nearest."""
        images = self._training_images(key[0], samples)
        for axes in ALIKE:
            others = self._trainings.get(_like(axes, key), [])
            comparable = []  # as long, or longer by a known ratio
            for one in others:
                theirs = self._training_images(one.key[0], one.samples)
                if (one.key[0], one.samples) == (key[0], samples):
                    comparable.append(one.epoch)
                elif images and theirs:
                    comparable.append(one.epoch * images / theirs)
            if others:
                return Prediction(fmean(comparable or [one.epoch for one in others]),
                                  max(one.peak for one in others),
                                  axes != ALIKE[0] or not comparable)
        return None

    def _score(self, cell: Cell) -> Prediction:
        assert cell.spec
        spec, key = cell.spec, _key(cell)
        folder = Folder.of(spec, self.place.out)
        lacks = [metric.name for metric in cell.wanted()
                 if not folder.score_path(metric.name).is_file()]
        if not self.place.cache.has("maps", spec.maps_id):
            lacks.insert(0, EXPLAIN)
        found = {what: self._rate(what, key) for what in lacks}
        rates = [rate for rate in found.values() if rate]
        if lacks and not rates:
            return self._by_words(cell) or Prediction(unknown=tuple(lacks))
        images = self._test_images(key[0], spec.samples)
        return Prediction(
            math.fsum(rate.sample * images if images else rate.run for rate in rates),
            max((rate.peak for rate in rates), default=0),
            any(rate.guessed or not images for rate in rates),
            tuple(what for what, rate in found.items() if not rate))

    def _rated(self, what: str, key: tuple[str, str, str]) -> Rate | None:
        """What a metric, or the maps, took where it is nearest."""
        order = ALIKE_MAPS if what == EXPLAIN else ALIKE
        for axes in order:
            near = [run for run in self._runs.get(_like(axes, key), []) if what in run.rates]
            if near:
                stage = "explain" if what == EXPLAIN else "score"
                return Rate(fmean(run.rates[what] for run in near),
                            fmean(run.rates[what] * run.images for run in near),
                            max(run.peak.get(stage, 0) for run in near), axes != order[0])
        return None

    def _images_scored(self, dataset: str, samples: int) -> int:
        """How many test images that is; 0 if all are asked for and no run tells how many."""
        runs = self._runs.get((dataset, None, None), [])
        whole = max((run.images for run in runs if not 0 < run.samples <= run.images), default=0)
        return min(samples, whole) if samples and whole else samples or whole

    def _images_trained_on(self, dataset: str, samples: int) -> int:
        """The same for training images."""
        trainings = self._trainings.get((dataset, None, None), [])
        counts = [one.images for one in trainings if not one.samples and one.images]
        whole = median_low(counts) if counts else 0
        return min(samples, whole) if samples and whole else samples or whole


@dataclass(frozen=True)
class Rate:
    """Seconds a sample and a run, the most bytes meanwhile, and whether that is but the nearest."""

    sample: float
    run: float
    peak: int
    guessed: bool


def measured(path: Path) -> Measured | None:
    """What a run.json measured; None where it is damaged, or of another shape."""
    try:
        info = _read(path)
        spec, took = info["spec"], info["measured"]
        who, recipe = spec["contestant"], spec["recipe"]
        dataset, backbone = _name(spec["dataset"]), _name(spec["backbone"]["name"])
        model, device = _name(spec["model_id"]), _name(info["device"])
        images = _count((info.get("additivity") or {}).get("images", 0))
        costs, rates = took.get("cost") or {}, {}

        if images:
            # Without passes the maps were made before, for another run, and only read here.
            here = "passes" in took and _where("explain", info) == kind_of(device)
            given = {**took.get("score", {}), **({EXPLAIN: took["explain"]} if here else {})}
            rates = {_name(what): seconds / images for what, value in given.items()
                     if (seconds := _seconds(value)) is not None}
        training, trained, epochs = None, costs.get("train", {}), _count(recipe["epochs"])
        spent = _seconds(trained.get("seconds", took.get("train")))
        if spent is not None and epochs and not spec.get("weights"):
            training = Training(
                (dataset, _name(who["trainer"]), backbone), _count(recipe["samples"]),
                spent / epochs, _count(trained.get("backward", 0)) // epochs,
                _count(trained.get("peak", 0)), _where("train", info))
        return Measured(
            (dataset, _name(who["name"]), backbone), model, device.partition(";")[0],
            _count(spec["samples"]), images, rates,
            {stage: _count(one.get("peak", 0)) for stage, one in costs.items()}, training)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # it costs a prediction some accuracy, and whoever reads results tells of it


def _read(path: Path) -> Any:
    """A run.json, without the facts of its metrics: they are most of it, and take the longest."""
    content = path.read_bytes()
    # A string holds no line break, so that these begin keys of the outermost table as we write it.
    before, here, rest = content.partition(b'\n "metrics": ')
    _, there, after = rest.partition(b'\n "spec": ')
    return json.loads(before + there + after if here and there else content)


def _where(stage: str, info: Mapping[str, Any]) -> str:
    cost = info["measured"].get("cost") or {}
    return kind_of(cost.get(stage, {}).get("device") or info["device"])


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(value)
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(value)
    return value


def _seconds(value: object) -> float | None:
    """The same number if it can be a time, else None."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LONGEST
    return float(value) if fits else None  # type: ignore[arg-type]


def _like(axes: str, key: tuple[str, str, str]) -> Like:
    return tuple(value if axis in axes else None for axis, value in zip("dwn", key, strict=True))


def _key(cell: Cell) -> tuple[str, str, str]:
    assert cell.spec
    who = cell.spec.contestant
    return (cell.spec.dataset, who.trainer if cell.stage == "train" else who.name,
            cell.spec.backbone.name)


def _kinds(cell: Cell) -> list[tuple[str, ...]]:
    """What a cell is alike to by words, nearest first."""
    if cell.spec is None:
        return [("prove", *(ask.base for ask in cell.asked)), ("prove",)]
    dataset, who, _ = _key(cell)
    return [(cell.stage, dataset, who), (cell.stage, dataset), (cell.stage,)]


def _trains(spec: RunSpec) -> bool:
    return spec.recipe.epochs > 0 and not spec.weights


def _device(runs: Iterable[Measured]) -> str:
    devices = Counter(run.device for run in runs)
    if not devices:
        return ""
    (first, _), *others = devices.most_common()
    return first + (f" and {len(others)} more" if others else "")
