"""The suites that follow a paper: their numbers, where each is from, and that they can be had."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench import cli, data, nets, pool, suite
from bench.core import HeatproofError
from bench.spec import Recipe, RunSpec

SOURCES = {
    "softcam": (
        "default.yaml", "builder.py", "scheduler.py", "train.py", "fundus_transforms.py",
        "oct_transforms.py", "xchest_transforms.py", "j_resnet_multi.ipynb", "[N]"),
    "cape": (
        "resnet50_TS.py", "resnet50_PF.py", "main.py", "trainer.py", "transforms.py", "model.py"),
    "batchcam": ("arXiv:2510.00664v2",),
    "batchcam-convnext": ("arXiv:2510.00664v2",),
    "gp-nets": ("classifier.py", "classifier_GPRecon.py", "tvmodels.py", "GP_UNet.py"),
}
"""Of each paper's suite, what a comment can name as the source of a number."""

PAPERS = tuple(SOURCES)
SMALL = ("softcam-small", "cape-small", "batchcam-small", "gp-nets-small")
ABSENT = {"softcam": "kaggle-dr", "cape": "cub-200-2011", "gp-nets": "brats2020"}


@cache
def runs(name: str) -> dict[tuple[str, str], RunSpec]:
    """The first run of each data set and contestant."""
    found: dict[tuple[str, str], RunSpec] = {}
    for run in suite.read(name).runs:
        found.setdefault((run.dataset, run.contestant.name), run)
    return found


def one(name: str, dataset: str, contestant: str) -> RunSpec:
    return runs(name)[dataset, contestant]


def holds(recipe: Recipe, **facts: Any) -> None:
    """That a recipe is these facts, and the neutral value of all that they do not name."""
    neutral: dict[str, Any] = {
        "accumulate": 1, "momentum": 0.9, "clip": 0.0, "schedule": "cosine", "every": "step",
        "floor": 0.0, "drop": 0, "gamma": 0.1, "warmup": 0.0, "samples": 0, "augment": [],
        "select": "last", "validation": 0.0, "precision": "full", "channels_last": False}
    if recipe.optimizer != "sgd":
        neutral["nesterov"] = recipe.nesterov  # adam has none
    assert asdict(recipe) | {"augment": list(recipe.augment)} == neutral | facts


def lines(name: str, text: str | None = None) -> Iterator[tuple[int, str, str]]:
    """Each line of a network or a training in a suite's file, and the comment that speaks of it.

    That is the comment on the line itself, or else the one above its group; a group ends with an
    empty line or the next comment.
    """
    text = suite.suites()[name].read_text("utf-8") if text is None else text
    table, above, in_comment = "", "", False
    for number, line in enumerate(text.splitlines(), 1):
        code, _, comment = (part.strip() for part in line.partition("#"))
        if not code:
            above = f"{above if in_comment else ''} {comment}"
            in_comment = bool(comment)
            continue
        in_comment = False
        if code.startswith("["):
            table, above = code, ""
        elif re.search(r"\.(backbone|recipe|trainer)\b", table) and code != "]":
            yield number, code, comment or above


def unsourced(name: str, text: str | None = None) -> list[str]:
    named = [re.escape(source) for source in SOURCES[name]]
    known = re.compile(r"\bours\b|(?<![\w-])(" + "|".join(named) + r")(?!\w)")
    return [f"{name}.toml, line {number}: {code}" for number, code, comment in lines(name, text)
            if not known.search(comment)]


@pytest.mark.parametrize("name", [*PAPERS, *SMALL])
def test_every_suite_of_a_paper_can_be_read(name: str) -> None:
    assert len(runs(name)) >= 10


@pytest.mark.parametrize("name", PAPERS)
def test_every_line_of_a_papers_recipe_tells_where_it_is_from(name: str) -> None:
    assert len(list(lines(name))) >= 15
    assert not unsourced(name)


def test_a_line_without_a_source_would_be_seen() -> None:
    text = "[dataset.x.recipe]\n# configs/cub/resnet50_TS.py\nepochs = 200\n\nlr = 1e-3\n"
    assert unsourced("cape", text) == ["cape.toml, line 5: lr = 1e-3"]
    assert unsourced("cape", text + "clip = 1   # hearsay\ndrop = 3   # ours\n")[1:] == [
        "cape.toml, line 6: clip = 1"]
    assert unsourced("batchcam", text)[0] == "batchcam.toml, line 3: epochs = 200"
    assert unsourced("batchcam", text.replace("configs", "colours")), "part of a word is no source"


