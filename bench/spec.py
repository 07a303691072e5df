"""One run, frozen before anything runs, and the ids that name what it makes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.core import digest

STAGES: Mapping[str, int] = {"nets": 1, "train": 1, "explain": 1}
"""The version of each of our own stages; it enters the id of what that stage makes."""


@dataclass(frozen=True)
class Backbone:
    """A timm model by name.

    stem: "stock"; or, for a ResNet on small images, a first convolution of stride 1 ("small") or 2
    ("half") and no pooling after it. options: passed to `timm.create_model`. pretrained: timm's
    own argument.
    """

    name: str
    pretrained: bool = False
    stem: Literal["stock", "small", "half"] = "stock"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    lr is the peak learning rate; schedule "cosine" (to zero, a step at a time, after `warmup`
    epochs that rise linearly) or "constant". samples: how many training images, chosen by the
    seeded order of their keys; 0 is all. shift: largest random translation, in pixels.
    flip: random horizontal flips.
    """

    epochs: int
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.0
    samples: int = 0
    shift: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Contestant:
    """An explainer on a trainer's network, each with its parameters and version."""

    name: str
    explainer: str
    trainer: str
    explainer_version: str
    trainer_version: str
    explain: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSpec:
    """One run, frozen before anything runs. The metrics are not part of it."""

    suite: str
    protocol: str
    dataset: str
    data: str
    """The card's fingerprint with the version of its source."""
    contestant: Contestant
    backbone: Backbone
    recipe: Recipe
    seed: int
    samples: int
    """How many test images are explained and scored; 0 is all."""
    target: Literal["label", "predicted"] = "label"
    media: int = 0
    """How many of them are shown in the gallery."""
    fold: int = 0

    @property
    def model_id(self) -> str:
        """The name of the trained network: equal for all contestants that share it."""
        return digest({
            "data": self.data, "fold": self.fold, "trainer": self.contestant.trainer,
            "version": self.contestant.trainer_version, "params": dict(self.contestant.train),
            "backbone": asdict(self.backbone), "recipe": asdict(self.recipe), "seed": self.seed,
            "stages": [STAGES["nets"], STAGES["train"]]})

    @property
    def maps_id(self) -> str:
        """The name of the maps: the network, the explainer, and the images that are explained."""
        return digest({
            "model": self.model_id, "explainer": self.contestant.explainer,
            "version": self.contestant.explainer_version, "params": dict(self.contestant.explain),
            "samples": self.samples, "target": self.target, "stage": STAGES["explain"]})

    @property
    def id(self) -> str:
        """The name of the run."""
        return digest({"maps": self.maps_id, "protocol": self.protocol, "media": self.media,
                       "contestant": self.contestant.name})

    @property
    def cell(self) -> str:
        """What a person calls the run."""
        return f"{self.dataset}/{self.contestant.name}/seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The spec and its three ids, ready for JSON."""
        return {**asdict(self), "id": self.id, "model_id": self.model_id, "maps_id": self.maps_id}
