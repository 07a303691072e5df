"""`heatproof publish`, `compare` and `show`, as a person types them."""

from __future__ import annotations

import json
import shutil
import webbrowser
from pathlib import Path

import pytest

from bench import page
from bench.results import Results


@pytest.fixture
def folder(planted: Results) -> Path:
    return planted.folder


def run_of(folder: Path, place: str) -> Path:
    return sorted(folder.glob(f"{place}/*"))[0]


def test_compare_prints_the_paired_answer_and_its_sentences(heatproof, folder) -> None:
    code, out, err = heatproof("compare", "softcam", "noise", "--results", folder)
    assert code == 0, err
    assert "shapes: softcam − noise, paired" in out
    assert "letters: softcam − noise, paired" in out
    (line,) = [line for line in out.splitlines() if "Faithfulness Correlation ↑" in line][:1]
    assert "better" in line
    assert "8 × 3" in line
    assert "proven: softcam is better than noise in 4 of 4 faithfulness comparisons" in out
    code, out, _ = heatproof(
        "compare", "softcam", "noise", "--results", folder, "--dataset", "letters")
    assert code == 0
    assert "shapes" not in out


@pytest.mark.parametrize(("args", "says"), [
    (("compare", "softcan", "noise"), "unknown contestant 'softcan'; did you mean 'softcam'"),
    (("compare", "softcam", "noise", "--dataset", "x"), "unknown data set 'x'; known: (letters"),
    (("show", "deadbeef"), "unknown run 'deadbeef'"),
    (("show", "shapes/softcam/seed9"), "did you mean 'shapes/softcam/seed"),
    (("show", ""), "unknown run ''"),
    (("show", "shapes/foreign/{foreign}", "--metric", "dice"), "unknown metric of this run"),
])
def test_what_is_not_there_names_the_nearest_in_one_line(heatproof, folder, args, says) -> None:
    foreign = run_of(folder, "shapes/foreign").name
    code, out, err = heatproof(*(arg.format(foreign=foreign) for arg in args),
                               "--results", folder)
    assert code == 2
    assert says in err
    assert err.startswith("heatproof:")
    assert not out


@pytest.mark.parametrize("verb", [("compare", "softcam", "noise"), ("show", "ab"), ("publish",)])
def test_a_folder_without_results_names_the_cure(heatproof, tmp_path, verb) -> None:
    where = (tmp_path,) if verb == ("publish",) else ("--results", tmp_path)
    code, _, err = heatproof(*verb, *where)
    assert code == 2
    assert "run the suite first" in err or "run a suite first" in err


def test_show_prints_one_run_by_folder_id_prefix_or_place(heatproof, folder) -> None:
    path = run_of(folder, "shapes/softcam")
    spec = json.loads((path / "run.json").read_text())["spec"]
    code, whole, err = heatproof("show", path)
    assert code == 0, err
    for said in ("shapes / softcam / seed 0", "SoftCAM, inherent", "protocol 1", "mean holds",
                 "certified on 24 images", "torch 2.8.0", "train 1.50", "8 × 8 cells", spec["id"],
                 "resnet10t"):
        assert said in whole, said
    names = (spec["id"], spec["id"][:12], spec["id"][:7], f"shapes/softcam/{path.name}",
             f"synthetic/shapes/softcam/{path.name}", path.name)
    for name in names:
        for root in (folder, folder.parent):
            assert heatproof("show", name, "--results", root)[1] == whole, (name, root)


def test_show_counts_what_has_no_number_with_its_reasons(heatproof, folder) -> None:
    _, out, _ = heatproof("show", run_of(folder, "shapes/gradcam"))
    (line,) = [line for line in out.splitlines() if line.startswith("pointing")]
    assert "3 constant map" in line


def test_show_tells_why_a_run_is_unsupported(heatproof, folder) -> None:
    code, out, _ = heatproof("show", run_of(folder, "shapes/foreign"))
    assert code == 0
    assert "the network has no feature map" in out


