"""timm backbones by name, their feature maps, and the layer that a heatmap looks at."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    return dilated(_with_stem(net, backbone), backbone.dilate)


def _with_stem(net: nn.Module, backbone: Backbone) -> nn.Module:
    """A ResNet or ConvNeXt for small images, its stem of stride 1 ("small") or 2 ("half").

    Either family's own stem has stride 4, and timm's output_stride counts it as that. So the last
    map has a side of the image's, over output_stride / 4, and with "half" over 2 again: of 28 px,
    "small" with output_stride 16 and "half" with output_stride 8 leave 7×7. A ResNet loses the
    pooling in its stem. A kernel of 7×7 or a patch of 4×4 becomes 3×3 where its weights are new.
    """
    if backbone.stem == "stock":
        return net
    from timm.models import ConvNeXt

    patches = isinstance(net, ConvNeXt)
    stem = getattr(net, "stem" if patches else "conv1", None)
    if stem is None or not (patches or hasattr(net, "maxpool")):
        raise HeatproofError(
            f"stem {backbone.stem!r} is for ResNets and ConvNeXts; for {backbone.name!r} use "
            "dilate, output_stride or another option of its own")
    first, *rest = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    if patches and backbone.pretrained and first.kernel_size != (3, 3):
        raise HeatproofError(
            f"the published weights of {backbone.name!r} are for patches side by side; use stem "
            "'stock' and larger images, or pretrained = false")
    stride = 1 if backbone.stem == "small" else 2
    first.stride = (stride, stride)
    for convolution in rest:
        convolution.stride = (1, 1)
    if first.kernel_size != (3, 3) and not backbone.pretrained:
        new = nn.Conv2d(first.in_channels, first.out_channels, 3, stride, 1, bias=patches)
        if patches:  # as timm begins a ConvNeXt, and a ResNet
            nn.init.trunc_normal_(new.weight, std=0.02)
            nn.init.zeros_(cast(Tensor, new.bias))
            cast(nn.Sequential, stem)[0] = new
        else:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
            net.conv1 = new
    if not patches:
        net.maxpool = nn.Identity()
    return net


def dilated(net: nn.Module, steps: int) -> nn.Module:
    """The same timm model with a last feature map of 2^`steps` times the side.

    Its last `steps` halvings, by convolution or pooling, are left out, and the taps of all that
    follows lie 2, 4, ... cells apart (à trous; Chen et al. 2015, arXiv:1412.7062): the cells of
    the coarse map are among those of the fine one, but where a layer looks at the whole map
    (squeeze and excitation). Weights keep names and shapes. Raises HeatproofError for more steps
    than the network has, or a step that is no module of torch's convolutions and poolings.
    """
    if steps == 0:
        return net
    levels, last = _levels(net)
    kept = last - steps
    if not 0 <= kept < last:
        raise HeatproofError(f"{type(net).__name__} halves its map {last} times: dilate must be "
                             f"0 to {last}, not {steps}")
    for name, layer in list(net.named_modules()):
        if layer in levels:
            _dilate(net, name, levels[layer], kept)
    head = cast(Any, getattr(net, "pre_logits", None))
    if hasattr(head, "input_kernel_size"):  # to which a VGG stretches maps that are smaller
        head.input_kernel_size = 2**steps * (head.input_kernel_size - 1) + 1
    if _levels(net)[1] != kept:
        raise HeatproofError(f"{type(net).__name__} cannot be dilated {steps} times: it halves its "
                             "map in another layer than a convolution or pooling; set dilate = 0")
    return net


def _levels(net: nn.Module) -> tuple[dict[nn.Module, int], int]:
    """How often the image is halved before each convolution and pooling, and at the last map.

    Runs the network on shapes alone, so it costs nothing and changes nothing.
    """
    side, levels, maps = 512, dict[nn.Module, int](), list[int]()

    def level(x: Tensor) -> int:
        return round(math.log2(side / x.shape[-2]))

    def note(layer: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        levels[layer] = level(inputs[0])

    layers = [layer for layer in net.modules()
              if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    hooks.append(feature_layer(net).register_forward_hook(
        lambda _layer, _inputs, output: maps.append(level(output))))
    channels = next(layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d))
    shapes = {name: tensor.to("meta")
              for name, tensor in chain(net.named_parameters(), net.named_buffers())}
    try:
        with torch.no_grad():
            torch.func.functional_call(
                net, shapes, torch.empty(2, channels, side, side, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise HeatproofError(f"{type(net).__name__} cannot be dilated so often, as its layers no "
                             f"longer fit each other ({why}); set dilate lower, or to 0") from error
    finally:
        for hook in hooks:
            hook.remove()
    return levels, maps[0]


def _dilate(net: nn.Module, name: str, level: int, kept: int) -> None:
    """Leaves out a layer's halvings beyond the first `kept`, and spreads its taps accordingly."""
    layer = cast(Any, net.get_submodule(name))
    stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    after = level + round(math.log2(stride))
    if after <= kept:
        return
    stride, apart = 2 ** (kept - min(level, kept)), 2 ** max(0, level - kept)
    if not isinstance(layer, nn.Conv2d):
        net.set_submodule(name, _Pool(layer, apart))
        return
    layer.stride = (stride, stride)
    layer.dilation = tuple(apart * taps for taps in layer.dilation)
    if any(taps % 2 == 0 for taps in layer.kernel_size):  # needs a cell more on one side
        layer.padding = "same"
    elif not isinstance(layer.padding, str):
        layer.padding = tuple(apart * cells for cells in layer.padding)


