"""What a request is answered with: device, arithmetic, and the way back to whoever asked."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

import torch

from . import devices
from .architecture import Architecture
from .checkpoint import read_state, read_weights
from .model import Decoder, build
from .parallel import Group
from .settings import Settings

Say = Callable[[dict[str, Any]], None]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint on the device, its parameters in the dtype of the arithmetic."""

    model: Decoder
    architecture: Architecture
    state: dict[str, Any]


@dataclass
class Kept:
    """The checkpoint last asked for: a sweep asks for the same one many times."""

    key: tuple[str, ...] = ()
    loaded: Loaded | None = None

    def forget(self) -> None:
        """Makes room for what comes next."""
        self.key, self.loaded = (), None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


@dataclass
class Session:
    settings: Settings
    device: torch.device
    say: Say
    cancelled: Callable[[], bool] = lambda: False
    group: Group = field(default_factory=Group)
    kept: Kept = field(default_factory=Kept)

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return _DTYPES[self.settings.precision]

    def note(self, sentence: str) -> None:
        """For the user: what was chosen and why."""
        self.say({"note": sentence})

    def progress(self, done: int, total: int, unit: str) -> None:
        self.say({"progress": {"done": done, "total": total, "unit": unit}})

    def load(self, path: str) -> Loaded:
        state = read_state(path)
        key = (path, state["modelSha256"], str(self.device), str(self.dtype))
        if self.kept.key == key and self.kept.loaded is not None:
            return self.kept.loaded
        self.kept.forget()
        weights = read_weights(path, state)
        with torch.device("meta"):
            model = build(state["architecture"])
        model.to_empty(device=self.device)
        model.fill_buffers()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.load_state_dict(weights)
        model = model.to(self.dtype).requires_grad_(False).eval()
        for name, buffer in buffers.items():
            # angles of positions stay fp32
            setattr(model, name, buffer)
        self.kept.key, self.kept.loaded = key, Loaded(model, state["architecture"], state)
        return self.kept.loaded


@contextlib.contextmanager
def mode(settings: Settings, device: torch.device) -> Iterator[None]:
    """The switches of PyTorch that a request's settings ask for, for as long as it is answered."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(0)
            switch_determinism(settings.deterministic)
            if settings.threads is not None:
                torch.set_num_threads(settings.threads)
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(float(settings.memoryFraction or 1), device)
            yield
        finally:
            switch_determinism(False)
            torch.set_num_threads(threads)


def switch_determinism(deterministic: bool) -> None:
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        # only where it must: it loads PyTorch's whole compiler to tell it
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    # nothing is read here before it is written: filling new memory would only cost
    torch.utils.deterministic.fill_uninitialized_memory = False
    # cuDNN's attention has no deterministic backward pass. The other two take a slower one: to switch one off leaves
    # what it alone can do (fp32, a window) to a kernel that holds length x length
    torch.backends.cuda.enable_cudnn_sdp(not deterministic)


def open_session(settings: Settings, say: Say, cancelled: Callable[[], bool], group: Group, kept: Kept) -> Session:
    device = devices.choose(settings.device, settings.precision, group.local_rank)
    return Session(settings, device, say, cancelled, group, kept)
