"""One training step: rows in, weights changed. It knows no files and no events.

Master weights, gradients and sums are fp32 whatever the arithmetic is: layers cast what they use (`Decoder.dtype`), so gradients of micro-batches are
added in fp32. Nothing waits for the device inside a step; its loss and gradient norm are fetched together at the end.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, ContextManager, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from . import architecture as shapes
from .architecture import Architecture
from .checkpoint import MOMENTS
from .cross_entropy import IGNORED, ChunkedCrossEntropy, differentiate
from .errors import is_out_of_memory
from .memory import Attempt, Plan, even, parts
from .model import Decoder, build
from .optimizer import AdamW, Slot
from .parallel import Group
from .random import stream
from .safetensors_file import Source

_ROW_ALIGNMENT = 128
"""Rows of tables on CUDA are a multiple of it: tensor cores want whole tiles."""

_FIRST_SCALE = 2.0**16
_GROW_AFTER = 2000
"""Steps without overflow after which the loss scale of fp16 is doubled."""


@dataclass(frozen=True)
class StepResult:
    """Mean NLL in nats, and the global gradient norm before clipping. Where either is not finite, the weights are as they were."""

    loss: float
    grad_norm: float


@dataclass(frozen=True)
class Arithmetic:
    """`dtype` of the layers; `compiled`: by torch.compile; `eight_bits`: moments held in eight bits."""

    dtype: torch.dtype
    compiled: bool
    eight_bits: bool


class LossModel(nn.Module):
    """The model with its loss inside, as one `forward`: where weights come together only while it runs (FSDP), that is where they can be used."""

    def __init__(self, model: Decoder, vocabulary: int, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self._vocabulary = vocabulary
        self._work = differentiate(compiled)
        self.hidden: Callable[[Tensor], Tensor] = model.forward

    def forward(self, rows: Tensor, log_scale: Tensor) -> Tensor:
        """int64 [rows, context + 1] -> Σ −log p; its gradient is scaled by exp(`log_scale`). Targets below zero do not count."""
        hidden = self.hidden(rows[:, :-1].clamp(min=0)).flatten(0, 1)
        return ChunkedCrossEntropy.apply(hidden, self.model.head_weight, rows[:, 1:].flatten(), self._vocabulary, log_scale, self._work)


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
        self.architecture, self.rows_per_step, self.context, self.device = architecture, rows_per_step, context, device
        self._optimizer_settings, self._arithmetic, self._group, self._sharded = optimizer, arithmetic, group, sharded
        self.loss_scale = _FIRST_SCALE if arithmetic.dtype == torch.float16 else 1.0
        self.good_steps = 0
        self.plan = Plan(1, 0, False)
        self.model = self._build()
        self._loss_model = LossModel(self.model, architecture["vocabulary"], arithmetic.compiled)
        self._place()
        self.slots = [self._slot(spec) for spec in shapes.tensors(architecture)]
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
            # a graph for each size of micro-batch that is tried, with and without recomputing
            torch._dynamo.config.recompile_limit = 64
        if self._sharded:
            self._shard()
        self._loss_model.to_empty(device=self.device)
        self.model.fill_buffers()
        for parameter in self.model.parameters():
            # a table's rows that pad it stay zero for ever
            _local(parameter.data).zero_()
        if self._arithmetic.compiled and not self._sharded:
            self._loss_model.hidden = torch.compile(self.model.forward, dynamic=False, fullgraph=True)
        self._wrapped: nn.Module = self._loss_model
        if self._group.size > 1 and not self._sharded:
            devices = [self.device] if self.device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(
                self._loss_model, device_ids=devices, gradient_as_bucket_view=True, forward_sync_buffers=False, init_sync=False
            )

    def _shard(self) -> None:
        dtype = self._arithmetic.dtype
        precision = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        mesh = dist.init_device_mesh(self.device.type, (self._group.size,))
        for block in self.model.blocks:
            if self._arithmetic.compiled:
                block.compile(dynamic=False, fullgraph=True)
            fully_shard(block, mesh=mesh, mp_policy=precision)
        fully_shard(self._loss_model, mesh=mesh, mp_policy=precision)

    def _slot(self, spec: shapes.TensorSpec) -> Slot:
        parameter = self.model.get_parameter(spec.name)

        def gradient() -> Tensor:
            assert parameter.grad is not None
            return _local(parameter.grad)

        return Slot(spec.name, _local(parameter.data), spec.decayed, gradient)

    # Weights and moments, in and out

    def initialise(self, seed: int) -> None:
        """Draws fresh weights, the same for every engine."""
        for spec in shapes.tensors(self.architecture):
            if spec.deviation is None:
                value = torch.full(spec.shape, float(spec.constant or 0))
            else:
                value = torch.empty(spec.shape)
                stream(seed, f"weights:{spec.name}").fill_normal(value.view(-1).numpy(), spec.deviation)
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
        """The tensor as checkpoints have it, fp32 on the CPU. A meeting of all processes where each holds a part."""
        parameter, shape = self.model.get_parameter(name), self._shapes[name]
        if isinstance(parameter, DTensor):
            whole = DTensor.from_local(
                part.to(self.device), parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
            )
            part = whole.full_tensor()
        return part[: shape[0]].detach().cpu()

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {spec.name: spec.shape for spec in shapes.tensors(self.architecture)}

    def weights(self) -> list[Source]:
        return [Source(slot.name, self._shapes[slot.name], lambda slot=slot: self._whole(slot.name, slot.weight)) for slot in self.slots]

    def moments(self) -> list[Source]:
        adamw = self.adamw
        assert adamw is not None

        def source(slot: Slot, which: int) -> Source:
            name, shape = f"{slot.name}.{MOMENTS[which]}", self._shapes[slot.name]
            return Source(name, shape, lambda: self._whole(slot.name, adamw.moments(slot)[which]))

        return [source(slot, which) for slot in self.slots for which in (0, 1)]

    def evaluated(self) -> Decoder:
        """The model as it is, to be measured: it shares its memory with what is trained. A meeting of all where each holds a part."""
        with torch.device("meta"):
            model = build(self.architecture)
        if self._sharded:
            values = {slot.name: self._whole(slot.name, slot.weight).to(self.device) for slot in self.slots}
        else:
            values = {slot.name: slot.weight.detach()[: self._shapes[slot.name][0]] for slot in self.slots}
        model.load_state_dict(values, assign=True)
        for name, buffer in self.model.named_buffers():
            setattr(model, name, buffer)
        model.dtype = self._arithmetic.dtype
        return model.requires_grad_(False).eval()

    # A step

    def arrange(self, plan: Plan) -> None:
        """How steps are computed from now on. Where moments move, they begin anew: load them afterwards."""
        if self.adamw is None or self.adamw.offloaded != plan.offloaded:
            # the old ones make room first
            self.adamw = None
            self.adamw = AdamW(self.slots, self._optimizer_settings, self._arithmetic.eight_bits, plan.offloaded, self._arithmetic.compiled)
        self.model.recomputed_blocks = plan.recomputed_blocks
        self.plan = plan

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
        """Where memory is in too many pieces for what was found to fit, smaller micro-batches do; several processes cannot agree on it in time."""
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
        """Mean NLL and gradient norm of the whole step, fp32 scalars on the device; gradients are left multiplied by the loss scale."""
        targets = self.rows_per_step * self.context
        # wrappers of several processes give the mean of their gradients
        log_scale = torch.tensor(math.log(self.loss_scale * self._group.size / targets), device=self.device)
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
        return self._wrapped.no_sync() if isinstance(self._wrapped, DistributedDataParallel) else contextlib.nullcontext()

    def _norm(self) -> Tensor:
        gradients = [slot.gradient() for slot in self.slots]
        norm = torch.nn.utils.get_total_norm(gradients)
        return self._group.add_up(norm.square()).sqrt() if self._sharded else norm

    def _forget_gradients(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    # Tries that change nothing

    def attempt(self, recomputed_blocks: int, offloaded: bool) -> Attempt:
        """Tries for the search of a micro-batch (`memory.py`): peak bytes of a step's work on so many rows."""

        def take(rows: int) -> int | None:
            try:
                self.arrange(Plan(rows, recomputed_blocks, offloaded))
                torch.cuda.reset_peak_memory_stats(self.device)
                # the second time gradients are there to be added to, and compilation is done
                self.rehearse(rows, 2)
                return torch.cuda.max_memory_reserved(self.device)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return None
            finally:
                self._forget_gradients()
                torch.cuda.empty_cache()

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
        self._synchronise()
        return time.perf_counter() - began

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def forget_rehearsals(self) -> None:
        """Gradients, and the memory that was kept for them."""
        self._forget_gradients()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def held_bytes(specs: Iterable[shapes.TensorSpec], eight_bits: bool) -> int:
    """Weights, gradients and moments of everything, in one process."""
    return sum(spec.elements for spec in specs) * (10 if eight_bits else 16)
