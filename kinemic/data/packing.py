"""Writing a corpus: clips stream into one file, hashed on the way, and the folder appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.data.copies import moved_digests
from kinemic.data.corpus import CAPTIONS, CLIPS, META, SMALL_FILES, VERSION, Clip, Role, digest_of_meta, is_corpus
from kinemic.digests import digest_bytes, digest_of
from kinemic.errors import DataError
from kinemic.faults import writing
from kinemic.motion import Statistics, compute_statistics
from kinemic.skeleton import NUM_FEATURES


def pack(
    path: Path,
    clips: Iterable[Clip],
    classes: Sequence[str],
    class_captions: Sequence[Sequence[str]],
    role: Role,
    statistics: Statistics | None,
    notes: Mapping[str, Any],
    keep_existing: bool = False,
) -> None:
    """Write a corpus folder; see ``Corpus.write``. ``notes`` is read last, so a reader may still fill it meanwhile.

    ``keep_existing`` keeps a folder that another process finished meanwhile, instead of replacing it.
    """
    if len(classes) != len(class_captions):
        raise DataError(f"{path}: {len(classes)} classes but captions of {len(class_captions)}")
    with replacing_folder(path, keep_existing) as folder:
        columns = Columns()
        with open(folder / "features.npy", "wb") as file:
            _write_header(file, 0)
            for clip in clips:
                check_clip(clip, len(classes))
                columns.add(clip)
                file.write(columns.hash_and_encode(clip))
            if not columns.names:
                raise DataError(f"{path}: no clip to pack; check the folder and its lists")
            file.seek(0)
            _write_header(file, columns.frames)
        features = np.load(folder / "features.npy", mmap_mode="r")
        if statistics is None:
            statistics = compute_statistics(features)
        _save_small_files(folder, columns, statistics, features)
        meta = {
            "corpus_version": VERSION,
            "role": role,
            "clips": len(columns.names),
            "frames": columns.frames,
            "classes": list(classes),
            "class_captions": [list(captions) for captions in class_captions],
            "content_hash": columns.content_hash(classes, class_captions, statistics),
            "notes": dict(notes),
            "files": {name: digest_of((folder / name).read_bytes()) for name in SMALL_FILES},
        }
        meta["digest"] = digest_of_meta(meta)
        (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def check_clip(clip: Clip, classes: int) -> None:
    """Raise DataError, naming the clip and the value, for features that a corpus can't hold."""
    x = clip.features_TF
    if x.ndim != 2 or x.shape[1] != NUM_FEATURES or len(x) == 0:
        raise DataError(f"clip {clip.name}: expected features of shape (frames, {NUM_FEATURES}), got {x.shape}")
    if not np.isfinite(x).all():
        frame, feature = np.argwhere(~np.isfinite(x))[0]
        raise DataError(
            f"clip {clip.name}: {x[frame, feature]} at frame {frame}, feature {feature}; drop or repair the clip"
        )
    if clip.label is not None and not 0 <= clip.label < classes:
        raise DataError(f"clip {clip.name}: label {clip.label}, expected 0..{classes - 1}")


@contextmanager
def replacing_folder(path: Path, keep_existing: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``path`` when the block ends without an error.

    ``keep_existing`` leaves a folder alone that someone else finished meanwhile. Raises DataError where ``path`` holds
    something that is not a corpus, and InfrastructureError where the machine refuses the write.
    """
    if path.exists() and not is_corpus(path) and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: exists and is not a packed corpus; give another place")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}-"
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix, ignore_cleanup_errors=True) as room:
            fresh = Path(room) / "fresh"
            fresh.mkdir()
            yield fresh
            _move(fresh, path, Path(room), keep_existing)


def _move(fresh: Path, path: Path, room: Path, keep_existing: bool) -> None:
    """Swap folders; a rename onto a full folder fails, so another process may have come first or may come between."""
    for attempt in range(100):
        try:
            fresh.rename(path)
            return
        except OSError:
            if not is_corpus(path):
                raise
            if keep_existing:
                return
        try:
            # Whoever has the old folder open keeps its pages; it goes with the temporary room.
            path.rename(room / f"old{attempt}")
        except FileNotFoundError:
            continue
    raise DataError(f"{path}: other processes keep writing it; let them finish and try again")


@dataclass
class Columns:
    """What is known of each clip, gathered while the features stream by."""

    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    subjects: list[str | None] = field(default_factory=list)
    segments: list[list[tuple[str, int, int]]] = field(default_factory=list)
    parts: list[str | None] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    hash: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    @property
    def frames(self) -> int:
        """Frames of all clips so far."""
        return sum(self.lengths)

    def add(self, clip: Clip) -> None:
        """Take in one clip. Raises DataError for a name that came before."""
        if clip.name in self.seen:
            raise DataError(f"clip {clip.name}: the name comes twice; clip names must differ")
        self.seen.add(clip.name)
        self.names.append(clip.name)
        self.lengths.append(len(clip.features_TF))
        self.labels.append(-1 if clip.label is None else int(clip.label))
        self.captions.append(tuple(clip.captions))
        self.subjects.append(clip.subject)
        self.segments.append([(str(a), int(s), int(e)) for a, s, e in clip.segments])
        self.parts.append(clip.part)

    def hash_and_encode(self, clip: Clip) -> bytes:
        """Return the clip's features as the bytes that go into the file."""
        encoded = np.ascontiguousarray(clip.features_TF, dtype="<f4").tobytes()
        self.hash.update(encoded)
        self.digests.append(int.from_bytes(digest_bytes(encoded), "little"))
        return encoded

    def content_hash(
        self, classes: Sequence[str], class_captions: Sequence[Sequence[str]], statistics: Statistics
    ) -> str:
        """Return the hash of everything that a use of the corpus can depend on."""
        rest = (self.names, self.lengths, self.labels, self.captions, self.subjects, self.segments, self.parts)
        self.hash.update(json.dumps([*rest, list(classes), list(map(list, class_captions))]).encode())
        for values in (statistics.mean_F, statistics.std_F):
            self.hash.update(np.asarray(values, dtype="<f4").tobytes())
        return str(self.hash.hexdigest())


def _save_small_files(folder: Path, columns: Columns, statistics: Statistics, features: NDArray[np.float32]) -> None:
    offsets = np.cumsum([0, *columns.lengths], dtype=np.int64)
    exact = np.array(columns.digests, dtype=np.uint64)[:, None]
    np.save(folder / "digests.npy", np.concatenate([exact, moved_digests(features, offsets)], axis=1))
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "labels.npy", np.array(columns.labels, dtype=np.int64))
    np.save(folder / "statistics.npy", np.stack([statistics.mean_F, statistics.std_F]).astype(np.float32))
    clips = {name: getattr(columns, name) for name in ("names", "subjects", "parts", "segments")}
    (folder / CLIPS).write_text(json.dumps(clips), encoding="utf-8")
    (folder / CAPTIONS).write_text(json.dumps({"captions": columns.captions}), encoding="utf-8")


def _write_header(file: IO[bytes], frames: int) -> None:
    """Write the npy header; numpy pads it so that the first dimension can grow, and the second write fits the first."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (frames, NUM_FEATURES)}
    np.lib.format.write_array_header_1_0(file, header)
