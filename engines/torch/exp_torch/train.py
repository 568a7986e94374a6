"""A training run: steps, what is measured after them, checkpoints, and the way back after an interruption.

Order of events and all of their numbers are those of `src/engine/tfjs/TfjsEngine.ts`.
"""

from __future__ import annotations

import gc
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
from .safetensors_file import in_order
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

_COMPILER_HINT = (
    "a C compiler and Python's headers may be what is missing (on Ubuntu `apt install gcc python3-dev`); "
    "`compile: false` does not ask"
)

EVENTS = "events.ndjson"

Event = dict[str, Any]


def _mismatch(state: dict[str, Any], request: dict[str, Any]) -> str | None:
    """Why a checkpoint cannot be gone on from by this request."""
    wanted, had = request["architecture"], state["architecture"]
    # what one side has and the other lacks makes another model too
    for key in {**wanted, **had}:
        if had.get(key) != wanted.get(key):
            return f"its {key} is {had.get(key, 'absent')}, the request wants {wanted.get(key, 'none')}"
    if not request["startStep"] <= state["step"] <= request["endStep"]:
        return f"it is of step {state['step']}, the request trains from {request['startStep']} to {request['endStep']}"
    if state["rowsPerStep"] != request["rowsPerStep"]:
        return f"it was trained with {state['rowsPerStep']} rows a step, the request has {request['rowsPerStep']}"
    return None


def _is_sharded(request: dict[str, Any], session: Session) -> bool:
    settings, group = session.settings, session.group
    held = held_bytes(tensors(request["architecture"]), settings.optimizerState == "8bit")
    if session.device.type != "cuda":
        return memory.shares_out(settings, group.size, held, math.inf)
    total = torch.cuda.get_device_properties(session.device).total_memory
    there = group.lowest(int(total * (settings.memoryFraction or 1)))
    return memory.shares_out(settings, group.size, held, there)


