"""The door: three registries and `load()`, by which ours and strangers' plugins come in."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from bench.core import PLAIN, HeatproofError, Method, Plain, unknown
from bench.measure import Metric, Scores

GROUP = "bench.plugins"
T = TypeVar("T")
M = TypeVar("M", bound=type[Method])


class Registry(Mapping[str, T], Generic[T]):
    """Names to things of one kind. A name taken twice raises; an unknown one names its like."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.things: dict[str, T] = {}
        self.origins: dict[str, str] = {}

    def add(self, name: str, thing: T, origin: str) -> None:
        """Registers a thing. Raises HeatproofError if another module has taken the name."""
        if name in self.things:
            raise HeatproofError(
                f"{self.kind} {name!r} is registered by {self.origins[name]} and again by "
                f"{origin}; rename one of them")
        if not name or any(c in name for c in "@\\ \t\n") or name == PLAIN or ".." in name:
            raise HeatproofError(
                f"{self.kind} name {name!r} ({origin}) must not be empty, be '{PLAIN}', or hold "
                "'@', '..', a backslash or a space")
        self.things[name], self.origins[name] = thing, origin

    def __getitem__(self, name: str) -> T:
        if name not in self.things:
            raise unknown(self.kind, name, self.things)
        return self.things[name]

    def __contains__(self, name: object) -> bool:
        return name in self.things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.things))

    def __len__(self) -> int:
        return len(self.things)


methods: Registry[type[Method]] = Registry("method")
metrics: Registry[Metric] = Registry("metric")
sources: Registry[tuple[Callable[..., Any], str]] = Registry("data source")
_ALL: tuple[Registry[Any], ...] = (methods, metrics, sources)

failures: dict[str, str] = {}
"""Plugins that could not be loaded, each with its error. They harm nothing else."""
_loaded: dict[str, str] = {}


def method(name: str) -> Callable[[M], M]:
    """Registers a Method under a name: `@bench.method("greyout") class Grey(bench.Method)`."""
    def register(cls: M) -> M:
        if not (inspect.isclass(cls) and issubclass(cls, Method)):
            raise HeatproofError(f"method {name!r} must be a class derived from bench.Method")
        methods.add(name, cls, cls.__module__)
        cls.name = name
        return cls
    return register


def metric(
    name: str, *, title: str, family: str, better: Literal["higher", "lower"],
    needs: Sequence[str] = (), params: Mapping[str, Any] | None = None, version: str = "1",
    paper: str = "", about: str = "", track: str = "proven", formula: str = "", range: str = "",  # noqa: A002
    units: str = "", passes: str = "", departures: Sequence[str] = (), order: Sequence[str] = (),
    holds: Sequence[str] = (), defect: str = "",
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Registers a function `score(explained, **params) -> Scores` as a metric; see Metric."""
    def register(score: Callable[..., Scores]) -> Callable[..., Scores]:
        metrics.add(name, Metric(
            name=name, title=title, family=family, better=better, score=score, needs=tuple(needs),
            params=dict(params or {}), version=version, paper=paper, about=about, track=track,
            formula=formula, range=range, units=units, passes=passes, departures=tuple(departures),
            order=tuple(order), holds=tuple(holds), defect=defect), score.__module__)
        return score
    return register


def source(name: str, *, version: str = "1") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function `read(card) -> bench.Catalogue` as a source of data.

    Raise `version` when the same files would give other images, masks, labels or splits.
    """
    def register(read: Callable[..., Any]) -> Callable[..., Any]:
        sources.add(name, (read, version), read.__module__)
        return read
    return register


def trainer(name: str) -> type[Method]:
    """The class whose training half `name` stands for. Raises for one that does not train."""
    if name == PLAIN:
        return Plain
    cls = methods[name]
    if not cls.trains():
        raise HeatproofError(
            f"method {name!r} has no network of its own, so nothing is 'explained @{name}'; "
            f"trainers: {', '.join([PLAIN, *(n for n in methods if methods[n].trains())])}")
    return cls


def method_named(name: str) -> type[Method]:
    """The registered method of that name. Raises HeatproofError for an unknown one."""
    return methods[name]


def version_of(cls: type[Method], params: Mapping[str, Any] | None = None) -> str:
    """What enters the ids for a method: its version, else the hash of its module's source.

    With explain parameters, also that of each method that it calls by them.
    """
    if called := cls.calls(params) if params is not None else ():
        return "+".join([version_of(cls), *(version_of(methods[name]) for name in called)])
    if cls.version:
        return cls.version
    try:
        file = inspect.getsourcefile(cls)
        content = Path(file).read_bytes() if file else b""
    except (TypeError, OSError):
        content = b""
    if not content:
        raise HeatproofError(f"method {cls.name!r} has no source to hash; give it a version")
    return hashlib.sha256(content).hexdigest()[:12]


def load(files: Sequence[str | Path] = ()) -> None:
    """Loads every installed plugin, once, and the given files.

    An installed plugin that fails is kept in `failures`. A file that fails, and a name that is
    taken twice, raise HeatproofError.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    if not points:
        raise HeatproofError("no plugin is installed; install Heatproof: pip install -e .")
    for point in points:
        _once(f"{point.name} = {point.value}", lambda point=point: _walk(point))  # type: ignore[misc]
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise HeatproofError(f"there is no plugin file {file}")
        _once(str(path), lambda path=path: _import(path))  # type: ignore[misc]
        if error := failures.pop(str(path), None):
            _loaded.pop(str(path))
            raise HeatproofError(f"plugin {file} failed: {error}")


def _once(name: str, load_it: Callable[[], None]) -> None:
    if name in _loaded:
        return
    before = [(dict(r.things), dict(r.origins)) for r in _ALL]
    _loaded[name] = ""
    try:
        load_it()
    except Exception as error:
        for registry, (things, origins) in zip(_ALL, before, strict=True):
            registry.things, registry.origins = things, origins
        if isinstance(error, HeatproofError) and "registered by" in str(error):
            _loaded.pop(name)
            raise
        failures[name] = f"{type(error).__name__}: {error}"


def _walk(point: EntryPoint) -> None:
    """Imports the entry point and, where it is a package, all of its modules."""
    module = point.load()
    for info in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not info.name.rpartition(".")[2].startswith("_"):
            importlib.import_module(info.name)


def _import(path: Path) -> None:
    name = f"heatproof_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HeatproofError(f"plugin {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
