"""The conversation: lines in, lines out (`../PROTOCOL.md`), one request at a time.

A thread reads, so that a cancellation or the end of input is noticed in the middle of a step; another keeps the
heartbeat. Whatever is not a line of the protocol goes to standard error, whoever prints it.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO, Callable

import torch

from . import NUMERICS, PROTOCOL, __version__, devices, parallel, train
from . import settings as settings_module
from .errors import EngineFailed, typed
from .parallel import Group, Ranks
from .session import Kept, mode, open_session

HEARTBEAT = 5
"""Seconds between signs of life."""

_DOING = {
    **{"train": "training", "losses": "measuring losses", "probe": "probing", "generate": "generating"},
    **{"logits": "computing logits", "inspect": "looking at the machine"},
}

Line = dict[str, Any]


class Output:
    """Lines to whoever asked, whole, in order, from any thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.last = time.monotonic()

    def write(self, line: Line, counts: bool = True) -> None:
        text = json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n"
        with self._lock:
            try:
                self._file.write(text.encode())
                self._file.flush()
            except BrokenPipeError:
                # nobody listens any more
                end_now(1)
            if counts:
                self.last = time.monotonic()


def claim_output() -> BinaryIO:
    """Standard output for the protocol alone: everybody else's goes to standard error from now on."""
    sys.stdout.flush()
    mine = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return mine


_ranks: Ranks | None = None


def end_now(code: int) -> None:
    """Ends this process and those it started, whatever they are doing."""
    if _ranks is not None:
        _ranks.kill()
    os._exit(code)


