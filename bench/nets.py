"""timm backbones by name, their feature maps, and the layer that a heatmap looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bench.core import Card, HeatproofError, unknown
from bench.randomness import seeded
from bench.spec import Backbone

if TYPE_CHECKING:
    from collections.abc import Callable


def maker(backbone: Backbone, card: Card, seed: int) -> Callable[[], nn.Module]:
    """A function that makes the card's classifier, with the same first weights at every call."""
    def make() -> nn.Module:
        with seeded(seed):
            return build(backbone, channels=card.image[0], classes=len(card.classes))
    return make


def check(backbone: Backbone) -> None:
    """Raises HeatproofError if timm has no such model, or no published weights where asked."""
    import timm

    name = backbone.name.partition(".")[0]
    if not timm.is_model(name):
        raise unknown("backbone (timm)", backbone.name, _near(name))
    if backbone.pretrained and not timm.list_pretrained(f"{name}*"):
        raise HeatproofError(f"backbone {backbone.name!r} has no published weights in timm")
    if backbone.stem not in ("stock", "small", "half"):
        raise unknown(f"stem of backbone {backbone.name!r}", backbone.stem,
                      ("stock", "small", "half"))


def _near(name: str) -> list[str]:
    import difflib

    import timm

    known = timm.list_models()
    return difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]


def build(backbone: Backbone, *, channels: int, classes: int) -> nn.Module:
    """A timm classifier: images (N, channels, H, W) in, logits (N, classes) out.

    Raises HeatproofError for an unknown model, an option that it does not take, or weights that
    cannot be loaded.
    """
    import timm

    check(backbone)
    options: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in backbone.options.items()}
    try:
        net = timm.create_model(
            backbone.name, pretrained=backbone.pretrained, in_chans=channels,
            num_classes=classes, **options)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise HeatproofError(
            f"timm cannot make backbone {backbone.name!r} with {options}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    except OSError as error:
        raise HeatproofError(
            f"the published weights of {backbone.name!r} cannot be loaded ({error}); connect to "
            "the network once, or fill the Hugging Face cache (HF_HOME)") from error
    return _with_stem(net, backbone)


def _with_stem(net: nn.Module, backbone: Backbone) -> nn.Module:
    """A ResNet for small images: no pooling in the stem, and stride 1 ("small") or 2 ("half")."""
    if backbone.stem == "stock":
        return net
    stem = getattr(net, "conv1", None)
    if stem is None or not hasattr(net, "maxpool"):
        raise HeatproofError(
            f"stem {backbone.stem!r} is for ResNets; for {backbone.name!r} use output_stride or "
            "another option of its own")
    first = next(m for m in stem.modules() if isinstance(m, nn.Conv2d))
    stride = 1 if backbone.stem == "small" else 2
    first.stride = (stride, stride)
    if first is stem and first.kernel_size == (7, 7) and not backbone.pretrained:
        net.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride, 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return net


def headless(net: nn.Module) -> nn.Module:
    """The same timm model without its pooling and classifier: (N, D, h, w) features out."""
    if not hasattr(net, "reset_classifier"):
        raise HeatproofError(f"{type(net).__name__} is no timm model: its head cannot be taken off")
    cast(Any, net).reset_classifier(0, "")
    return net


def width(net: nn.Module) -> int:
    """D, the channels of the last feature map of a timm model."""
    return int(cast(Any, net).num_features)


def feature_layer(net: nn.Module) -> nn.Module:
    """The module whose output is the last feature map (N, D, h, w) before pooling.

    A network that is no timm model names it in its attribute `feature_layer`.
    """
    named = getattr(net, "feature_layer", None)
    if isinstance(named, nn.Module):
        return named
    info = getattr(net, "feature_info", None)
    if not info:
        raise HeatproofError(
            f"{type(net).__name__} does not say which layer holds its features; give the network "
            "an attribute feature_layer")
    return net.get_submodule(info[-1]["module"])


def feature_map(net: nn.Module, x: Tensor) -> Tensor:
    """The last feature map of a classifier for some images: (N, D, h, w), without gradient."""
    kept: list[Tensor] = []
    hook = feature_layer(net).register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        with torch.no_grad():
            net(x)
    finally:
        hook.remove()
    return kept[0]


def device_named(name: str) -> torch.device:
    """The device of that name ("cpu", "cuda", "cuda:1", "auto"). Raises if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HeatproofError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device cpu"
        ) from None
    return device
