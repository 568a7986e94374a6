"""AdamW with decoupled decay on matrices only (Loshchilov and Hutter, arXiv 1711.05101): PyTorch's fused kernel on moments that may be
held in eight bits, in the memory of the host, or both.

In eight bits (the idea: Dettmers et al., arXiv 2110.02861) a block of 256 numbers shares one fp32 scale, its largest magnitude; each number is a level
of a logarithmic scale below that, so its relative error is the same from the largest down to the smallest: 3.5 % for the first moment
(127 levels over four decades), 3.2 % for the second (254 over seven). The steps are small enough that 0.9 of a first and 0.95 of a second moment never
rounds back to where it was. A second moment that is not zero never becomes zero: that would make its update huge. Encoding what was decoded gives the same
codes, so a checkpoint, which is fp32, loses nothing more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BLOCK = 256
_PIECE = 1 << 24
"""Elements updated at once where moments are unpacked or fetched: 64 MiB each."""

_FIRST_LEVELS, _SECOND_LEVELS = 127, 255
_FIRST_STEP = 4 * math.log(10) / (_FIRST_LEVELS - 1)
_SECOND_STEP = 7 * math.log(10) / (_SECOND_LEVELS - 1)


@dataclass(frozen=True)
class Slot:
    """A tensor to learn, or this process's part of it: fp32, updated in place. `gradient` gives that of the step."""

    name: str
    weight: Tensor
    decayed: bool
    gradient: Callable[[], Tensor]


def _blocks(x: Tensor) -> Tensor:
    """[n] -> [blocks, 256], the last filled up with zeros."""
    return torch.nn.functional.pad(x, (0, -x.numel() % BLOCK)).view(-1, BLOCK)


def _level(magnitude: Tensor, step: float, levels: int) -> Tensor:
    """Of a share of the block's largest, in 1 … levels. Zero gives 1 too."""
    return levels - (-magnitude.clamp(min=1e-30).log() / step).round().clamp(max=levels - 1)