@pytest.mark.parametrize("name", PAPERS)
def test_every_papers_maps_are_7_by_7_or_finer(name: str) -> None:
    for run in {(run.dataset, run.backbone.name): run for run in runs(name).values()}.values():
        card = data.card(run.dataset)
        with torch.device("meta"):
            net = nets.build(replace(run.backbone, pretrained=False), channels=card.image[0],
                             classes=2)
            grid = nets.feature_map(net.eval(), torch.empty(1, *card.image)).shape[2:]
        assert min(grid) >= 7, run.cell


@pytest.mark.parametrize("dataset", [
    "kaggle-dr-binary", "kaggle-dr", "kermany-oct-binary", "kermany-oct", "rsna-pneumonia"])
@pytest.mark.parametrize("who", ["softcam", "softcam-lasso", "softcam-elastic", "gradcam"])
def test_softcam_is_trained_as_published(dataset: str, who: str) -> None:
    run = one("softcam", dataset, who)
    size = data.card(dataset).image[1]
    photographs = [
        {"name": "RandomResizedCrop", "p": 0.5, "size": size, "scale": [0.87, 1.15],
         "ratio": [0.7, 1.3]},
        {"name": "RandomHorizontalFlip", "p": 0.5}, {"name": "RandomVerticalFlip", "p": 0.5},
        {"name": "ColorJitter", "p": 0.5, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2,
         "hue": 0.1},
        {"name": "RandomRotation", "p": 0.5, "degrees": 180},
        {"name": "RandomAffine", "p": 0.5, "degrees": 0, "translate": [0.2, 0.2]}]
    radiographs = [
        {"name": "RandomHorizontalFlip", "p": 0.5}, {"name": "RandomVerticalFlip", "p": 0.5},
        {"name": "RandomRotation", "degrees": 30},
        {"name": "ColorJitter", "contrast": [0.8, 1.4], "brightness": [0.8, 1.1]}]
    holds(run.recipe, epochs=50, batch_size=12, optimizer="sgd", lr=1e-3, momentum=0.9,
          nesterov=True, weight_decay=5e-4, schedule="cosine", every="epoch", floor=1e-4,
          select="accuracy",
          augment=radiographs if dataset == "rsna-pneumonia" else photographs)
    assert (run.backbone.name, run.backbone.pretrained) == ("resnet50.tv2_in1k", True)
    assert size == (496 if dataset.startswith("kermany") else 512)


def test_softcams_penalties_are_those_of_the_shipped_file_and_of_the_sweeps() -> None:
    def penalties(dataset: str, who: str) -> tuple[float, float]:
        train = one("softcam", dataset, who).contestant.train
        return train["lasso"], train["ridge"]

    for dataset in {dataset for dataset, _ in runs("softcam")}:
        assert penalties(dataset, "softcam") == (0, 0)
        assert penalties(dataset, "softcam-ridge") == (0, 4e-5)  # default.yaml
        lasso, ridge = penalties(dataset, "softcam-elastic")
        assert (lasso, ridge) == (penalties(dataset, "softcam-lasso")[0], 4e-5)
    assert penalties("kaggle-dr", "softcam-lasso") == (2e-4, 0)  # j_resnet_multi.ipynb
    assert penalties("kermany-oct-binary", "softcam-lasso") == (1.3e-3, 0)  # j_resnet_multi.ipynb
    assert 1e-5 <= penalties("kaggle-dr-binary", "softcam-lasso")[0] <= 9e-4
    assert 2e-5 <= penalties("rsna-pneumonia", "softcam-lasso")[0] <= 2e-3


def test_the_exact_conversion_is_not_trained_further() -> None:
    run = one("softcam", "kermany-oct", "softcam-converted")
    assert run.recipe.epochs == 0
    assert run.base is not None
    assert run.base.model_id == one("softcam", "kermany-oct", "gradcam").model_id


@pytest.mark.parametrize("who", ["cape", "mu-cape", "cape-cam", "gradcam", "cape-pf", "mu-cape-pf"])
def test_cape_is_trained_as_published(who: str) -> None:
    run = one("cape", "cub-200-2011", who)
    post_fitted = who.endswith("-pf")
    holds(run.recipe, epochs=30 if post_fitted else 200, batch_size=32, optimizer="sgd", lr=1e-3,
          momentum=0.9, nesterov=False, weight_decay=1e-4, schedule="step", every="epoch", drop=30,
          gamma=0.1, select="accuracy", validation=0.1,
          augment=[{"name": "RandomResizedCrop", "size": 448},
                   {"name": "RandomHorizontalFlip", "p": 0.5}])
    assert (run.backbone.name, run.backbone.pretrained) == ("resnet50.tv_in1k", True)
    if who != "gradcam":
        assert run.contestant.train == {
            "alpha": 0.0 if post_fitted else 1.0, "beta": 1.0, "temperature": 2.0}


