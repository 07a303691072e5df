"""A suite file crossed out into RunSpecs: what will be run, frozen before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import battery, data, plugins, weights
from bench.augment import augmentation
from bench.battery import Ask
from bench.core import PLAIN, Card, HeatproofError, Method, filled, read_toml, unknown
from bench.measure import Metric
from bench.spec import CHOICES, ENGINES, Backbone, Contestant, Recipe, RunSpec
from bench.suite_file import Entry, Special, SuiteFile, Variant

FOLDER = Path(__file__).parent / "suites"


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
    asked: tuple[Ask, ...]
    metrics: tuple[Metric, ...]
    batteries: tuple[Mapping[str, Any], ...]
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
            "batteries": [dict(battery) for battery in self.batteries],
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
        "name": who.name, "title": explainer.titled(who.explain), "family": explainer.family,
        "paper": explainer.paper, "passes": explainer.cost(who.explain),
        "signed": explainer.signed, "additivity": explainer.additivity,
        "control": explainer.family == "control" and not explainer.needs_mask,
        "ceiling": explainer.needs_mask, "classwise": explainer.classwise,
        "explainer": who.explainer, "trainer": who.trainer,
        "trainer_title": trainer.title or trainer.name, "twin": trainer.twin,
        "train": dict(who.train), "explain": dict(who.explain)}


def suites() -> dict[str, Path]:
    """Every built-in suite's name with its file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def file_of(name: str) -> Path:
    """The file of a suite, by its name or path. Raises HeatproofError for an unknown name."""
    path = Path(name) if name.endswith(".toml") else suites().get(name)
    if path is None:
        raise unknown("suite", name, suites())
    return path


