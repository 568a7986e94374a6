"""A training run: steps, what is measured after them, checkpoints, and the way back after an interruption.

Order of events and all of their numbers are those of `src/engine/tfjs/TfjsEngine.ts`.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from . import NUMERICS, checkpoint, devices, memory, telemetry
from .architecture import parameter_count, tensors, training_flops_per_token
from .errors import MEMORY_HINT, CheckpointUnreadable, EngineFailed, TrainingDiverged, spelled
from .memory import Plan
from .rows import Prefetch, open_rows
from .schedule import lr_at
from .session import Session, switch_determinism
from .trainer import Arithmetic, StepResult, Trainer, held_bytes

_SPIKE_NATS = 3
_SPIKE_WINDOW = 50
_SPIKE_SEEN = 20
"""A loss so many nats above the mean of the last steps is not noise any more, once enough have been seen."""

_GREEDY = {
    **{"name": "greedy", "doSample": False, "temperature": 1, "topK": 0, "topP": 1},
    **{"repetitionPenalty": 1, "noRepeatNgramSize": 0, "minNewTokens": 0},
}

EVENTS = "events.ndjson"

Event = dict[str, Any]


def _mismatch(state: dict[str, Any], request: dict[str, Any]) -> str | None:
    """Why a checkpoint cannot be gone on from by this request."""
    wanted, had = request["architecture"], state["architecture"]
    for key in wanted:
        if had.get(key) != wanted[key]:
            return f"its {key} is {had.get(key)}, the request wants {wanted[key]}"
    if not request["startStep"] <= state["step"] <= request["endStep"]:
        return f"it is of step {state['step']}, the request trains from {request['startStep']} to {request['endStep']}"
    if state["rowsPerStep"] != request["rowsPerStep"]:
        return f"it was trained with {state['rowsPerStep']} rows a step, the request has {request['rowsPerStep']}"
    return None


def _is_sharded(request: dict[str, Any], session: Session) -> bool:
    """FSDP where asked for, or where one process's memory would not hold everything."""
    settings, group = session.settings, session.group
    if group.size == 1 or settings.sharding == "ddp":
        return False
    if settings.sharding == "fsdp":
        return True
    if session.device.type != "cuda":
        return False
    there = torch.cuda.get_device_properties(session.device).total_memory * (settings.memoryFraction or 1)
    return held_bytes(tensors(request["architecture"]), settings.optimizerState == "8bit") > 0.7 * there


