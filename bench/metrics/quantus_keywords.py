"""The keywords of Quantus's constructors, as the parameters of our rows: shared ones, and names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from bench.core import HeatproofError, unknown

MAPS: Mapping[str, Any] = {
    "abs": False, "normalise": True, "normalise_func": None, "normalise_func_kwargs": None}
"""What every metric of Quantus may do to the maps; None leaves a keyword to Quantus."""
FILL: Mapping[str, Any] = {
    "perturb_func": None, "perturb_func_kwargs": None, "perturb_baseline": "black"}
"""How most metrics of Quantus take evidence away."""
NOISE: Mapping[str, Any] = {"perturb_func": None, "perturb_func_kwargs": None}

SILENT = ("return_aggregate", "aggregate_func", "default_plot_func", "disable_warnings",
          "display_progressbar", "kwargs")
"""The keywords that are no parameters: how Quantus pools, plots and talks, once it has measured."""

_FUNCTIONS = ("similarity_func", "norm_numerator", "norm_denominator", "normalise_func",
              "perturb_func", "discretise_func", "complexity_func", "loss_func", "output_func")
_MODULES = ("similarity_func", "norm_func", "normalise_func", "perturb_func", "discretise_func",
            "complexity_func", "loss_func")
_BASELINES = ("black", "white", "mean", "uniform")


def function(keyword: str, value: Any) -> Any:
    """The value of a keyword as Quantus takes it: functions are given by their names.

    A name is one of the functions of `quantus.functions`, such as "correlation_pearson" for
    `similarity_func`. Raises HeatproofError for one that does not exist, and for a baseline that
    is neither a number nor a known name.
    """
    if keyword == "perturb_baseline" and isinstance(value, str) and value not in _BASELINES:
        raise HeatproofError(
            f"{keyword} must be a number or one of {', '.join(_BASELINES)}, not {value!r}")
    if not isinstance(value, str) or keyword not in _FUNCTIONS:
        return value
    known: dict[str, Any] = {}
    for name in _MODULES:
        module = importlib.import_module(f"quantus.functions.{name}")
        known |= {key: found for key, found in inspect.getmembers(module, inspect.isfunction)
                  if found.__module__ == module.__name__}
    if value not in known:
        raise unknown(f"function of Quantus for {keyword}", value, known)
    return known[value]
