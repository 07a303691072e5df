"""Several processes that share one training: torchrun's launcher and DistributedDataParallel.

Each process goes through the same batches and learns from its slice of every one; the gradients
are averaged by what the slices count. The result is that of one process up to the rounding of
sums, whatever their number. What a network draws while it trains (dropout) is drawn by each
process for its own images, so there the result is another draw, as on another device.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from bench import plugins
from bench.core import Batch, HeatproofError, Method
from bench.store import read_json, write_json

T = TypeVar("T")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Team:
    """The processes that share one training, as one of them sees it; by default it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def ready(self, net: nn.Module) -> nn.Module:
        """The network with batch norm that goes over the whole batch, not over a slice of it.

        Raises HeatproofError where that cannot be: batch norm is synchronised on GPUs alone.
        """
        if self.size == 1:
            return net
        net.train()
        norms = [m for m in net.modules() if isinstance(m, _NormBase)
                 and (m.training if m.track_running_stats else isinstance(m, _BatchNorm))]
        if not norms:
            return net
        on_cpu = next(net.parameters()).device.type == "cpu"
        for norm in norms:
            if on_cpu or not isinstance(norm, _BatchNorm):
                raise HeatproofError(
                    f"the network's {type(norm).__name__} goes over the whole batch, which "
                    f"processes cannot share{' on CPUs' if on_cpu else ''}; train with processes "
                    "= 1, or choose a backbone without it, a ConvNeXt say")
        from timm import layers

        # torch's own would drop the activations that are part of timm's batch norms.
        convert: Callable[[nn.Module], nn.Module] = cast(Any, layers).convert_sync_batchnorm
        return convert(net)

    def objective(
        self, method: Method, net: nn.Module, loss: Callable[[nn.Module, Batch], Tensor],
    ) -> Callable[[Batch], Tensor]:
        """The loss of a batch, as this process has to derive it: of its slice, times its share."""
        if self.size == 1:
            return lambda batch: loss(net, batch)
        return nn.parallel.DistributedDataParallel(
            _Objective(self, method, net, loss),
            # A loss need not reach every weight, and what it leaves out gets no gradient at all.
            find_unused_parameters=True)

    def part(self, batch: Batch) -> Batch:
        """A batch's slice for this process. Raises HeatproofError where one would be empty."""
        n = len(batch)
        if n < self.size:
            raise HeatproofError(
                f"{self.size} processes cannot share a batch of {n}; train with processes = {n}")
        return batch[n * self.rank // self.size:n * (self.rank + 1) // self.size]

    def gathered(self, values: Sequence[T]) -> list[T]:
        """What all processes found, one process's after the other's."""
        if self.size == 1:
            return list(values)
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, list(values))
        return [value for part in found for value in part]


ALONE = Team()


class _Objective(nn.Module):
    """A loss as a module, so that DDP takes part whatever the loss asks of the network."""

    def __init__(
        self, team: Team, method: Method, net: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
    ) -> None:
        super().__init__()
        self.team, self.method, self.net, self.loss = team, method, net, loss

    def forward(self, batch: Batch) -> Tensor:
        part = self.team.part(batch)
        # DDP takes the mean over processes; this makes it the mean over the whole batch.
        share = self.team.size * self.method.weight(part) / self.method.weight(batch)
        return share * self.loss(self.net, part)


_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCH")


@dataclass(frozen=True)
class _Conditions:
    """What the processes must have like the one that starts them, to compute what it would."""

    device: torch.device
    threads: int = field(default_factory=torch.get_num_threads)
    cudnn: tuple[bool, bool, bool] = field(default_factory=lambda: (
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32))
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    plugin_files: tuple[str, ...] = field(default_factory=plugins.files)

    def take(self) -> None:
        """Makes this process such a one, but for what torchrun tells it of itself."""
        os.environ.update({key: value for key, value in self.environment.items()
                           if not key.startswith(_TORCHRUN)})
        torch.set_num_threads(self.threads)
        cudnn = torch.backends.cudnn
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = self.cudnn
        plugins.load(self.plugin_files)