def read(name: str, *, seeds: int = 0) -> Suite:
    """A suite by name or by the path of a TOML file; `seeds` > 0 takes seeds 0 to seeds - 1.

    Raises HeatproofError for an unknown key, contestant, data set, metric, backbone or parameter.
    """
    path = file_of(name)
    where = f"suite {path.name}"
    file = filled(SuiteFile, read_toml(path), where)
    if file.target not in ("label", "predicted"):
        raise unknown(f"target in {where}", file.target, ("label", "predicted"))
    if file.engine not in ENGINES:
        raise unknown(f"engine in {where}", file.engine, ENGINES)
    for key in ("contestants", "seeds", "dataset"):
        if not getattr(file, key):
            raise HeatproofError(f"{where}: {key} is empty")
    if not file.metrics and not file.batteries:
        raise HeatproofError(f"{where} names neither metrics nor batteries")
    for key in ("contestants", "metrics", "batteries", "seeds"):
        if len(set(getattr(file, key))) != len(getattr(file, key)):
            raise HeatproofError(f"{where}: {key} names something twice")
    contestants = [contestant(name, file, where) for name in file.contestants]
    cards = {name: data.card(name) for name in file.dataset}
    asked = battery.asked(file, where)
    metrics = tuple(ask.metric() for ask in asked)
    places = [
        _Place(path.stem, file, cards[dataset],
               _entry(file, table, cards[dataset], f"[dataset.{dataset}] in {where}"))
        for dataset, table in file.dataset.items()]
    entered = {place.card.name: [who for who in contestants if place.enters(who)]
               for place in places}
    runs = tuple(
        run for place in places
        for run in _runs(place, entered[place.card.name],
                         range(seeds) if seeds else file.seeds))
    return Suite(
        name=path.stem, title=file.title, protocol=file.protocol, cards=cards,
        contestants=tuple(contestants), asked=tuple(asked), metrics=metrics,
        batteries=tuple(battery.facts(file, metrics)), runs=runs,
        skipped=tuple(_skips(cards, entered, metrics)))


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
    explain = _params(explainer, "explain", defaults, variant.explain, name)
    return Contestant(
        name=name, explainer=explainer_name, trainer=trainer_name,
        explainer_version=plugins.version_of(explainer, explain),
        trainer_version=plugins.version_of(trainer), explain=explain,
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


def _entry(file: SuiteFile, table: object, card: Card, where: str) -> Entry:
    entry = filled(Entry, table, where)
    if entry.normalise not in ("card", "max"):
        raise unknown(f"normalise in {where}", entry.normalise, ("card", "max"))
    if not 1 <= entry.folds <= 1 + len(card.folds):
        raise HeatproofError(
            f"{where}: folds is {entry.folds}, and {card.name} has {1 + len(card.folds)}")
    for name in entry.contestants:
        if name not in file.contestants:
            raise unknown(f"contestant in {where}", name, file.contestants)
    for name, special in entry.trainer.items():
        if name != PLAIN and name not in file.contestant:
            plugins.trainer(name)
        filled(Special, special, f"[trainer.{name}] of {where}")
    return entry


@dataclass(frozen=True)
class _Place:
    """Where in a suite file a run is asked for."""

    suite: str
    file: SuiteFile
    card: Card
    entry: Entry

    def enters(self, who: Contestant) -> bool:
        return not self.entry.contestants or who.name in self.entry.contestants

    @property
    def where(self) -> str:
        return f"[dataset.{self.card.name}] in suite {self.suite}.toml"


def _runs(
    place: _Place, contestants: Sequence[Contestant], seeds: Sequence[int],
) -> list[RunSpec]:
    """A data set's runs; each contestant's training is looked up once."""
    found = []
    for who in contestants:
        if _cannot(who, place.card):
            continue
        first = _spec(place, who, _trained_as(who.name, place.file))
        for fold in range(place.entry.folds):
            fingerprint = data.fingerprint(place.card.fold(fold))
            found += [_at(first, seed, fold, fingerprint) for seed in seeds]
    return found


def _at(spec: RunSpec, seed: int, fold: int, fingerprint: str) -> RunSpec:
    base = spec.base and _at(spec.base, seed, fold, fingerprint)
    return replace(spec, seed=seed, fold=fold, data=fingerprint, base=base)


def _trained_as(name: str, file: SuiteFile) -> str:
    """Under which name, beside its trainer's, a [trainer] table may speak of a contestant's."""
    method = file.contestant[name]["method"] if name in file.contestant else name
    return str(method.partition("@")[2] or name)


def _spec(place: _Place, who: Contestant, known_as: str) -> RunSpec:
    """The spec of a contestant and, where its trainer starts from another, of that training."""
    file, entry, card, where = place.file, place.entry, place.card, place.where
    specials = [filled(Special, entry.trainer[name], f"[trainer.{name}] of {where}")
                for name in dict.fromkeys((who.trainer, known_as)) if name in entry.trainer]
    backbone, recipe, train = dict(entry.backbone), dict(entry.recipe), dict(who.train)
    published = ""
    for special in specials:
        backbone |= special.backbone
        recipe |= special.recipe
        train |= special.train
        published = special.weights or published
    trainer = plugins.trainer(who.trainer)
    whose = f"recipe of {who.trainer} on {where}"
    base = None
    if trainer.base and not published:
        base = _spec(place, _trainer_alone(trainer.base, file, where), trainer.base)
    return RunSpec(
        suite=place.suite, protocol=file.protocol, dataset=card.name, data="", seed=0,
        contestant=replace(who, train=_params(trainer, "train", {}, train, who.name)),
        backbone=filled(Backbone, backbone, f"backbone of {who.trainer} on {where}"),
        recipe=_checked(filled(Recipe, recipe, whose), card, whose, training=not published,
                        fresh=base is None),
        samples=entry.samples, target="label" if file.target == "label" else "predicted",
        media=entry.media if card.redistributable else 0,
        normalise="card" if entry.normalise == "card" else "max", engine=file.engine,
        weights=published, weights_id=weights.identity(published) if published else "", base=base)


def _trainer_alone(name: str, file: SuiteFile, where: str) -> Contestant:
    trainer = plugins.trainer(name)
    version = plugins.version_of(trainer)
    return Contestant(
        name=name, explainer=name, trainer=name, explainer_version=version,
        trainer_version=version,
        train=_params(trainer, "train", _method_params(file, where), {}, name))


def _checked(recipe: Recipe, card: Card, where: str, *, training: bool, fresh: bool) -> Recipe:
    """The recipe, if it can be followed; post-fitting may do without an epoch."""
    for key, known in CHOICES.items():
        if getattr(recipe, key) not in known:
            raise unknown(f"{key} in {where}", getattr(recipe, key), known)
    if "train" not in card.splits and training and recipe.epochs:
        raise HeatproofError(
            f"{where}: {card.name} is for evaluation alone and has no training images; name "
            f"published weights ([dataset.{card.name}.trainer.NAME] weights = …), or set epochs = "
            "0 for the network as it is made")
    if recipe.epochs < (1 if training and fresh and "train" in card.splits else 0):
        raise HeatproofError(f"{where}: epochs must be positive")
    if recipe.batch_size < 1 or recipe.accumulate < 1 or recipe.lr <= 0:
        raise HeatproofError(f"{where}: batch_size, accumulate and lr must be positive")
    if recipe.schedule == "step" and recipe.drop < 1:
        raise HeatproofError(f"{where}: schedule 'step' needs drop, the epochs between two drops")
    if not 0 <= recipe.validation < 1:
        raise HeatproofError(f"{where}: validation is a share of the images, from 0 to below 1")
    if recipe.select != "last" and not recipe.validation and "validation" not in card.splits:
        raise HeatproofError(
            f"{where}: select = {recipe.select!r} needs validation images, and {card.name} has no "
            "such split; set validation to a share of the training images")
    augmentation(recipe.augment, where)
    return recipe


def _cannot(who: Contestant, card: Card) -> str:
    explainer = plugins.methods[who.explainer]
    if explainer.needs_mask and card.truth == "none":
        return f"{who.name} needs masks; {card.name} has none"
    if explainer.studies() and "train" not in card.splits:
        return f"{who.name} looks at training images; {card.name} has none"
    return ""


def _skips(
    cards: Mapping[str, Card], entered: Mapping[str, Sequence[Contestant]],
    metrics: Sequence[Metric],
) -> list[Skip]:
    skips = [Skip(card.name, who.name, None, reason) for card in cards.values()
             for who in entered[card.name] if (reason := _cannot(who, card))]
    return skips + [
        Skip(card.name, None, metric.name, f"{metric.name} needs masks; {card.name} has none")
        for card in cards.values() for metric in metrics
        if "mask" in metric.needs and card.truth == "none"]


def card_of(run: RunSpec) -> Card:
    """A run's card, with the splits of its fold and the mean and std of its normalisation."""
    card = data.card(run.dataset).fold(run.fold)
    if run.normalise == "max":
        channels = card.image[0]
        return replace(card, mean=(0.0,) * channels, std=(1.0,) * channels)
    return card


def trainer_of(run: RunSpec) -> Method:
    """A run's training half, as an instance with its parameters."""
    return _made(run, plugins.trainer(run.contestant.trainer), train=run.contestant.train)


def explainer_of(run: RunSpec) -> Method:
    """A run's explaining half, as an instance with its parameters."""
    who = run.contestant
    # On its own network what it says of its maps may depend on how that was trained.
    train = who.train if who.explainer == who.trainer else {}
    return _made(run, plugins.methods[who.explainer], train=train, explain=who.explain)


def _made(run: RunSpec, cls: type[Method], **params: Mapping[str, Any]) -> Method:
    from bench import nets

    card = card_of(run)
    return cls(card, nets.maker(run.backbone, card, run.seed), **params)
