"""A small results folder with known truth, written through bench.results; runs nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.core import PLAIN, Card, number_from
from bench.measure import GAUGE, Metric, Scores
from bench.results import Folder, identity, proof_path, write_plan, write_proof
from bench.spec import Backbone, Contestant, Recipe, RunSpec

HOSTILE = 'Grad<script>alert("x")</script>_CAM & 100% | é #1 $m_i$ \\evil{} ~^'
"""A title that HTML, Markdown and LaTeX each take for markup."""

CONTESTANTS = {
    # name: title, family, truth (mean of faithfulness), signed
    "softcam": ("SoftCAM", "inherent", 0.80, True),
    "gradcam": (HOSTILE, "cam", 0.60, False),
    "gradcam@softcam": ("Grad-CAM", "cam", 0.70, False),
    "softcam-lasso": ("SoftCAM", "inherent", 0.75, True),
    "gradcam@softcam-lasso": ("Grad-CAM", "cam", 0.55, False),
    "twin": ("Twin of edges", "gradient", 0.40, True),
    "partial": ("Stopped half-way", "perturbation", 0.95, True),
    "foreign": ("Needs another network", "gradient", 0.95, True),
    "noise": ("Uniform noise", "control", 0.20, True),
    "edges": ("Sobel edges", "control", 0.40, False),
    "oracle": ("The mask itself", "control", 0.99, False),
}
"""twin and edges share one truth; partial lacks a seed; foreign is unsupported; softcam-lasso is
SoftCAM with other train parameters."""

LADDER, PERCENTAGES = [2, 4, 8, 16], [25, 50, 75, 100]

SWAPPED = {"gradcam": "gradcam@softcam", "gradcam@softcam": "gradcam"}
"""On the Quantus track each of the two is worth what the other is."""

BLURRED = ("softcam", "softcam-lasso", "gradcam", "twin")
"""A blurred copy of their maps scores better."""

METRICS = (
    Metric("pixel-flipping", "Pixel Flipping", "faithfulness", "lower", len,
           params={"operator": "mean", "steps": 4}, formula="1/(K+1) · Σₖ pₖ", range="0 to 1",
           units="probability", passes="steps + 1 forward", about="Area under the probability "
           "curve while the highest pixels are removed first.", paper="arXiv:1509.06321",
           departures=("The curve starts at the untouched image <b>.",), holds=("batch",)),
    Metric("correlation", "Faithfulness Correlation", "faithfulness", "higher", len,
           about="Correlation of attributed and actual effect of random subsets.",
           paper="https://arxiv.org/abs/2005.00631"),
    Metric("pointing", "Pointing Game", "localisation", "higher", len, needs=("mask",),
           about="Whether the highest pixel lies in the mask."),
    Metric("dice", "Dice", "segmentation", "higher", len, needs=("mask",),
           about="Overlap of the thresholded map and the mask."),
    Metric("mprt", "Model Parameter Randomisation", "randomisation", "lower", len,
           needs=("explain", "randomise"), about="Similarity to the map of a random network."),
    Metric("quantus/PixelFlipping", "Pixel Flipping", "faithfulness", "lower", len,
           track="quantus", params={"features_in_step": 16}),
    Metric("quantus/FaithfulnessCorrelation", "Faithfulness Correlation", "faithfulness", "higher",
           len, track="quantus"),
    Metric("quantus/PointingGame", "Pointing Game", "localisation", "higher", len,
           needs=("mask",), track="quantus"),
    Metric("quantus/Completeness", "Completeness", "axiomatic", "higher", len, track="quantus",
           defect="asks for exact equality of floats: <i>every</i> map scores 0."),
    Metric("fair/pointing", "Pointing Game, resolution-fair", "localisation", "higher", len,
           needs=("mask",), track="fair", params={"grid": 4, "ladder": LADDER}),
    Metric("ceiling/pointing", "Pointing Game: the mask at this resolution", GAUGE, "higher", len,
           needs=("mask",)),
    Metric("ood/mean", "Out of distribution: channel means", GAUGE, "lower", len,
           params={"percentages": PERCENTAGES}),
    Metric("data-processing/pixel-flipping", "Pixel Flipping of blurred maps", GAUGE, "lower", len,
           params={"sigmas": [1 / 64, 1 / 32, 1 / 16, 1 / 8]}),
    Metric("accuracy", "Accuracy", "classifier", "higher", len,
           about="Whether the network is right."),
)

MASKED = tuple(metric.name for metric in METRICS if "mask" in metric.needs)
PROOFS = {"pixel-flipping": ("proven", 24, ()), "correlation": ("failed", 22, (
    "RGB: oracle 0.20, random 0.31, inverse 0.10", "a sample depends on its <batch>")),
    "quantus/Completeness": ("refused", 0, ("asks for exact equality of floats.",))}

CARDS = (
    Card("shapes", "Shapes <b>& squares</b>", "planted", ("square", "disc", "tri<i>angle"),
         (1, 16, 16), (0.5,), (0.25,), {"train": "train", "test": "test"}, truth="pixels",
         licence="CC0-1.0", redistributable=True, citation='Nobody, "Shapes" (2024) <script>',
         homepage="javascript:alert(1)"),
    Card("letters", "Letters", "planted", ("A", "B"), (3, 16, 16), (0.5,) * 3, (0.25,) * 3,
         {"train": "train", "test": "test"}, licence="all rights reserved", citation="N. N.",
         homepage="https://example.org/letters"),
)


def value(metric, truth, image, seed, noise):
    """Samples of one metric whose mean is known: `truth`, turned round where lower is better."""
    mean = truth + image + seed + noise
    return 1 - mean if metric.better == "lower" else mean


def scores(metric, name, image, seed, noise, right, network):
    """One metric's samples and curve; see the table of what each contestant is worth."""
    truth, ones = CONTESTANTS[name][2], np.ones(len(image))
    numbers, curve = value(metric, truth, image, seed, noise), None
    if metric.track == "quantus" and name in SWAPPED:
        numbers = value(metric, CONTESTANTS[SWAPPED[name]][2], image, seed, noise)
    if metric.family == "classifier":
        numbers = right.astype(float)
    elif metric.family == "randomisation":
        numbers = {"gradcam@softcam": 1 + noise, "softcam": 0.2 + noise}.get(name, 0.7 + noise)
        if CONTESTANTS[name][1] == "control" or name == "twin":
            numbers = ones
    elif metric.name == "pixel-flipping":
        curve = np.linspace(1, 2 * numbers - 1, 5, axis=1)
    elif metric.name.startswith("fair/"):
        curve = np.outer(numbers, (1.5, 1.25, 1.0, np.nan))
    elif metric.name.startswith("ceiling/"):
        numbers = 0.9 * ones
    elif metric.name.startswith("ood/"):
        curve = np.outer(network.normal(0.4, 0.02, len(image)), PERCENTAGES) / 100
        numbers = curve.mean(1)
    elif metric.name.startswith("data-processing/"):
        gain = 0.05 if name in BLURRED else -0.05
        curve = noise[:, None] / 5 + np.array((-0.05, -0.05, 0.0, gain))
        numbers = curve.max(1)
    return numbers, curve


