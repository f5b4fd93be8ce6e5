"""The embedded caption encoder: TF-IDF over word stems, projected by SVD; fitted on captions, nothing downloaded.

Legend: n captions, V stems of the vocabulary, R rank kept by the SVD, E embedding width.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import MOST_NUMBERS
from kinemic.digests import digest_of
from kinemic.documents import parse_json
from kinemic.errors import CheckpointError, DataError
from kinemic.files import replacing

if TYPE_CHECKING:
    from kinemic.text import TextEncoder

VERSION = 2  # of stems, weights and fit; part of the id
STATE, ARRAYS = "tfidf.json", "tfidf.safetensors"

_FUNCTION_WORDS = """
a an the this that these those some any each every other another one it its they them their theirs he him his she her
hers you your i my we our who which what there here and or but nor so as if then than while when where before after
during until of in on at to into onto from with without by for about near is are was were be been being am do does did
doing done has have had having can could will would shall should may might must not no very just also again something
someone somebody person people human man woman men women guy figure individual character
"""
_DIRECTION_WORDS = "up down over under out off through toward towards around across along against between"
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
DIRECTION_WORDS = frozenset(_DIRECTION_WORDS.split())  # they tell "sits down" from "sits up", but name no action
_VOWEL = re.compile("[aeiouy]")


def stem(word: str) -> str:
    """Return a word without its inflection, so that "kicks", "kicking" and "kicked" meet; crude, but stable."""
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "zes", "ches", "shes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) >= 2 and _VOWEL.search(root):
            doubled = len(root) > 2 and root[-1] == root[-2] and root[-1] not in "lsz"
            word = root[:-1] if doubled else root
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def content_stems(text: str) -> list[str]:
    """Return the stems of the words that say what happens; articles, directions, "person" and the like left out."""
    return [stem(word) for word in _words(text) if word not in FUNCTION_WORDS | DIRECTION_WORDS]


def weighed_stems(text: str) -> list[str]:
    """Return the stems that count: all but function words, or those too where a caption has no others."""
    kept = [stem(word) for word in _words(text) if word not in FUNCTION_WORDS]
    return kept or [stem(word) for word in _words(text)]


@dataclass(frozen=True)
class TfidfEncoder:
    """TF-IDF + SVD. ``idf_V`` and ``components_RV`` are the fit.

    E is ``dim`` whatever the captions allow: columns beyond the rank R are zeros.
    """

    id: str
    dim: int
    vocabulary: dict[str, int]
    idf_V: NDArray[np.float64]  # noqa: N815
    components_RV: NDArray[np.float64]  # noqa: N815

    @classmethod
    def fit(cls, captions: Sequence[str], dim: int) -> TfidfEncoder:
        """Fit on captions, each distinct one once, in sorted order. Raises DataError where they hold no word.

        The id is a hash of what is fitted on, so the same captions give the same id on every machine.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd

        distinct = sorted({caption for caption in captions if _words(caption)})
        if not distinct:
            raise DataError(f"text encoder: no words in the {len(captions)} captions to fit on")
        vectorizer = TfidfVectorizer(analyzer=weighed_stems, sublinear_tf=True)
        counts = vectorizer.fit_transform(distinct)
        rank = min(dim, *counts.shape)
        _, _, components = randomized_svd(counts, rank, n_iter=7, random_state=0)
        key = json.dumps([VERSION, dim, distinct]).encode()
        name = f"tfidf-{dim}-{hashlib.blake2b(key, digest_size=6).hexdigest()}"
        vocabulary = {str(word): int(place) for word, place in vectorizer.vocabulary_.items()}
        return cls(name, dim, vocabulary, np.asarray(vectorizer.idf_, np.float64), np.asarray(components, np.float64))

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per caption, (n, E). Raises DataError naming a caption without a known content word."""
        from scipy.sparse import csr_array

        rows = [self._weights(caption) for caption in captions]
        starts = np.cumsum([0, *(len(row) for row in rows)])
        places = np.array([place for row in rows for place in row], dtype=np.int64)
        weights = np.array([weight for row in rows for weight in row.values()], dtype=np.float64)
        sparse = csr_array((weights, places, starts), shape=(len(rows), len(self.vocabulary)))
        out = np.zeros((len(rows), self.dim), dtype=np.float32)
        # Unit rows times the root of the width: single numbers of about 1, as the prior's text projection likes them.
        out[:, : len(self.components_RV)] = (sparse @ self.components_RV.T) * math.sqrt(self.dim)
        return out

    def limited(self, tokens: int | None, whole: TextEncoder | None = None) -> TfidfEncoder:
        """Return itself: it has no tokens, and no context that could end."""
        return self

    def save(self, folder: Path) -> None:
        """Write the state into a folder: vocabulary as JSON, arrays as safetensors."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {"id": self.id, "dim": self.dim, "vocabulary": self.vocabulary, "digest": self._digest()}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        with replacing(folder / ARRAYS) as fresh:  # safetensors itself would keep it from all others
            save_file({"idf": self.idf_V, "components": np.ascontiguousarray(self.components_RV)}, fresh)

    @classmethod
    def load(cls, folder: Path) -> TfidfEncoder:
        """Read a state that ``save`` wrote. Raises CheckpointError where it is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            state: dict[str, Any] = parse_json((folder / STATE).read_bytes())
            arrays = load_file(folder / ARRAYS)
            encoder = cls(state["id"], state["dim"], state["vocabulary"], arrays["idf"], arrays["components"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = " ".join(str(error).split())
            raise CheckpointError(
                f"{folder}: not a readable text encoder ({why}); delete it to fit a new one"
            ) from error
        if not encoder._is_whole():
            raise CheckpointError(
                f"{folder}: damaged text encoder: its words, its arrays and dim {encoder.dim!r} don't belong together; "
                "delete it to fit a new one"
            )
        if state.get("digest", encoder._digest()) != encoder._digest():  # the first states had none
            raise CheckpointError(f"{folder}: damaged text encoder: not what was written; delete it to fit a new one")
        return encoder

    def _digest(self) -> str:
        fitted = json.dumps([self.id, self.dim, self.vocabulary])
        return digest_of(fitted, *(np.ascontiguousarray(a, "<f8") for a in (self.idf_V, self.components_RV)))

    def _is_whole(self) -> bool:
        places, arrays = self.vocabulary, (self.idf_V, self.components_RV)
        return (
            isinstance(self.id, str)
            and type(self.dim) is int
            and isinstance(places, dict)
            and all(type(place) is int for place in places.values())
            and sorted(places.values()) == list(range(len(places)))
            and self.idf_V.shape == (len(places),)
            and self.components_RV.shape[1:] == self.idf_V.shape
            and len(self.components_RV) <= self.dim <= MOST_NUMBERS
            and all(array.dtype == np.float64 and bool(np.isfinite(array).all()) for array in arrays)
        )

    def _weights(self, caption: str) -> dict[int, float]:
        """Unit-length TF-IDF weights of a caption by place in the vocabulary."""
        weighed, content = weighed_stems(caption), content_stems(caption)
        known = [word for word in weighed if word in self.vocabulary]
        if not known or (content and not any(word in self.vocabulary for word in content)):
            words = ", ".join(content or weighed) or "it has none"
            raise DataError(
                f"caption {caption!r}: none of its words ({words}) is known to {self.id}; rephrase it in words of the "
                "source captions"
            )
        weights = {
            self.vocabulary[word]: (1 + math.log(count)) * float(self.idf_V[self.vocabulary[word]])
            for word, count in Counter(known).items()
        }
        length = math.sqrt(math.fsum(w * w for w in weights.values()))
        return {place: weight / length for place, weight in weights.items()}


def _words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())
