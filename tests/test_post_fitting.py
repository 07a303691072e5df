"""Post-fitting: a training that starts from another, which comes first and is shared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import cells, pool, run, suite
from bench.core import HeatproofError, Method
from bench.store import Cache

CAPES = """
[dataset.digits.trainer.cape-pf]
recipe = { epochs = 1, lr = 1e-2 }
"""


@pytest.fixture
def runs(tiny: Path) -> dict[str, run.RunSpec]:
    tiny.write_text(tiny.read_text().replace(
        '"gradcam@softcam", "noise", "oracle"', '"cape-pf"') + CAPES)
    return {found.contestant.name: found for found in suite.read(str(tiny)).runs}


def test_the_base_is_the_very_network_that_others_explain(runs, tiny: Path) -> None:
    fitted = runs["cape-pf"]
    assert fitted.base is not None
    assert fitted.base.model_id == runs["gradcam"].model_id
    assert fitted.model_id not in (runs["gradcam"].model_id, runs["softcam"].model_id)
    assert (fitted.recipe.epochs, fitted.base.recipe.epochs) == (1, 2)
    found = cells.planned(suite.read(str(tiny)), [fitted, runs["gradcam"]])
    order = [key for key, cell in found.items() if cell.stage == "train"]
    assert order == [fitted.base.model_id, fitted.model_id]
    assert found[fitted.model_id].needs == (fitted.base.model_id,)


def test_what_is_frozen_comes_from_the_base_bit_for_bit(runs, tmp_path: Path) -> None:
    place = run.Place(tmp_path, Cache(tmp_path))
    seen: list[str] = []
    place = run.Place(tmp_path, Cache(tmp_path), progress=lambda what, _d, _t: seen.append(what))
    net = run.network(runs["cape-pf"], place).net
    assert list(dict.fromkeys(seen)) == ["train plain", "train cape-pf"]
    base = run.network(runs["gradcam"], place)
    assert not base.trained
    theirs = base.net.state_dict()
    ours = {key.removeprefix("backbone."): value for key, value in net.state_dict().items()}
    shared = [key for key in theirs if not key.startswith("fc.")]
    assert all(torch.equal(ours[key], theirs[key]) for key in shared)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_base_that_fails_fails_what_starts_from_it_and_no_more(
    jobs: int, tiny: Path, tmp_path: Path,
) -> None:
    text = tiny.read_text().replace('"gradcam", "gradcam@softcam", "noise", "oracle"', '"cape-pf"')
    metrics = '"accuracy", "quantus/PixelFlipping", "quantus/PointingGame", "quantus/MPRT"'
    for table in ('[metric."quantus/PixelFlipping"]\nsteps = 8\n',
                  '[metric."quantus/MPRT"]\nskip_layers = true\n'):
        text = text.replace(table, "")
    tiny.write_text(text.replace(metrics, '"accuracy"') + """
[dataset.digits.trainer.plain]
recipe = { optimizer = "sgd", lr = 1e30 }
""")
    found = suite.read(str(tiny))
    settings = pool.prepare(found, found.runs, pool.Settings(tmp_path, jobs=jobs))
    ended = {o.cell: o for o in pool.execute(found, found.runs, settings, lambda _event: None)}
    assert ended["digits/softcam/seed 0"].status == "done"
    failed = ended["digits/cape-pf/seed 0"]
    assert "lower the recipe's lr" in failed.bad_input["train"]


def test_a_method_that_names_a_base_must_start_from_it(runs) -> None:
    class Late(Method):
        name, base = "late", "plain"

        def explain(self, net, batch, target):
            return batch.x[:, 0]

    card = suite.card_of(runs["gradcam"])
    late = Late(card, suite.trainer_of(runs["gradcam"]).backbone)
    with pytest.raises(HeatproofError, match="does not start from it"):
        late.start(torch.nn.Identity(), torch.nn.Identity())
    assert not Late.trains()
