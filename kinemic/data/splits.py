"""Few-shot splits and the firewall: a trial's folder physically holds train and dev clips alone (METHOD section 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from kinemic.config import IdList, SplitConfig
from kinemic.data.copies import Pair, find_copies, refuse_exact, warn_of_moved
from kinemic.data.corpus import Clip, Corpus, Part, Role, is_corpus
from kinemic.data.raw import read_ids
from kinemic.errors import DataError, FirewallError
from kinemic.motion import Statistics, compute_statistics

SPLIT_VERSION = 3  # of what is written for a split
DEFAULT_SHOTS = 10
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TrialData:
    """A trial's target clips: indices of the few shots (train) and of the clips that score it (dev).

    With k-fold dev there are no dev clips; ``folds`` (train,) then says by which fold each shot is held out.
    """

    corpus: Corpus
    train: Indices
    dev: Indices
    folds: Indices | None = None

    @property
    def views(self) -> tuple[TrialData, ...]:
        """What a trial is adapted and scored on: itself, or for each fold the other shots, scored on the fold's."""
        if self.folds is None:
            return (self,)
        held_out = [self.folds == fold for fold in range(int(self.folds.max()) + 1)]
        return tuple(TrialData(self.corpus, self.train[~out], self.train[out]) for out in held_out)

    @property
    def shared_subjects(self) -> tuple[str, ...]:
        """Subjects on both sides, as recorded lists may have them; a drawn split never has one."""
        shared = (shared_subjects(view.corpus, view.train, view.dev) for view in self.views)
        return tuple(sorted({subject for subjects in shared for subject in subjects}))


@dataclass(frozen=True)
class Split:
    """Clips of a target corpus by part, and the classes that they are of, in the order of the new labels."""

    classes: tuple[str, ...]
    train: Indices
    dev: Indices
    folds: Indices | None = None  # (train,) by which fold each shot is held out


def make_trial_data(target: Corpus, split: SplitConfig, path: Path) -> Corpus:
    """Write the clips of train and dev, and nothing else, as a corpus of role trial.

    With folds there are no dev clips: which fold holds a shot out is written beside them.
    Its statistics are those of the train clips, and so are the captions of its classes where clips have their own.
    Raises DataError for an unknown class or subject, an empty class, fewer clips than shots, no dev clips, a clip on
    both sides (FirewallError where it goes by two names), and for a drawn split with a subject on both sides.
    """
    chosen = choose(target, split)
    for view in TrialData(target, chosen.train, chosen.dev, chosen.folds).views:
        refuse_exact(find_copies(target, view.train, target, view.dev), ("train", "dev"))
    train = np.sort(chosen.train)
    statistics = compute_statistics(target.clip(int(i)) for i in train)
    parts: list[tuple[Part, Indices]] = [("train", chosen.train), ("dev", chosen.dev)]
    captions = [_told(target, train, target.classes.index(name)) for name in chosen.classes]
    notes = {} if chosen.folds is None else {"folds": chosen.folds.tolist()}
    return _write_part(target, chosen.classes, captions, parts, "trial", path, statistics, notes)


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
    folds = corpus.notes.get("folds")
    return TrialData(
        corpus,
        np.flatnonzero(parts == "train"),
        np.flatnonzero(parts == "dev"),
        None if folds is None else np.array(folds),
    )


def moved_copies(data: TrialData) -> tuple[Pair, ...]:
    """Return pairs of a train and a dev clip that begin alike, but for place, facing or side: dev may be no news."""
    found = [find_copies(data.corpus, view.train, data.corpus, view.dev).moved for view in data.views]
    return tuple(dict.fromkeys(pair for pairs in found for pair in pairs))


