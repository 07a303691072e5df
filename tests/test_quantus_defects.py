"""The defects that QUANTUS.md reports are there: each of its reproductions runs, on this release.

One that fails has been mended (or moved) by a new release: take its report out, and look at what
the Quantus track does to avoid it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).parents[1] / "QUANTUS.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE.partition("\n# Not confirmed")[0], flags=re.MULTILINE)
FIRST = re.findall(r"^```python\n(.*?)^```", SECTIONS[0], flags=re.MULTILINE | re.DOTALL)[0]
REPORTS = {section.partition("\n")[0]: section for section in SECTIONS[1:]}
NEWER_NUMPY = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="this NumPy still has np.trapz")


def code(section: str) -> str:
    found = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("title", [
    pytest.param(title, marks=NEWER_NUMPY) if "np.trapz" in title else title for title in REPORTS])
def test_the_reproduction_shows_the_defect(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(np, "trapz") and "np.trapz =" in code(REPORTS[title]):
        monkeypatch.setattr(np, "trapz", None, raising=False)   # so that it is taken away again
    monkeypatch.setattr(np, "argsort", np.argsort)
    state = np.random.get_state()
    try:
        exec(compile(FIRST + code(REPORTS[title]), f"QUANTUS.md: {title}", "exec"), {})
    finally:
        np.random.set_state(state)


@pytest.mark.parametrize("title", REPORTS)
def test_a_report_names_the_cause(title: str) -> None:
    assert re.search(r"\*\*Cause\*\*:\s", REPORTS[title])
