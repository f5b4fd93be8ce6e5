"""Few-shot splits and the firewall: a trial's folder physically holds train and dev clips alone (METHOD section 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinemic.config import IdList, SplitConfig
from kinemic.data.corpus import Clip, Corpus, Part, Role, is_corpus
from kinemic.data.raw import read_ids
from kinemic.errors import DataError, FirewallError
from kinemic.motion import Statistics, compute_statistics

SPLIT_VERSION = 2  # of what is written for a split
DEFAULT_SHOTS = 10
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TrialData:
    """A trial's target clips: indices of the few shots (train) and of the clips that score it (dev)."""

    corpus: Corpus
    train: Indices
    dev: Indices

    @property
    def shared_subjects(self) -> tuple[str, ...]:
        """Subjects on both sides, as recorded lists may have them; a drawn split never has one."""
        return shared_subjects(self.corpus, self.train, self.dev)


@dataclass(frozen=True)
class Split:
    """Clips of a target corpus by part, and the classes that they are of, in the order of the new labels."""

    classes: tuple[str, ...]
    train: Indices
    dev: Indices


def make_trial_data(target: Corpus, split: SplitConfig, path: Path) -> Corpus:
    """Write the clips of train and dev, and nothing else, as a corpus of role trial.

    Its statistics are those of the train clips, and so are the captions of its classes where clips have their own.
    Raises DataError for an unknown class or subject, an empty class, fewer clips than shots, no dev clips, a clip on
    both sides, and for a drawn split with a subject on both sides.
    """
    chosen = choose(target, split)
    train = np.sort(chosen.train)
    statistics = compute_statistics(target.clip(int(i)) for i in train)
    parts: list[tuple[Part, Indices]] = [("train", chosen.train), ("dev", chosen.dev)]
    captions = [_told(target, train, target.classes.index(name)) for name in chosen.classes]
    return _write_part(target, chosen.classes, captions, parts, "trial", path, statistics)


def load_trial_data(path: Path) -> TrialData:
    """Open a trial's clips. Raises FirewallError for any corpus that is not one of role trial, or holds other parts."""
    corpus = Corpus.open(path)
    if corpus.role != "trial":
        raise FirewallError(f"{path}: holds {corpus.role} clips; a trial may only be given its own train and dev clips")
    parts = np.array([str(part) for part in corpus.parts])
    foreign = np.flatnonzero((parts != "train") & (parts != "dev"))
    if len(foreign):
        name = corpus.names[foreign[0]]
        raise FirewallError(f"{path}: clip {name} is of part {parts[foreign[0]]}; a trial holds train and dev alone")
    return TrialData(corpus, np.flatnonzero(parts == "train"), np.flatnonzero(parts == "dev"))


def choose_test(
    target: Corpus, trial: TrialData, subjects: Sequence[str] | None = None, ids: IdList | None = None
) -> Indices:
    """Return the test clips of the trial's classes, chosen by subject or by a list; no motion is read for it.

    Raises FirewallError where a clip is among the trial's, or, for clips chosen by subject, where a subject is;
    DataError for an unknown name, and for a class without test clips.
    """
    if (subjects is None) == (ids is None):
        raise DataError("test data: give exactly one of subjects and a list of ids")
    classes = trial.corpus.classes
    of_class = _of_classes(target, classes)
    test = of_class & (_of_subjects(target, subjects) if subjects is not None else _listed(target, ids))
    chosen = np.flatnonzero(test)
    seen = {target.names[i] for i in chosen} & set(trial.corpus.names)
    if seen:
        raise FirewallError(f"{len(seen)} test clips are train or dev clips, first {sorted(seen)[0]}")
    known = {s for s in trial.corpus.subjects if s} & {str(target.subjects[i]) for i in chosen}
    if known and subjects is not None:
        raise FirewallError(f"test subjects {sorted(known)} are in train or dev; a test subject must be unseen")
    _need_every_class(target, classes, chosen, "test")
    return chosen


def make_test_data(
    target: Corpus, trial: TrialData, path: Path, subjects: Sequence[str] | None = None, ids: IdList | None = None
) -> Corpus:
    """Write the clips of ``choose_test`` as a corpus of role test, and raise as it does; for the confirmation."""
    chosen, named = choose_test(target, trial, subjects, ids), trial.corpus
    parts: list[tuple[Part, Indices]] = [("test", chosen)]
    return _write_part(target, named.classes, named.class_captions, parts, "test", path, target.statistics)


def choose(target: Corpus, split: SplitConfig) -> Split:
    """Return the clips of a split, in no way dependent on the order of the clips in the corpus; raises DataError."""
    classes = split.classes or target.classes
    of_class = _of_classes(target, classes)
    if split.dev is None and split.dev_subjects is None:
        raise DataError("the split has no dev clips to score a trial on; give split.dev_subjects or a list split.dev")
    dev = of_class & (_listed(target, split.dev) if split.dev else _of_subjects(target, split.dev_subjects or ()))
    if split.dev and split.dev_subjects:
        dev &= _of_subjects(target, split.dev_subjects)
    pool = of_class & _train_pool(target, split)
    shots = split.shots if split.shots is not None or split.train is not None else DEFAULT_SHOTS
    train = np.flatnonzero(pool) if shots is None else draw(target, classes, pool, shots, split.seed)
    _need_every_class(target, classes, train, "train")
    _need_every_class(target, classes, np.flatnonzero(dev), "dev")
    chosen = Split(classes, train, np.flatnonzero(dev))
    _check_sides(target, chosen, recorded=split.train is not None and split.dev is not None)
    return chosen


