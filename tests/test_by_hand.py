"""What Quantus says through our adapter is what one computes by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.stats
import skimage.metrics
import torch

from bench import plugins
from bench.measure import Explained, Scores
from bench.metrics import known, score


def sample(n: int, channels: int = 1) -> Explained:
    """A convolutional network under gradient times input: signed maps that differ everywhere."""
    return known.explained(known.Convolutional(channels), known.planted(n, channels),
                           known.gradient)


def scored(name: str, explained: Explained, **params: object) -> Scores:
    return score(plugins.metrics[f"quantus/{name}"].with_params(params), explained)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_flipping_is_what_one_computes_by_hand(channels: int) -> None:
    explained = known.explained(known.Additive(), known.planted(2, channels), known.noise)
    found = scored("PixelFlipping", explained, steps=32)
    assert found.curve is not None
    for i in range(2):
        x, y = explained.batch.x[i].clone(), int(explained.batch.y[i])
        order = explained.maps[i].flatten().argsort(descending=True)
        curve = []
        for part in order.split(8):
            x.flatten(1)[:, part] = x.min()
            curve.append(float(explained.network(x[None]).softmax(1)[0, y].detach()))
        np.testing.assert_allclose(found.curve[i], curve, atol=1e-6)
        np.testing.assert_allclose(found.value[i], np.mean(curve), atol=1e-6)


def test_localisation_is_what_one_computes_by_hand() -> None:
    explained = sample(6, 3)
    assert explained.batch.mask is not None
    for i in range(6):
        a, inside = explained.maps[i].double(), explained.batch.mask[i] > 0
        k = int(inside.sum())
        top = a.flatten().topk(k).indices
        by_hand = {
            "PointingGame": float(inside.flatten()[a.argmax()]),
            "RelevanceRankAccuracy": float(inside.flatten()[top].sum() / k),
            "AttributionLocalisation": float(a.clamp(min=0)[inside].sum() / a.clamp(min=0).sum())}
        for name, value in by_hand.items():
            assert scored(name, explained).value[i] == pytest.approx(value, abs=1e-8)


def test_complexity_and_sparseness_are_what_one_computes_by_hand() -> None:
    explained = sample(3)
    for i in range(3):
        a = np.sort(np.abs(explained.maps[i].double().numpy().ravel()))
        share = a / a.sum()
        entropy = -(share * np.log(share + 1e-12)).sum()
        n = len(a)
        gini = ((2 * np.arange(1, n + 1) - n - 1) * a).sum() / (n * a.sum())
        assert scored("Complexity", explained).value[i] == pytest.approx(entropy, abs=1e-6)
        assert scored("Sparseness", explained).value[i] == pytest.approx(gini, abs=1e-4)


def test_mprt_is_the_mean_over_the_randomised_layers_without_the_original() -> None:
    explained = sample(3)
    found = scored("MPRT", explained)
    net = copy.deepcopy(explained.network)
    layers = [m for m in net.modules() if hasattr(m, "reset_parameters")][::-1]
    steps = []
    with torch.random.fork_rng(devices=[]):
        for layer in layers:
            torch.manual_seed(43)
            layer.reset_parameters()  # type: ignore[operator]
            again = known.gradient(net, explained.batch.x, explained.target, explained.batch)
            steps.append([scipy.stats.spearmanr(a.abs().flatten(), b.abs().flatten())[0]
                          for a, b in zip(explained.maps, again, strict=True)])
    np.testing.assert_allclose(found.curve, np.array(steps).T, atol=1e-6)
    np.testing.assert_allclose(found.value, np.mean(steps, 0), atol=1e-6)
    last = scored("MPRT", explained, skip_layers=True)
    np.testing.assert_allclose(last.value, steps[-1], atol=1e-6)


def test_random_logit_compares_with_another_class_of_this_data_set() -> None:
    explained = sample(5)
    found = scored("RandomLogit", explained)
    drawn = np.random.RandomState(42).randint(0, known.CLASSES - 1, 6)[:5]
    y = explained.target.numpy()
    off = torch.from_numpy(drawn + (drawn >= y))
    again = known.gradient(explained.network, explained.batch.x, off, explained.batch)
    for i in range(5):
        a, b = (m[i].double().numpy().ravel() for m in (explained.maps, again))
        a, b = a / np.abs(a).max(), b / np.abs(b).max()
        span = max(a.max(), b.max()) - min(a.min(), b.min())
        by_hand = skimage.metrics.structural_similarity(a, b, data_range=span)
        assert found.value[i] == pytest.approx(by_hand, abs=1e-6)
