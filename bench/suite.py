"""A suite file crossed out into RunSpecs: what will be run, frozen before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import data, plugins
from bench.core import PLAIN, Card, HeatproofError, Method, Metric, filled, read_toml, unknown
from bench.spec import Backbone, Contestant, Recipe, RunSpec

FOLDER = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Entry:
    """One data set of a suite, with the network and the training that go with it."""

    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    samples: int = 0
    media: int = 0


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
    [method.NAME.train] and [method.NAME.explain]. metric: parameters a metric, as [metric."NAME"].
    """

    title: str
    protocol: str
    contestants: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    dataset: Mapping[str, Any]
    target: str = "label"
    about: str = ""
    contestant: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    metric: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Skip:
    """What a suite asks for and a data set cannot give."""

    dataset: str
    contestant: str | None
    metric: str | None
    reason: str


@dataclass(frozen=True)
class Suite:
    """A suite with every name looked up: its runs, its metrics, and what it must skip."""

    name: str
    title: str
    protocol: str
    cards: Mapping[str, Card]
    contestants: tuple[Contestant, ...]
    metrics: tuple[Metric, ...]
    runs: tuple[RunSpec, ...]
    skipped: tuple[Skip, ...]

    def metrics_of(self, dataset: str) -> list[Metric]:
        """The metrics that a data set can be scored with."""
        without = {s.metric for s in self.skipped if s.dataset == dataset and s.metric}
        return [metric for metric in self.metrics if metric.name not in without]

    def only(self, contestants: Sequence[str]) -> tuple[RunSpec, ...]:
        """The runs of some contestants. Raises for a name that the suite does not have."""
        names = {run.contestant.name for run in self.runs}
        for name in contestants:
            if name not in names:
                raise unknown(f"contestant of suite {self.name}", name, names)
        return tuple(r for r in self.runs if not contestants or r.contestant.name in contestants)

    def plan(self) -> dict[str, Any]:
        """What results/SUITE/plan.json holds; see results.PLAN."""
        return {
            "suite": self.name, "title": self.title, "protocol": self.protocol,
            "runs": [{"id": run.id, "dataset": run.dataset, "contestant": run.contestant.name,
                      "seed": run.seed, "fold": run.fold} for run in self.runs],
            "contestants": {who.name: contestant_facts(who) for who in self.contestants},
            "metrics": [metric.facts() for metric in self.metrics],
            "datasets": {name: card_facts(card) for name, card in self.cards.items()},
            "skipped": [asdict(skip) for skip in self.skipped],
        }


def card_facts(card: Card) -> dict[str, Any]:
    """What a reader of results must know of a card, ready for JSON."""
    return {**asdict(card), "fingerprint": card.fingerprint}


def contestant_facts(who: Contestant) -> dict[str, Any]:
    """What a reader of results must know of a contestant, ready for JSON."""
    explainer, trainer = plugins.methods[who.explainer], plugins.trainer(who.trainer)
    return {
        "name": who.name, "title": explainer.title or explainer.name, "family": explainer.family,
        "paper": explainer.paper, "signed": explainer.signed, "additivity": explainer.additivity,
        "control": explainer.family == "control" and not explainer.needs_mask,
        "ceiling": explainer.needs_mask, "explainer": who.explainer, "trainer": who.trainer,
        "trainer_title": trainer.title or trainer.name}