class Interruption:
    """Whether the request being answered is to be given up: told by a line, maybe before its turn, or by a signal."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._given_up: set[int] = set()
        # a signal is handled in the middle of whatever the first thread does
        self._lock = threading.RLock()
        self.current: int | None = None
        self.leaving = False

    def begin(self, request: int) -> None:
        with self._lock:
            self.current = request
            if request in self._given_up:
                self._told.set()
            else:
                self._told.clear()

    def end(self) -> None:
        with self._lock:
            self._given_up.discard(self.current)
            self.current = None

    def cancel(self, request: int) -> None:
        """Gives up this request: the one that is being answered, or one that is still to come."""
        with self._lock:
            self._given_up.add(request)
            if request != self.current:
                return
            self._told.set()
        if _ranks is not None:
            _ranks.cancel()

    def told(self) -> bool:
        return self._told.is_set()

    def on_signal(self, number: int, _frame: Any) -> None:
        if self.leaving and number == signal.SIGINT:
            # whoever presses Ctrl-C twice means it
            end_now(128 + number)
        self.leaving = True
        if self.current is None:
            end_now(0)
        else:
            self.cancel(self.current)


def hello() -> Line:
    device = devices.automatic()
    line: Line = {
        **{"protocol": PROTOCOL, "version": __version__, "numerics": NUMERICS, "torch": torch.__version__},
        **{"python": platform.python_version(), "device": device, "heartbeat": HEARTBEAT},
    }
    if device == "cuda":
        line |= {"cuda": torch.version.cuda, "gpus": [_gpu(i) for i in range(torch.cuda.device_count())]}
        driver = devices.driver()
        if driver is not None:
            line["driver"] = driver
    return {"hello": line}


def _gpu(index: int) -> Line:
    found = torch.cuda.get_device_properties(index)
    return {
        **{"name": found.name, "memoryBytes": found.total_memory},
        **{"capability": f"{found.major}.{found.minor}", "bf16": devices.has_bf16(index)},
    }


class Worker:
    """Answers requests. `group`: of more than one process when this one is a rank."""

    def __init__(self, output: Output, interruption: Interruption) -> None:
        self._output, self._interruption = output, interruption
        self._kept = Kept()

    def answer(self, message: Line) -> bool:
        """Does a request and writes its end; whether that was a result."""
        request_id = message.get("id")
        tag = {} if request_id is None else {"id": request_id}
        # a rank's request and that of a file have no id: it is 0
        self._interruption.begin(request_id or 0)
        doing = _DOING.get(message.get("kind", ""), "reading a request")
        try:
            result = self._do(message, lambda line: self._output.write({**tag, **line}))
            self._output.write({**tag, "result": result})
            return True
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
            self._output.write({**tag, "error": typed(error, doing).json()})
            return False
        finally:
            self._interruption.end()

    def _do(self, message: Line, say: Callable[[Line], None]) -> Any:
        kind, request = message.get("kind"), message.get("request") or {}
        if kind not in _DOING:
            raise EngineFailed("reading a request", f"there is no kind `{kind}`", f"use one of {', '.join(_DOING)}")
        settings = settings_module.parse(message.get("settings"))
        if kind == "train" and settings.processes > 1 and not parallel.launched_as_rank():
            return self._launch(message, settings, say)
        group = _group(settings) if kind == "train" else Group()
        session = open_session(settings, say, self._interruption.told, group, self._kept)
        with mode(settings, session.device):
            if kind == "train":
                return train.run(request, session)
            return importlib.import_module(f".{kind}", __package__).answer(request, session)

    def _launch(self, message: Line, settings: settings_module.Settings, say: Callable[[Line], None]) -> Any:
        """The same request, by processes of its own."""
        global _ranks
        device = devices.choose(settings.device, settings.precision)
        parallel.check_processes(settings.processes, device.type, message["request"]["rowsPerStep"])
        # the first rank computes where this process has measured
        self._kept.forget()
        theirs = {name: message[name] for name in ("kind", "request", "settings") if name in message}
        _ranks = Ranks(settings.processes, theirs)
        try:
            if self._interruption.told():
                _ranks.cancel()
            return _ranks.answer(say)
        finally:
            _ranks.kill()
            _ranks = None


def _group(settings: settings_module.Settings) -> Group:
    if not parallel.launched_as_rank():
        return Group()
    device = devices.automatic() if settings.device == "auto" else settings.device
    return parallel.join(device)


def _listen(messages: "queue.Queue[Line]", output: Output, interruption: Interruption) -> None:
    """Reads lines until there are no more: then nobody is there any more to answer to."""
    for line in sys.stdin.buffer:
        if not line.strip():
            continue
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("not an object")
        except ValueError as error:
            failed = EngineFailed("reading a line", str(error)[:200], "every line is one JSON object")
            output.write({"error": failed.json()})
            continue
        if isinstance(message.get("cancel"), int):
            interruption.cancel(message["cancel"])
        else:
            messages.put(message)
    end_now(0)


def _keep_heart_beating(output: Output, interruption: Interruption) -> None:
    while True:
        time.sleep(HEARTBEAT)
        if interruption.current is not None:
            output.write({"alive": round(time.monotonic() - output.last, 1)}, counts=False)


def _begin() -> tuple[Output, Interruption]:
    output, interruption = Output(claim_output()), Interruption()
    signal.signal(signal.SIGTERM, interruption.on_signal)
    signal.signal(signal.SIGINT, interruption.on_signal)
    return output, interruption


def _next(messages: "queue.Queue[Line]") -> Line:
    """The next message. A wait without end would not let signals in on Windows."""
    while True:
        try:
            return messages.get(timeout=1)
        except queue.Empty:
            continue


def serve() -> None:
    """Answers whoever is at standard input, until they go."""
    output, interruption = _begin()
    messages: "queue.Queue[Line]" = queue.Queue()
    output.write(hello())
    for work in (lambda: _listen(messages, output, interruption), lambda: _keep_heart_beating(output, interruption)):
        threading.Thread(target=work, daemon=True).start()
    worker = Worker(output, interruption)
    while not interruption.leaving:
        worker.answer(_next(messages))
    end_now(0)


def serve_as_rank() -> None:
    """One of several processes on one training: its request is the first line, without an id."""
    output, interruption = _begin()
    # Ctrl-C in a terminal reaches everybody: whoever started the ranks tells them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages: "queue.Queue[Line]" = queue.Queue()
    threading.Thread(target=lambda: _listen(messages, output, interruption), daemon=True).start()
    done = Worker(output, interruption).answer(_next(messages))
    if done:
        parallel.leave()
    end_now(0 if done else 1)


def do_file(path: str) -> int:
    """The one request of a file; of processes started by `torchrun`, the first one writes the lines. Gives the exit
    code."""
    output, interruption = _begin()
    leads = not parallel.launched_as_rank() or os.environ["RANK"] == "0"
    if leads:
        output.write(hello())
    own = output if leads else _Silent(output)
    try:
        message = _read_message(path)
    except EngineFailed as error:
        own.write({"error": error.json()})
        return 1
    done = Worker(own, interruption).answer(message)
    if done:
        parallel.leave()
    return 0 if done else 1


def _read_message(path: str) -> Line:
    try:
        with open(path, encoding="utf-8") as file:
            message = json.load(file)
        if not isinstance(message, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        hint = "name a file of one JSON object, as engines/torch/PROTOCOL.md has it"
        raise EngineFailed("reading a request", f"{path}: {error}"[:500], hint) from None
    return message


class _Silent(Output):
    """Of a process that is not the first: its errors only."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.last = output.last

    def write(self, line: Line, counts: bool = True) -> None:
        if "error" in line:
            self._output.write(line, counts)
