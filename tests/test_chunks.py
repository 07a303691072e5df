"""Pieces that fit in memory, and network scores that bring their gradient along."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.chunks import LARGEST, TargetScore, at_most, fitting, in_pieces, passing
from bench.core import HeatproofError
from bench.passes import counted


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(),
                         nn.Linear(4 * 36, 3)).requires_grad_(False)


def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


def test_pieces_cover_all_rows_in_order() -> None:
    assert in_pieces(lambda part: (part.start, part.stop), 7, 3) == [(0, 3), (3, 6), (6, 7)]
    with at_most(2):
        assert in_pieces(lambda part: part.stop - part.start, 5, 100) == [2, 2, 1]
    assert in_pieces(lambda part: part, 0, 4) == []


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")])
def test_a_piece_that_finds_no_memory_is_halved_until_it_fits(error: Exception) -> None:
    asked = []

    def work(part: slice) -> range:
        asked.append(part.stop - part.start)
        if asked[-1] > 3:
            raise error
        return range(part.start, part.stop)

    assert [i for piece in in_pieces(work, 20, 16) for i in piece] == list(range(20))
    assert asked[:4] == [16, 8, 4, 2]


def test_torchs_own_message_of_missing_memory_is_understood() -> None:
    def work(part: slice) -> int:
        if part.stop - part.start > 1:
            torch.empty((part.stop - part.start) * 2**50)  # a petabyte
        return part.start

    assert in_pieces(work, 4, 4) == [0, 1, 2, 3]


def test_one_row_that_does_not_fit_is_said_in_one_line() -> None:
    def work(part: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")

    with pytest.raises(HeatproofError, match=r"one image .* \(CUDA out of memory\. Tried\);"):
        in_pieces(work, 4, 4)


def test_another_error_passes() -> None:
    def work(part: slice) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        in_pieces(work, 4, 4)


def test_the_score_and_its_gradient_are_the_networks_in_any_pieces() -> None:
    net, (x, target) = small_net(), images(11)
    own = x.clone().requires_grad_()
    right = net(own).gather(1, target[:, None])[:, 0]
    weights = torch.arange(11.0)
    (slope,) = torch.autograd.grad((right * weights).sum(), own)
    for rows in (1, 3, 4, LARGEST):
        with at_most(rows):
            mine = x.clone().requires_grad_()
            found = TargetScore(net)(mine, target)
            (mine_slope,) = torch.autograd.grad((found * weights).sum(), mine)
        assert torch.allclose(found, right, atol=1e-6)
        assert torch.allclose(mine_slope, slope, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(TargetScore(net)(x, target), right, atol=1e-6)


def test_without_a_gradient_none_is_taken() -> None:
    net, (x, target) = small_net(), images(5)
    score = TargetScore(net)
    score(x[:1], target[:1])  # looks once how much fits
    with counted(net) as passes:
        score(x, target)
    assert (passes.forward, passes.backward) == (5, 0)
    with counted(net) as passes:
        score(x.clone().requires_grad_(), target)
    assert (passes.forward, passes.backward) == (5, 5)


def test_what_fits_is_a_power_of_two_that_shrinks_with_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(64, 2))
    few, many = (fitting(net, torch.rand(3, 2, side, side)) for side in (512, 128))
    assert few < many <= LARGEST
    assert {few, many} <= {2**k for k in range(9)}
    monkeypatch.setattr("bench.chunks._free", lambda device: 0)
    assert fitting(net, torch.rand(1, 2, 64, 64)) == 1


def test_passes_are_counted_in_copies_too_and_no_hook_stays() -> None:
    import copy

    net, (x, _) = small_net(), images(4)
    with counted(net) as passes:
        copy.deepcopy(net)(x)
        net(x.clone().requires_grad_()).sum().backward()
    assert (passes.forward, passes.backward) == (8, 4)
    assert not net._forward_hooks


def test_what_passes_without_gradient_starts_from_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = torch.zeros(5, 3, 64, 64), torch.zeros(1, 3, 512, 512)
    assert passing(small, 64) == 64
    assert passing(small, 100) == 64
    assert 1 < passing(large, 64) < 64
    monkeypatch.setattr("bench.chunks._free", lambda device: 4 * 48 * large.nbytes * 5)
    assert passing(large, 64) == 4
    monkeypatch.setattr("bench.chunks._free", lambda device: 0)
    assert passing(large, 64) == 1


def test_a_network_is_asked_once_how_many_images_of_a_shape_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, asked = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), []
    net.register_forward_hook(lambda _net, inputs, _out: asked.append(tuple(inputs[0].shape)))
    rows = [fitting(net, torch.rand(n, 2, side, side)) for n in (1, 5) for side in (512, 32)]
    assert rows[:2] == rows[2:]
    assert asked == [(1, 2, 512, 512), (1, 2, 32, 32)]
    monkeypatch.setattr("bench.chunks._free", lambda device: 0)  # free memory is not remembered
    assert fitting(net, torch.rand(1, 2, 32, 32)) == 1
    assert len(asked) == 2
