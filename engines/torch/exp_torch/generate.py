"""
Continuations of prompts, many at once, equal in tokens to what `src/engine/tfjs/worker.ts` draws for each alone.

Texts are continued side by side, as many as memory allows. One that ends leaves the batch and another prompt takes its
place. Prompts go through the layers in pieces cut at fixed positions (`CUTS`); a piece that several prompts share, with
all before it, is computed for one of them and copied, from texts that are still being continued too. Because pieces are
the same whoever shares them, so are their bits.

Token t of prompt `id` takes uniform(t) of the stream (seed, "sample:<id>"): neither order nor batch nor preset changes
the numbers drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attention import Cache, bytes_per_place, rounded_up
from .devices import free_host_bytes
from .errors import EngineFailed, spelled
from .inference import Inference, Watch, alone, check_ids, in_groups, looking, ready, runs_of
from .model import Decoder
from .processors import Sampler, Texts
from .random import Stream

CUTS = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Where prompts are cut; beyond the last, every 512 tokens. Fine where shared beginnings are short, coarse where pieces
should be large."""

_MOST_PLACES = {"cpu": 256, "cuda": 1024}
"""Texts at once beyond which a step takes longer in proportion."""
_PROMPT_ROWS = 4096
"""Rows of prompts that go through the layers at once."""
_LOGIT_BYTES = {True: 8 << 20, False: 1 << 28}
"""Of the logits held at once, on a CPU (they stay in its cache) and elsewhere."""


@dataclass(frozen=True)
class Piece:
    """Tokens start ... end of a prompt. Those of one number are the same tokens behind the same tokens."""

    start: int
    end: int
    number: int


@dataclass
class Text:
    """`ids` are the prompt; it ends at `limit` tokens, prompt included, when nothing ends it before."""

    id: str
    ids: list[int]
    limit: int
    pieces: list[Piece] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finish: str = "length"
    log_probability: float = 0.0


@dataclass(frozen=True)
class State:
    """One row for each place.

    tokens: what was said; beyond a text's own length its first token
    drawn: how many of them were drawn
    uniforms: what the draws take, in order
    log_probabilities: of the drawn tokens, in sum
    hidden: what the next token is drawn from
    """

    tokens: Tensor
    lengths: Tensor
    drawn: Tensor
    uniforms: Tensor
    log_probabilities: Tensor
    hidden: Tensor

    def arrays(self) -> tuple[Tensor, ...]:
        return (self.tokens, self.lengths, self.drawn, self.uniforms, self.log_probabilities, self.hidden)


def answer(request: dict[str, Any], session: Any) -> list[dict[str, Any]]:
    """`GenerateRequest` -> `Generation`s in the order of the prompts."""
    return _continue(
        ready(session.load(request["checkpoint"]).model),
        request["prompts"],
        request["preset"],
        request["maxNewTokens"],
        request.get("eosId"),
        request["seed"],
        Watch(session, "generating", "texts"),
    )


def continuations(
    model: Decoder,
    prompts: Sequence[dict[str, Any]],
    preset: dict[str, Any],
    max_new_tokens: int,
    eos_id: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """The same for a model as it is now."""
    watch = Watch(None, "generating", "texts")
    return _continue(Inference(model), prompts, preset, max_new_tokens, eos_id, seed, watch)


@looking()
def _continue(
    inference: Inference,
    prompts: Sequence[dict[str, Any]],
    preset: dict[str, Any],
    max_new_tokens: int,
    eos_id: int | None,
    seed: int,
    watch: Watch,
) -> list[dict[str, Any]]:
    check(inference, prompts)
    context = inference.architecture["context"]
    texts = []
    for prompt in prompts:
        ids = list(prompt["ids"])
        texts.append(Text(prompt["id"], ids, min(context, len(ids) + max_new_tokens)))
    waiting = [text for text in texts if len(text.ids) < text.limit]
    if waiting:
        with _drawing():
            _run(inference, waiting, Sampler(preset), eos_id, seed, watch)
    return [
        {"id": text.id, "tokens": text.tokens, "finish": text.finish, "logProbability": text.log_probability}
        for text in texts
    ]


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """CUDA's running sums are refused in deterministic mode for what they do with one long row; rows of their own are
    summed in order."""
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    gentle = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=gentle)