def test_capes_maps_share_a_checkpoint_and_post_fitting_starts_from_the_plain_classifier() -> None:
    cub = {who: run for (_, who), run in runs("cape").items()}
    assert len({cub[who].model_id for who in ("cape", "mu-cape", "cape-cam", "ig@cape")}) == 1
    assert [cub[who].contestant.explain["kind"] for who in ("cape", "mu-cape", "cape-cam")] == [
        "cape", "mu", "cam"]
    assert cub["cape-pf"].model_id == cub["mu-cape-pf"].model_id
    assert cub["cape-pf"].base is not None
    assert cub["cape-pf"].base.model_id == cub["gradcam"].model_id


@pytest.mark.parametrize("name", ["batchcam", "batchcam-convnext"])
def test_batchcam_has_what_its_abstracts_tell(name: str) -> None:
    found = suite.read(name)
    assert set(found.cards) == {"mnist", "fashion-mnist"}
    assert len({run.seed for run in found.runs}) == 6
    assert {run.backbone.name for run in found.runs} == {
        "resnet18" if name == "batchcam" else "convnextv2_tiny"}
    trained = {who: run.contestant.train for (_, who), run in runs(name).items()
               if run.contestant.trainer == "batchcam"}
    assert {train["distance"] for train in trained.values()} == {"l1", "l2", "ssim"}
    on = {who: (train["lambda_proto"] > 0, train["lambda_batch"] > 0)
          for who, train in trained.items()}
    assert (on["batchcam"], on["batchcam-proto"], on["batchcam-batch"]) == (
        (True, True), (True, False), (False, True))


@pytest.mark.parametrize("dataset", ["brats2020", "cheng"])
@pytest.mark.parametrize("who", ["gp-unet", "gp-shuffleunet", "gp-reconresnet", "gradcam"])
def test_the_gp_nets_are_trained_as_published(dataset: str, who: str) -> None:
    run, brats = one("gp-nets", dataset, who), dataset == "brats2020"
    batch, accumulate = (4, 32) if who == "gp-reconresnet" else (8, 16)
    holds(run.recipe, epochs=300, batch_size=batch, accumulate=accumulate, optimizer="adam",
          lr=1e-3, weight_decay=5e-4 if brats else 0, clip=1 if brats else 0, schedule="constant",
          select="loss",
          augment=[{"name": "RandomRotation", "degrees": 330},
                   {"name": "RandomHorizontalFlip", "p": 0.5},
                   {"name": "RandomVerticalFlip", "p": 0.5}])
    assert run.normalise == "max"
    train = run.contestant.train
    if who != "gradcam":
        assert (train["width"], train["pool"], train["activation"], train["class_weights"]) == (
            64, "max_before", "none", "balanced")
        assert train["dropout"] == (0.5 if brats else 0.2 if who == "gp-reconresnet" else 0.0)
    assert {"gp-unet": ("depth", 3), "gp-shuffleunet": ("levels", 3), "gp-reconresnet": (
        "blocks", 14)}.get(who, ("dropout", None))[1] in (None, *train.values())


@pytest.mark.parametrize(("name", "dataset"), ABSENT.items())
def test_a_data_set_that_is_not_here_can_be_planned_and_not_run(
    name: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEATPROOF_DATA", str(tmp_path))
    planned = CliRunner().invoke(cli.app, ["plan", name, "--out", str(tmp_path)])
    assert planned.exit_code == 0, planned.exception
    said = " ".join(planned.output.split())
    assert dataset in said
    assert f"cannot run yet: {dataset}: there is no folder" in said
    found = suite.read(name)
    with pytest.raises(HeatproofError, match=f"{dataset}(-binary)?: there is no folder"):
        pool.prepare(found, found.runs, pool.Settings(tmp_path, device="cpu"))


@pytest.mark.parametrize("name", SMALL)
def test_a_small_suite_has_its_papers_methods_on_data_that_are_there(name: str) -> None:
    paper = {run.contestant.trainer for run in runs(name.removesuffix("-small")).values()}
    found = suite.read(name)
    assert {run.contestant.trainer for run in found.runs} == paper
    assert set(found.cards) <= {"fashion-mnist", "mnist", "brain-tumour-brats2015"}
