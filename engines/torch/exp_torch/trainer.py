"""One training step: rows in, weights changed. It knows no files and no events.

Master weights, gradients and sums are fp32 whatever the arithmetic is: layers cast what they use (`Decoder.dtype`), so
gradients of micro-batches are added in fp32. Blocks are compiled one by one: a graph of all of them would hand over all
gradients of a micro-batch at once, a second set beside the sums. Where moments move to the host and the arithmetic is
half precision, the blocks' matrices go with them: the device keeps only what products read, rounded where a cast would
round, so the numbers are the same. Nothing waits for the device inside a step; its loss and gradient norm are fetched
together at the end.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from dataclasses import dataclass, replace
from typing import Any, ContextManager, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from . import architecture as shapes
from .architecture import Architecture
from .checkpoint import MOMENTS
from .cross_entropy import IGNORED, ChunkedCrossEntropy, differentiate, piece_tokens
from .devices import synchronise
from .errors import is_out_of_memory
from .memory import Attempt, Plan, even, parts
from .model import Decoder, build
from .optimizer import AdamW, Host, Slot
from .parallel import Group
from .random import Stream
from .safetensors_file import Source

_ROW_ALIGNMENT = 128
"""Rows of tables on CUDA are a multiple of it: tensor cores want whole tiles."""

_FIRST_SCALE = 2.0**16
_GROW_AFTER = 2000
"""Steps without overflow after which the loss scale of fp16 is doubled."""


@dataclass(frozen=True)
class StepResult:
    """Mean NLL in nats, and the global gradient norm before clipping. Where either is not finite, the weights are as
    they were."""

    loss: float
    grad_norm: float


@dataclass(frozen=True)
class Arithmetic:
    """`dtype` of the layers; `compiled`: by torch.compile; `eight_bits`: moments held in eight bits."""

    dtype: torch.dtype
    compiled: bool
    eight_bits: bool


class LossModel(nn.Module):
    """The model with its loss inside, as one `forward`: where weights come together only while it runs (FSDP), that is
    where they can be used."""

    def __init__(self, model: Decoder, vocabulary: int, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self._vocabulary, self._compiled = vocabulary, compiled
        self._work = differentiate(compiled)

    def forward(self, rows: Tensor, log_scale: Tensor) -> Tensor:
        """int64 [rows, context + 1] -> Σ −log p, its gradient scaled by exp(`log_scale`). Targets below zero do not
        count. Of no rows at all, a zero whose gradients are zeros: in the order that those of rows come in."""
        if len(rows) == 0:
            return torch.stack([0 * parameter.flatten()[0] for parameter in self.parameters()]).sum()
        hidden = self.model(rows[:, :-1].clamp(min=0)).flatten(0, 1)
        head, targets = self.model.head_weight, rows[:, 1:].flatten()
        size = piece_tokens(hidden.device, head.shape[0], hidden.dtype, self._compiled)
        return ChunkedCrossEntropy.apply(hidden, head, targets, self._vocabulary, log_scale, self._work, size)


_graphs_of: tuple[Any, ...] = ()


def _begin_graphs(*model: Any) -> None:
    """One graph serves all blocks, for each size of micro-batch that is tried and each way of computing. They are
    counted over all models of this process, and one too many is an error: those of another model go."""
    global _graphs_of
    torch._dynamo.config.recompile_limit = 256
    if _graphs_of and _graphs_of != model:
        torch.compiler.reset()
    _graphs_of = model


def _local(tensor: Tensor) -> Tensor:
    """This process's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Trainer:
    def __init__(
        self,
        architecture: Architecture,
        optimizer: dict[str, Any],
        rows_per_step: int,
        context: int,
        device: torch.device,
        arithmetic: Arithmetic,
        group: Group,
        sharded: bool,
    ) -> None:
        self.architecture, self.rows_per_step, self.context = architecture, rows_per_step, context
        self.device, self._arithmetic, self._group, self._sharded = device, arithmetic, group, sharded
        self._optimizer_settings = optimizer
        self.loss_scale = _FIRST_SCALE if arithmetic.dtype == torch.float16 else 1.0
        self.good_steps = 0
        self.plan = Plan(1, 0, False)
        self.model = self._build()
        self._loss_model = LossModel(self.model, architecture["vocabulary"], arithmetic.compiled)
        self._place()
        self._sums: dict[str, Tensor] = {}
        """Gradients of parameters in half precision, added up in fp32."""
        self._hooks: dict[str, RemovableHandle] = {}
        """By parameter in half precision: what adds its gradient up."""
        specs = shapes.tensors(architecture)
        self._shapes = {spec.name: spec.shape for spec in specs}
        self.slots = [self._slot(spec) for spec in specs]
        self.adamw: AdamW | None = None

    def _build(self) -> Decoder:
        with torch.device("meta"):
            model = build(self.architecture)
            for name in shapes.tables(self.architecture) if self.device.type == "cuda" else ():
                table = model.get_submodule(name.removesuffix(".weight"))
                rows, width = table.weight.shape
                table.weight = nn.Parameter(torch.empty(-(-rows // _ROW_ALIGNMENT) * _ROW_ALIGNMENT, width))
        model.dtype = self._arithmetic.dtype
        return model

    def _place(self) -> None:
        """Gives the parameters memory, whole or this process's share, and the model its wrapping."""
        if self._arithmetic.compiled:
            _begin_graphs(self.architecture, self.context, self._arithmetic)
            for block in self.model.blocks:
                block.compile(dynamic=False, fullgraph=True)
        if self._sharded:
            self._shard()
        self._loss_model.to_empty(device=self.device)
        self.model.fill_buffers()
        for parameter in self.model.parameters():
            # a table's rows that pad it stay zero for ever
            _local(parameter.data).zero_()
        self._wrapped: nn.Module = self._loss_model
        if self._group.size > 1 and not self._sharded:
            devices = [self.device] if self.device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(
                self._loss_model,
                **{"device_ids": devices, "gradient_as_bucket_view": True},
                **{"forward_sync_buffers": False, "init_sync": False},
            )
            # gradients lie in what they are exchanged in from now on: those that are added up before an exchange would
            # lie beside it, as much memory again. The second time it is laid out anew, as it stays, while there is room
            nothing = torch.empty(0, self.context + 1, dtype=torch.int64, device=self.device)
            for _ in range(2):
                self._wrapped(nothing, torch.zeros((), device=self.device)).backward()

    def _shard(self) -> None:
        dtype = self._arithmetic.dtype
        precision = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        mesh = dist.init_device_mesh(self.device.type, (self._group.size,))
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=precision)
        fully_shard(self._loss_model, mesh=mesh, mp_policy=precision)

    def _slot(self, spec: shapes.TensorSpec) -> Slot:
        parameter = self.model.get_parameter(spec.name)

        def gradient() -> Tensor:
            found = self._sums.get(spec.name, parameter.grad)
            assert found is not None
            return _local(found)

        return Slot(spec.name, _local(parameter.data), spec.decayed, gradient)

    # Weights and moments, in and out

    def initialise(self, seed: int) -> None:
        """Draws fresh weights, the same for every engine; before `arrange`, as `load_weights`."""
        for spec in shapes.tensors(self.architecture):
            if spec.deviation is None:
                value = torch.full(spec.shape, float(spec.constant or 0))
            else:
                value = torch.empty(spec.shape)
                Stream(seed, f"weights:{spec.name}").fill_normal(value.view(-1).numpy(), spec.deviation)
            self._set_weight(spec.name, value)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """From fp32 CPU tensors by canonical name."""
        for name, value in weights.items():
            self._set_weight(name, value)

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """From `<name>.exp_avg` and `<name>.exp_avg_sq`; after `arrange`."""
        assert self.adamw is not None
        for slot in self.slots:
            first, second = (self._part(slot.name, moments[f"{slot.name}.{moment}"]) for moment in MOMENTS)
            self.adamw.set_moments(slot, first, second)

    def _set_weight(self, name: str, value: Tensor) -> None:
        with torch.no_grad():
            _local(self.model.get_parameter(name).data).copy_(self._part(name, value))

    def _part(self, name: str, whole: Tensor) -> Tensor:
        """Of a tensor as checkpoints have it, what this process holds, filled up with rows that pad it."""
        parameter = self.model.get_parameter(name)
        if parameter.shape != whole.shape:
            missing = parameter.shape[0] - whole.shape[0]
            whole = torch.cat((whole, whole.new_zeros(missing, *whole.shape[1:])))
        if not isinstance(parameter, DTensor):
            return whole
        chunks = whole.chunk(self._group.size, 0)
        return chunks[self._group.rank] if self._group.rank < len(chunks) else whole[:0]

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """The tensor in the shape that checkpoints have. A meeting of all processes where each holds a part."""
        parameter, shape = self.model.get_parameter(name), self._shapes[name]
        if isinstance(parameter, DTensor):
            layout = {"shape": parameter.shape, "stride": parameter.stride(), "run_check": False}
            part = part.to(self.device)
            part = DTensor.from_local(part, parameter.device_mesh, parameter.placements, **layout).full_tensor()
        return part[: shape[0]].detach()

    def weights(self) -> list[Source]:
        if self.adamw is not None:
            self.adamw.settle()

        def source(slot: Slot) -> Source:
            return Source(slot.name, self._shapes[slot.name], lambda: self._whole(slot.name, slot.weight).cpu())

        return [source(slot) for slot in self.slots]

    def moments(self) -> list[Source]:
        adamw = self.adamw
        assert adamw is not None

        def source(slot: Slot, which: int) -> Source:
            name, shape = f"{slot.name}.{MOMENTS[which]}", self._shapes[slot.name]
            return Source(name, shape, lambda: self._whole(slot.name, adamw.moments(slot)[which]).cpu())

        return [source(slot, which) for slot in self.slots for which in (0, 1)]

    def evaluated(self) -> Decoder:
        """The model as it is, to be measured: it shares its memory with what is trained. A meeting of all where each
        holds a part; there the blocks' matrices come in the dtype of the arithmetic, as products read them anyway."""
        with torch.device("meta"):
            model = build(self.architecture)
        matrices = self._matrices()

        def value(slot: Slot) -> Tensor:
            parameter = self.model.get_parameter(slot.name)
            part = _local(parameter.data)
            if self._sharded and slot.name in matrices:
                part = part.to(self._arithmetic.dtype)
            return self._whole(slot.name, part)

        model.load_state_dict({slot.name: value(slot) for slot in self.slots}, assign=True)
        for name, buffer in self.model.named_buffers():
            setattr(model, name, buffer)
        model.dtype = self._arithmetic.dtype
        return model.requires_grad_(False).eval()

    # A step

    def arrange(self, plan: Plan) -> None:
        """How steps are computed from now on. Where moments move, they begin anew: load them afterwards."""
        if self.adamw is None or self.adamw.offloaded != plan.offloaded:
            if self.adamw is not None:
                # a try that failed may have left copies under way, from memory that is about to go
                self.adamw.settle()
            # the old ones make room first
            self.adamw = None
            self._move_masters(plan.offloaded)
            eight_bits, compiled = self._arithmetic.eight_bits, self._arithmetic.compiled
            self.adamw = AdamW(self.slots, self._optimizer_settings, eight_bits, plan.offloaded, compiled)
        self.model.recomputed_blocks = plan.recomputed_blocks
        self.plan = plan

    def _matrices(self) -> set[str]:
        """Names of what blocks multiply by: read in the dtype of the arithmetic and nowhere else."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return {names[one] for block in self.model.blocks for one in block.parameters() if one.dim() == 2}

    def _move_masters(self, away: bool) -> None:
        """The fp32 of the blocks' matrices to the host, or back. Several processes keep theirs: DDP exchanges gradients
        as they come, FSDP shares masters out."""
        if self._arithmetic.dtype == torch.float32 or self._group.size > 1 or self._sharded:
            return
        matrices, host = self._matrices(), Host(self.device)
        self.slots = [
            self._moved(slot, away, host) if slot.name in matrices and away != (slot.copy is not None) else slot
            for slot in self.slots
        ]

    def _moved(self, slot: Slot, away: bool, host: Host) -> Slot:
        # what a hook holds lives as long as its parameter, out of sight of Python's collector: neither the slot, which
        # has the fp32 that is moving, nor the trainer, which has the parameter
        name, sums = slot.name, self._sums
        parameter = self.model.get_parameter(name)
        if not away:
            self._hooks.pop(name).remove()
            parameter.data = slot.weight.to(self.device, copy=True)
            return replace(slot, weight=parameter.data, copy=None)
        weight = host.take(parameter.shape, torch.float32).copy_(parameter.data)
        parameter.data = parameter.data.to(self._arithmetic.dtype)

        def add_up(parameter: Tensor) -> None:
            gradient, total = parameter.grad, sums.get(name)
            assert gradient is not None
            sums[name] = gradient.float() if total is None else total.add_(gradient)
            parameter.grad = None

        self._hooks[name] = parameter.register_post_accumulate_grad_hook(add_up)
        return replace(slot, weight=weight, copy=parameter.data)

    def step(self, rows: Tensor, lr: float, step: int, clip_norm: float) -> StepResult:
        """Step `step` (1-based) on this process's rows of it, int64 [rows, context + 1] on the device.

        In fp16 a gradient that overflows is computed again with half the loss scale, so no step is lost.
        """
        assert self.adamw is not None
        while True:
            loss, norm = self._gradients_that_fit(rows)
            finite = loss.isfinite() & norm.isfinite()
            clip = (clip_norm / (norm + 1e-6)).clamp(max=1)
            self.adamw.update(lr, step, self.loss_scale / clip, 1.0 - finite.float())
            self._forget_gradients()
            result = StepResult(*torch.stack((loss, norm)).tolist())
            overflow = math.isfinite(result.loss) and not math.isfinite(result.grad_norm)
            if not overflow or self.loss_scale <= 1:
                self._grow_scale()
                return result
            self.loss_scale, self.good_steps = self.loss_scale / 2, 0

    def _gradients_that_fit(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where memory is in too many pieces for what was found to fit, smaller micro-batches do; several processes
        cannot agree on it in time."""
        while True:
            try:
                return self._gradients(rows)
            except Exception as error:
                if not is_out_of_memory(error) or self._group.size > 1 or self.plan.micro_batch_rows == 1:
                    raise
            self.forget_rehearsals()
            self.plan = replace(self.plan, micro_batch_rows=even(self.plan.micro_batch_rows - 1, self.rows_per_step))

    def _grow_scale(self) -> None:
        if self._arithmetic.dtype == torch.float16:
            self.good_steps += 1
            if self.good_steps == _GROW_AFTER:
                self.loss_scale, self.good_steps = self.loss_scale * 2, 0

    def _gradients(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean NLL and gradient norm of the whole step, fp32 scalars on the device; gradients are left multiplied by
        the loss scale."""
        targets = self.rows_per_step * self.context
        # wrappers of several processes give the mean of their gradients
        # filled there: copying a number from the host would wait for the device
        log_scale = torch.full((), math.log(self.loss_scale * self._group.size / targets), device=self.device)
        total = torch.zeros((), device=self.device)
        cut = self._cut(rows)
        for i, part in enumerate(cut):
            with self._alone() if i + 1 < len(cut) else contextlib.nullcontext():
                nll = self._wrapped(part, log_scale)
                nll.backward()
            total += nll.detach()
        return self._group.add_up(total) / targets, self._norm() / self.loss_scale

    def _cut(self, rows: Tensor) -> list[Tensor]:
        """Micro-batches: as many for every process. One that has no row left takes one that does not count."""
        count = -(-self._group.most_rows(self.rows_per_step) // self.plan.micro_batch_rows)
        nothing = torch.full((1, rows.shape[1]), IGNORED, device=rows.device)
        return [rows[part] if part.stop > part.start else nothing for part in parts(len(rows), count)]

    def _alone(self) -> ContextManager[None]:
        """Gradients stay in this process: they are exchanged once a step."""
        wrapped = self._wrapped
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

    def _norm(self) -> Tensor:
        gradients = [slot.gradient() for slot in self.slots]
        norm = torch.nn.utils.get_total_norm(gradients)
        return self._group.add_up(norm.square()).sqrt() if self._sharded else norm

    def _forget_gradients(self) -> None:
        self._sums.clear()
        exchanged = isinstance(self._wrapped, DistributedDataParallel)
        for parameter in self.model.parameters():
            if exchanged and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None

    # Tries that change nothing

    def attempt(self, recomputed_blocks: int, offloaded: bool) -> Attempt:
        """Tries for the search of a micro-batch (`memory.py`): peak bytes of a step's work on so many rows."""

        def take(rows: int) -> int | None:
            peak = peak_of(rows)
            # memory that runs out anywhere has run out, and the fullest device counts
            (failed,) = self._group.agreed(peak is None)
            return None if failed else self._group.highest(peak or 0)

        def peak_of(rows: int) -> int | None:
            try:
                self.arrange(Plan(rows, recomputed_blocks, offloaded))
                # compiling takes memory for its trials that no step takes
                self.rehearse(rows, 1)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self.device)
                # now gradients are there to be added to
                self.rehearse(rows, 1)
                self._rehearse_update()
                return torch.cuda.max_memory_reserved(self.device)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return None
            finally:
                self.forget_rehearsals()

        return take

    def rehearse(self, rows: int, times: int) -> float:
        """Seconds for the gradients of so many micro-batches, which are to be forgotten."""
        count = rows * (self.context + 1)
        some = (torch.arange(count, device=self.device) % self.architecture["vocabulary"]).view(rows, -1)
        log_scale = torch.zeros((), device=self.device)
        began = time.perf_counter()
        with self._alone():
            for _ in range(times):
                self._wrapped(some, log_scale).backward()
        synchronise(self.device)
        return time.perf_counter() - began

    def _rehearse_update(self) -> None:
        """An update that is skipped, for what it holds meanwhile."""
        assert self.adamw is not None
        self._norm()
        one = torch.ones((), device=self.device)
        self.adamw.update(0.0, 1, one, one)
        synchronise(self.device)

    def forget_rehearsals(self) -> None:
        """Gradients, and the memory that was kept for them."""
        self._forget_gradients()
        # what failed may hold on to its frames in a circle, and they to tensors
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def held_bytes(specs: Iterable[shapes.TensorSpec], eight_bits: bool) -> int:
    """Weights, gradients and moments of everything, in one process."""
    return sum(spec.elements for spec in specs) * (10 if eight_bits else 16)