def encode_first(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [n] -> int8 [blocks, 256], fp32 [blocks, 1]. What is nearer to nothing than to the last level is nothing."""
    x = _blocks(x)
    scale = x.abs().amax(1, keepdim=True)
    share = x.abs() / scale.clamp(min=1e-38)
    level = torch.where(share < 0.5 * math.exp(-(_FIRST_LEVELS - 1) * _FIRST_STEP), 0.0, _level(share, _FIRST_STEP, _FIRST_LEVELS))
    return (level * x.sign()).to(torch.int8), scale


def decode_first(codes: Tensor, scale: Tensor) -> Tensor:
    level = codes.float()
    return torch.where(codes == 0, 0.0, torch.exp((level.abs() - _FIRST_LEVELS) * _FIRST_STEP) * scale * level.sign())


def encode_second(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [n], none negative -> uint8 [blocks, 256], fp32 [blocks, 1]"""
    x = _blocks(x)
    scale = x.amax(1, keepdim=True)
    level = _level(x / scale.clamp(min=1e-38), _SECOND_STEP, _SECOND_LEVELS)
    return torch.where(x == 0, 0.0, level).to(torch.uint8), scale


def decode_second(codes: Tensor, scale: Tensor) -> Tensor:
    return torch.where(codes == 0, 0.0, torch.exp((codes.float() - _SECOND_LEVELS) * _SECOND_STEP) * scale)


def _pack(first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    return *encode_first(first), *encode_second(second)


def _unpack(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    return decode_first(a, b).view(-1), decode_second(c, d).view(-1)


@dataclass
class _Piece:
    """Elements [first, first + size) of a slot's flat weight; `held` is what is kept of their moments."""

    slot: Slot
    first: int
    size: int
    held: tuple[Tensor, ...]


class AdamW:
    """Moments of all slots, and the update. `step` of every tensor is that of the run: all learn from the first step on."""

    def __init__(self, slots: list[Slot], optimizer: dict[str, Any], eight_bits: bool, offloaded: bool, compiled: bool) -> None:
        self.slots, self.eight_bits, self.offloaded = slots, eight_bits, offloaded
        self._options = {"amsgrad": False, "maximize": False, "eps": optimizer["epsilon"]}
        self._betas = {"beta1": optimizer["beta1"], "beta2": optimizer["beta2"]}
        self._decay = optimizer["weightDecay"]
        self._device = slots[0].weight.device
        self._pack = torch.compile(_pack, dynamic=True) if compiled else _pack
        self._unpack = torch.compile(_unpack, dynamic=True) if compiled else _unpack
        whole = not (eight_bits or offloaded)
        self._pieces = [piece for slot in slots for piece in self._cut(slot, slot.weight.numel() if whole else _PIECE)]
        self._whole = whole
        self._copies = torch.cuda.Stream() if offloaded and self._device.type == "cuda" else None

    def _cut(self, slot: Slot, size: int) -> Iterator[_Piece]:
        count = slot.weight.numel()
        for first in range(0, count, max(1, size)):
            here = min(size, count - first)
            zeros = torch.zeros(here, dtype=torch.float32, device=self._device)
            yield _Piece(slot, first, here, self._keep(self._packed(zeros, zeros.clone())))

    def _packed(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return self._pack(first, second) if self.eight_bits else (first, second)

    def _unpacked(self, held: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return self._unpack(*held) if self.eight_bits else held  # type: ignore[return-value]

    def _keep(self, packed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not self.offloaded:
            return packed
        pinned = self._device.type == "cuda"
        return tuple(torch.empty(one.shape, dtype=one.dtype, pin_memory=pinned).copy_(one) for one in packed)

    def update(self, lr: float, step: int, divisor: Tensor, skip: Tensor) -> None:
        """Takes step `step` (1-based). Gradients are divided by `divisor`; nothing happens where `skip` is 1. Both fp32 scalars on the device."""
        if self._whole:
            self._update_whole(lr, step, divisor, skip)
            return
        fetched = self._fetch(self._pieces[0]) if self._pieces else None
        for i, piece in enumerate(self._pieces):
            assert fetched is not None
            held, arrived = fetched
            fetched = self._fetch(self._pieces[i + 1]) if i + 1 < len(self._pieces) else None
            self._await(held, arrived)
            first, second = (x[: piece.size] for x in self._unpacked(held))
            weight, gradient = (x.view(-1)[piece.first : piece.first + piece.size] for x in (piece.slot.weight, piece.slot.gradient()))
            self._fused([weight], [gradient], [first], [second], piece.slot.decayed, lr, step, divisor, skip)
            self._put_back(piece, self._packed(first, second))
        if self._copies is not None:
            torch.cuda.current_stream().wait_stream(self._copies)

    def _update_whole(self, lr: float, step: int, divisor: Tensor, skip: Tensor) -> None:
        for decayed in (True, False):
            pieces = [piece for piece in self._pieces if piece.slot.decayed is decayed]
            if not pieces:
                continue
            weights = [piece.slot.weight.view(-1) for piece in pieces]
            gradients = [piece.slot.gradient().reshape(-1) for piece in pieces]
            firsts, seconds = [piece.held[0] for piece in pieces], [piece.held[1] for piece in pieces]
            self._fused(weights, gradients, firsts, seconds, decayed, lr, step, divisor, skip)

    def _fused(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        firsts: list[Tensor],
        seconds: list[Tensor],
        decayed: bool,
        lr: float,
        step: int,
        divisor: Tensor,
        skip: Tensor,
    ) -> None:
        # the kernel counts each tensor's steps itself
        steps = list(torch.full((len(weights),), step - 1.0, device=self._device).unbind())
        decay = self._decay if decayed else 0.0
        adamw(
            *(weights, gradients, firsts, seconds, [], steps),
            **{"fused": True, "grad_scale": divisor, "found_inf": skip, "lr": lr, "weight_decay": decay},
            **self._options,
            **self._betas,
        )

    def _fetch(self, piece: _Piece) -> tuple[tuple[Tensor, ...], torch.cuda.Event | None]:
        """What is held of a piece's moments, on the device; from the host while the piece before is being computed."""
        if not self.offloaded:
            return piece.held, None
        if self._copies is None:
            return tuple(one.to(self._device, copy=True) for one in piece.held), None
        with torch.cuda.stream(self._copies):
            return tuple(one.to(self._device, non_blocking=True) for one in piece.held), self._copies.record_event()

    def _await(self, fetched: tuple[Tensor, ...], arrived: torch.cuda.Event | None) -> None:
        if arrived is None:
            return
        here = torch.cuda.current_stream()
        here.wait_event(arrived)
        for one in fetched:
            # else its memory might be given away while it is read here
            one.record_stream(here)

    def _put_back(self, piece: _Piece, packed: tuple[Tensor, ...]) -> None:
        if self._copies is None:
            for target, source in zip(piece.held, packed):
                target.copy_(source)
            return
        self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):
            for target, source in zip(piece.held, packed):
                # for the same reason
                source.record_stream(self._copies)
                target.copy_(source, non_blocking=True)

    def moments(self, slot: Slot) -> tuple[Tensor, Tensor]:
        """fp32, in the shape of the slot's weight, on the device or the host."""
        if self._copies is not None:
            self._copies.synchronize()
        mine = [piece for piece in self._pieces if piece.slot is slot]
        unpacked = [[x[: piece.size] for x in self._unpacked(piece.held)] for piece in mine]
        parts = list(zip(*unpacked)) or [(slot.weight.new_empty(0),)] * 2
        first, second = (torch.cat(part).view(slot.weight.shape) for part in parts)
        return first, second

    def set_moments(self, slot: Slot, first: Tensor, second: Tensor) -> None:
        """From fp32 tensors of the shape of the slot's weight, wherever they are."""
        for piece in self._pieces:
            if piece.slot is slot:
                part = slice(piece.first, piece.first + piece.size)
                packed = self._packed(*(x.reshape(-1)[part].to(self._device) for x in (first, second)))
                for target, source in zip(piece.held, packed):
                    target.copy_(source)

    @property
    def device_bytes(self) -> int:
        held = [one for piece in self._pieces for one in piece.held]
        return sum(one.numel() * one.element_size() for one in held if one.device == self._device) if not self.offloaded else 0