def about(name):
    """The facts of a contestant, as a run writes them."""
    title, family, _, signed = CONTESTANTS[name]
    explainer, _, network = name.removesuffix("-lasso").partition("@")
    trainer = network or ("softcam" if explainer == "softcam" else PLAIN)
    return {
        "name": name, "title": title, "family": family, "signed": signed,
        "paper": "arXiv:1610.02391" if family == "cam" else "",
        "passes": "none" if family == "control" else "1 forward, 1 backward",
        "additivity": {"softcam": "mean", "partial": "sum"}.get(explainer, "none"),
        "control": family == "control" and name != "oracle", "ceiling": name == "oracle",
        "explainer": explainer, "explain": {"relu": False} if family == "cam" else {},
        "trainer": trainer, "twin": PLAIN,
        "train": {"lasso": 0.01 * name.endswith("-lasso")} if trainer == "softcam" else {},
        "trainer_title": "SoftCAM" if trainer == "softcam" else "Plain classifier"}


def added_up(who, seed, images):
    """A run's certificate of additivity."""
    none = who["additivity"] == "none"
    return {"declared": who["additivity"], "largest": None if none else (seed + 1) * 1.2e-7,
            "tolerance": 1e-4, "holds": None if none else True, "images": images}


def certificate(who):
    """What a run on planted images says of its network: SoftCAM's goes by the plant."""
    changed = {"region": 1.0 if who["trainer"] == "softcam" else 0.75, "elsewhere": 0.0}
    return {"n": 24, "certified": who["trainer"] == "softcam", "flips": {
        name: {"changed": share, "low": share, "high": share,
               "must": "at least 95 %" if name == "region" else "at most 5 %"}
        for name, share in changed.items()}}


