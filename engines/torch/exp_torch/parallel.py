"""Several processes on one training: one a GPU over NCCL, or on the CPU over gloo.

Two ways lead here. Asked for `processes: n`, the worker starts n ranks of itself (`--rank`) and passes on what the
first one says. Started by `torchrun … -m exp_torch REQUEST.json`, on one node or several, every process is a rank
already and the first one writes the lines.

| how                    | what each process holds                            | gradients                            |
|------------------------|----------------------------------------------------|--------------------------------------|
| `ddp`                  | everything                                         | summed while the last micro-batch    |
|                        |                                                    | runs backward                        |
| `fsdp` (`fully_shard`) | its share of weights, gradients and moments; a     | reduced and scattered to their owner |
|                        | block's weights come together when it is computed  |                                      |

The rows of a step are cut into contiguous portions whose sizes differ by at most one. Every rank takes the same number
of micro-batches, because each is a meeting of all. Documents to be measured are dealt out whole: what one loses does
not depend on who measures it. A rank ends when its standard input ends, so none outlives who started it.
"""

from __future__ import annotations

import datetime
import heapq
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import EngineFailed, WorkerError

_PATIENCE = datetime.timedelta(hours=2)
"""Rank 0 draws samples and writes checkpoints while the others wait."""

RANK_ARGUMENT = "--rank"


class Group:
    """The processes of a training; alone, all of it is free."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def own_rows(self, rows_per_step: int) -> slice:
        return slice(rows_per_step * self.rank // self.size, rows_per_step * (self.rank + 1) // self.size)

    def most_rows(self, rows_per_step: int) -> int:
        """Of any process."""
        return -(-rows_per_step // self.size)

    def dealt(self, sizes: Sequence[int]) -> list[int]:
        """Which of so large pieces of work are this process's: each next largest is for whoever has least."""
        held = [(0, rank) for rank in range(self.size)]
        mine = []
        for piece in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
            least, rank = held[0]
            heapq.heapreplace(held, (least + sizes[piece], rank))
            if rank == self.rank:
                mine.append(piece)
        return sorted(mine)

    def gathered(
        self, mine: Sequence[int], rows: Sequence[Sequence[float]], count: int, width: int
    ) -> list[list[float]]:
        """At every process, all `count` rows of `width` numbers, of which `rows` are those at the places `mine`. To the
        bit: each is added to zeros."""
        if self.size == 1:
            return [list(row) for row in rows]
        table = torch.zeros(count, width, dtype=torch.float64)
        for place, row in zip(mine, rows):
            table[place] = torch.tensor(row, dtype=torch.float64)
        return self.add_up(table.to(self._device)).tolist()

    def add_up(self, values: Tensor) -> Tensor:
        """Their sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, *wishes: bool) -> list[bool]:
        """Whether any process wishes so, at every process."""
        if self.size == 1:
            return list(wishes)
        said = torch.tensor([float(wish) for wish in wishes], device=self._device)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return [wish > 0 for wish in said.tolist()]

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")

    def lowest(self, value: int) -> int:
        """The smallest of all processes' values."""
        return -self.highest(-value)

    def highest(self, value: int) -> int:
        """The largest of all processes' values."""
        if self.size == 1:
            return value
        said = torch.tensor(value, device=self._device)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return int(said)


def launched_as_rank() -> bool:
    """By `torchrun`, or by `launch` below."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device: str) -> Group:
    """This process becomes a rank. `device`: `cuda` or `cpu`."""
    rank, size, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    store = os.environ.get("EXP_TORCH_STORE")
    where: dict[str, Any] = {"init_method": Path(store).as_uri(), "rank": rank, "world_size": size} if store else {}
    if device == "cuda":
        # else the first meeting guesses a GPU by the rank, which on a second node there is none of
        where["device_id"] = torch.device("cuda", local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE, **where)
    return Group(rank, size, local_rank)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Ranks:
    """The processes that the worker started for one training."""

    def __init__(self, count: int, message: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="exp-torch-")
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._failure: WorkerError | None = None
        self._ended = False
        store = str(Path(self._folder.name) / "store")
        try:
            for rank in range(count):
                self._processes.append(self._start(rank, count, store))
            for process in self._processes:
                self._say(process, message)
        except BaseException:
            self.kill()
            raise

    def _start(self, rank: int, count: int, store: str) -> subprocess.Popen[str]:
        package = str(Path(__file__).resolve().parent.parent)
        environment = {
            **os.environ,
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "EXP_TORCH_STORE": store},
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "exp_torch", RANK_ARGUMENT],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
            **{"env": environment, "text": True, "encoding": "utf-8"},
        )

    @staticmethod
    def _say(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def cancel(self) -> None:
        """Told to rank 0, which tells the others between two steps."""
        try:
            self._say(self._processes[0], {"cancel": 0})
        except OSError:
            # it has ended by itself
            pass

    def answer(self, pass_on: Callable[[dict[str, Any]], None]) -> Any:
        """Passes on what rank 0 says until its result, or the first error of any rank."""
        result: list[Any] = []

        def read(rank: int, process: subprocess.Popen[str]) -> None:
            assert process.stdout is not None
            ended = False
            for line in process.stdout:
                said = json.loads(line)
                if "error" in said:
                    self._fail(ReceivedError(said["error"]))
                elif "result" in said:
                    ended = True
                    if rank == 0:
                        result.append(said["result"])
                elif rank == 0:
                    pass_on(said)
            code = process.wait()
            if not ended:
                self._fail(_ended_early(rank, code))

        self._readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate(self._processes)]
        for reader in self._readers:
            reader.start()
        for reader in self._readers:
            reader.join()
        self._folder.cleanup()
        if self._failure is not None:
            raise self._failure
        return result[0]

    def _fail(self, error: WorkerError) -> None:
        # what the others say afterwards is that somebody is missing
        self._failure = self._failure or error
        self.kill()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()


class ReceivedError(WorkerError):
    """An error as a rank told it."""

    def __init__(self, received: dict[str, Any]) -> None:
        super().__init__(**received)

    def json(self) -> dict[str, Any]:
        return self.fields


def _ended_early(rank: int, code: int) -> EngineFailed:
    problem = f"process {rank} ended with {code} before its work was done"
    return EngineFailed("training", problem, "look at its last lines above this one")


def check_processes(processes: int, device: str, rows_per_step: int) -> None:
    """Refuses what cannot be."""
    doing = "starting the processes"
    if device == "mps":
        raise EngineFailed(doing, f"{processes} processes cannot share the `mps` device", "leave out `processes`")
    if device == "cuda" and processes > torch.cuda.device_count():
        problem = f"{processes} processes for {torch.cuda.device_count()} GPUs"
        raise EngineFailed(doing, problem, "use one process a GPU")
    if processes > rows_per_step:
        problem = f"{processes} processes for {rows_per_step} rows a step"
        raise EngineFailed(doing, problem, "use at most as many processes as rows")