class Run:
    """Everything a training holds. `step`: steps taken."""

    def __init__(self, request: dict[str, Any], session: Session) -> None:
        self.request, self.session, self.group = request, session, session.group
        self.rows = open_rows(request)
        self.step: int = request["startStep"]
        self.tokens_per_step = request["rowsPerStep"] * self.rows.context
        self.tokens_seen = self.step * self.tokens_per_step
        state, worker = self._start()
        arithmetic = Arithmetic(session.dtype, session.compiled, session.settings.optimizerState == "8bit")
        self.trainer = Trainer(
            *(request["architecture"], request["optimizer"], request["rowsPerStep"], self.rows.context),
            *(session.device, arithmetic, self.group, _is_sharded(request, session)),
        )
        self._fill(state)
        self.trainer.arrange(self._plan(worker))
        if state is not None:
            self.trainer.load_moments(checkpoint.read_moments(request["from"]["path"], state))
        self.trainer.loss_scale = worker.get("lossScale", self.trainer.loss_scale)
        self.trainer.good_steps = worker.get("goodSteps", 0)
        if session.settings.deterministic:
            self._note_cost()
        own = self.group.own_rows(request["rowsPerStep"])
        self.prefetch = Prefetch(self.rows, request["rowsPerStep"], own, session.device)
        self.recent: deque[float] = deque(request.get("recentLosses") or [], maxlen=_SPIKE_WINDOW)
        self.kept: list[Event] = []
        """Events since the last resume point or kept checkpoint, the earlier of the two."""
        self.resumable = self.step
        self.resumed_at = time.monotonic()

    # Beginning

    def _start(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """State of the checkpoint gone on from, and what the worker noted beside it."""
        if self.request["from"]["_tag"] == "Fresh":
            return None, {}
        path = self.request["from"]["path"]
        state = checkpoint.read_state(path)
        problem = _mismatch(state, self.request)
        if problem is not None:
            raise CheckpointUnreadable(path, problem)
        self.step, self.tokens_seen = state["step"], state["tokensSeen"]
        worker = checkpoint.read_worker(path)
        return state, worker if worker.get("device") == devices.describe(self.session.device) else {}

    def _fill(self, state: dict[str, Any] | None) -> None:
        if state is None:
            self.trainer.initialise(self.request["seed"])
        else:
            self.trainer.load_weights(checkpoint.read_weights(self.request["from"]["path"], state))

    def _plan(self, worker: dict[str, Any]) -> Plan:
        """How steps are computed: as before an interruption, else as the settings say, else as is found to fit."""
        settings, trainer = self.session.settings, self.trainer
        rows = self.group.most_rows(self.request["rowsPerStep"])
        blocks = self.request["architecture"]["layers"]
        if self.session.device.type != "cuda":
            found = settings.microBatchRows or memory.rows_on_cpu(self.request["architecture"], self.rows.context, rows)
            recomputed = blocks if settings.activationCheckpointing is True else 0
            return Plan(min(found, rows), recomputed, settings.offloadOptimizer is True)
        if "plan" in worker and settings.microBatchRows in (None, worker["plan"]["micro_batch_rows"]):
            return Plan(**worker["plan"])
        return self._found_plan(blocks, rows)

    def _found_plan(self, blocks: int, rows: int) -> Plan:
        device, settings = self.session.device, self.session.settings
        total = int(torch.cuda.get_device_properties(device).total_memory * (settings.memoryFraction or 1))
        free = min(total, torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
        plan = memory.find_plan(settings, blocks, self.rows.context, rows, free, self.trainer.attempt, verify=self.group.size == 1)
        smallest = self.group.lowest(plan.micro_batch_rows if plan else 0)
        if plan is None or smallest == 0:
            billions = parameter_count(self.request["architecture"]) / 1e9
            problem = f"{billions:.2f} B parameters do not fit {memory.gibibytes(free)} GiB in any way the settings allow"
            raise EngineFailed("preparing training", problem, MEMORY_HINT, kind="memory")
        peak = memory.gibibytes(torch.cuda.max_memory_reserved(device))
        ways = (", activations computed twice" if plan.recomputed_blocks else "") + (", moments on the host" if plan.offloaded else "")
        self.session.note(f"micro-batch {smallest} of {rows} rows: {peak} of {memory.gibibytes(free)} GiB{ways}")
        return Plan(smallest, plan.recomputed_blocks, plan.offloaded)

    def _note_cost(self) -> None:
        """What deterministic arithmetic costs on this device, by the clock."""
        rows = self.trainer.plan.micro_batch_rows

        def seconds(deterministic: bool) -> float:
            switch_determinism(deterministic)
            first = self.trainer.rehearse(rows, 1)
            # the first one is slower than others: it compiles, and its memory is new
            return min(self.trainer.rehearse(rows, 1) for _ in range(5 if first < 1 else 1))

        fast, exact = seconds(False), seconds(True)
        self.trainer.forget_rehearsals()
        cost = 100 * (exact / fast - 1)
        self.say({"note": f"deterministic: {1000 * exact:.1f} ms a micro-batch, {1000 * fast:.1f} ms without: {cost:+.0f} %"})

    # Steps

    def say(self, line: dict[str, Any]) -> None:
        """Of several processes, the first speaks."""
        if self.group.leads:
            self.session.say(line)

    def event(self, event: Event, keep: bool = True) -> None:
        self.say({"event": event})
        if keep:
            self.kept.append(event)

    def take_step(self) -> None:
        began = time.perf_counter()
        request, index = self.request, self.step
        lr = lr_at(request["schedule"], index)
        rows = self.prefetch.take(index, request["endStep"])
        planned = self.trainer.plan.micro_batch_rows
        result = self.trainer.step(rows.tokens, lr, index + 1, request["optimizer"]["clipNorm"])
        if self.trainer.plan.micro_batch_rows != planned:
            self.session.note(f"micro-batch {self.trainer.plan.micro_batch_rows} rows from now on: memory ran out with {planned}")
        self._check(result, rows.numbers)
        self.recent.append(result.loss)
        self.step += 1
        self.tokens_seen += self.tokens_per_step
        self.event(
            {
                **{"_tag": "Step", "step": self.step, "loss": result.loss, "lr": lr, "gradNorm": result.grad_norm},
                **{"tokensSeen": self.tokens_seen, "seconds": time.perf_counter() - began},
            }
        )

    def _check(self, result: StepResult, numbers: list[int]) -> None:
        """Stops at a loss that is no number, or jumped."""
        loss, norm, seen = result.loss, result.grad_norm, len(self.recent)
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"the loss is {spelled(loss)}, the gradient norm {spelled(norm)}"
            raise TrainingDiverged(self.step + 1, what, numbers)
        if self.step < self.request["schedule"]["warmupSteps"] or seen < _SPIKE_SEEN:
            return
        mean = sum(self.recent) / seen
        if loss > mean + _SPIKE_NATS:
            what = f"the loss jumped to {loss:.3f} from a mean of {mean:.3f} over the last {seen} steps"
            raise TrainingDiverged(self.step + 1, what, numbers)

    def _due(self, part: str) -> bool:
        every = (self.request.get(part) or {}).get("everySteps")
        return every is not None and (self.step % every == 0 or self.step == self.request["endStep"])

    def measure(self) -> None:
        """Validation and samples of the step just taken, by the first process while the others wait."""
        validation, samples = self._due("validation"), self._due("samples")
        if not (validation or samples):
            return
        model = self.trainer.evaluated()
        if not self.group.leads:
            return
        with torch.no_grad():
            if validation:
                self._validate(model)
            if samples:
                self._sample(model)

    def _validate(self, model: Any) -> None:
        from . import losses

        index = self.rows.index
        specials = {index["bosId"], index["eosId"], index["padId"]}
        found = losses.measure(model, self.request["architecture"], self.request["validation"]["documents"], specials)
        self.event({"_tag": "Validation", "step": self.step, "losses": found})

    def _sample(self, model: Any) -> None:
        from . import generate

        wanted = self.request["samples"]
        prompts = [{"id": str(i), "ids": ids} for i, ids in enumerate(wanted["prompts"])]
        eos, seed = self.rows.index["eosId"], self.request["seed"]
        found = generate.continuations(model, self.request["architecture"], prompts, _GREEDY, wanted["maxNewTokens"], eos, seed)
        self.event({"_tag": "Samples", "step": self.step, "tokens": [one["tokens"] for one in found]})

    # Checkpoints

    def _write(self, folder: str, moments: bool, worker: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """`<folder>/step_<n>` of the last step. A meeting of all processes where each holds a part."""
        request, trainer = self.request, self.trainer
        sources = [trainer.weights(), *([trainer.moments()] if moments else [])]
        if not self.group.leads:
            for one in sources:
                for source in checkpoint.in_order(one):
                    source.produce()
            return "", {}
        state = {
            **{"step": self.step, "tokensSeen": self.tokens_seen, "rowCursor": self.step * request["rowsPerStep"]},
            **{name: request[name] for name in ("architecture", "schedule", "optimizer", "rowsPerStep", "seed")},
            "engine": {"name": "torch", "numerics": NUMERICS, "precision": self.session.settings.numerics_precision},
        }
        return checkpoint.write(folder, state, sources[0], sources[1] if moments else None, worker)

    def keep(self) -> None:
        """The checkpoint asked for after this step, if one was."""
        wanted = self.request["checkpoints"]
        if self.step not in wanted["at"]:
            return
        path, state = self._write(wanted["folder"], wanted["moments"])
        self.event({"_tag": "Checkpoint", "step": self.step, "path": path, "state": state}, keep=False)

    def write_resume_point(self) -> None:
        folder = self.request["resume"]["folder"]
        trainer = self.trainer
        noted = {"device": devices.describe(self.session.device), "plan": trainer.plan.json()}
        if self.session.dtype == torch.float16:
            noted |= {"lossScale": trainer.loss_scale, "goodSteps": trainer.good_steps}
        if self.group.leads:
            lines = "".join(json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n" for event in self.kept)
            checkpoint.replace_text(Path(folder) / EVENTS, lines)
        path, _ = self._write(folder, True, noted)
        if self.group.leads:
            checkpoint.forget_others(folder, self.step)
        first = max((step for step in self.request["checkpoints"]["at"] if step <= self.step), default=self.step + 1)
        self.kept = [event for event in self.kept if event["step"] >= first]
        self.resumable, self.resumed_at = self.step, time.monotonic()
        self.event({"_tag": "ResumePoint", "step": self.step, "path": path}, keep=False)

    # All of it

    def go(self) -> dict[str, Any]:
        session, request = self.session, self.request
        flops = training_flops_per_token(request["architecture"], self.rows.context)
        source = telemetry.source_of(session.device)
        meter = telemetry.Telemetry(session.device, session.settings.precision, flops, self.group.size, source)
        end = request["endStep"]
        cancelled = False
        while self.step < end and not cancelled:
            self.take_step()
            reading = meter.step(self.tokens_per_step)
            if reading is not None:
                self.say({"device": reading})
            self.measure()
            self.keep()
            elapsed = time.monotonic() - self.resumed_at >= request["resume"]["everySeconds"]
            cancelled, due = self.group.agreed(session.cancelled(), elapsed and self.group.leads)
            if self.step < end and (due or cancelled) and self.step > self.resumable:
                self.write_resume_point()
        return {"step": self.step, "interrupted": self.step < end}

    def close(self) -> None:
        self.prefetch.close()


def run(request: dict[str, Any], session: Session) -> dict[str, Any]:
    """Trains; gives the answer of the request."""
    session.kept.key, session.kept.loaded = (), None
    one = Run(request, session)
    try:
        return one.go()
    finally:
        one.close()

