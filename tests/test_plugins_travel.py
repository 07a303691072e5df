"""A plugin file is its content: it counts in every key, and goes where its runs go."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import data, plugins, suite
from bench.core import HeatproofError
from bench.measure import Metric

PLUGIN = '''
import bench

TITLE = "one"

@bench.method("travelling")
class Travelling(bench.Method):
    title, family, version = TITLE, "gradient", "7"
    def explain(self, net, batch, target):
        return batch.x.mean(1)

@bench.metric("half", title=TITLE, family="complexity", better="lower", version="2")
def half(explained):
    return bench.Scores()

@bench.source("nowhere", version="3")
def nowhere(card):
    return None
'''


@contextmanager
def loaded(*files: Path) -> Iterator[None]:
    """Loads plugin files, and at the end forgets them as another process never knew them."""
    before = [(dict(r.things), dict(r.origins)) for r in plugins._ALL]
    known = dict(plugins._loaded)
    try:
        plugins.load(files)
        yield
    finally:
        for registry, (things, origins) in zip(plugins._ALL, before, strict=True):
            registry.things, registry.origins = things, origins
        plugins._loaded.clear()
        plugins._loaded.update(known)


def written(path: Path, text: str = PLUGIN) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def known(path: Path) -> dict[str, str]:
    """The versions that a file's things bear, once it is loaded from a path."""
    with loaded(path):
        return {"method": plugins.version_of(plugins.methods["travelling"], {}),
                "metric": plugins.metrics["half"].version,
                "source": plugins.sources["nowhere"][1],
                "class": pickle.dumps(plugins.methods["travelling"]).hex(),
                "title": plugins.methods["travelling"].title}