def launch(
    work: Callable[..., None], *given: Any, processes: int, device: torch.device,
    progress: Progress,
) -> None:
    """Calls `work(*given, team, device, progress)` in several processes, and waits for them.

    `work` is a module's function, and what it is given can be pickled. On a GPU each process has
    one of its own, else they share the CPU. Raises a process's HeatproofError as it is, MemoryError
    where one was killed, SystemExit where one was told to end, and RuntimeError with the traceback
    for anything else. Whatever ends this process, by a signal too, ends the others.
    """
    if device.type not in ("cpu", "cuda"):
        raise HeatproofError(f"processes cannot share a training on {device}; set processes = 1")
    if device.type == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise HeatproofError(
            f"{processes} processes need a GPU each, and {gpus} can be seen; ask for more GPUs or "
            f"set processes = {gpus}")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        log = logging.getLogger(name)
        log.propagate = False  # what fails is told by us, in one line
        log.handlers = log.handlers or [logging.NullHandler()]  # or Python prints it after all
    method = ("forkserver" if "forkserver" in multiprocessing.get_all_start_methods()
              else "spawn")
    # A pipe that nobody writes to: it ends when we close it or are no more.
    theirs, ours = multiprocessing.get_context(method).Pipe(duplex=False)
    with TemporaryDirectory(prefix="heatproof-", ignore_cleanup_errors=True) as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, max_restarts=0,
            run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            local_addr="localhost", start_method=method,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL))
        done = Path(folder) / "progress.json"
        # In a thread of its own the launcher leaves the handlers of signals alone.
        with ThreadPoolExecutor(1) as thread, theirs, ours:
            running = thread.submit(
                elastic_launch(config, _member), work, given, _Conditions(device), theirs, done)
            told, ended = None, False
            while not ended:
                ended = bool(wait([running], timeout=0.2).done)
                if done.is_file() and (now := read_json(done)) != told:
                    progress(*now)
                    told = now
            try:
                running.result()
            except ChildFailedError as error:
                raise _cause(error, Path(folder)) from error


def _cause(error: Any, folder: Path) -> BaseException:
    """What one process died of; the others then fail too, for want of it."""
    found = [json.loads(path.read_text())["message"] for path in folder.rglob("error.json")]
    for message in (part["message"] for part in found):
        if message.startswith(f"{HeatproofError.__name__}: "):
            return HeatproofError(message.partition(": ")[2])
    _, first = error.get_first_failure()
    if first.exitcode == -signal.SIGTERM:  # as when a cluster ends a job: it did not fail
        return SystemExit(128 + signal.SIGTERM)
    if first.exitcode == -signal.SIGKILL:
        return MemoryError("a process that shared the training was killed; was there too little "
                           "memory? Run the same command again with more, or fewer processes")
    said = [part["extraInfo"]["py_callstack"] for part in found]
    said += [path.read_text(errors="replace")[-2000:] for path in folder.rglob("stderr.log")]
    return RuntimeError("\n".join(["a process that shared the training failed", *said]))


def _member(
    work: Callable[..., None], given: Sequence[Any], conditions: _Conditions, alive: Connection,
    done: Path,
) -> None:
    """One of the processes."""
    def follow() -> None:
        with contextlib.suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # Slurm tells all processes of a job that its time runs out; the one that waits sees to it.
    for name in ("SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    team = Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    conditions.take()
    device = conditions.device
    if device.type == "cuda":
        device = torch.device("cuda", team.rank)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def progress(*now: object) -> None:
        if team.leads:
            write_json(done, now)

    try:
        work(*given, team, device, progress)
    except RuntimeError:
        time.sleep(1)  # it may be for want of another process, whose end is to be seen first
        raise
    distributed.destroy_process_group()
