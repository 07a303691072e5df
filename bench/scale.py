"""A big suite's results, drawn and not run: what `make bench` publishes. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import PLAIN, Card, number_from
from bench.measure import GAUGE, Metric, Scores
from bench.results import Folder, write_plan
from bench.spec import Backbone, Contestant, Recipe, RunSpec

SUITE, OWN, STEPS = "scale", "own", 8
FAMILIES = ("faithfulness", "localisation", "segmentation", "randomisation", "complexity",
            "robustness")
DATASETS, SEEDS = ("first", "second"), 5
GRID, SHOWN = (8, 8), 4
"""Cells of a map, and images of each run's gallery."""


def write(out: Path, *, contestants: int = 20, metrics: int = 24, samples: int = 1000) -> Path:
    """Writes out/scale and returns it: 2 data sets × contestants × 5 seeds runs, no two alike.

    As in a real suite there are controls, a ceiling, a trainer with its own map and post-hoc maps
    of its network, two tracks, curves, values that do not exist, and galleries. `contestants` is at
    least 6, `metrics` at least 3. The same arguments give the same scores.
    """
    who, asked = _contestants(contestants), _metrics(metrics)
    cards = [Card(name, f"Data set {name}", "drawn", ("A", "B", "C"), (3, 32, 32), (0.5,) * 3,
                  (0.25,) * 3, {"train": "train", "test": "test"}, truth="pixels",
                  licence="CC0-1.0", redistributable=True) for name in DATASETS]
    specs = [spec for card in cards for spec in _specs(card, who, samples)]
    facts = {card.name: {**asdict(card), "fingerprint": card.fingerprint} for card in cards}
    with ThreadPool() as pool:  # a file waits for the disk, each by itself
        pool.starmap(_run, [(Folder.of(spec, out), spec, who[spec.contestant.name], asked,
                             facts[spec.dataset]) for spec in specs])
    write_plan(out, {
        "suite": SUITE, "title": "A big suite, drawn and not run", "protocol": "1",
        "runs": [{"id": spec.id, "dataset": spec.dataset, "contestant": spec.contestant.name,
                  "seed": spec.seed, "fold": 0} for spec in specs],
        "contestants": who, "metrics": [metric.facts() for metric in asked], "datasets": facts,
        "skipped": [], "batteries": []})
    return out / SUITE


def _contestants(n: int) -> dict[str, dict[str, Any]]:
    """The facts of the ceiling, n // 5 controls, and for the rest explainers on two trainers."""
    posthoc = n - 2 - n // 5
    names = [("ceiling", PLAIN), *((f"control-{i}", PLAIN) for i in range(n // 5)), (OWN, OWN),
             *((f"cam-{i // 2}", (PLAIN, OWN)[i % 2]) for i in range(posthoc))]
    return {
        name: {
            "name": name, "title": explainer.capitalize(), "explainer": explainer, "explain": {},
            "family": "inherent" if explainer == OWN else "cam", "paper": "", "signed": True,
            "passes": "1 forward", "additivity": "none", "classwise": True,
            "control": explainer.startswith("control"), "ceiling": explainer == "ceiling",
            "trainer": trainer, "trainer_title": trainer.capitalize(), "train": {}, "twin": PLAIN}
        for explainer, trainer in names
        for name in [explainer if trainer in (PLAIN, explainer) else f"{explainer}@{trainer}"]}


def _metrics(n: int) -> list[Metric]:
    """Accuracy, a gauge and the rest in turns of the families; a third is of the Quantus track."""
    return [
        Metric("accuracy", "Accuracy", "classifier", "higher", _drawn),
        Metric("ood/mean", "Out of distribution", GAUGE, "lower", _drawn,
               params={"percentages": [100 * (k + 1) // STEPS for k in range(STEPS)]}),
        *(Metric(f"{'quantus/' if i % 3 == 2 else ''}measure-{i}", f"Measure {i}",
                 FAMILIES[i % len(FAMILIES)], "lower" if i % 2 else "higher", _drawn,
                 track="quantus" if i % 3 == 2 else "proven",
                 params={"steps": STEPS} if i % 4 == 0 else {}) for i in range(n - 2))]


def _drawn(*_: object) -> Scores:
    raise NotImplementedError("a drawn suite is not measured")


def _specs(card: Card, who: dict[str, dict[str, Any]], samples: int) -> Iterator[RunSpec]:
    for name, facts in who.items():
        for seed in range(SEEDS):
            yield RunSpec(
                SUITE, "1", card.name, card.fingerprint,
                Contestant(name, facts["explainer"], facts["trainer"], "1", "1"),
                Backbone("drawn"), Recipe(epochs=1), seed, samples, media=SHOWN)


def _run(
    folder: Folder, spec: RunSpec, who: dict[str, Any], metrics: Sequence[Metric],
    dataset: dict[str, Any],
) -> None:
    """One run's files. An image is easy or hard for all; a contestant is good or bad in all."""
    n, generator = spec.samples, np.random.default_rng(number_from(spec.id))
    keys = [f"{spec.dataset}-{i:05d}" for i in range(n)]
    easy = np.random.default_rng(number_from(spec.dataset)).normal(0, 0.1, n)
    worth = np.random.default_rng(number_from(who["name"])).uniform(0.3, 0.7)
    labels = np.arange(n) % 3
    right = np.random.default_rng(number_from(spec.model_id)).random(n) < 0.9
    for place, metric in enumerate(metrics):
        value = worth + easy + generator.normal(0, 0.1, n)
        if metric.family == "classifier":
            value = right.astype(float)
        reason: list[str | None] = [None] * n
        if place % 5 == 3:
            value[:2], reason[:2] = np.nan, ["the map is constant"] * 2
        points = len(metric.params.get("percentages", ())) or metric.params.get("steps", -1) + 1
        curve = value[:, None] * np.linspace(1, 0.5, points) if points else None
        folder.write_scores(metric, keys, Scores(value, tuple(reason), curve))
    prediction = np.where(right, labels, (labels + 1) % 3)
    folder.write_samples({
        "key": keys, "label": labels, "group": [""] * n, "prediction": prediction,
        "confidence": generator.random(n), "logit": generator.normal(size=n), "target": labels})
    shown, (c, h, w) = min(n, SHOWN), dataset["image"]
    folder.write_media(
        {"image": generator.integers(0, 255, (shown, c, h, w), dtype=np.uint8),
         "mask": generator.integers(0, 2, (shown, h, w), dtype=np.uint8),
         "maps": generator.normal(size=(shown, *GRID)).astype(np.float32)},
        {"keys": keys[:shown], "labels": labels[:shown].tolist(),
         "predictions": prediction[:shown].tolist()})
    folder.write_run({
        "spec": spec.to_json(), "contestant": who, "dataset": dataset, "certificate": None,
        "classifier": {"parameters": 1000, "backbone": "drawn", "accuracy": float(right.mean()),
                       "grid": list(GRID)},
        "additivity": {"declared": "none", "largest": None, "tolerance": 1e-4, "holds": None,
                       "images": n},
        "metrics": {metric.name: metric.facts() for metric in metrics}, "unsupported": None,
        "versions": {}, "git": "", "device": "none", "checkpoint": "",
        "measured": {"train": 0.0, "explain": 0.0, "score": {}}})
