"""Published checkpoints: found by path or hub id, opened without running code, compared by name."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import HeatproofError

if TYPE_CHECKING:
    from torch import Tensor, nn

_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a hub repository calls its weights, the better first."""
_INSIDE = ("state_dict", "model_state_dict", "model")
"""Under which name trainers (Lightning, timm, torchvision's references) nest the weights."""


def identity(weights: str) -> str:
    """What a checkpoint is, wherever it lies: "sha256:…" of a file, or "hub:NAME@REVISION".

    Raises HeatproofError for a file that is not there, or a name that is neither.
    """
    path = Path(weights)
    if path.is_file():
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    if path.suffix in _SUFFIXES or not _HUB.fullmatch(weights):
        raise HeatproofError(
            f"there is no checkpoint {weights}; weights must be the path of a "
            f"{', '.join(_SUFFIXES)} file, or a hub id like ORGANISATION/NAME@REVISION")
    name, _, revision = weights.partition("@")
    return f"hub:{name}@{revision}"


def load(weights: str) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name, as published but for what a trainer wraps around them.

    Pickled files are read by torch with `weights_only`: they cannot run code. Raises
    HeatproofError for a file that is missing, damaged, or holds something else than tensors.
    """
    path = Path(weights) if identity(weights).startswith("sha256:") else _downloaded(weights)
    content: Any = _opened(path)
    for name in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise HeatproofError(f"{path} holds no state dict (names with tensors); save one")
    import torch

    odd = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise HeatproofError(
            f"{path} is no state dict: {odd[0]!r} is no tensor; save model.state_dict() alone")
    wrapped = all(key.startswith("module.") for key in content)  # DataParallel's prefix
    return {key[7:] if wrapped else key: value for key, value in content.items()}


def _opened(path: Path) -> object:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HeatproofError(
            f"{path} holds more than weights, and loading it could run code "
            f"({str(error).splitlines()[0]}); save its state dict as .safetensors") from None
    except Exception as error:  # each reader raises its own classes
        raise HeatproofError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); fetch it again") from error


def _downloaded(weights: str) -> Path:
    """The file of a hub repository, from the hub or from its cache on this machine."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, _, revision = weights.partition("@")
    reason = f"it has no {' or '.join(_FILES)}; give the path of a file"
    for file in _FILES:
        try:
            return Path(hf_hub_download(name, file, revision=revision or None))
        except LocalEntryNotFoundError:  # not on this machine, and the hub out of reach
            reason = "the hub is out of reach; connect to the network once, or give a file's path"
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:  # no such repository, a bad name, no network
            reason = f"{(str(error).splitlines() or [''])[0]}; give the path of a file"
    raise HeatproofError(f"the hub's {weights} cannot be loaded: {reason}")


def timm_names(net: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict of torchvision or an older timm by the names of today's timm model."""
    module = sys.modules.get(type(net).__module__)
    for name in ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained"):
        rename = getattr(module, name, None)
        if callable(rename):
            parameters = rename.__code__.co_argcount
            renamed = rename(dict(state), net) if parameters > 1 else rename(dict(state))
            return dict(renamed)
    return state


def put(net: nn.Module, state: Mapping[str, Tensor], origin: object) -> None:
    """Puts weights into a network. Raises HeatproofError naming what differs."""
    own = net.state_dict()
    wrong = sorted(
        [f"no {key}" for key in own if key not in state]
        + [f"unknown {key}" for key in state if key not in own]
        + [f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
           for key in own if key in state and own[key].shape != state[key].shape])
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise HeatproofError(
            f"{origin} is the checkpoint of another model: {'; '.join(wrong[:3])}{more}")
    net.load_state_dict(dict(state))
