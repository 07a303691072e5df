"""The Quantus track: its rows, their cards and their parameters."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from quantus_rows import SOUND, TRACK, same, sample, scored

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.metrics import known, quantus_run, score
from bench.metrics.quantus_keywords import SILENT
from bench.metrics.quantus_track import whole_steps


def test_every_metric_of_quantus_has_its_row() -> None:
    quantus = importlib.import_module("quantus")
    theirs = {cls.__name__ for family in quantus.AVAILABLE_METRICS.values()
              for cls in family.values()}
    assert len(theirs) == 37
    assert {name.removeprefix("quantus/") for name in TRACK} == theirs


@pytest.mark.parametrize("name", TRACK)
def test_a_row_is_in_the_family_that_quantus_puts_it_in(name: str) -> None:
    cls = getattr(importlib.import_module("quantus"), name.removeprefix("quantus/"))
    assert plugins.metrics[name].family == cls.evaluation_category.value.lower()


@pytest.mark.parametrize("name", TRACK)
def test_every_keyword_of_the_constructor_is_a_parameter_and_what_we_pin_is_told(name: str) -> None:
    row = plugins.metrics[name]
    cls = getattr(importlib.import_module("quantus"), name.removeprefix("quantus/"))
    theirs = {key: value.default for key, value in inspect.signature(cls).parameters.items()
              if key not in SILENT}
    assert set(row.score.keywords) == set(theirs)  # type: ignore[attr-defined]
    for key, value in theirs.items():
        ours = row.params[key]
        pinned = ours is not None and ours != value
        derived = ours is None and key in row.score.derived and (  # type: ignore[attr-defined]
            value is not None)
        if pinned or derived:
            assert any(key in line for line in row.departures), key


@pytest.mark.parametrize("name", TRACK)
def test_a_card_is_whole(name: str) -> None:
    row = plugins.metrics[name]
    assert all((row.title, row.about, row.formula, row.range, row.passes, row.paper))
    assert row.departures
    assert "doi:" in row.paper or "arXiv:" in row.paper
    assert row.defect or name in SOUND


def test_those_that_cannot_work_say_so() -> None:
    assert {name.removeprefix("quantus/") for name in TRACK if name not in SOUND} == {
        "Monotonicity", "SensitivityN", "Sufficiency", "Consistency", "SmoothMPRT", "Completeness"}


def test_quantus_is_the_release_that_the_track_names() -> None:
    assert importlib.metadata.version("quantus") == quantus_run.QUANTUS == "0.6.0"
    assert all("quantus 0.6.0" in plugins.metrics[name].version for name in TRACK)


def test_naming_the_metrics_does_not_import_quantus() -> None:
    families = ("faithfulness", "localisation", "complexity", "randomisation", "robustness",
                "axiomatic")
    code = (f"import sys, {', '.join(f'bench.metrics.quantus_{family}' for family in families)}; "
            "sys.exit('quantus' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_release_of_quantus_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.3")
    with pytest.raises(HeatproofError, match=r"pip install quantus==0\.6\.0"):
        scored("quantus/Sparseness", sample())


def test_focus_is_told_the_objects_quadrants() -> None:
    explained = known.explained(known.Additive(), known.planted(4, 1), known.oracle)
    assert scored("quantus/Focus", explained).value == pytest.approx(np.ones(4))
    moved = replace(explained, batch=replace(
        explained.batch, mask=explained.batch.mask.roll(8, 2)))
    assert scored("quantus/Focus", moved).value == pytest.approx(np.zeros(4))
    wide = replace(explained, batch=replace(
        explained.batch, mask=torch.ones_like(explained.batch.mask)))
    assert set(scored("quantus/Focus", wide).reason) == {"the object lies in every quadrant"}


class Recorder:
    """Stands in for a class of Quantus: keeps what its constructor is given, and stops."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def __call__(self, **given: Any) -> Any:
        self.given = given
        raise InterruptedError


@pytest.mark.parametrize("name", TRACK)
def test_what_a_suite_sets_reaches_quantus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, row = Recorder(), plugins.metrics[name]
    monkeypatch.setattr(quantus_run, "_quantus", lambda: types.SimpleNamespace(
        **{name.removeprefix("quantus/"): recorder}))
    wanted = {key: f"set {key}" for key in row.params
              if key in row.score.keywords  # type: ignore[attr-defined]
              and not key.endswith("_func") and not key.startswith(("norm_", "perturb_baseline"))}
    with pytest.raises(InterruptedError):
        score(row.with_params(wanted), sample(2))
    assert recorder.given["return_aggregate"] is False
    assert wanted.items() <= recorder.given.items()


def test_an_unknown_parameter_is_refused_with_its_like() -> None:
    with pytest.raises(HeatproofError, match="did you mean 'nr_samples'"):
        plugins.metrics["quantus/MaxSensitivity"].with_params({"nr_sample": 3})


def test_a_function_is_chosen_by_its_name() -> None:
    explained = sample(2)
    pearson, ranks = (
        scored("quantus/FaithfulnessEstimate", explained, similarity_func=f"correlation_{name}")
        for name in ("pearson", "spearman"))
    assert same(pearson, scored("quantus/FaithfulnessEstimate", explained))
    assert not same(pearson, ranks)
    with pytest.raises(HeatproofError, match="did you mean 'correlation_pearson'"):
        scored("quantus/FaithfulnessEstimate", explained, similarity_func="correlation_pierson")


@pytest.mark.parametrize(("name", "reduce"), [
    ("PixelFlipping", "last"), ("PixelFlipping", "area"), ("MPRT", "last")])
