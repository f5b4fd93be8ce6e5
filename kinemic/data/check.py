"""What can be wrong with a data set, counted: unusable clips, lengths, motion, captions, labels, subjects.

Raw data passes through the very pass that packs it, so that whatever stops packing is found here, of every clip.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kinemic.data.convert import MAX_FRAMES
from kinemic.data.corpus import Clip, Corpus
from kinemic.data.measures import RATE_ADVICE, SHARE, Finding, Level, Measures, implausible, measure
from kinemic.data.packing import check_clip
from kinemic.data.raw import LONG_FRAMES, BadClip, Raw, ReadClip
from kinemic.data.splits import TrialData, moved_copies
from kinemic.errors import DataError
from kinemic.progress import Progress, ProgressCallback, silent

_ORDER = ("error", "warning", "info")


@dataclass
class Survey:
    """What is gathered while clips pass."""

    names: Counter[str] = field(default_factory=Counter)
    bad: list[BadClip] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)
    measures: list[Measures] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    uncaptioned: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    unknown_subject: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    subjects: set[str] = field(default_factory=set)

    def add(self, read: ReadClip | BadClip, shortest: int) -> None:
        """Take in what the reader's pass gives; a clip that is too short is counted only, as it is never packed."""
        if isinstance(read, BadClip):
            self.bad.append(read)
            return
        clip = read.clip
        self.names[clip.name] += 1
        self.frames[clip.name] = read.frames
        if read.frames < shortest:
            return
        self.measures.append(measure(clip))
        self.captions += clip.captions
        if not any(caption.strip() for caption in clip.captions):
            self.uncaptioned.append(clip.name)
        if clip.label is None:
            self.unlabelled.append(clip.name)
        else:
            self.labels[clip.label] += 1
        if clip.subject is None:
            self.unknown_subject.append(clip.name)
        else:
            self.subjects.add(clip.subject)


def check_corpus(data: Corpus | Raw, progress: ProgressCallback = silent) -> list[Finding]:
    """Return the findings on a packed corpus or a raw data set, errors first; nothing is raised for a bad clip."""
    return findings(data, survey(data, progress))


def survey(data: Corpus | Raw, progress: ProgressCallback = silent) -> Survey:
    """Read every clip once."""
    seen = Survey()
    shortest = data.shortest if isinstance(data, Raw) else 0  # of a packed corpus none was left that is too short
    for read in data.read(progress) if isinstance(data, Raw) else _packed(data, progress):
        seen.add(read, shortest)
    return seen


def findings(data: Corpus | Raw, seen: Survey) -> list[Finding]:
    """Return what a survey shows, errors first."""
    role = "target" if data.role in ("trial", "test") else data.role
    found = [*_unusable(seen, data), *_lengths(seen, data), *implausible(seen.measures), *_texts(seen, data, role)]
    found += _variants("classes", data.classes) + _variants("subjects", seen.subjects)
    found += _lists(data) if isinstance(data, Raw) else _noted(data)
    return sorted(found, key=lambda finding: _ORDER.index(finding.level))


def check_split(data: TrialData) -> list[Finding]:
    """Return the findings on trial data; a subject on both sides makes dev look easier than it is."""
    corpus, shared = data.corpus, data.shared_subjects
    findings = [
        Finding("info", f"{part} clips", len(side)) for part, side in (("train", data.train), ("dev", data.dev))
    ]
    if shared:
        findings.insert(0, Finding("warning", "subjects in train and in dev", len(shared), shared[0]))
    copies = moved_copies(data)
    if copies:
        what = "dev clips that begin as train clips do, but for place, facing or side: copies?"
        findings.insert(0, Finding("warning", what, len(copies), " and ".join(copies[0])))
    unknown = [corpus.names[i] for i in (*data.train, *data.dev) if corpus.subjects[i] is None]
    if unknown:
        what = "clips of unknown subjects: train and dev may share one"
        findings.insert(0, _clips("warning", what, unknown))
    return findings


