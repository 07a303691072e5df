"""One RunSpec to one folder of results; what is finished is never done again."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import data, explain, metrics, parallel, train
from bench.certificate import AT_LEAST, AT_MOST, certify
from bench.core import HOME, Batch, Method, digest
from bench.data.images import Batches, Images
from bench.measure import Explained, Metric
from bench.outcome import Outcome, caught
from bench.passes import costing, device_title
from bench.results import Folder, read_media
from bench.shared import shared_by
from bench.spec import RunSpec
from bench.store import Cache, read_json, write_json
from bench.suite import card_facts, card_of, contestant_facts, explainer_of, trainer_of

LIBRARIES = ("heatproof", "torch", "timm", "captum", "quantus", "numpy", "scipy")


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Place:
    """Where a run writes, computes and reports."""

    out: Path
    cache: Cache
    device: str = "cpu"
    progress: Callable[[str, int, int], None] = silent
    processes: int = 1
    """Processes that share one training; from the cluster's profile."""


def fit(spec: RunSpec, place: Place) -> Outcome:
    """Trains the network of a spec unless the cache has it."""
    outcome = Outcome(f"{spec.dataset}/{spec.contestant.trainer}/seed {spec.seed}")
    with caught(outcome, "train"):
        outcome.trained = network(spec, place).trained
    return outcome


def run(spec: RunSpec, wanted: Sequence[Metric], place: Place) -> Outcome:
    """Runs a spec: train or load, explain, score what is not scored, write. Never raises.

    A metric that fails leaves its file out and harms no other.
    """
    outcome = Outcome(spec.cell)
    with caught(outcome, "run"):
        folder = Folder.of(spec, place.out)
        if folder.is_whole(wanted):
            outcome.status = "finished before"
        else:
            _run(spec, wanted, place, folder, outcome)
    return outcome


def _run(
    spec: RunSpec, wanted: Sequence[Metric], place: Place, folder: Folder, outcome: Outcome,
) -> None:
    clock = time.perf_counter
    started = clock()
    fitted, explainer = network(spec, place), explainer_of(spec)
    outcome.trained = fitted.trained
    measured: dict[str, Any] = _measured_before(folder)
    costs: dict[str, Any] = measured.setdefault("cost", {})
    if fitted.trained:
        measured["train"] = clock() - started
    if fitted.cost:
        costs["train"] = fitted.cost
    net = fitted.net
    if reason := explain.unsupported(explainer, net):
        outcome.status = f"unsupported: {reason}"
        folder.write_run(
            _facts(spec, explainer, net, None, {}, (), fitted, measured, place, reason))
        return

    batches = _batches(spec, "test")
    batch, logits, target = _asked(spec, net, batches, place)
    place.progress("explain", 0, 1)
    started = clock()
    if explainer.studies():
        shown = _batches(spec, "train", _training_images(spec)[0])
        explainer.study(part.to(place.device) for part in shown.in_order(explain.CHUNK))
    made_before = place.cache.has("maps", spec.maps_id)
    with costing(batch.x.device, net) as cost:
        maps = explain.maps(explainer, net, batch, target, spec, place.cache)
    measured.setdefault("explain", clock() - started)
    if not made_before:
        costs["explain"] = asdict(cost)
        measured["passes"] = {"forward": cost.forward / len(batch),
                              "backward": cost.backward / len(batch)}
    if not (folder.path / "samples.parquet").is_file():
        _write_samples(folder, batch, logits, target)
    if spec.media and read_media(folder.path) is None:
        _write_media(folder, batches, maps, logits, spec.media)

    seen = replace(
        _seen(spec, explainer, net, batch, logits, target, maps, place),
        validation=_validation(spec, explainer, net, place))
    with costing(batch.x.device, net) as cost:
        _score(folder, wanted, seen, measured, outcome, place, apart=spec.engine == "apart")
    costs["score"] = cost.after(costs.get("score", {}))
    scored = [metric for metric in wanted if folder.has_score(metric)]
    accuracy = float((logits.argmax(1) == batch.y).double().mean())
    classifier = {
        "parameters": sum(p.numel() for p in net.parameters()), "accuracy": accuracy,
        "grid": list(maps.shape[1:]), "backbone": spec.backbone.name}
    found = {
        "additivity": explain.additivity(explainer.additivity, maps, logits, target),
        "certificate": _certificate(spec, net, batches.images, place)}
    folder.write_run(
        _facts(spec, explainer, net, classifier, found, scored, fitted, measured, place, None))


def _score(
    folder: Folder, wanted: Sequence[Metric], seen: Explained, measured: dict[str, Any],
    outcome: Outcome, place: Place, *, apart: bool,
) -> None:
    """Every metric that is missing; one that fails leaves its file out and harms no other."""
    missing = folder.missing(wanted)
    for done, metric in enumerate(missing):
        place.progress(metric.name, done, len(missing))
        started = time.perf_counter()
        with caught(outcome, metric.name):
            found = metrics.score(metric, seen.apart() if apart else seen)
            folder.write_scores(metric, seen.batch.key, found)
            measured.setdefault("score", {})[metric.name] = time.perf_counter() - started