def draw(target: Corpus, classes: Sequence[str], pool: NDArray[np.bool_], shots: int, seed: int) -> Indices:
    """Draw ``shots`` clips of each class from ``pool`` (N,) in the order of a hash of seed and clip name.

    So more shots of the same seed hold fewer shots of it. Raises DataError with class, have and need.
    """
    chosen: list[int] = []
    for name in classes:
        have = np.flatnonzero(pool & (target.labels == target.classes.index(name)))
        if len(have) < shots:
            raise DataError(f"class {name!r}: {len(have)} clips to draw from, {shots} shots needed")
        chosen += sorted(map(int, have), key=lambda i: _draw_key(seed, target.names[i]))[:shots]
    return np.array(sorted(chosen), dtype=np.int64)


def shared_subjects(corpus: Corpus, train: Indices, dev: Indices) -> tuple[str, ...]:
    """Return the subjects, where known, that have clips on both sides."""
    sides = [{corpus.subjects[i] for i in side} - {None} for side in (train, dev)]
    return tuple(sorted(str(subject) for subject in sides[0] & sides[1]))


def _draw_key(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def _train_pool(target: Corpus, split: SplitConfig) -> NDArray[np.bool_]:
    """Clips that shots may come from; without a list or subjects, those of every known subject that dev lacks."""
    if split.train is not None:
        return _listed(target, split.train)
    if split.train_subjects is not None:
        return _of_subjects(target, split.train_subjects)
    if split.dev_subjects is not None:
        # A clip of an unknown subject could be of a dev subject, so it stays out.
        known = np.array([s is not None for s in target.subjects])
        return known & ~_of_subjects(target, split.dev_subjects)
    raise DataError("a dev list alone leaves open which clips may be shots; give split.train_subjects or split.train")


def _listed(target: Corpus, ids: IdList | None) -> NDArray[np.bool_]:
    assert ids is not None
    names = read_ids(ids)
    place = {name: i for i, name in enumerate(target.names)}
    unknown = [name for name in names if name not in place]
    if unknown:
        where, count = f"{ids.file} {ids.key or ''}".strip(), f"{len(unknown)} of {len(names)}"
        raise DataError(f"{where}: {count} clips are not in the target corpus, first {unknown[0]}")
    mask = np.zeros(len(target), dtype=bool)
    mask[[place[name] for name in names]] = True
    return mask


def _of_subjects(target: Corpus, subjects: Sequence[str]) -> NDArray[np.bool_]:
    known = {subject for subject in target.subjects if subject is not None}
    unknown = sorted(set(subjects) - known)
    if unknown:
        shown = ", ".join(sorted(known)[:12]) or "none, the corpus names no subject"
        raise DataError(f"subject {unknown[0]!r} has no clip in the target corpus; it has {shown}")
    return np.array([subject in set(subjects) for subject in target.subjects], dtype=bool)


def _of_classes(target: Corpus, classes: Sequence[str]) -> NDArray[np.bool_]:
    if not classes:
        raise DataError(f"{target.path}: no class; a target corpus needs labelled clips")
    if len(set(classes)) < len(classes):
        raise DataError(f"split.classes names a class twice: {', '.join(classes)}")
    unknown = [name for name in classes if name not in target.classes]
    if unknown:
        raise DataError(f"class {unknown[0]!r} is not in the target corpus; it has {', '.join(target.classes)}")
    return np.isin(target.labels, [target.classes.index(name) for name in classes])


def _need_every_class(target: Corpus, classes: Sequence[str], chosen: Indices, side: str) -> None:
    there = set(target.labels[chosen].tolist())
    empty = [name for name in classes if target.classes.index(name) not in there]
    if empty:
        raise DataError(f"class {empty[0]!r} has no {side} clip; every class needs at least one")


def _check_sides(target: Corpus, chosen: Split, recorded: bool) -> None:
    both = set(chosen.train.tolist()) & set(chosen.dev.tolist())
    if both:
        raise DataError(f"{len(both)} clips are in train and in dev, first {target.names[min(both)]}")
    shared = shared_subjects(target, chosen.train, chosen.dev)
    if shared and not recorded:
        raise DataError(f"subjects {', '.join(shared)} are in train and in dev; a dev subject must be unseen")


def _told(target: Corpus, train: Indices, label: int) -> tuple[str, ...]:
    """Captions of a class that its train clips carry: those of other clips would let a trial see beyond its shots."""
    seen = {caption for i in train if target.labels[i] == label for caption in target.captions[i]}
    named = target.class_captions[label]
    return tuple(caption for caption in named if caption in seen) or named


def _write_part(
    target: Corpus,
    classes: Sequence[str],
    captions: Sequence[Sequence[str]],
    parts: Sequence[tuple[Part, Indices]],
    role: Role,
    path: Path,
    statistics: Statistics,
) -> Corpus:
    old = [target.classes.index(name) for name in classes]
    label_of = {label: new for new, label in enumerate(old)}
    if is_corpus(path) and Corpus.open(path).role != role:
        raise DataError(f"{path}: holds another corpus, of role {Corpus.open(path).role}; give another place")

    def clips() -> Iterator[Clip]:
        for part, indices in parts:
            for i in map(int, indices):
                label = label_of[int(target.labels[i])]
                texts, segments = target.captions[i], target.segments[i]
                yield Clip(target.names[i], target.clip(i), texts, label, target.subjects[i], segments, part)

    return Corpus.write(path, clips(), classes, captions, role, statistics, {"target": target.content_hash})
