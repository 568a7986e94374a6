"""Counter-based randomness, the twin of `src/model/Random.ts`: number n of a stream is a function of (seed, stream, n)
alone.

Philox 4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw, SC 2011), on whole arrays of positions. Words and uniforms are
the same bits as there. Normals go through logarithm and cosine, whose last float64 bit libraries round differently:
rounded to float32 they are the same but for about one number in 10⁸, which then differs by one unit in the last place.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

_PIECE = 1 << 16
"""Positions computed at once: their temporaries stay in a core's cache."""


_cores = ThreadPoolExecutor(os.cpu_count(), "random")
"""Kept: glibc gives every new thread a heap of its own, which stays when the thread has gone."""


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """One block for each element: four words in, four words out, all below 2³² in uint64 arrays."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = _M0 * c0, _M1 * c2
        c0, c2 = (second >> _HALF) ^ c1 ^ np.uint64(k0), (first >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _uniform(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """53 bits of two words, in [0, 1)."""
    high = (a >> np.uint64(5)).astype(np.float64) * 67108864.0
    return (high + (b >> np.uint64(6)).astype(np.float64)) / 2.0**53


class Stream:
    """Positions are 0-based and below 2⁵³."""

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
        words = np.frombuffer(digest, "<u4")
        self._key = (int(words[0]), int(words[1]))
        self._rest = (np.uint64(words[2]), np.uint64(words[3]))

    def _blocks(self, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        high, salt = (np.full_like(positions, word) for word in self._rest)
        return philox((positions & _LOW, positions >> _HALF, high, salt), self._key)

    def uniforms(self, first: int, count: int) -> np.ndarray:
        """float64 [count], of positions first, first + 1, …"""
        a, b, _, _ = self._blocks(np.arange(first, first + count, dtype=np.uint64))
        return _uniform(a, b)

    def normals(self, first: int, count: int) -> np.ndarray:
        """float64 [count]: standard normal, Box–Muller on the two uniforms of a block."""
        a, b, c, d = self._blocks(np.arange(first, first + count, dtype=np.uint64))
        return np.sqrt(-2.0 * np.log(1.0 - _uniform(a, b))) * np.cos(2.0 * np.pi * _uniform(c, d))

    def fill_normal(self, target: np.ndarray, deviation: float) -> None:
        """Writes deviation · normal(i) to element i of a flat float32 array, on all cores."""

        def piece(first: int) -> None:
            values = self.normals(first, min(_PIECE, target.size - first))
            target[first : first + values.size] = values * deviation

        list(_cores.map(piece, range(0, target.size, _PIECE)))