def test_the_reducer_is_a_parameter(name: str, reduce: str) -> None:
    explained = sample(2)
    mean = scored(f"quantus/{name}", explained)
    found = scored(f"quantus/{name}", explained, reduce=reduce)
    assert mean.curve is not None
    assert np.array_equal(found.curve, mean.curve)  # type: ignore[arg-type]
    expected = mean.curve[:, -1] if reduce == "last" else np.trapezoid(mean.curve, axis=1)
    assert np.array_equal(found.value, expected)
    assert mean.value == pytest.approx(mean.curve.mean(1))
    with pytest.raises(HeatproofError, match="did you mean 'mean'"):
        scored(f"quantus/{name}", explained, reduce="means")


def test_a_curve_that_quantus_reduces_itself_is_taken_as_it_is() -> None:
    explained = sample(2)
    ours = scored("quantus/PixelFlipping", explained, reduce="area")
    theirs = scored("quantus/PixelFlipping", explained, return_auc_per_sample=True)
    assert theirs.value == pytest.approx(ours.value, rel=1e-6)
    average = scored("quantus/MPRT", explained, return_average_correlation=True)
    layers = scored("quantus/MPRT", explained)
    assert layers.curve is not None
    assert average.value == pytest.approx((1 + layers.curve.sum(1)) / 4)   # with 'original'


@pytest.mark.parametrize("name", ["PixelFlipping", "FaithfulnessEstimate", "PointingGame"])
def test_abs_counts_evidence_against_the_class_too(name: str) -> None:
    explained = sample(3)
    flipped = replace(explained, maps=-explained.maps)
    one, other = (scored(f"quantus/{name}", e, abs=True) for e in (explained, flipped))
    assert np.array_equal(one.value, other.value)
    if name != "PointingGame":
        assert not np.array_equal(one.value, scored(f"quantus/{name}", explained).value)


def test_without_normalise_a_map_keeps_its_units() -> None:
    explained = sample(3)
    louder = known.explained(known.Convolutional(1), explained.batch,
                             lambda *given: 8 * known.gradient(*given))
    name = "quantus/LocalLipschitzEstimate"
    assert np.array_equal(scored(name, louder).value, scored(name, explained).value)
    assert scored(name, louder, normalise=False).value == pytest.approx(
        8 * scored(name, explained, normalise=False).value)


@pytest.mark.parametrize(("name", "expected"), [
    ("Monotonicity", 1.0), ("Completeness", 0.0), ("Sufficiency", 0.0)])
def test_a_refused_metric_still_runs_when_it_is_forced(name: str, expected: float) -> None:
    explained = known.explained(known.Additive(), known.planted(4, 1), known.noise)
    assert (scored(f"quantus/{name}", explained).value == expected).all()


def test_sensitivity_n_gives_every_sample_the_number_of_its_batch() -> None:
    explained = known.explained(known.Additive(), known.planted(4, 1), known.noise)
    assert len(set(scored("quantus/SensitivityN", explained).value)) == 1


def slope(net: Any, x: Any, target: Any, batch: Batch) -> torch.Tensor:
    """The gradient alone, of one channel."""
    return known.gradient(net, x, target, batch) / x.sum(1)


def test_input_invariance_tells_the_gradient_from_gradient_times_input() -> None:
    # A first layer with padding, and a network that is asked in parts.
    net, batch = known.Convolutional(1), known.planted(3, 1)
    before = copy.deepcopy(net.state_dict())
    for explainer, expected in ((slope, 1), (known.gradient, 0), (known.pattern, 1)):
        found = scored("quantus/InputInvariance", known.explained(net, batch, explainer))
        assert (found.value == expected).all()
    parts = known.explained(net, batch, lambda net, x, *_: net.body(x)[:, :1, None] * x[:, 0])
    assert (scored("quantus/InputInvariance", parts).value == 0).all()
    inner = known.explained(net, batch, lambda net, x, *_: net.body[0](x).mean(1))
    assert (scored("quantus/InputInvariance", inner).value == 1).all()
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_network_that_does_not_show_its_first_layer_the_image_has_no_input_invariance() -> None:
    class Square(known.Convolutional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.square())

    explained = known.explained(Square(1), known.planted(2, 1), known.image)
    reason = scored("quantus/InputInvariance", explained).reason
    assert all("no shift can be taken back" in str(why) for why in reason)


@pytest.mark.parametrize(("pixels", "steps", "size"), [
    (1024, 32, 32), (784, 32, 28), (4096, 32, 128), (50176, 32, 1568), (961, 32, 31), (9, 9, 1)])
def test_steps_are_equal_and_near_what_was_asked(pixels: int, steps: int, size: int) -> None:
    assert whole_steps(pixels, steps) == size
    assert pixels % size == 0


def test_steps_that_cannot_be_equal_are_refused_with_those_that_can() -> None:
    with pytest.raises(HeatproofError, match="set steps to one of 1, 97"):
        whole_steps(97, 32)
    with pytest.raises(HeatproofError, match="above 0"):
        whole_steps(97, 0)


@pytest.mark.parametrize(("name", "params", "message"), [
    ("PixelFlipping", {"perturb_baseline": "grey"}, "or one of black"),
    ("TopKIntersection", {"share": 5}, "share must lie between 0 and 1"),
    ("FaithfulnessCorrelation", {"share": 5}, "share must lie between 0 and 1")])
def test_a_wrong_parameter_names_the_cure(name: str, params: Any, message: str) -> None:
    with pytest.raises(HeatproofError, match=message):
        scored(f"quantus/{name}", sample(2), **params)