def test_a_file_counts_in_every_version_though_its_things_name_one(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.py")
    mark = plugins._mark(path.read_bytes())
    first = known(path)
    assert first["method"] == f"7+{mark}"
    assert first["metric"] == f"2+{mark}"
    assert first["source"] == f"3+{mark}"
    # As long as before and in the same second: what runs must be the edit, not old bytecode.
    then = known(written(path, PLUGIN.replace('"one"', '"two"')))
    assert then["title"] == "two"
    assert not set(first.values()) & set(then.values())


def test_the_same_file_elsewhere_is_the_same_in_every_id(tmp_path: Path) -> None:
    here = written(tmp_path / "mine.py")
    (there,) = plugins.carried([here], tmp_path / "with spaces")
    assert there.read_bytes() == here.read_bytes()
    assert known(here) == known(there)


def test_the_key_of_a_run_changes_with_its_plugin_alone(tmp_path: Path, tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace('"noise"', '"travelling"'))

    def ids(text: str) -> dict[str, str]:
        with loaded(written(tmp_path / "mine.py", text)):
            return {run.contestant.name: run.id for run in suite.read(str(tiny)).runs}

    first, then = ids(PLUGIN), ids(PLUGIN + "# edited")
    assert {name for name in first if first[name] != then[name]} == {"travelling"}


def test_another_source_of_a_plugin_makes_other_data(tmp_path: Path) -> None:
    card = data.card("digits")
    object.__setattr__(card, "source", "nowhere")
    prints = set()
    for text in (PLUGIN, PLUGIN + "# edited"):
        with loaded(written(tmp_path / "mine.py", text)):
            prints.add(data.fingerprint(card))
    assert len(prints) == 2


def test_one_content_under_two_paths_is_one_plugin(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a.py"), written(tmp_path / "b" / "other.py")
    with loaded(one, one, two, one):
        assert plugins.methods.origins["travelling"].startswith("heatproof_plugin_a_")
        plugins.load([two])
    with loaded(two):
        assert plugins.methods.origins["travelling"].startswith("heatproof_plugin_other_")


def test_two_files_that_take_one_name_are_both_named(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a.py"), written(tmp_path / "b.py", PLUGIN + "# other")
    with pytest.raises(HeatproofError, match=r"plugin_a_\w+ and again by heatproof_plugin_b_\w+"), \
            loaded(one, two):
        pass


def test_two_files_of_one_name_in_two_folders_are_two_plugins(tmp_path: Path) -> None:
    other = PLUGIN.replace('"travelling"', '"second"').replace('"half"', '"third"').replace(
        '"nowhere"', '"there"')
    with loaded(written(tmp_path / "a" / "mine.py"), written(tmp_path / "b" / "mine.py", other)):
        assert plugins.methods["travelling"].__module__ != plugins.methods["second"].__module__


def test_a_file_that_was_edited_after_it_was_loaded_is_told(tmp_path: Path) -> None:
    with loaded(path := written(tmp_path / "mine.py")):
        written(path, PLUGIN + "# edited")
        with pytest.raises(HeatproofError, match=r"changed since it was loaded; start .* anew"):
            plugins.load([path])


def test_an_installed_metric_bears_no_mark() -> None:
    assert "+" not in plugins.metrics["accuracy"].version
    assert isinstance(plugins.metrics["accuracy"], Metric)


def test_a_class_that_extends_ours_or_its_own_bears_one_mark(tmp_path: Path) -> None:
    text = PLUGIN + '''
@bench.method("child")
class Child(Travelling):
    title = "Child"
'''
    with loaded(written(tmp_path / "mine.py", text)):
        assert plugins.version_of(plugins.methods["child"]).count("+") == 1


def test_a_module_with_odd_letters_in_its_name_can_be_pickled(tmp_path: Path) -> None:
    with loaded(written(tmp_path / "my plugin-1.0.py")):
        cls = plugins.methods["travelling"]
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_copies_are_named_by_their_content_and_written_once(tmp_path: Path) -> None:
    path, store = written(tmp_path / "mine.py"), tmp_path / "store"
    (copy,) = plugins.carried([path], store)
    before = copy.stat()
    assert plugins.carried([path, path], store) == (copy, copy)
    assert copy.stat().st_mtime_ns == before.st_mtime_ns
    assert plugins.carried([copy], store) == (copy,)
    (other,) = plugins.carried([written(path, PLUGIN + "# edited")], store)
    assert other.name == copy.name
    assert other != copy
    assert sorted(store.rglob("*.py")) == sorted([copy, other])


@pytest.mark.parametrize("line", [
    "import sibling", "from sibling import x", "def late():\n    import sibling.deep as s",
    "import numpy, folder.part"])
def test_a_file_that_leans_on_its_neighbour_cannot_travel(tmp_path: Path, line: str) -> None:
    written(tmp_path / "sibling.py", "raise SystemExit('was run')")
    written(tmp_path / "folder" / "part.py", "raise SystemExit('was run')")
    path = written(tmp_path / "mine.py", f"raise SystemExit('was run')\n{line}\n")
    with pytest.raises(HeatproofError, match=r"from beside itself.*pip install it"):
        plugins.carried([path], tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_what_is_installed_may_also_lie_beside_a_plugin(tmp_path: Path) -> None:
    for name in ("numpy.py", "json.py", "bench/__init__.py", "unused.py"):
        written(tmp_path / name, "")
    text = "import json, numpy.linalg\nfrom bench.core import Method\nimport nothing_at_all"
    (copy,) = plugins.carried([written(tmp_path / "mine.py", text)], tmp_path / "store")
    assert copy.read_text() == text


@pytest.mark.parametrize(("name", "text", "told"), [
    ("mine.py", "def broken(:", r"mine\.py failed: .*invalid syntax"),
    ("mine.txt", "", "must end in .py"), ("absent.py", None, "there is no plugin file")])
def test_what_is_no_plugin_is_told_in_one_line(tmp_path: Path, name, text, told) -> None:
    if text is not None:
        written(tmp_path / name, text)
    with pytest.raises(HeatproofError, match=told):
        plugins.carried([tmp_path / name], tmp_path / "store")


def test_a_carried_plugin_serves_another_process_from_anywhere(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.py")
    (copy,) = plugins.carried([path], tmp_path / "store")
    with loaded(path):
        text = pickle.dumps(plugins.methods["travelling"]).hex()
    code = ("import pickle, sys; from bench import plugins; plugins.load([sys.argv[1]]); "
            "print(pickle.loads(bytes.fromhex(sys.argv[2])).version)")
    done = subprocess.run([sys.executable, "-c", code, str(copy), text], cwd="/",
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"7+{plugins._mark(path.read_bytes())}"