def network(spec: RunSpec, place: Place) -> train.Fitted:
    """The network of a spec, trained now or read; where it starts from another, that comes first.

    Raises what `train.fitted` and the data set's source raise.
    """
    trainer, progress, shared = trainer_of(spec), place.progress, None
    if place.processes > 1 and spec.recipe.epochs:
        if trainer.splits:
            shared = partial(_share_out, spec, place)
        else:
            def progress(what: str, done: int, total: int) -> None:
                place.progress(f"{what} (one process: its loss is of whole batches)", done, total)
    return train.fitted(trainer, spec, material(spec, place), place.cache,
                        device=torch.device(place.device), progress=progress, shared=shared)


def _share_out(spec: RunSpec, place: Place) -> None:
    """Has the network of a spec trained by several processes."""
    if spec.base:
        network(spec.base, place)  # before them, so that they find it
    parallel.launch(
        _share, spec, replace(place, progress=silent, processes=1),
        processes=min(place.processes, spec.recipe.batch_size),
        device=torch.device(place.device), progress=place.progress)


def _share(
    spec: RunSpec, place: Place, team: parallel.Team, device: torch.device,
    progress: Callable[[str, int, int], None],
) -> None:
    place = replace(place, device=str(device))
    train.share(trainer_of(spec), spec, material(spec, place), place.cache,
                device=device, progress=progress, team=team)


def material(spec: RunSpec, place: Place) -> train.Material:
    """What the training of a spec is given; nothing is read before it is asked for."""
    def base() -> nn.Module:
        assert spec.base is not None
        return network(spec.base, place).net

    images = lru_cache(partial(_training_images, spec))
    return train.Material(
        images=lambda: _batches(spec, "train", images()[0]),
        validation=lambda: _batches(spec, "validation", images()[1]), base=base)


def _training_images(spec: RunSpec) -> tuple[Images, Images | None]:
    """What is trained on, and what chooses the epoch, both without masks: no training sees one."""
    images = replace(data.held(spec.dataset, "train", spec.fold), mask=None)
    if spec.recipe.select == "last":
        return images, None
    if "validation" in card_of(spec).splits:
        return images, replace(data.held(spec.dataset, "validation", spec.fold), mask=None)
    return images.parted(spec.recipe.validation, f"{spec.dataset}/validation")


def splits_of(spec: RunSpec) -> tuple[str, ...]:
    """The splits that a run may read; without a training here, none needs training images."""
    def trains(one: RunSpec) -> bool:
        return not one.weights and (one.recipe.epochs > 0 or bool(one.base and trains(one.base)))

    unread = set() if trains(spec) or explainer_of(spec).studies() else {"train"}
    return tuple(split for split in card_of(spec).splits if split not in unread)


def _batches(spec: RunSpec, split: str, images: Images | None = None) -> Batches:
    """A split's batches: all images for validation, else as many as the spec says."""
    if images is None:
        images = data.held(spec.dataset, split, spec.fold)
    samples = {"train": spec.recipe.samples, "test": spec.samples}.get(split, 0)
    return Batches(images, card_of(spec), seed=spec.seed, samples=samples, name=split,
                   normalise=spec.normalise)


def _asked(
    spec: RunSpec, net: nn.Module, batches: Batches, place: Place,
) -> tuple[Batch, Tensor, Tensor]:
    """What is explained: the samples, their clean logits, and the class of each."""
    batch = batches.batch().to(place.device)
    logits = _logits(net, batch)
    return batch, logits, batch.y if spec.target == "label" else logits.argmax(1)


def _seen(
    spec: RunSpec, explainer: Method, net: nn.Module, batch: Batch, logits: Tensor, target: Tensor,
    maps: Tensor, place: Place,
) -> Explained:
    return Explained(
        network=net, batch=batch, logits=logits, target=target, maps=maps,
        explain=explain.explainer(explainer, net, batch, target),
        classes=len(card_of(spec).classes), device=place.device,
        unit=_unit(logits, target), shared=shared_by(spec.model_id))


def _unit(logits: Tensor, target: Tensor) -> float:
    """One standard deviation of the explained classes' logits; 1 where they do not vary."""
    spread = float(logits.double().gather(1, target[:, None]).std(correction=0))
    return spread if spread > 0 else 1.0


def _validation(
    spec: RunSpec, explainer: Method, net: nn.Module, place: Place,
) -> Callable[[], Explained] | None:
    """Makes, once, what a metric may choose its settings on; none where the card has no split."""
    if "validation" not in card_of(spec).splits:
        return None

    @lru_cache
    def made() -> Explained:
        batches = _batches(spec, "validation")
        batches.index = batches.index[:spec.samples or None]
        batch, logits, target = _asked(spec, net, batches, place)
        maps = explain.explained(explainer, net, batch, target)
        return _seen(spec, explainer, net, batch, logits, target, maps, place)

    return made