def choose_test(
    target: Corpus, trial: TrialData, subjects: Sequence[str] | None = None, ids: IdList | None = None
) -> Indices:
    """Return the test clips of the trial's classes, chosen by subject or by a list; no motion is read for it.

    Raises FirewallError where a clip is among the trial's, by name or by motion, or, for clips chosen by subject, where
    a subject is; DataError for an unknown name, and for a class without test clips. Warns of clips that begin as one of
    the trial's does, but for place, facing or side.
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
    copies = find_copies(trial.corpus, np.arange(len(trial.corpus)), target, chosen)
    refuse_exact(copies, ("train or dev", "test"))
    warn_of_moved(copies.moved, ("train or dev", "test"))
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
    classes = classes_of(target, split)
    of_class = _of_classes(target, classes)
    if split.folds is not None:
        return _choose_folds(target, split, classes, of_class)
    if split.dev is None and split.dev_subjects is None:
        raise DataError(
            "the split has no dev clips to score a trial on; give split.dev_subjects or a list split.dev, "
            "or hold shots out in turn: split.folds"
        )
    dev = of_class & (_listed(target, split.dev) if split.dev else _of_subjects(target, split.dev_subjects or ()))
    if split.dev and split.dev_subjects:
        dev &= _of_subjects(target, split.dev_subjects)
    shots = split.shots if split.shots is not None or split.train is not None else DEFAULT_SHOTS
    train = _draw_or_all(target, classes, of_class & _train_pool(target, split), shots, split.seed)
    _need_every_class(target, classes, train, "train")
    _need_every_class(target, classes, np.flatnonzero(dev), "dev")
    chosen = Split(classes, train, np.flatnonzero(dev))
    _check_sides(target, chosen, recorded=split.train is not None and split.dev is not None)
    return chosen


def classes_of(target: Corpus, split: SplitConfig) -> tuple[str, ...]:
    """Return the classes of a split. Raises DataError where there is none, or one that the target corpus lacks."""
    classes = split.classes or target.classes
    _of_classes(target, classes)
    return classes


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


def _draw_or_all(
    target: Corpus, classes: Sequence[str], pool: NDArray[np.bool_], shots: int | None, seed: int
) -> Indices:
    return np.flatnonzero(pool) if shots is None else draw(target, classes, pool, shots, seed)


def _choose_folds(target: Corpus, split: SplitConfig, classes: Sequence[str], of_class: NDArray[np.bool_]) -> Split:
    """Return a split whose shots are held out in turn; without ``shots``, subjects or a list every clip is one."""
    assert split.folds is not None
    everyone = split.train is None and split.train_subjects is None
    pool = of_class if everyone else of_class & _train_pool(target, split)
    train = _draw_or_all(target, classes, pool, split.shots, split.seed)
    for name in classes:
        have = int((target.labels[train] == target.classes.index(name)).sum())
        if have < split.folds:
            raise DataError(f"class {name!r}: {have} shots for {split.folds} folds; each fold needs one: lower folds")
    # By name, so that the order of the corpus does not matter.
    order = sorted(range(len(train)), key=lambda i: target.names[train[i]])
    folds = np.empty(len(train), np.int64)
    folds[order] = hold_out(target.labels[train[order]], [target.subjects[i] for i in train[order]], split.folds)
    return Split(tuple(classes), train, np.empty(0, np.int64), folds)


def hold_out(labels: Indices, subjects: Sequence[str | None], folds: int) -> Indices:
    """Return the fold of each shot, (N,), every class in every fold; where possible no subject is in two folds.

    Possible is it where every subject is known and scikit-learn's greedy grouping leaves each fold, and its rest, every
    class. Else folds share subjects, and dev accuracy says less about people who are not among the shots.
    """
    if None not in subjects and len(set(subjects)) >= folds:
        grouped = _folds_of(StratifiedGroupKFold(folds), labels, subjects)
        classes = set(labels.tolist())
        if all(set(labels[side].tolist()) == classes for f in range(folds) for side in (grouped == f, grouped != f)):
            return grouped
    return _folds_of(StratifiedKFold(folds), labels, None)


def _folds_of(splitter: StratifiedKFold | StratifiedGroupKFold, labels: Indices, groups: Any) -> Indices:
    found = np.empty(len(labels), np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
        found[held_out] = fold
    return found


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
    notes: Mapping[str, Any] | None = None,
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

    return Corpus.write(
        path, clips(), classes, captions, role, statistics, {"target": target.content_hash} | dict(notes or {})
    )