def _packed(corpus: Corpus, progress: ProgressCallback) -> Iterator[ReadClip | BadClip]:
    total = len(corpus)
    for i, name in enumerate(corpus.names):
        if i % max(total // 200, 1) == 0:
            progress(Progress("check clips", i, total))
        label, captions, subject = int(corpus.labels[i]), corpus.captions[i], corpus.subjects[i]
        try:
            clip = Clip(name, corpus.clip(i), captions, None if label < 0 else label, subject)
            check_clip(clip, len(corpus.classes))
            yield ReadClip(clip, len(clip.features_TF))
        except DataError as error:
            yield BadClip(name, str(error))
    progress(Progress("check clips", total, total))


def _clips(level: Level, what: str, names: Iterable[str]) -> Finding:
    listed = tuple(names)
    return Finding(level, what, len(listed), listed[0], listed)


def _unusable(seen: Survey, data: Corpus | Raw) -> list[Finding]:
    found = [Finding("info", "clips", sum(seen.names.values()))]
    if seen.bad:
        what = "unusable: unreadable, wrong shape or values, no caption file"
        what += "; `on_bad: drop` leaves them out" if isinstance(data, Raw) else ""
        names, reasons = tuple(bad.name for bad in seen.bad), tuple(bad.reason for bad in seen.bad)
        found.append(Finding("error", what, len(names), reasons[0], names, reasons))
    if not seen.names:
        found.append(Finding("error", "no usable clip", 0))
    return found


def _lengths(seen: Survey, data: Corpus | Raw) -> list[Finding]:
    if not seen.frames:
        return []
    frames = np.array(list(seen.frames.values()))
    low, middle, high = np.quantile(frames, [0.05, 0.5, 0.95])
    found = [
        Finding("info", f"frames at 20 fps: median {middle:.0f}, 90 % within {low:.0f}..{high:.0f}", int(frames.sum()))
    ]
    shortest = data.shortest if isinstance(data, Raw) else 0
    short = [name for name, count in seen.frames.items() if count < shortest]
    cropped = [name for name, count in seen.frames.items() if count > MAX_FRAMES]
    long = sum(count > LONG_FRAMES for count in seen.frames.values())
    if isinstance(data, Corpus):
        long = data.notes.get("long", 0)
    if short:
        found.append(_clips("warning", f"shorter than {shortest} frames: dropped when packed", short))
    if cropped:
        found.append(_clips("info", f"longer than {MAX_FRAMES} frames: cropped when packed", cropped))
    if long > SHARE * len(frames):
        found.append(Finding("warning", f"clips of more than {LONG_FRAMES} frames are cropped{RATE_ADVICE}", long))
    return found


def _texts(seen: Survey, data: Corpus | Raw, role: str) -> list[Finding]:
    found = []
    uncaptioned: Level = "error" if role == "source" else "warning"
    if seen.uncaptioned:
        found.append(_clips(uncaptioned, "clips without a caption", seen.uncaptioned))
    if role != "target":
        return found
    if seen.unlabelled:
        found.append(_clips("error", "target clips without a label", seen.unlabelled))
    for what, names in (
        ("classes without a clip", [name for i, name in enumerate(data.classes) if not seen.labels[i]]),
        (
            "classes without a caption",
            [n for n, c in zip(data.classes, data.class_captions, strict=True) if not any(c)],
        ),
    ):
        if names:
            found.append(Finding("error", what, len(names), names[0]))
    if seen.labels:
        fewest = min(range(len(data.classes)), key=lambda label: seen.labels[label])
        what = f"classes, the smallest with {seen.labels[fewest]} clips"
        found.append(Finding("info", what, len(data.classes), data.classes[fewest]))
    if seen.subjects:
        found.append(Finding("info", "subjects", len(seen.subjects), min(seen.subjects)))
    if seen.unknown_subject:
        what = "clips of unknown subjects: no split can tell them apart"
        found.append(Finding("warning", what, len(seen.unknown_subject), seen.unknown_subject[0]))
    return found


def _variants(what: str, names: Iterable[str]) -> list[Finding]:
    """Names that a person would take for one and that count as several."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike[" ".join(name.split()).casefold()].append(name)
    several = [group for group in alike.values() if len(group) > 1]
    if not several:
        return []
    shown = " ".join(repr(name) for name in several[0])
    return [Finding("warning", f"{what} that differ only by case or blanks", len(several), shown)]


def _lists(data: Raw) -> list[Finding]:
    found = []
    try:
        data.statistics()
    except DataError as error:
        found.append(Finding("error", str(error), 1))
    if data.missing:
        found.append(Finding("warning", "listed clips that are not there", len(data.missing), data.missing[0]))
    if data.without:
        found.append(Finding("info", "clips that `drop` lists", len(data.without), min(data.without)))
    names = list(data.sides)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = data.sides[one] & data.sides[other]
            if both:
                found.append(Finding("warning", f"subjects in {one} and in {other}", len(both), min(both)))
    return found


def _noted(corpus: Corpus) -> list[Finding]:
    bad = corpus.notes.get("bad", [])
    return [Finding("info", "unusable clips that were dropped when packed", len(bad), bad[0][1])] if bad else []