def test_show_lists_the_best_and_the_worst_samples_in_the_metrics_direction(
    heatproof, folder,
) -> None:
    path = run_of(folder, "shapes/softcam")
    for metric, falling in (("correlation", True), ("pixel-flipping", False)):
        code, out, err = heatproof("show", path, "--metric", metric)
        assert code == 0, err
        rows = [line.split() for line in out.splitlines() if line.startswith("shapes-0")]
        values = [float(row[1]) for row in rows]
        assert len(values) == 6
        assert values == sorted(values, reverse=falling)


def test_a_prefix_of_two_runs_is_told_with_both(heatproof, folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "one" / "synthetic")
    shutil.copytree(folder, tmp_path / "one" / "again")
    name = run_of(folder, "shapes/softcam").name
    code, _, err = heatproof("show", name, "--results", tmp_path / "one")
    assert code == 2
    assert "may be 2 runs" in err
    assert "again" in err
    assert "synthetic" in err
    code, out, _ = heatproof("show", f"again/shapes/softcam/{name}", "--results", tmp_path / "one")
    assert code == 0
    assert "SoftCAM" in out


def test_a_torn_run_is_one_line(heatproof, folder, tmp_path) -> None:
    copied = shutil.copytree(run_of(folder, "shapes/softcam"), tmp_path / "run")
    (copied / "samples.parquet").write_bytes(b"no")
    code, _, err = heatproof("show", copied)
    assert code == 2
    assert "samples.parquet is damaged" in err
    (copied / "run.json").write_text("{")
    assert heatproof("show", copied)[0] == 2


def test_names_that_look_like_markup_are_shown_as_text(heatproof, folder, tmp_path) -> None:
    """Square brackets are markup to the terminal, as <script> is to a page."""
    copied = shutil.copytree(folder, tmp_path / "synthetic")
    hostile = "[red]Soft[/]CAM [link=x"
    for path in [copied / "plan.json", *copied.glob("*/*/*/run.json")]:
        text = path.read_text().replace('"SoftCAM"', json.dumps(hostile)).replace(
            '"Dice"', json.dumps("[/] Dice")).replace(
            '"N. N."', '"[/bold]"').replace('"square"', '"[b]square[/b]"')
        path.write_text(text)
    code, out, err = heatproof("show", run_of(copied, "shapes/softcam"), "--metric", "dice")
    assert code == 0, err
    assert hostile in out
    assert "[b]square[/b]" in out
    assert "[/] Dice: best and worst" in out
    code, out, err = heatproof("compare", "softcam", "noise", "--results", copied)
    assert code == 0, err
    assert "[/] Dice ↑" in out
    code, _, err = heatproof("compare", "[/red]", "noise", "--results", copied)
    assert code == 2
    assert "unknown contestant '[/red]'" in err


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A page that is written in no time, and the addresses that a browser was asked for."""
    asked: list[str] = []

    def write(board, results, out):
        path = Path(out) / "a b" / "index.html"
        path.parent.mkdir(parents=True)
        path.write_text("")
        return path

    monkeypatch.setattr(page, "write", write)
    monkeypatch.setattr(webbrowser, "open", lambda uri: asked.append(uri) is None)
    return asked


def test_publish_opens_the_page_only_if_asked_and_tells_the_seconds(
    heatproof, folder, tmp_path, published,
) -> None:
    code, out, err = heatproof("publish", folder, "--out", tmp_path / "one")
    assert code == 0, err
    assert not published
    assert out.rstrip().endswith(" s")
    assert "index.html" in out
    assert heatproof("publish", folder, "--out", tmp_path / "two", "--open")[0] == 0
    assert published == [(tmp_path / "two" / "a b" / "index.html").as_uri()]


def test_without_a_browser_publish_says_so_and_still_succeeds(
    heatproof, folder, tmp_path, published, monkeypatch,
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda uri: False)
    code, _, err = heatproof("publish", folder, "--out", tmp_path, "--open")
    assert code == 0
    assert "no browser could be opened" in err