def _logits(net: nn.Module, batch: Batch) -> Tensor:
    """Clean logits (N, classes), made in chunks so that memory does not grow with N."""
    with torch.no_grad():
        return torch.cat([net(batch.x[i:i + explain.CHUNK])
                          for i in range(0, len(batch), explain.CHUNK)])


CERTIFIED = 200
"""Test images, at most, on which a network shows that it goes by what was planted."""


def _certificate(
    spec: RunSpec, net: nn.Module, images: Images, place: Place,
) -> dict[str, Any] | None:
    """The certificate of a network on planted images, made once for all who explain it."""
    if not images.flips:
        return None
    name = digest([spec.model_id, images.content, CERTIFIED, AT_LEAST, AT_MOST])
    path = place.cache.root / "certificates" / f"{name}.json"
    if not path.is_file():
        batches = Batches(images, card_of(spec), seed=spec.seed, samples=CERTIFIED,
                          normalise=spec.normalise)
        write_json(path, certify(net, batches, device=place.device))
    return dict(read_json(path))


def _write_samples(folder: Folder, batch: Batch, logits: Tensor, target: Tensor) -> None:
    share = logits.double().softmax(1)
    confidence, prediction = share.max(1)
    folder.write_samples({
        "key": list(batch.key), "label": batch.y.tolist(), "group": list(batch.group),
        "prediction": prediction.tolist(), "confidence": confidence.tolist(),
        "logit": logits.double().gather(1, target[:, None])[:, 0].tolist(),
        "target": target.tolist()})


def _write_media(
    folder: Folder, batches: Batches, maps: Tensor, logits: Tensor, n: int,
) -> None:
    """The first n samples of the fixed order: the same for every contestant and seed."""
    rows = batches.index[:n]
    images = batches.images
    arrays = {"image": images.x[rows], "maps": maps[:n].cpu().numpy()}
    if images.mask is not None:
        arrays["mask"] = images.mask[rows]
    folder.write_media(arrays, {
        "keys": [images.key[i] for i in rows], "labels": images.y[rows].tolist(),
        "predictions": logits[:n].argmax(1).tolist()})


def _facts(
    spec: RunSpec, explainer: Method, net: nn.Module, classifier: dict[str, Any] | None,
    found: dict[str, Any], scored: Sequence[Metric], fitted: train.Fitted,
    measured: dict[str, Any], place: Place, unsupported: str | None,
) -> dict[str, Any]:
    return {
        "spec": spec.to_json(),
        # Whether a map is signed, and how it adds up, may depend on the instance's parameters.
        "contestant": {**contestant_facts(spec.contestant), "signed": explainer.signed,
                       "additivity": explainer.additivity},
        "dataset": {**card_facts(data.card(spec.dataset)),
                    "content": data.held(spec.dataset, "test", spec.fold).content},
        "classifier": classifier or {
            "parameters": sum(p.numel() for p in net.parameters()), "accuracy": None, "grid": None,
            "backbone": spec.backbone.name},
        "additivity": found.get("additivity"),
        "certificate": found.get("certificate"),
        "metrics": {metric.name: metric.facts() for metric in scored},
        "unsupported": unsupported,
        "versions": _versions(torch.device(place.device).type),
        "git": _commit(),
        "device": _device(place, measured["cost"], fitted.processes),
        "checkpoint": fitted.checkpoint,
        "measured": measured,
    }


def _measured_before(folder: Folder) -> dict[str, Any]:
    path = folder.path / "run.json"
    return dict(read_json(path)["measured"]) if path.is_file() else {}


@lru_cache
def _versions(kind: str) -> dict[str, str]:
    found = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    if kind == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {"cuda": torch.version.cuda or "", "driver": _driver(), "cudnn": str(cudnn or "")}
    return found


def _driver() -> str:
    """The version of NVIDIA's driver, which torch does not tell; empty if it cannot be read."""
    return next(iter(_said(
        "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split()), "")


@lru_cache(maxsize=1)
def _commit() -> str:
    return _said("git", "-C", str(HOME), "rev-parse", "HEAD") if (HOME / ".git").exists() else ""


def _said(*command: str) -> str:
    """What a program says; empty if it cannot be asked."""
    try:
        found = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _device(place: Place, costs: Mapping[str, Any], processes: int) -> str:
    """On what a run was scored; and where else, and by how many, its network and maps were made."""
    where = {stage: cost.get("device", "") for stage, cost in costs.items()}
    scored = where.get("score") or device_title(torch.device(place.device))
    return "; ".join((
        scored, *(f"{done} on {where[stage]}" for stage, done in (
            ("train", "trained"), ("explain", "explained")) if where.get(stage, "") not in (
                "", scored)),
        *([f"trained by {processes} processes"] if processes > 1 else ())))
