"""What explains again, in parity mode: equal to Quantus 0.6.0, called directly on the same draws.

`python tests/test_parity_again.py` prints the table and writes the fixture.
"""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from official import uniform, weights
from torch import Tensor, nn
from torch.nn import functional

from bench import plugins
from bench.core import Batch, HeatproofError
from bench.measure import Explained, Scores
from bench.metrics import evidence, known, score
from bench.metrics.parity.randomisation import new_layers
from bench.randomness import seeded
from bench.stages import randomised, stages

plugins.load()
torch.set_num_threads(1)

Array = np.ndarray[Any, Any]
FIXTURE = Path(__file__).parent / "fixtures" / "parity_again.npz"
SEED, N = 20, 5
CLOSE = 1e-5
CASES: list[tuple[str, dict[str, Any]]] = [
    ("MPRT", {}), ("MPRT", {"layer_order": "bottom_up", "abs": False}),
    ("MPRT", {"layer_order": "independent", "normalise": False, "seed": 3}),
    ("MPRT", {"return_last_correlation": True}),
    ("SmoothMPRT", {"nr_samples": 3}),
    ("SmoothMPRT", {"nr_samples": 4, "noise_magnitude": 0.3, "layer_order": "top_down",
                    "abs": False, "return_last_correlation": True}),
    ("EfficientMPRT", {}), ("EfficientMPRT", {"n_bins": 20, "abs": True, "seed": 1}),
    ("RandomLogit", {}), ("RandomLogit", {"seed": 7, "abs": True, "normalise": False}),
    ("MaxSensitivity", {"nr_samples": 4}),
    ("MaxSensitivity", {"nr_samples": 4, "lower_bound": 0.1, "upper_bound": 0.5, "abs": True,
                        "normalise": True}),
    ("MaxSensitivity", {"nr_samples": 4, "lower_bound": 3.0,
                        "return_nan_when_prediction_changes": True}),
    ("AvgSensitivity", {"nr_samples": 4}),
    ("AvgSensitivity", {"nr_samples": 4, "lower_bound": 0.5, "normalise": True}),
    ("LocalLipschitzEstimate", {"nr_samples": 4}),
    ("LocalLipschitzEstimate", {"nr_samples": 4, "perturb_std": 0.5, "perturb_mean": 0.1,
                                "normalise": False, "abs": True}),
    ("RelativeInputStability", {"nr_samples": 4}),
    ("RelativeInputStability", {"nr_samples": 3, "lower_bound": 0.5, "upper_bound": 3.0,
                                "normalise": True, "eps_min": 1e-3}),
    ("RelativeOutputStability", {"nr_samples": 4}),
    ("RelativeOutputStability", {"nr_samples": 3, "upper_bound": 2.0, "abs": True,
                                 "return_nan_when_prediction_changes": False}),
    ("RelativeRepresentationStability", {"nr_samples": 4}),
    ("RelativeRepresentationStability", {"nr_samples": 3, "normalise": True, "eps_min": 1e-2}),
    ("Consistency", {}), ("Consistency", {"abs": False, "normalise": False}),
    ("Continuity", {}), ("Continuity", {"nr_steps": 9, "abs": False, "normalise": False})]
