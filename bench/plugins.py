"""The door: three registries and `load()`, by which ours and strangers' plugins come in."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from bench.core import PLAIN, HeatproofError, Method, Plain, unknown
from bench.measure import Metric, Scores
from bench.store import write_bytes

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
"""What was loaded: an installed plugin, or the path of a file -> the mark of its content."""
_loading: list[str] = []
"""The mark of the plugin file that is being loaded."""


def _marked(version: str) -> str:
    """A version as it enters the ids: what a plugin file registers bears the file's mark too."""
    marks = [mark for mark in _loading if not version.endswith(mark)]
    return "+".join([version, *marks] if version else marks)


def method(name: str) -> Callable[[M], M]:
    """Registers a Method under a name: `@bench.method("greyout") class Grey(bench.Method)`."""
    def register(cls: M) -> M:
        if not (inspect.isclass(cls) and issubclass(cls, Method)):
            raise HeatproofError(f"method {name!r} must be a class derived from bench.Method")
        methods.add(name, cls, cls.__module__)
        cls.name = name
        cls.version = _marked(cls.version)
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
            params=dict(params or {}), version=_marked(version), paper=paper, about=about,
            track=track,
            formula=formula, range=range, units=units, passes=passes, departures=tuple(departures),
            order=tuple(order), holds=tuple(holds), defect=defect), score.__module__)
        return score
    return register


def source(name: str, *, version: str = "1") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function `read(card) -> bench.Catalogue` as a source of data.

    Raise `version` when the same files would give other images, masks, labels or splits.
    """
    def register(read: Callable[..., Any]) -> Callable[..., Any]:
        sources.add(name, (read, _marked(version)), read.__module__)
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
        path, content = _read(file)
        mark = _mark(content)
        if _loaded.get(str(path), mark) != mark:
            raise HeatproofError(
                f"plugin {file} has changed since it was loaded; start the command anew")
        if mark in _loaded.values():  # the same content under another path is the same plugin
            continue
        _once(str(path), lambda path=path, content=content: _import(path, content), mark)  # type: ignore[misc]
        if error := failures.pop(str(path), None):
            _loaded.pop(str(path))
            raise HeatproofError(f"plugin {file} failed: {error}")


def carried(files: Sequence[str | Path], folder: Path) -> tuple[Path, ...]:
    """Copies of plugin files that no later edit reaches: folder/MARK/NAME.py, written once.

    A copy registers the same names with the same versions as its original. Raises HeatproofError
    for a file that imports a module which lies beside it and is not installed: the copy would not
    find it, and the mark does not cover it. What else it reads from beside itself is not noticed.
    """
    copies = []
    for file in files:
        path, content = _read(file)
        if beside := _beside(path, content):
            raise HeatproofError(
                f"plugin {file} imports {' and '.join(beside)} from beside itself, which cannot "
                "travel with it; make them one package with the entry point bench.plugins, and "
                "pip install it")
        copies.append(folder.resolve() / _mark(content) / path.name)
        write_bytes(copies[-1], content, once=True)
    return tuple(copies)


def _read(file: str | Path) -> tuple[Path, bytes]:
    path = Path(file).resolve()
    if not path.is_file():
        raise HeatproofError(f"there is no plugin file {file}")
    if path.suffix != ".py":
        raise HeatproofError(f"plugin {file} is no Python file; its name must end in .py")
    return path, path.read_bytes()


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _beside(path: Path, content: bytes) -> list[str]:
    """The modules that a file imports from its own folder, found without running it."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError) as error:
        raise HeatproofError(f"plugin {path} failed: {error}") from None
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes
              if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    near = sorted(top for top in {name.partition(".")[0] for name in names}
                  if (path.parent / f"{top}.py").is_file() or (path.parent / top).is_dir())
    return [name for name in near if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    """Whether another process finds a module, in whatever folder it is started."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    # -E and -P leave out PYTHONPATH and the current folder, which are of this command alone.
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-E", "-P", "-c", code, name], capture_output=True, check=False)
    return found.returncode == 0


def files() -> tuple[str, ...]:
    """The plugin files that are loaded."""
    return tuple(path for path, mark in _loaded.items() if mark)


def _once(name: str, load_it: Callable[[], None], mark: str = "") -> None:
    if name in _loaded:
        return
    before = [(dict(r.things), dict(r.origins)) for r in _ALL]
    _loaded[name] = mark
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


class _Held(importlib.abc.SourceLoader):
    """Gives a module the content that was hashed, not bytecode or an edit of the same second."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: bytes | str) -> bytes:
        return self.content


def _import(path: Path, content: bytes) -> None:
    mark = _mark(content)
    # Of content and not of place: a copy elsewhere pickles as the same.
    name = "_".join(("heatproof_plugin", re.sub(r"\W", "_", path.stem), mark))
    spec = importlib.util.spec_from_loader(name, _Held(path, content))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _loading.append(mark)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        _loading.pop()