def build(out: Path, *, images: int = 24, seeds: int = 3, measured: float = 1.5,
          planted: tuple[str, ...] = ()) -> Path:
    """Writes out/synthetic and returns it; `planted` names the data sets that certify networks."""
    recipe, backbone = Recipe(epochs=1), Backbone("resnet10t", stem="small")
    runs, skipped = [], [
        *({"dataset": "letters", "contestant": None, "metric": metric,
           "reason": "letters has no masks"} for metric in MASKED),
        {"dataset": "letters", "contestant": "oracle", "metric": None,
         "reason": "oracle needs a mask and letters has none"}]
    facts = {card.name: {**asdict(card), "fingerprint": card.fingerprint} for card in CARDS}
    for card in CARDS:
        keys = [f"{card.name}-{i:03d}" for i in range(images)]
        common = np.random.default_rng(number_from(card.name)).normal(0, 0.1, images)
        labels = np.arange(images) % len(card.classes)
        for name, (_, _, _, signed) in CONTESTANTS.items():
            if (card.name, name) == ("letters", "oracle"):
                continue
            who = about(name)
            for seed in range(seeds):
                spec = RunSpec(
                    "synthetic", "1", card.name, card.fingerprint,
                    Contestant(name, who["explainer"], who["trainer"], "1", "1", who["explain"],
                               who["train"]), backbone, recipe, seed, images)
                runs.append({"id": spec.id, "dataset": card.name, "contestant": name,
                             "seed": seed, "fold": 0})
                if name == "partial" and seed == seeds - 1:
                    continue
                folder = Folder.of(spec, out)
                metrics = [m for m in METRICS if card.truth != "none" or "mask" not in m.needs]
                unsupported = "the network has no feature map" if name == "foreign" else None
                if unsupported:
                    metrics = []
                generator = np.random.default_rng(number_from(spec.id))
                network = np.random.default_rng(number_from(spec.model_id))
                right = network.random(images) < (0.8 if who["trainer"] == PLAIN else 0.95)
                predictions = np.where(right, labels, (labels + 1) % len(card.classes))
                for metric in metrics:
                    noise = generator.normal(0, 0.05, images)
                    numbers, curve = scores(metric, name, common, (seed - 1) * 0.005, noise, right,
                                            network)
                    reasons = [None] * images
                    if (name, metric.name) == ("gradcam", "pointing"):
                        numbers[:3], reasons[:3] = np.nan, ["constant map"] * 3
                    folder.write_scores(metric, keys, Scores(numbers, tuple(reasons), curve))
                if not unsupported:
                    folder.write_samples({
                        "key": keys, "label": labels, "group": [""] * images,
                        "prediction": predictions, "confidence": generator.random(images),
                        "logit": generator.normal(size=images), "target": labels})
                    folder.write_media(*media(card, keys, labels, predictions, name, signed, seed))
                folder.write_run({
                    "spec": spec.to_json(), "unsupported": unsupported, "dataset": facts[card.name],
                    "contestant": who,
                    "additivity": None if unsupported else added_up(who, seed, images),
                    "certificate": (certificate(who) if card.name in planted and not unsupported
                                    else None),
                    "classifier": {
                        "parameters": 4_900_000, "backbone": "resnet10t",
                        "accuracy": None if unsupported else float(right.mean()),
                        "grid": None if unsupported else [8, 8]},
                    "metrics": {metric.name: metric.facts() for metric in metrics},
                    "versions": {"python": "3.11.9", "torch": "2.8.0", "quantus": "0.6.0"},
                    "git": "0123456789abcdef", "device": "cpu", "checkpoint": "ab" * 32,
                    "measured": {"train": measured, "explain": 0.2,
                                 "score": {metric.name: 0.1 for metric in metrics}}})
    write_plan(out, {
        "suite": "synthetic", "title": "Synthetic <em>suite</em>", "protocol": "1", "runs": runs,
        "contestants": {name: about(name) for name in CONTESTANTS},
        "metrics": [metric.facts() for metric in METRICS], "datasets": facts, "skipped": skipped,
        "batteries": [{
            "name": "synthetic-1", "title": "Synthetic battery", "digest": "abc123def456",
            "metrics": ["pixel-flipping", "correlation"], "changed": ["pixel-flipping"]}]})
    for metric in METRICS:
        if metric.name in PROOFS:
            badge, passed, failed = PROOFS[metric.name]
            asked = 24 * (badge != "refused")
            write_proof(proof_path(out, "synthetic", metric.name), {
                "metric": identity(metric), "key": "k", "badge": badge, "passed": passed,
                "of": asked, "failed": list(failed), "findings": [
                    {"name": f"order, answer {i}", "expected": "oracle > random > inverse",
                     "found": "0.9 > 0.5 > <0.1>", "ok": i < passed} for i in range(asked)]})
    return out / "synthetic"


def media(card, keys, labels, predictions, name, signed, seed, n=4):
    """A gallery of squares whose maps are as good as their contestant."""
    channels, height, width = card.image
    generator = np.random.default_rng(number_from(card.name, "media"))
    image = generator.integers(0, 90, (n, channels, height, width), dtype=np.uint8)
    mask = np.zeros((n, height, width), np.uint8)
    for i in range(n):
        top, left = generator.integers(1, 8, 2)
        mask[i, top:top + 6, left:left + 6] = 1
        image[i, :, top:top + 6, left:left + 6] = 220
    truth = CONTESTANTS[name][2]
    coarse = mask.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4))
    noise = np.random.default_rng(number_from(name, seed)).normal(0, 1 - truth, coarse.shape)
    maps = (coarse + noise).astype(np.float32)
    arrays = {"image": image, "maps": maps if signed else np.maximum(maps, 0)}
    if card.truth == "pixels":
        arrays["mask"] = mask
    chosen = slice(0, n)
    return arrays, {"keys": keys[chosen], "labels": labels[chosen].tolist(),
                    "predictions": predictions[chosen].tolist()}