CASE = pytest.mark.parametrize(
    "case", range(len(CASES)), ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
NAMES = sorted({name for name, _ in CASES})


@pytest.fixture(scope="module")
def quantus() -> ModuleType:
    return the_reference()


def the_reference() -> ModuleType:  # a slow import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus

    return quantus


def coarse(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Gradient times input on a grid of 4×4, so that maps are blown up on the way."""
    return functional.avg_pool2d(known.gradient(net, x, target, batch)[:, None], 4)[:, 0]


def network(channels: int, *, inplace: bool = False) -> nn.Module:
    """A small convolutional network with weights of the rule."""
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(inplace), nn.Flatten(), nn.Linear(1024, 4)).eval()
    net.load_state_dict(weights(net.state_dict(), 2))
    return net


def sample(channels: int, how: known.Explainer = known.gradient, **options: bool) -> Explained:
    """Five images of the rule, from -2 to 2, and that network."""
    batch = replace(known.planted(N, channels), x=4 * uniform("input", (N, channels, 16, 16)) - 2)
    return known.explained(network(channels, **options), batch, how)


def ours(name: str, params: dict[str, Any], explained: Explained) -> Scores:
    metric = plugins.metrics[f"parity/{name}"].with_params(params)
    with seeded(SEED):
        return metric.score(explained, **metric.params)


def theirs(quantus: ModuleType, name: str, params: dict[str, Any], explained: Explained) -> Array:
    """The same parameters to Quantus, all samples as one batch, seeded alike."""
    given = {**plugins.metrics[f"parity/{name}"].params, **params}
    grid = explained.batch.x.shape[2:]

    def shown(maps: Tensor) -> Array:
        return evidence.upsampled(maps, tuple(grid))[:, None].numpy().copy()

    def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Array:
        return shown(explained.explain(
            net=model, x=torch.as_tensor(inputs, dtype=torch.float32),
            target=torch.as_tensor(targets, dtype=torch.int64)))

    if name in ("MPRT", "SmoothMPRT"):
        given["return_average_correlation"] = not given["return_last_correlation"]
    if name == "RandomLogit":
        given["num_classes"] = explained.classes
    if name == "EfficientMPRT":
        given["complexity_func_kwargs"] = {"n_bins": given.pop("n_bins")}
    if name.startswith("Relative"):
        given["perturb_func_kwargs"] = {key: given.pop(key) for key in ("lower_bound",
                                                                        "upper_bound")}
    own = quantus.explain
    if name == "SmoothMPRT":  # it calls this whatever explain_func it is given
        quantus.explain = explain
    try:
        with seeded(SEED), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            answer = getattr(quantus, name)(disable_warnings=True, **given)(
                model=explained.network, x_batch=explained.batch.x.numpy().copy(),
                y_batch=explained.target.numpy(), a_batch=shown(explained.maps),
                explain_func=explain, explain_func_kwargs={}, batch_size=N, channel_first=True)
    finally:
        quantus.explain = own
    return np.array(answer, np.float64)


def gap(one: Any, other: Any) -> float:
    """The largest difference, in units of the value itself; infinite where a NaN
    stands against a number."""
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.nanmax(np.abs(one - other) / np.maximum(1e-6, np.abs(other)), initial=0))


def few(name: str) -> Any:
    """The metric with two draws, of which none is lost."""
    metric = plugins.metrics[f"parity/{name}"]
    quick = {"nr_samples": 2, "return_nan_when_prediction_changes": False}
    return metric.with_params({k: v for k, v in quick.items() if k in metric.params})


def samples() -> list[Explained]:
    """Grey and colour images, maps as fine as the image and coarser ones."""
    return [sample(channels, how) for channels in (1, 3) for how in (known.gradient, coarse)]


@CASE
def test_the_score_is_quantuss_own(quantus: ModuleType, case: int) -> None:
    name, params = CASES[case]
    for explained in samples():
        found, expected = ours(name, params, explained), theirs(quantus, name, params, explained)
        assert np.isfinite(expected).any()
        assert gap(found.value, expected) < CLOSE


@CASE
def test_the_score_is_the_number_that_quantus_gave_when_it_was_stored(case: int) -> None:
    stored = np.load(FIXTURE)
    name, params = CASES[case]
    assert stored["cases"][case] == f"{name} {params}"
    assert int(stored["seed"]) == SEED
    # Another processor rounds the network otherwise, which a division by values near 0 and the
    # edges of a histogram enlarge.
    close = 1e-3 if name.startswith("Relative") else 0.05 if name == "EfficientMPRT" else CLOSE
    for explained, expected in zip(samples(), stored["scores"][case], strict=True):
        assert gap(ours(name, params, explained).value, expected) < close


@pytest.mark.parametrize("name", NAMES)
def test_scoring_leaves_the_network_and_chance_alone(name: str) -> None:
    explained = sample(1)
    weights = copy.deepcopy(explained.network.state_dict())
    metric = few(name)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    one, other = (score(metric, explained) for _ in range(2))
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    assert all(torch.equal(v, weights[k]) for k, v in explained.network.state_dict().items())
    assert not any(module._forward_hooks for module in explained.network.modules())
    assert np.array_equal(one.value, other.value, equal_nan=True)
    assert metric.track == "parity"


@pytest.mark.parametrize("name", NAMES)
def test_a_map_with_a_nan_has_a_reason_and_the_others_a_score(name: str) -> None:
    explained = sample(1)
    bad = explained.maps.clone()
    bad[2, 3, 3] = torch.nan
    found = score(few(name), replace(explained, maps=bad))
    if name in ("EfficientMPRT", "Continuity"):  # which explain the clean images again themselves
        assert np.isfinite(found.value).all()
    else:
        assert found.reason == (None, None, "NaN in the map", None, None)


def test_quantus_makes_layers_of_one_shape_equal_and_the_proven_track_does_not() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1),
                        nn.Flatten(), nn.Linear(32, 2)).eval()
    *_, theirs_last = new_layers(net, "top_down", 42)
    assert torch.equal(theirs_last[0].weight, theirs_last[1].weight)
    *_, ours_last = randomised(net, stages(net, torch.rand(1, 2, 4, 4)), 0)
    assert not torch.equal(ours_last[0].weight, ours_last[1].weight)


def test_quantuss_average_holds_the_untouched_network_and_the_proven_one_does_not(
    quantus: ModuleType,
) -> None:
    # The maps of two networks have nothing in common: a rank correlation of 0 is right.
    def unrelated(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        number = sum(float(p.detach().double().sum()) for p in net.parameters())
        return torch.stack([uniform(f"{seed} {number:.3f}", (16, 16)) for seed in batch.seed])

    explained = sample(1, unrelated)
    layers = 3
    for wrong in (theirs(quantus, "MPRT", {}, explained), ours("MPRT", {}, explained).value):
        assert wrong.mean() == pytest.approx(1 / (layers + 1), abs=0.05)
    assert score(plugins.metrics["mprt"], explained).value.mean() == pytest.approx(0, abs=0.05)


class Prototypes(nn.Module):
    """A classifier of prototypes, which no module resets, after one layer that is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.prototypes = nn.Parameter(torch.rand(
            4, 16, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nhw,khw->nk", self.layer(x)[:, 0], self.prototypes)


def test_quantus_leaves_prototypes_trained_and_we_draw_them_anew(quantus: ModuleType) -> None:
    def shown(net: Any, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return net.prototypes.detach()[target]

    batch = known.planted(N, 1)
    explained = known.explained(Prototypes().requires_grad_(False), batch, shown)
    last = {"return_last_correlation": True}
    np.testing.assert_allclose(theirs(quantus, "MPRT", last, explained), 1)
    np.testing.assert_allclose(ours("MPRT", last, explained).value, 1)
    assert (score(plugins.metrics["mprt"], explained).curve[:, -1] < 0.5).all()


def test_quantuss_random_class_depends_on_the_batch_and_the_proven_one_does_not(
    quantus: ModuleType,
) -> None:
    explained = sample(1)
    alone = known.explained(explained.network, explained.batch[[4]], known.gradient)
    assert gap(theirs(quantus, "RandomLogit", {}, explained)[[4]],
               theirs(quantus, "RandomLogit", {}, alone)) > 0.01
    proven = [score(plugins.metrics["random-logit"], one).value[-1] for one in (explained, alone)]
    assert proven[0] == pytest.approx(proven[1], abs=1e-9)


def test_quantuss_noise_is_in_units_of_the_input_and_the_proven_one_in_the_images(
    quantus: ModuleType,
) -> None:
    explained = sample(1)
    net = copy.deepcopy(explained.network)  # the same classifier of images in units of a quarter
    net[0].weight.data /= 4
    other = known.explained(net, replace(explained.batch, x=explained.batch.x * 4), known.gradient)
    draws = {"nr_samples": 4}
    quantuss = [theirs(quantus, "MaxSensitivity", draws, one) for one in (explained, other)]
    assert (quantuss[1] < 0.8 * quantuss[0]).all()
    proven = [score(plugins.metrics["max-sensitivity"], one).value for one in (explained, other)]
    np.testing.assert_allclose(proven[0], proven[1], rtol=1e-3)


def test_one_flip_of_the_class_costs_quantus_the_sample_and_the_proven_track_one_draw(
    quantus: ModuleType,
) -> None:
    explained = sample(1)
    radius = 3.0
    strict = {"nr_samples": 10, "lower_bound": radius, "return_nan_when_prediction_changes": True}
    quantuss = theirs(quantus, "AvgSensitivity", strict, explained)
    proven = score(plugins.metrics["avg-sensitivity"].with_params({"radius": radius}), explained)
    assert np.isnan(quantuss).any()
    assert np.isfinite(proven.value).all()
    assert np.isnan(proven.curve).any()


def test_an_activation_in_place_changes_quantuss_layers_and_not_ours(quantus: ModuleType) -> None:
    name, params = "RelativeRepresentationStability", {
        "nr_samples": 2, "return_nan_when_prediction_changes": False}
    apart, inside = (sample(1, inplace=inplace) for inplace in (False, True))
    assert gap(theirs(quantus, name, params, inside), theirs(quantus, name, params, apart)) > 0.01
    assert gap(ours(name, params, inside).value, ours(name, params, apart).value) < 1e-9
    assert gap(ours(name, params, apart).value, theirs(quantus, name, params, apart)) < CLOSE


def test_smooth_mprt_never_asks_the_explainer_that_quantus_is_given(quantus: ModuleType) -> None:
    asked = []

    def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
        asked.append(1)
        return inputs

    explained = sample(1)
    with warnings.catch_warnings(), seeded(0):
        warnings.simplefilter("ignore")
        quantus.SmoothMPRT(nr_samples=2, return_last_correlation=True)(
            model=explained.network, x_batch=explained.batch.x.numpy().copy(),
            y_batch=explained.target.numpy(), a_batch=explained.maps[:, None].numpy().copy(),
            explain_func=explain, explain_func_kwargs={"method": "Saliency"}, channel_first=True)
    assert not asked
    # And the map that it compares with is not smoothed: the untouched network is not alike.
    assert (score(few("SmoothMPRT"), explained).curve[:, 0] < 0.99).all()


def test_quantus_calls_consistency_better_when_it_is_lower_and_we_when_it_is_higher(
    quantus: ModuleType,
) -> None:
    # One map for each class, told apart by the signs that it looks at: perfectly consistent.
    def told(net: nn.Module, x: Tensor, target: Tensor, batch: Batch) -> Tensor:
        maps = torch.ones(len(x), 16, 16)
        maps[:, 0, :4] -= torch.nn.functional.one_hot(net(x).argmax(1), 4)
        return maps

    batch = known.planted(N, 1)
    right, blind = (known.explained(known.Additive(), batch, how) for how in (told, known.pattern))
    assert theirs(quantus, "Consistency", {}, right)[0] == pytest.approx(1)
    assert theirs(quantus, "Consistency", {}, blind)[0] == pytest.approx(0.25)
    assert quantus.Consistency.score_direction.value == "lower"
    assert plugins.metrics["parity/Consistency"].better == "higher"


def test_a_constant_map_crashes_quantuss_mprt_and_is_nan_here(quantus: ModuleType) -> None:
    explained = sample(1)
    bad = explained.maps.clone()
    bad[0] = 0.5
    flat = replace(explained, maps=bad)
    with pytest.raises(AttributeError, match="has no attribute 'shape'"):
        theirs(quantus, "MPRT", {}, flat)
    found = score(plugins.metrics["parity/MPRT"], flat)
    assert found.reason == ("a map, given or explained again, is constant", *(None,) * 4)
    assert score(plugins.metrics["mprt"], flat).reason == ("constant map", *(None,) * 4)


def test_continuity_refuses_the_steps_at_which_quantus_crashes(quantus: ModuleType) -> None:
    explained = sample(1)
    with pytest.raises(IndexError):
        theirs(quantus, "Continuity", {"nr_steps": 11}, explained)
    with pytest.raises(HeatproofError, match="not divide 33"):
        ours("Continuity", {"nr_steps": 11}, explained)
    # And it cannot leave out a draw that changes the class: numpy 2 has no np.NaN.
    with pytest.raises(AttributeError, match="NaN"):
        theirs(quantus, "Continuity", {"return_nan_when_prediction_changes": True}, explained)


def test_a_wrong_parameter_names_the_cure() -> None:
    with pytest.raises(HeatproofError, match="layer_order"):
        ours("MPRT", {"layer_order": "sideways"}, sample(1))
    with pytest.raises(HeatproofError, match="upper_bound must be above"):
        ours("MaxSensitivity", {"upper_bound": 0.1}, sample(1))


def main() -> None:
    """Prints the largest difference a metric; with --write, stores what Quantus says."""
    torch.set_num_threads(1)
    reference = the_reference()
    table = dict.fromkeys(NAMES, 0.0)
    stored = np.zeros((len(CASES), 4, N))
    for case, (name, params) in enumerate(CASES):
        for place, explained in enumerate(samples()):
            stored[case, place] = theirs(reference, name, params, explained)
            off = gap(ours(name, params, explained).value, stored[case, place])
            table[name] = max(table[name], off)
    for name, off in table.items():
        print(f"{name:34} {off:.1e}")  # noqa: T201
    if "--write" in sys.argv:
        np.savez_compressed(FIXTURE, seed=SEED, scores=stored,
                            cases=[f"{name} {params}" for name, params in CASES])


if __name__ == "__main__":
    main()