class Run:
    """Everything a training holds. `step`: steps taken."""

    def __init__(self, request: dict[str, Any], session: Session) -> None:
        self.request, self.session, self.group = request, session, session.group
        self.rows = open_rows(request)
        self.step: int = request["startStep"]
        self.tokens_per_step = request["rowsPerStep"] * self.rows.context
        self.tokens_seen = self.step * self.tokens_per_step
        state, worker = self._start()
        arithmetic = Arithmetic(session.dtype, self._compiles(), session.settings.optimizerState == "8bit")
        self.sharded = _is_sharded(request, session)
        self.trainer = Trainer(
            *(request["architecture"], request["optimizer"], request["rowsPerStep"], self.rows.context),
            *(session.device, arithmetic, self.group, self.sharded),
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

    def _compiles(self) -> bool:
        """Whether blocks are compiled: by themselves where the device is a GPU and something can be compiled for it."""
        session = self.session
        if session.settings.compile != "auto" or session.device.type != "cuda":
            return session.settings.compile is True
        problem = devices.compiler_problem(session.device)
        (failed,) = self.group.agreed(problem is not None)
        why = problem or "one of the processes cannot"
        slow = f"layers are not compiled, which costs speed: {why}; {_COMPILER_HINT}"
        fast = "layers are compiled anew for each micro-batch that is tried: it takes a while"
        self.say({"note": slow if failed else fast})
        return not failed

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
        noted = Plan(**worker["plan"]) if self._is_as_roomy(worker) else None
        if noted is not None and memory.still_serves(noted, settings, rows):
            return noted
        return self._found_plan(blocks, rows)

    def _room(self) -> dict[str, Any]:
        """What a plan was found for, beside the device itself."""
        fraction = self.session.settings.memoryFraction or 1
        return {"memoryFraction": fraction, "processes": self.group.size, "sharded": self.sharded}

    def _is_as_roomy(self, worker: dict[str, Any]) -> bool:
        """Whether there is as much room as there was for the plan that was noted, if one was."""
        room = self._room()
        alike = all(worker.get(name) == room[name] for name in ("processes", "sharded"))
        return "plan" in worker and alike and worker.get("memoryFraction", 1) <= room["memoryFraction"]

    def _found_plan(self, blocks: int, rows: int) -> Plan:
        device, settings = self.session.device, self.session.settings
        total = int(torch.cuda.get_device_properties(device).total_memory * (settings.memoryFraction or 1))
        free = min(total, torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
        # every try is a meeting of all processes: they must come to the same plan by the same tries
        free = self.group.lowest(free)
        attempt, alone = self.trainer.attempt, self.group.size == 1
        found = memory.find_plan(settings, blocks, self.rows.context, rows, free, attempt, verify=alone)
        if found is None:
            billions = parameter_count(self.request["architecture"]) / 1e9
            there = f"{memory.gigabytes(free)} GB"
            problem = f"{billions:.2f} B parameters do not fit {there} in any way the settings allow"
            raise EngineFailed("preparing training", problem, MEMORY_HINT, kind="memory")
        plan, fit = found
        peak = ("" if fit.tried else "some ") + memory.gigabytes(fit.peak)
        ways = [
            *([", activations computed twice"] if plan.recomputed_blocks else []),
            *([", moments on the host"] if plan.offloaded else []),
        ]
        bytes_taken = f"{peak} of {memory.gigabytes(free)} GB"
        self.session.note(f"micro-batch {fit.rows} of {rows} rows: {bytes_taken}{''.join(ways)}")
        return plan

    def _note_cost(self) -> None:
        """What deterministic arithmetic costs on this device, by the clock."""
        rows = self.trainer.plan.micro_batch_rows

        def seconds(deterministic: bool) -> float:
            switch_determinism(deterministic)
            first = self.trainer.rehearse(rows, 1)
            # of several processes each has its own clock, and where weights are shared out every rehearsal is a meeting
            (slow,) = self.group.agreed(first >= 1)
            # the first one is slower than others: it compiles, and its memory is new
            return min(self.trainer.rehearse(rows, 1) for _ in range(1 if slow else 5))

        fast, exact = seconds(False), seconds(True)
        self.trainer.forget_rehearsals()
        cost = 100 * (exact / fast - 1)
        times = f"{1000 * exact:.1f} ms a micro-batch, {1000 * fast:.1f} ms without: {cost:+.0f} %"
        self.say({"note": f"deterministic: {times}"})

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
        now = self.trainer.plan.micro_batch_rows
        if now != planned:
            self.session.note(f"micro-batch {now} rows from now on: memory ran out with {planned}")
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
        """Validation of the step just taken, by all processes, and its samples, by the first while the others wait."""
        validation, samples = self._due("validation"), self._due("samples")
        if not (validation or samples):
            return
        model = self.trainer.evaluated()
        with torch.no_grad():
            if validation:
                self._validate(model)
            if samples and self.group.leads:
                self._sample(model)

    def _validate(self, model: Any) -> None:
        from . import losses

        index = self.rows.index
        specials = {index["bosId"], index["eosId"], index["padId"]}
        documents = self.request["validation"]["documents"]
        mine = self.group.dealt([len(document["ids"]) for document in documents])
        found = losses.measure(model, [documents[i] for i in mine], specials)
        rows = [(loss["nll"], loss["tokens"], loss["textNll"]) for loss in found]
        every = zip(documents, self.group.gathered(mine, rows, len(documents), 3))
        measured = [
            {"id": document["id"], "nll": nll, "tokens": int(tokens), "textNll": text_nll}
            for document, (nll, tokens, text_nll) in every
        ]
        self.event({"_tag": "Validation", "step": self.step, "losses": measured})

    def _sample(self, model: Any) -> None:
        from . import generate

        wanted = self.request["samples"]
        prompts = [{"id": str(i), "ids": ids} for i, ids in enumerate(wanted["prompts"])]
        eos, seed = self.rows.index["eosId"], self.request["seed"]
        found = generate.continuations(model, prompts, _GREEDY, wanted["maxNewTokens"], eos, seed)
        self.event({"_tag": "Samples", "step": self.step, "tokens": [one["tokens"] for one in found]})

    # Checkpoints

    def _write(self, folder: str, moments: bool, worker: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """`<folder>/step_<n>` of the last step. A meeting of all processes where each holds a part."""
        request, trainer = self.request, self.trainer
        sources = [trainer.weights(), *([trainer.moments()] if moments else [])]
        if not self.group.leads:
            for one in sources:
                for source in in_order(one):
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
        noted = {"device": devices.describe(self.session.device), "plan": trainer.plan.json(), **self._room()}
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
        if session.device.type == "cuda":
            # tries that did not fit are no part of it
            telemetry.forget_peak(session.device)
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
        # a short training may have said nothing yet
        self.say({"device": meter.memory()})
        return {"step": self.step, "interrupted": self.step < end}

    def close(self) -> None:
        self.prefetch.close()


def run(request: dict[str, Any], session: Session) -> dict[str, Any]:
    """Trains; gives the answer of the request."""
    session.kept.forget()
    telemetry.forget_peak(session.device)
    one = Run(request, session)
    try:
        return one.go()
    finally:
        one.close()
        # model and optimizer hold on to each other in circles: their memory is wanted for the next request
        del one
        gc.collect()
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
            # moments on the host were in page-locked memory, which nobody else may have until it is given back
            torch.accelerator.empty_host_cache()

