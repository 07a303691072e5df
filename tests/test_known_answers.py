"""Every metric in the registry is proven on networks whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import plugins
from bench.core import HeatproofError
from bench.measure import Explained, Metric, Scores
from bench.metrics import known, lab
from bench.metrics.known import Finding, known_answer
from bench.testing import check_metric

plugins.load()
torch.set_num_threads(1)

CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
METRICS = {name: metric for name, metric in plugins.metrics.items() if not metric.defect}
COSTLY = {
    "data-processing/road", "parity/AvgSensitivity", "parity/LocalLipschitzEstimate",
    "parity/MaxSensitivity", "parity/MonotonicityCorrelation", "parity/ROAD",
    "parity/RelativeInputStability", "parity/RelativeOutputStability",
    "parity/RelativeRepresentationStability", "parity/SmoothMPRT", "mprt-top-down",
    "quantus/FaithfulnessCorrelation", "quantus/IROF",
    "quantus/MonotonicityCorrelation", "quantus/NonSensitivity", "quantus/ROAD"}
"""Three seconds and more each; `heatproof check metrics` and the slow lane prove them."""


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name in COSTLY else []) for name in METRICS])
def test_metric_is_proven(name: str) -> None:
    findings = check_metric(METRICS[name])
    assert findings
    assert not [finding for finding in findings if not finding.ok]


def scored(value: float) -> Metric:
    """Accuracy, but every sample scores `value`."""
    def score(explained: Explained) -> Scores:
        n = len(explained.batch)
        return Scores(np.full(n, value), (None,) * n)
    return replace(plugins.metrics["accuracy"], score=score)


def failed(metric: Metric, **where: int) -> dict[str, Finding]:
    return {finding.name: finding for finding in known_answer(metric, **where) if not finding.ok}


def test_a_metric_that_is_nan_has_no_order() -> None:
    assert "right and sure against wrong and unsure, batch of 3" in failed(scored(np.nan), n=3)


def test_a_value_outside_the_range_of_the_card_is_found() -> None:
    metric = plugins.metrics["mass-inside"]
    assert not failed(metric, n=4)
    assert set(failed(replace(metric, range="[0.5, 1]"), n=4)) == {"range"}


@pytest.mark.parametrize(("text", "bounds"), [
    ("[0, 1]", (0, 1)), ("(0, 1]", (0, 1)), ("[−1, 1]", (-1, 1)), ("[0, ∞)", (0, np.inf)),
    ("[0, log P]", (0, np.inf)), ("(-∞, 2.5]", (-np.inf, 2.5)), ("", None), ("any number", None)])
def test_a_range_is_read_from_the_card(text: str, bounds: tuple[float, float] | None) -> None:
    assert known.interval(text) == bounds


def test_a_metric_that_crashes_on_a_constant_map_is_found_and_not_raised() -> None:
    metric = plugins.metrics["sparseness"]

    def score(explained: Explained, **params: object) -> Scores:
        flat = explained.maps.flatten(1)
        if (flat.amax(1) == flat.amin(1)).any():
            raise ZeroDivisionError("no spread")
        return metric.score(explained, **params)

    found = failed(replace(metric, score=score), n=4)
    assert set(found) == {"flawed"}
    assert found["flawed"].found == "ZeroDivisionError: no spread"


def test_a_metric_that_scores_a_nan_map_and_gives_no_reason_is_found() -> None:
    metric = plugins.metrics["sparseness"]

    def score(explained: Explained, **params: object) -> Scores:
        found = metric.score(explained, **params)
        return Scores(np.nan_to_num(found.value), (None,) * len(found.value))

    assert {"NaN map", "infinite map"} <= set(failed(replace(metric, score=score), n=4))


def test_a_metric_that_leaves_the_network_changed_is_found() -> None:
    metric = plugins.metrics["sparseness"]

    def score(explained: Explained, **params: object) -> Scores:
        with torch.no_grad():
            next(explained.network.parameters()).mul_(2)
        return metric.score(explained, **params)

    assert set(failed(replace(metric, score=score), n=4)) == {"the network"}


def test_only_what_is_as_quantus_is_may_refuse_colour_in_one_line() -> None:
    metric = plugins.metrics["sparseness"]

    def grey(explained: Explained, **params: object) -> Scores:
        if explained.batch.x.shape[1] > 1:
            raise HeatproofError("grey images only")
        return metric.score(explained, **params)

    assert failed(replace(metric, score=grey), channels=3, n=4)
    refused = replace(metric, score=grey, track="parity")
    assert [f.found for f in known_answer(refused, channels=3, n=4)] == ["grey images only"]
    assert not failed(refused, n=4)


def test_an_explainer_that_the_lab_has_not_names_those_that_it_has() -> None:
    with pytest.raises(HeatproofError, match="did you mean 'oracle'"):
        list(known_answer(replace(plugins.metrics["sparseness"], order=("oracel", "noise"))))


def test_the_order_on_the_card_replaces_that_of_the_family() -> None:
    metric = replace(plugins.metrics["sparseness"], order=("noise", "point"))
    assert "noise against point, batch of 4" in failed(metric, n=4)


@CHANNELS
def test_the_planted_network_is_right_and_its_oracle_adds_up_to_the_logit(channels: int) -> None:
    batch = lab.planted(8, channels)
    sample = lab.explained(lab.Additive(), batch, lab.oracle)
    assert sample.logits.argmax(1).tolist() == batch.y.tolist()
    logit = sample.logits.gather(1, batch.y[:, None])[:, 0]
    torch.testing.assert_close(sample.maps.sum((1, 2)), logit)
    assert (sample.maps[batch.mask == 0] == 0).all()


def test_who_sees_the_first_channel_alone_sees_another_class_and_moves_no_logit() -> None:
    batch = lab.planted(8, 3)
    first = batch.x.clone()
    first[:, 1:] = 0
    assert not lab.Additive()(first).any()
    shown = lab.Additive()(batch.x[:, :1]).argmax(1)
    assert shown.tolist() == ((batch.y + 1) % lab.CLASSES).tolist()


def test_a_planted_sample_is_the_same_in_every_batch_and_draws_from_no_global_generator() -> None:
    state = torch.get_rng_state()
    small, large = lab.planted(2, 3), lab.planted(5, 3)
    lab.Convolutional(3)
    assert torch.equal(small.x, large.x[:2])
    assert small.key == large.key[:2]
    assert torch.equal(state, torch.get_rng_state())


def test_an_explainer_at_home_bears_noise_and_not_a_lost_channel() -> None:
    batch = lab.planted(4, 3)
    net, explainer = lab.Additive(), lab.at_home(lab.pattern, lab.chaos)
    noisy = batch.x + 0.2 * (2 * torch.rand(batch.x.shape, generator=torch.Generator()) - 1)
    lost = batch.x.clone()
    lost[:, 1] = 0
    assert torch.equal(explainer(net, noisy, batch.y, batch), lab.pattern(net, *[noisy] * 3))
    assert torch.equal(explainer(net, lost, batch.y, batch), lab.chaos(net, *[lost] * 3))


def test_each_sample_may_have_an_explainer_and_a_unit_of_its_own() -> None:
    batch = lab.planted(6, 1)
    net = lab.Additive()
    mixed = lab.by_sample(lab.oracle, {batch.key[1]: lab.noise})
    maps = mixed(net, batch.x, batch.y, batch)
    assert torch.equal(maps[0], lab.oracle(net, batch.x, batch.y, batch)[0])
    assert torch.equal(maps[1], lab.noise(net, batch.x, batch.y, batch)[1])
    units = lab.scaled(mixed)(net, batch.x, batch.y, batch).flatten(1).amax(1)
    assert units.max() / units.min() > 2**40
    alone = batch[[1]]
    assert torch.equal(mixed(net, alone.x, alone.y, alone)[0], maps[1])