def suites() -> dict[str, Path]:
    """Every built-in suite's name with its file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read(name: str, *, seeds: int = 0) -> Suite:
    """A suite by name or by the path of a TOML file; `seeds` > 0 takes seeds 0 to seeds - 1.

    Raises HeatproofError for an unknown key, contestant, data set, metric, backbone or parameter.
    """
    path = Path(name) if name.endswith(".toml") else suites().get(name)
    if path is None:
        raise unknown("suite", name, suites())
    where = f"suite {path.name}"
    file = filled(SuiteFile, read_toml(path), where)
    if file.target not in ("label", "predicted"):
        raise unknown(f"target in {where}", file.target, ("label", "predicted"))
    for key in ("contestants", "metrics", "seeds", "dataset"):
        if not getattr(file, key):
            raise HeatproofError(f"{where}: {key} is empty")
    for key in ("contestants", "metrics", "seeds"):
        if len(set(getattr(file, key))) != len(getattr(file, key)):
            raise HeatproofError(f"{where}: {key} names something twice")
    contestants = [contestant(name, file, where) for name in file.contestants]
    cards = {name: data.card(name) for name in file.dataset}
    metrics = tuple(_metric(name, file, where) for name in file.metrics)
    if spare := set(file.metric) - set(file.metrics):
        raise unknown(f"[metric] table in {where}", sorted(spare)[0], file.metrics)
    entries = {name: _entry(table, f"[dataset.{name}] in {where}")
               for name, table in file.dataset.items()}
    runs = tuple(
        _spec(path.stem, file, *entries[dataset], cards[dataset], who, seed)
        for dataset in file.dataset
        for who in contestants
        for seed in (range(seeds) if seeds else file.seeds)
        if not _cannot(who, cards[dataset]))
    return Suite(
        name=path.stem, title=file.title, protocol=file.protocol, cards=cards,
        contestants=tuple(contestants), metrics=metrics, runs=runs,
        skipped=tuple(_skips(cards, contestants, metrics)))


def contestant(name: str, file: SuiteFile, where: str) -> Contestant:
    """A contestant with its parameters. Raises for an unknown explainer, trainer or parameter."""
    variant = (filled(Variant, file.contestant[name], f"[contestant.{name}] in {where}")
               if name in file.contestant else Variant(method=name))
    explainer_name, _, trainer_name = variant.method.partition("@")
    if explainer_name not in plugins.methods:
        raise unknown(f"contestant in {where}", name, [*plugins.methods, *file.contestant])
    explainer = plugins.methods[explainer_name]
    train = dict(variant.train)
    if trainer_name in file.contestant:  # gradcam@softcam-sparse: the variant's network
        other = filled(Variant, file.contestant[trainer_name], f"[contestant.{trainer_name}]")
        train = {**other.train, **train}
        trainer_name = other.method.rpartition("@")[2]
    if not trainer_name:
        trainer_name = explainer_name if explainer.trains() else PLAIN
    trainer = plugins.trainer(trainer_name)
    defaults = _method_params(file, where)
    return Contestant(
        name=name, explainer=explainer_name, trainer=trainer_name,
        explainer_version=plugins.version_of(explainer),
        trainer_version=plugins.version_of(trainer),
        explain=_params(explainer, "explain", defaults, variant.explain, name),
        train=_params(trainer, "train", defaults, train, name))


def _method_params(file: SuiteFile, where: str) -> Mapping[str, Any]:
    for name, table in file.method.items():
        if name not in plugins.methods:
            raise unknown(f"[method] table in {where}", name, plugins.methods)
        for half in table:
            if half not in ("train", "explain"):
                raise unknown(f"key in [method.{name}] of {where}", half, ("train", "explain"))
    return file.method


def _params(
    cls: type[Method], half: str, defaults: Mapping[str, Any], given: Mapping[str, Any], name: str,
) -> dict[str, Any]:
    own: Mapping[str, Any] = getattr(cls, f"{half}_params")
    asked = {**defaults.get(cls.name, {}).get(half, {}), **given}
    for key in asked:
        if key not in own:
            raise unknown(f"{half} parameter of contestant {name!r}", key, own)
    return {**own, **asked}


def _metric(name: str, file: SuiteFile, where: str) -> Metric:
    if name not in plugins.metrics:
        raise unknown(f"metric in {where}", name, plugins.metrics)
    return plugins.metrics[name].with_params(file.metric.get(name, {}))


def _entry(table: object, where: str) -> tuple[Entry, Backbone, Recipe]:
    entry = filled(Entry, table, where)
    recipe = filled(Recipe, entry.recipe, f"recipe in {where}")
    _check_recipe(recipe, where)
    return entry, filled(Backbone, entry.backbone, f"backbone in {where}"), recipe


def _spec(
    suite: str, file: SuiteFile, entry: Entry, backbone: Backbone, recipe: Recipe, card: Card,
    who: Contestant, seed: int,
) -> RunSpec:
    target: Literal["label", "predicted"] = "label" if file.target == "label" else "predicted"
    return RunSpec(
        suite=suite, protocol=file.protocol, dataset=card.name, data=data.fingerprint(card),
        contestant=who, backbone=backbone, recipe=recipe, seed=seed, samples=entry.samples,
        target=target, media=entry.media if card.redistributable else 0)


def _check_recipe(recipe: Recipe, where: str) -> None:
    if recipe.epochs < 1 or recipe.batch_size < 1 or recipe.lr <= 0:
        raise HeatproofError(f"recipe in {where}: epochs, batch_size and lr must be positive")
    for key, known in (("optimizer", ("sgd", "adamw")), ("schedule", ("cosine", "constant"))):
        if getattr(recipe, key) not in known:
            raise unknown(f"{key} in recipe of {where}", getattr(recipe, key), known)


def _cannot(who: Contestant, card: Card) -> str:
    if plugins.methods[who.explainer].needs_mask and card.truth == "none":
        return f"{who.name} needs masks; {card.name} has none"
    return ""


def _skips(
    cards: Mapping[str, Card], contestants: Sequence[Contestant], metrics: Sequence[Metric],
) -> list[Skip]:
    skips = [Skip(card.name, who.name, None, reason) for card in cards.values()
             for who in contestants if (reason := _cannot(who, card))]
    return skips + [
        Skip(card.name, None, metric.name, f"{metric.name} needs masks; {card.name} has none")
        for card in cards.values() for metric in metrics
        if "mask" in metric.needs and card.truth == "none"]


def method_of(run: RunSpec, card: Card) -> tuple[Method, Method]:
    """A run's explainer and trainer, as instances with their parameters."""
    from bench import nets

    make = nets.maker(run.backbone, card, run.seed)
    explainer = plugins.methods[run.contestant.explainer](
        card, make, explain=run.contestant.explain)
    trainer = plugins.trainer(run.contestant.trainer)(card, make, train=run.contestant.train)
    return explainer, trainer


