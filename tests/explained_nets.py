"""Small untrained networks of every kind that an explainer may meet, for images of 32 px."""

from __future__ import annotations

from timm.models import VGG
from torch import nn

from bench import plugins
from bench.core import Card
from bench.nets import maker
from bench.spec import Backbone
from bench.testing import TINY

_CONVNEXT = Backbone("convnextv2_atto", stem="half", options={
    "depths": [1, 1, 1, 1], "dims": [8, 8, 12, 16]})


def _vgg(card: Card) -> nn.Module:
    return VGG(cfg=[8, "M", 8, "M", 12, 16], in_chans=card.image[0], mlp_ratio=0.01,
               num_classes=len(card.classes))


def _made_by(name: str, card: Card) -> nn.Module:
    cls = plugins.trainer(name)
    return cls(card, maker(TINY, card, 0), train=cls.check_params).network()


NETWORKS = {
    "resnet": lambda card: maker(TINY, card, 0)(),
    "convnext-v2": lambda card: maker(_CONVNEXT, card, 0)(),
    "vgg": _vgg,
    **{name: lambda card, name=name: _made_by(name, card)
       for name in ("softcam", "cape", "gp-unet")}}
"""By name, a function that makes the classifier of a card. The last three need `plugins.load()`."""