def check(inference: Inference, prompts: Sequence[dict[str, Any]]) -> None:
    for prompt in prompts:
        check_ids("generating", f"prompt {prompt['id']}", prompt["ids"], inference.vocabulary)
        if len(prompt["ids"]) == 0:
            raise EngineFailed("generating", f"prompt {prompt['id']} is empty", "begin prompts with BOS")


def _run(
    inference: Inference,
    texts: list[Text],
    sampler: Sampler,
    eos_id: int | None,
    seed: int,
    watch: Watch,
) -> None:
    # neighbours share beginnings, so a shared piece is still there when the next text wants it
    waiting = sorted(texts, key=lambda text: text.ids)
    plant(waiting)
    batch = _open(inference, waiting, sampler, seed)
    while waiting or batch.texts:
        free = batch.places - len(batch.texts)
        # a few at a time: a prompt alone uses the machine badly
        if waiting and (not batch.texts or free >= max(1, batch.places // 16)):
            batch.admit(waiting[:free])
            del waiting[:free]
        batch.draw(eos_id)
        batch.step()
        watch(len(texts) - len(waiting) - len(batch.texts), len(texts))


def plant(texts: Sequence[Text]) -> None:
    """Numbers the pieces of prompts, so that two have the same number when they are the same and follow the same."""
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    for text in texts:
        parent = -1
        for start, end in _cuts(len(text.ids)):
            parent = numbers.setdefault((parent, tuple(text.ids[start:end])), len(numbers))
            text.pieces.append(Piece(start, end, parent))


def _cuts(length: int) -> list[tuple[int, int]]:
    last = CUTS[-1]
    cuts = [cut for cut in CUTS if cut < length] + list(range(2 * last, length, last)) + [length]
    return list(zip(cuts[:-1], cuts[1:]))


def _open(inference: Inference, texts: Sequence[Text], sampler: Sampler, seed: int) -> Batch:
    """As many places as there is memory for, at most as many as there are texts."""
    capacity = max(text.limit for text in texts)
    most = min(len(texts), _MOST_PLACES.get(inference.device.type, 64))
    places = max(1, min(most, _spare_bytes(inference.device) // bytes_per_place(inference, capacity)))
    while True:
        try:
            return Batch(inference, places, capacity, sampler, seed)
        except torch.OutOfMemoryError:
            if places == 1:
                raise
            places //= 2


def _spare_bytes(device: torch.device) -> int:
    """What caches may take of the memory that is free now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        allowed = torch.cuda.get_device_properties(device).total_memory
        allowed *= torch.cuda.get_per_process_memory_fraction(device)
        return int(0.8 * min(free + held, allowed - torch.cuda.memory_allocated(device)))
    if device.type == "mps":
        return (torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()) // 2
    return (free_host_bytes() or 4 << 30) // 2


class Batch:
    """Texts that are being continued, at places 0 ... n-1 of all arrays."""

    def __init__(self, inference: Inference, places: int, capacity: int, sampler: Sampler, seed: int) -> None:
        self.places = places
        self.texts: list[Text] = []
        self._inference = inference
        self._sampler = sampler
        self._seed = seed
        device = inference.draws_on
        self._cache = Cache(inference, places, capacity)
        self._rows = torch.arange(places, device=device)
        # on the host, to know when texts end without asking the device
        self._limits = np.zeros(places, np.int64)
        self._host_lengths = np.zeros(places, np.int64)
        self._state = State(
            tokens=torch.zeros(places, rounded_up(capacity), dtype=torch.int64, device=device),
            lengths=torch.zeros(places, dtype=torch.int64, device=device),
            drawn=torch.zeros(places, dtype=torch.int64, device=device),
            uniforms=torch.zeros(places, capacity if sampler.samples else 0, dtype=torch.float64, device=device),
            log_probabilities=torch.zeros(places, dtype=torch.float64, device=device),
            hidden=torch.zeros(places, inference.architecture["width"], dtype=inference.dtype, device=inference.device),
        )
        self._logit_rows = max(1, _LOGIT_BYTES[device.type == "cpu"] // (4 * inference.vocabulary))

    def admit(self, texts: Sequence[Text]) -> None:
        """Puts prompts through the layers and gives them places behind the others."""
        first = len(self.texts)
        known = {piece.number: place for place, text in enumerate(self.texts) for piece in text.pieces}
        self.texts += texts
        self._state.hidden[first : first + len(texts)] = self._prompts(texts, first, known)
        for place, text in enumerate(texts, first):
            length = len(text.ids)
            self._cache.show(place, length)
            self._host_lengths[place], self._limits[place] = length, text.limit
            self._state.tokens[place] = text.ids[0]
            self._state.tokens[place, :length] = torch.tensor(text.ids)
            if self._sampler.samples:
                uniforms = Stream(self._seed, f"sample:{text.id}").uniforms(0, text.limit - length)
                self._state.uniforms[place, : len(uniforms)] = torch.from_numpy(uniforms)
        places = slice(first, first + len(texts))
        self._state.lengths[places] = torch.from_numpy(self._host_lengths[places])
        self._state.drawn[places] = 0
        self._state.log_probabilities[places] = 0

    def draw(self, eos_id: int | None) -> None:
        """The next token of every text; those that have ended leave."""
        n, state = len(self.texts), self._state
        longest = int(self._host_lengths[:n].max())
        positions = state.lengths[:n]
        uniforms = None
        if self._sampler.samples:
            uniforms = state.uniforms[:n].gather(1, state.drawn[:n, None])[:, 0]
        drawn = []
        for first in range(0, n, self._logit_rows):
            rows = slice(first, min(n, first + self._logit_rows))
            before = Texts(state.tokens[rows, :longest], positions[rows]) if self._sampler.looks_back else None
            logits = self._inference.logits(state.hidden[rows])
            tokens, log_probabilities = self._sampler.draw(logits, before, None if uniforms is None else uniforms[rows])
            state.log_probabilities[rows] += log_probabilities
            drawn.append(tokens)
        tokens = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
        host = tokens.cpu().numpy()
        if host.min() < 0:
            self._refuse(int(host.argmin()))
        state.tokens[self._rows[:n], positions] = tokens
        state.lengths[:n] += 1
        state.drawn[:n] += 1
        self._host_lengths[:n] += 1
        ended = self._host_lengths[:n] >= self._limits[:n]
        if eos_id is not None:
            ended |= host == eos_id
        if ended.any():
            self._leave(np.flatnonzero(ended).tolist(), eos_id)

    def step(self) -> None:
        """Puts the tokens just drawn through the layers."""
        n = len(self.texts)
        if n == 0:
            return
        positions = self._state.lengths[:n] - 1
        rows = self._rows[:n]
        tokens = self._state.tokens[rows, positions]
        tokens, positions, rows = (array.to(self._inference.device) for array in (tokens, positions, rows))
        step = self._cache.step(rows, positions, int(self._host_lengths[:n].max()))

        def mix(layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            return self._cache.attend(step, layer, queries, keys_values)

        self._state.hidden[:n] = self._inference.hidden(tokens, positions, mix)

    def _refuse(self, place: int) -> None:
        logits = self._inference.logits(self._state.hidden[place : place + 1])[0]
        broken = (~(logits < torch.inf)).nonzero()
        problem = "no token can be drawn: every token of the vocabulary is banned"
        if len(broken) > 0:
            token = int(broken[0])
            problem = f"logit of token {token} is {spelled(float(logits[token]))}"
        look = "the model is broken: look at the losses it was trained to"
        hint = look if len(broken) > 0 else "use a smaller `noRepeatNgramSize`"
        raise EngineFailed(f"generating from prompt {self.texts[place].id}", problem, hint)

    def _leave(self, places: list[int], eos_id: int | None) -> None:
        """Takes what the texts at these places have become, and closes the ranks: the last go where they were."""
        log_probabilities = self._state.log_probabilities.tolist()
        for place in places:
            text = self.texts[place]
            text.tokens = self._state.tokens[place, len(text.ids) : int(self._host_lengths[place])].tolist()
            text.finish = "eos" if text.tokens[-1] == eos_id else "length"
            text.log_probability = log_probabilities[place]
        gone = set(places)
        left = len(self.texts) - len(places)
        stays = [place for place in range(left, len(self.texts)) if place not in gone]
        for source, target in zip(stays, sorted(place for place in places if place < left)):
            self._cache.move(source, target, int(self._host_lengths[source]))
            self.texts[target] = self.texts[source]
            for array in (*self._state.arrays(), self._host_lengths, self._limits):
                array[target] = array[source]
        del self.texts[left:]

    def _prompts(self, texts: Sequence[Text], first: int, known: dict[int, int]) -> Tensor:
        """Fills the caches of places `first` ...; hidden states of the prompts' last tokens [texts, width]. `known`:
        pieces that are in the cache already, by number, and where."""
        ends: dict[int, Tensor] = {}
        for level in range(max(len(text.pieces) for text in texts)):
            wanted: dict[int, list[int]] = {}
            for place, text in enumerate(texts, first):
                if level < len(text.pieces):
                    wanted.setdefault(text.pieces[level].number, []).append(place)
            fresh: list[tuple[int, Piece]] = []
            for number, places in wanted.items():
                piece = self.texts[places[0]].pieces[level]
                # of a piece computed earlier the keys are there, but not its last hidden state, which only a last piece
                # needs
                last = any(len(self.texts[place].pieces) == level + 1 for place in places)
                if number not in known or last:
                    fresh.append((places[0], piece))
                    known[number] = places[0]
            self._compute(fresh, ends)
            self._share(wanted, known, level)
        return torch.stack([ends[text.pieces[-1].number] for text in texts])

    def _share(self, wanted: dict[int, list[int]], known: dict[int, int], level: int) -> None:
        """Copies pieces from where they are to all who want them."""
        pairs = [
            (known[number], place) for number, places in wanted.items() for place in places if place != known[number]
        ]
        by_extent: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for source, target in pairs:
            piece = self.texts[target].pieces[level]
            by_extent.setdefault((piece.start, piece.end), []).append((source, target))
        for (start, end), moves in by_extent.items():
            sources, targets = (torch.tensor(side, device=self._inference.device) for side in zip(*moves))
            self._cache.copy(sources, targets, start, end)

    def _compute(self, fresh: list[tuple[int, Piece]], ends: dict[int, Tensor]) -> None:
        """Puts pieces of one level through the layers; `ends` gets the hidden state of each one's last token."""
        fresh.sort(key=lambda one: one[1].end)
        for group in in_groups(fresh, lambda one: one[1].end - one[1].start, _PROMPT_ROWS):
            hidden = self._compute_group(group)
            row = -1
            for _, piece in group:
                row += piece.end - piece.start
                ends[piece.number] = hidden[row]

    def _compute_group(self, group: Sequence[tuple[int, Piece]]) -> Tensor:
        device = self._inference.device
        start = group[0][1].start
        tokens = [token for place, piece in group for token in self.texts[place].ids[start : piece.end]]
        ids = torch.tensor(tokens, device=device)
        positions = torch.cat([torch.arange(start, piece.end, device=device) for _, piece in group])
        runs = []
        first = 0
        for count, end in runs_of([piece.end for _, piece in group]):
            places = torch.tensor([place for place, _ in group[first : first + count]], device=device)
            runs.append((count, end, places))
            first += count

        def seen(layer: int, run: int, own: Tensor) -> Tensor:
            _, end, places = runs[run]
            self._cache.write_prompt(layer, places, start, own)
            return alone(layer, run, own) if start == 0 else self._cache.prompt(layer, places, end)

        mix = self._inference.mixing([(count, end - start) for count, end, _ in runs], seen)
        return self._inference.hidden(ids, positions, mix)
