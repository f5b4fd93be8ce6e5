"""Randomness is passed in: named seeds derived from one number."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for one named purpose.

    The same (seed, names) give the same value on every machine; different names give independent streams.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for one named purpose."""
    return np.random.default_rng(derive_seed(seed, *names))