class _Pool(nn.Module):
    """A pooling of stride 1 with taps some cells apart; the map keeps its side."""

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, apart: int) -> None:
        super().__init__()
        kernel, padding = (value if isinstance(value, int) else value[0]
                           for value in (pool.kernel_size, pool.padding))
        self.kernel, self.apart = kernel, apart
        # As where the stride was 2, a window begins at its cell less the padding.
        before, after = apart * padding, apart * (kernel - 1 - padding)
        self.sides = (before, after, before, after)
        self.largest = isinstance(pool, nn.MaxPool2d)
        self.outside = float(padding > 0 and getattr(pool, "count_include_pad", False))

    def forward(self, x: Tensor) -> Tensor:
        """The largest or mean value (N, C, h, w) of each window, of the cells inside the map."""
        if self.largest:
            return functional.max_pool2d(
                functional.pad(x, self.sides, value=-math.inf), self.kernel, 1, 0, self.apart)
        taps = x.new_ones(1, 1, self.kernel, self.kernel)
        total = functional.conv2d(
            functional.pad(x, self.sides), taps.expand(x.shape[1], -1, -1, -1),
            dilation=self.apart, groups=x.shape[1])
        inside = functional.pad(torch.ones_like(x[:1, :1]), self.sides, value=self.outside)
        return total / functional.conv2d(inside, taps, dilation=self.apart)


def headless(net: nn.Module) -> nn.Module:
    """The same timm model without its pooling and classifier: (N, D, h, w) features out.

    A norm or a 1×1 convolution that followed the pooling (ConvNeXt, MobileNetV3) stays and sees
    each cell by itself; a VGG's fully connected layers, of 7×7 cells, go. Raises HeatproofError
    for a network that pools no feature map.
    """
    if not hasattr(net, "reset_classifier"):
        raise HeatproofError(f"{type(net).__name__} is no timm model: its head cannot be taken off")
    from timm.models import VGG

    _pooling_child(net)
    try:
        cast(Any, net).reset_classifier(0, "")
    except AssertionError as error:
        raise HeatproofError(f"timm cannot take the pooling off {type(net).__name__} ({error}); "
                             "choose another backbone, such as resnet18") from error
    if isinstance(net, VGG):
        cast(Any, net).pre_logits = nn.Identity()
        net.head_hidden_size = net.num_features
    return net


def width(net: nn.Module) -> int:
    """D, the channels that a timm model without its head gives."""
    return int(cast(Any, net).head_hidden_size)


def feature_layer(net: nn.Module) -> nn.Module:
    """The module whose output is the last feature map (N, D, h, w) before pooling.

    A network that is no timm model names it in its attribute `feature_layer`. Raises
    HeatproofError for one that does not, and for one that pools no feature map.
    """
    named = getattr(net, "feature_layer", None)
    if isinstance(named, nn.Module):
        return named
    if not hasattr(net, "reset_classifier"):
        raise HeatproofError(
            f"{type(net).__name__} does not say which layer holds its features; give the network "
            "an attribute feature_layer")
    # timm's feature_info does not see what follows the last stage (EfficientNet's convolution).
    # A VGG pools after its fully connected layers.
    children = [name for name, _ in net.named_children() if name != "pre_logits"]
    return net.get_submodule(children[children.index(_pooling_child(net)) - 1])


def _pooling_child(net: nn.Module) -> str:
    """The name of the child in which a timm model pools its feature map (N, D, h, w)."""
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    for name, module in net.named_modules():
        # A Swin's map is (N, h, w, D).
        if (isinstance(module, SelectAdaptivePool2d)
                and getattr(module.pool, "dim", (2, 3)) == (2, 3)):
            return str(name).partition(".")[0]
    raise HeatproofError(
        f"{type(net).__name__} pools no feature map (N, D, h, w), as most transformers; choose a "
        "CNN, such as resnet18 or densenet121")


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


def devices_of(name: str) -> tuple[str, ...]:
    """The devices that a name stands for: "cuda" for each of the machine's GPUs."""
    if name == "cuda":
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    return (name,)
