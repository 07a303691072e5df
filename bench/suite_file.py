"""The keys of a suite file, table by table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One data set of a suite, with the network and the training that go with it.

    contestants: those of the suite that enter here; none named is all of them. folds: how many of
    the card's folds are run. normalise: see RunSpec. trainer: what one trainer, or one variant of
    [contestant], needs otherwise, as [dataset.NAME.trainer.TRAINER].
    """

    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    samples: int = 0
    media: int = 0
    contestants: tuple[str, ...] = ()
    folds: int = 1
    normalise: str = "card"
    trainer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Special:
    """What one trainer needs otherwise: single keys of backbone, recipe and train parameters.

    weights: a published checkpoint, by path or hub id, that stands in for its training.
    """

    backbone: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""


@dataclass(frozen=True)
class Variant:
    """A contestant under a name of its own: `method` is "explainer" or "explainer@trainer"."""

    method: str
    train: Mapping[str, Any] = field(default_factory=dict)
    explain: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteFile:
    """The keys of a suite file.

    protocol: raise it when what is measured changes. contestants: "explainer",
    "explainer@trainer" or the name of a table in [contestant]. method: parameters a method, as
    [method.NAME.train] and [method.NAME.explain]. metrics: single ones, beside those of the
    batteries. metric: parameters a metric, as [metric."NAME"]; see battery.asked. engine: see
    RunSpec.
    """

    title: str
    protocol: str
    contestants: tuple[str, ...]
    seeds: tuple[int, ...]
    dataset: Mapping[str, Any]
    metrics: tuple[str, ...] = ()
    batteries: tuple[str, ...] = ()
    target: str = "label"
    engine: str = "fused"
    about: str = ""
    contestant: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    metric: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BatteryFile:
    """The keys of a battery: metrics by name, and their pinned parameters as [metric."NAME"]."""

    title: str
    about: str
    metrics: tuple[str, ...]
    metric: Mapping[str, Any] = field(default_factory=dict)
