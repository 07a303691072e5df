"""The nouns of the line: what every stage takes and returns. Imports no torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

_PACKAGE = Path(__file__).parent
HOME = _PACKAGE if (_PACKAGE / "datasets").is_dir() else _PACKAGE.parent
"""Where `methods/` and `datasets/` lie: inside the package in a wheel, beside it in a checkout."""

PLAIN = "plain"
"""The name of the default training half: the timm backbone under cross-entropy."""


class HeatproofError(Exception):
    """Bad input, told in one line that names the cure."""


_LISTED = 40
"""Names that an error lists; of more, nobody would read them."""


def unknown(kind: str, name: object, known: Iterable[str]) -> HeatproofError:
    """The error for a name that does not exist: the nearest known names, then all if few."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "known:"
    listed = ", ".join(names) if len(names) <= _LISTED else f"{len(names)}; see heatproof list"
    return HeatproofError(f"unknown {kind} {name!r}; {hint} ({listed or 'none'})")


def canonical(value: object) -> str:
    """`value` as JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: object) -> str:
    """A 20-digit hexadecimal name for `value`: the head of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:20]


def number_from(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on `parts` alone, the same on every machine."""
    head = hashlib.sha256(canonical([str(part) for part in parts]).encode()).digest()[:8]
    return int.from_bytes(head, "big") >> 1


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises HeatproofError if it is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HeatproofError(f"there is no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HeatproofError(f"{path} is not valid TOML: {error}") from None


def filled(cls: type[T], table: object, where: str) -> T:
    """A dataclass from a table of a TOML file. An unknown or missing key or a wrong type raises."""
    if not isinstance(table, Mapping):
        raise HeatproofError(f"{where} must be a table, not {table!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in known:
            raise unknown(f"key in {where}", key, known)
        if not _fits(value, str(known[key].type)):
            raise HeatproofError(
                f"{where}: {key} must be of type {known[key].type}, not {value!r}")
    try:
        return cls(**table)
    except TypeError as error:
        raise HeatproofError(f"{where}: {str(error).partition('() ')[2] or error}") from None


def _fits(value: object, kind: str) -> bool:
    simple: dict[str, tuple[type, ...]] = {
        "str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}
    if kind in simple:
        return isinstance(value, simple[kind]) and (kind == "bool" or not isinstance(value, bool))
    if kind.startswith("Mapping"):
        return isinstance(value, Mapping)
    if kind.startswith("tuple"):
        return isinstance(value, list | tuple)
    return True


@dataclass(frozen=True)
class Card:
    """What is known of one data set; read from `datasets/NAME.toml`.

    `image` is (C, H, W); `mean` and `std` are a channel, in units of [0, 1]; `truth` is "pixels",
    "boxes" or "none"; `group` names what must not be torn between splits (patient, scan);
    `splits` says which images are "train", "test" and, where there are some to choose settings
    on, "validation"; it is fold 0, and `folds` are further such tables, each by itself. Without
    "train" the set is for evaluation alone. `fit` says what happens to an image of another size:
    "stretch", "crop" (the shorter side scaled to `resize`, or as far as needed, and the middle cut
    out), "pad", or "" for an error. `leaks` is how many images the publisher's own splits have
    in two of them. `options` is read by the source alone; `sha256` maps a file's name to its
    checksum. A `revision` that nobody read from the publisher stays empty.
    """

    name: str
    title: str
    source: str
    classes: tuple[str, ...]
    image: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, Any]
    folds: tuple[Mapping[str, Any], ...] = ()
    truth: Literal["pixels", "boxes", "none"] = "none"
    path: str = ""
    revision: str = ""
    group: str = ""
    fit: Literal["", "stretch", "crop", "pad"] = ""
    resize: int = 0
    leaks: int = 0
    task: str = ""
    licence: str = ""
    redistributable: bool = False
    citation: str = ""
    homepage: str = ""
    layout: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("classes", "image", "mean", "std", "folds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.image) != 3:
            raise HeatproofError(f"card {self.name}: image must be [C, H, W], not {self.image}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.image[0]:
                raise HeatproofError(
                    f"card {self.name}: {name} needs {self.image[0]} values, one a channel")
        if self.truth not in ("pixels", "boxes", "none"):
            raise unknown(f"truth in card {self.name}", self.truth, ("pixels", "boxes", "none"))
        if self.fit not in ("", "stretch", "crop", "pad"):
            raise unknown(f"fit in card {self.name}", self.fit, ("stretch", "crop", "pad"))
        if self.resize and (self.fit != "crop" or self.resize < max(self.image[1:])):
            raise HeatproofError(
                f"card {self.name}: resize {self.resize} is the shorter side before a crop; it "
                f"needs fit = \"crop\" and at least {max(self.image[1:])}")
        for number, splits in enumerate((self.splits, *self.folds)):
            where = f"card {self.name}: {f'fold {number}' if number else 'splits'}"
            if not isinstance(splits, Mapping):
                raise HeatproofError(f"{where} must be a table of splits, not {splits!r}")
            if "test" not in splits:
                raise HeatproofError(f"{where} lacks test")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The card in a TOML file. Raises HeatproofError for an unknown key or a missing one."""
        card = filled(cls, read_toml(path), f"card {path.name}")
        # A card in the folder of its files, NAME/card.toml, bears the folder's name.
        if card.name != (path.parent.name if path.name == "card.toml" else path.stem):
            raise HeatproofError(f"card {path} calls itself {card.name!r}; name both alike")
        return card

    def fold(self, number: int) -> Self:
        """The card with the splits of one fold alone; fold 0 has `splits`. Raises for another."""
        tables = (self.splits, *self.folds)
        if not 0 <= number < len(tables):
            count = f"{len(tables)} folds, 0 to {len(self.folds)}" if self.folds else "fold 0 alone"
            raise HeatproofError(f"card {self.name} has no fold {number}; it has {count}")
        return replace(self, splits=tables[number], folds=())

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides images, labels and masks; a new citation changes nothing.

        Of the folds, `splits` counts alone: `card.fold(k)` has a hash of its own, which stays as
        it is when a fold is added. What is left at its default does not count, so a field that
        cards gain changes no hash.
        """
        apart = ("title", "task", "licence", "redistributable", "citation", "homepage", "layout",
                 "leaks", "folds")
        usual = {f.name: f.default for f in fields(self)}
        return digest({k: v for k, v in asdict(self).items()
                       if k not in apart and v != usual[k]})


@dataclass(frozen=True)
class Batch:
    """Some samples, in order.

    x: (N, C, H, W) float32, normalised by the card's mean and std. y: (N,) int64.
    key: N strings, stable when a folder gains a file and the same for every method.
    seed: (N,) int64, one a sample; the only source of randomness in explaining and scoring.
    group: N strings (patient, scan; empty where none).
    mask: (N, H, W) uint8 or None; 0 background, 1.. parts, 255 ignore.
    """

    x: Tensor
    y: Tensor
    key: tuple[str, ...]
    seed: Tensor
    group: tuple[str, ...]
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.key)

    def to(self, device: str | torch.device) -> Batch:
        """The same samples with x, y and mask on `device`; seeds stay on the CPU."""
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), mask=mask)

    def __getitem__(self, index: slice | list[int]) -> Batch:
        chosen = range(len(self))[index] if isinstance(index, slice) else index
        return Batch(
            x=self.x[index], y=self.y[index], key=tuple(self.key[i] for i in chosen),
            seed=self.seed[index], group=tuple(self.group[i] for i in chosen),
            mask=None if self.mask is None else self.mask[index])


class Method(ABC):
    """A classifier and the way it explains itself.

    The training half (`network`, `loss`, `prepare`, `start`, `published`, with `train_params`)
    shapes the weights; a post-hoc explainer leaves it alone. The explaining half (`supports`,
    `study`, `explain`, with `explain_params`) reads them. Both tables of parameters hold the
    defaults on the class and the suite's values on the instance. `signed`, `additivity`,
    `needs_grad` and `splits` may depend on the parameters: set them in `__init__` then.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    family: ClassVar[str] = ""
    """"inherent", "cam", "gradient", "perturbation" or "control"."""
    paper: ClassVar[str] = ""
    passes: ClassVar[str] = ""
    """The cost of one map: images that go through the network, forward and backward, in the words
    of the parameters. Empty: one forward pass."""
    version: ClassVar[str] = ""
    """Raise it when the maps or the training change. Empty: a hash of the module's source."""
    signed: bool = True
    additivity: str = "none"
    """How the map adds up to the output: "mean" (of the map is the logit), "sum" or "none"."""
    classwise: ClassVar[bool] = True
    """Whether another target gives another map."""
    needs_grad: bool = False
    needs_mask: ClassVar[bool] = False
    base: ClassVar[str] = ""
    """Post-fitting: the trainer whose trained network `start` is given. Empty: none."""
    twin: ClassVar[str] = PLAIN
    """The trainer whose network lacks what this one adds, and that alone: the board's model effect
    compares the two. Empty: there is none, and no model effect is shown."""
    train_params: Mapping[str, Any] = {}
    explain_params: Mapping[str, Any] = {}
    splits: bool = True
    """Whether the loss of a batch is the mean of the losses of its parts, each counting `weight`;
    if not, or with parameters that undo it, one process alone trains the network."""
    check_params: ClassVar[Mapping[str, Any]] = {}
    """Train parameters that make a network small enough for `heatproof check`."""
    check_explain: ClassVar[Mapping[str, Any]] = {}
    """Explain parameters that make a map cheap enough for it."""
    ablations: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Train parameters, by name, to be set beside the defaults; `make bench` times each."""

    def __init__(
        self, card: Card, backbone: Callable[[], nn.Module], *,
        train: Mapping[str, Any] | None = None, explain: Mapping[str, Any] | None = None,
    ) -> None:
        self.card = card
        self.backbone = backbone
        """Makes the suite's timm classifier, with the same first weights at every call."""
        self.train_params = _merged(self, "train", type(self).train_params, train)
        self.explain_params = _merged(self, "explain", type(self).explain_params, explain)

    @classmethod
    def trains(cls) -> bool:
        """Whether it has a training half of its own; if not, it reads the plain classifier."""
        return any(
            getattr(cls, part) is not getattr(Method, part)
            for part in ("network", "loss", "prepare", "start"))

    def network(self) -> nn.Module:
        """Images (N, C, H, W) in, logits (N, classes) out. By default the plain timm backbone."""
        return self.backbone()

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The training loss, a scalar. By default the cross-entropy, averaged over the batch."""
        logits = net(batch.x)
        # The cross-entropy in tensor methods alone, since this module imports no torch.
        return (logits.logsumexp(1) - logits.gather(1, batch.y[:, None])[:, 0]).mean()  # type: ignore[no-any-return]

    def weight(self, batch: Batch) -> float:
        """What the loss of a batch counts beside those of others: by default its images."""
        return len(batch)

    def prepare(self, net: nn.Module, batches: Iterable[Batch]) -> None:  # noqa: B027
        """One pass over the training images before training (prototypes, class weights)."""

    def start(self, net: nn.Module, base: nn.Module) -> None:
        """Puts what a trained `base` network holds into `net`, before training. Needs `base`."""
        raise HeatproofError(f"method {self.name!r} names a base and does not start from it")

    def published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A published checkpoint by the names of `network()`'s weights; by default as it is."""
        return state

    @classmethod
    def calls(cls, params: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG003
        """The methods that it asks, by these explain parameters; their versions enter its own."""
        return ()

    @classmethod
    def cost(cls, params: Mapping[str, Any]) -> str:
        """`passes` with the numbers of these explain parameters in the place of their names."""
        numbers = {key: value for key, value in params.items() if isinstance(value, int | float)}
        return re.sub(r"\w+", lambda word: str(numbers.get(word[0], word[0])),
                      cls.passes or "1 forward")

    @classmethod
    def titled(cls, params: Mapping[str, Any]) -> str:  # noqa: ARG003
        """What a person calls it with these explain parameters; by default its title."""
        return cls.title or cls.name

    def supports(self, net: nn.Module) -> str | None:
        """None, or the reason why this explainer cannot serve this network."""
        return None

    def study(self, batches: Iterable[Batch]) -> None:  # noqa: B027
        """One look at the training images before explaining (a class's mean, baselines)."""

    @classmethod
    def studies(cls) -> bool:
        """Whether it looks at the training images before it explains."""
        return cls.study is not Method.study

    @abstractmethod
    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Maps (N, h, w) at native resolution, raw and signed; larger is more evidence.

        `target` is (N,) int64, the class to explain. `batch.mask` is None unless `needs_mask`.
        """


def _merged(
    method: Method, half: str, defaults: Mapping[str, Any], given: Mapping[str, Any] | None,
) -> dict[str, Any]:
    for key in given or {}:
        if key not in defaults:
            raise unknown(f"{half} parameter of method {method.name!r}", key, defaults)
    return {**defaults, **(given or {})}


class Plain(Method):
    """The default training half alone: the timm backbone under cross-entropy."""

    name = PLAIN
    title = "Plain classifier"
    version = "1"

    def explain(self, net: nn.Module, batch: Batch, target: Tensor) -> Tensor:
        """Never asked for: the plain classifier is a trainer, not a contestant."""
        raise HeatproofError("'plain' trains and does not explain; name an explainer")
