"""One run, frozen before anything runs, and the ids that name what it makes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.core import digest

STAGES: Mapping[str, int] = {"nets": 1, "train": 2, "explain": 1}
"""The version of each of our own stages; it enters the id of what that stage makes."""


@dataclass(frozen=True)
class Backbone:
    """A timm model by name.

    stem: "stock"; or, for a ResNet or ConvNeXt on small images, one of stride 1 ("small") or 2
    ("half") without pooling. options: passed to `timm.create_model`. pretrained: timm's
    own argument. dilate: how many of its last halvings are left out, for a finer map by the same
    weights (`nets.dilated`).
    """

    name: str
    pretrained: bool = False
    stem: Literal["stock", "small", "half"] = "stock"
    options: Mapping[str, Any] = field(default_factory=dict)
    dilate: int = 0


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    accumulate: how many batches make one step of the optimiser. clip: the largest absolute value
    of a gradient; 0 is no limit. lr: the peak learning rate. schedule: "cosine" (to zero),
    "step" (times `gamma` every `drop` epochs) or "constant"; it moves every "step" or "epoch",
    never below `floor`, after `warmup` epochs that rise linearly. samples: how many training
    images, chosen by the seeded order of their keys; 0 is all. augment: transforms of
    `torchvision.transforms.v2`, in order, for each image in [0, 1] by itself: a table with `name`,
    the transform's own arguments, and `p`, the probability that it is applied. select: which
    epoch's weights are kept: the "last", or the best "accuracy" or (median of batches) "loss" on
    validation images; these are the card's, or where it has none, the share `validation` of the
    training images, patients whole. precision: "full" is float32; "mixed" lets a GPU use bfloat16
    where torch's autocast finds it safe (a CPU trains in float32 all the same). channels_last: the
    channels of a pixel lie side by side in memory, which some GPUs are quicker with; the network
    must not ask for another order.
    """

    epochs: int
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip: float = 0.0
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    every: Literal["step", "epoch"] = "step"
    floor: float = 0.0
    drop: int = 0
    gamma: float = 0.1
    warmup: float = 0.0
    samples: int = 0
    augment: tuple[Mapping[str, Any], ...] = ()
    select: Literal["last", "accuracy", "loss"] = "last"
    validation: float = 0.0
    precision: Literal["full", "mixed"] = "full"
    channels_last: bool = False

    def facts(self) -> dict[str, Any]:
        """All that the trained network depends on; what came later counts where it is set."""
        return {key: value for key, value in asdict(self).items()
                if key not in ("precision", "channels_last") or value != getattr(Recipe, key)}


ENGINES = ("fused", "apart")
"""How the metrics of a run are computed; see `RunSpec.engine`."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adam", "adamw"), "schedule": ("cosine", "step", "constant"),
    "every": ("step", "epoch"), "select": ("last", "accuracy", "loss"),
    "precision": ("full", "mixed")}
"""What the named settings of a Recipe can be."""


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
    normalise: Literal["card", "max"] = "card"
    """By the card's mean and std, or each image by its largest value over all channels."""
    weights: str = ""
    """A published checkpoint, by path or hub id, that stands in for training."""
    weights_id: str = ""
    """What it is, wherever it lies: the sha256 of its file, or its hub id with the revision."""
    base: RunSpec | None = None
    """The training that this one starts from (post-fitting)."""
    engine: str = "fused"
    """"fused": what several metrics or contestants need is made once, by a quicker copy of the
    network where no gradient is asked for. "apart": each metric by itself, on the network itself;
    the same numbers but for rounding, many times slower. No id depends on it."""

    @property
    def model_id(self) -> str:
        """The name of the trained network: equal for all contestants that share it."""
        made = {"weights": self.weights_id} if self.weights else {
            "recipe": self.recipe.facts(), "base": self.base.model_id if self.base else ""}
        return digest({
            "data": self.data, "fold": self.fold, "normalise": self.normalise,
            "trainer": self.contestant.trainer, "version": self.contestant.trainer_version,
            "params": dict(self.contestant.train), "backbone": asdict(self.backbone),
            "seed": self.seed, "stages": [STAGES["nets"], STAGES["train"]], **made})

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
        fold = f"/fold {self.fold}" if self.fold else ""
        return f"{self.dataset}/{self.contestant.name}{fold}/seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The spec and its three ids, ready for JSON."""
        return {**asdict(self), "id": self.id, "model_id": self.model_id, "maps_id": self.maps_id}
