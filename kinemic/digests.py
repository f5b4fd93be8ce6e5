"""What was written is what is read: a short hash of content, kept beside it and compared on reading."""

from __future__ import annotations

import hashlib
from typing import Any, Final

SIZE: Final = 8  # bytes; against damage and chance, not against an adversary


def digest_bytes(*parts: Any) -> bytes:
    """Return the hash of texts, bytes and contiguous arrays, 8 bytes."""
    found = hashlib.sha256()  # processors have instructions for it: twice as fast as BLAKE2
    for part in parts:
        plain = memoryview(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
        found.update(plain.nbytes.to_bytes(8, "little"))
        found.update(plain)
    return found.digest()[:SIZE]


def digest_of(*parts: Any) -> str:
    """Return the same hash in hexadecimal digits."""
    return digest_bytes(*parts).hex()
