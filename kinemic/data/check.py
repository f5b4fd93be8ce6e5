"""What can be wrong with a data set, counted: lengths, frame rate, bones, floor, captions, labels, subjects.

Legend: T frames, J = 22 joints, 20 fps, metres. Limits are wide around recordings from optical mocap, Kinect and video
(six public sets): what lies outside is worth a look, and a warning, not an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinemic.data.corpus import Clip, Corpus
from kinemic.data.packing import check_clip
from kinemic.data.raw import MAX_FRAMES, Raw
from kinemic.data.splits import TrialData
from kinemic.errors import DataError
from kinemic.motion import features_to_joints
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.skeleton import BONES, FPS

Level = Literal["error", "warning", "info"]

END_JOINTS = (7, 8, 10, 11, 20, 21)  # ankles, feet, wrists: what moves fastest
SPEED_MS = (0.9, 5.0)  # median over clips of the 95th percentile of their end joints' speed; public sets: 1.6..2.9
CLIP_SPEED_MS = 15.0  # the same of one clip; a fast kick is about 10
BONE_VARIATION = 0.10  # standard deviation over mean of a bone's length in a clip; 0.002 where bones are rigid
FLOOR_M = 0.10  # mean of a clip's 20 lowest joint heights, from 0
LEG_M = (0.5, 1.2)  # hip to ankle along the bones; outside, the unit is not the metre


@dataclass(frozen=True)
class Finding:
    """One line of a check: how bad, what, how many clips (or subjects, or classes), and the first of them."""

    level: Level
    what: str
    count: int
    example: str = ""


@dataclass(frozen=True)
class Measures:
    """What one clip's joints tell."""

    name: str
    frames: int
    speed: float
    bone_variation: float
    floor: float
    leg: float


def check_corpus(data: Corpus | Raw, progress: ProgressCallback = silent) -> list[Finding]:
    """Return the findings on a packed corpus or a raw data set, errors first; nothing is raised for a bad clip."""
    seen = _Seen()
    total = len(data) if isinstance(data, Corpus) else data.total
    for done, clip in enumerate(_clips(data)):
        if done % max(total // 200, 1) == 0:
            progress(Progress("check clips", min(done, total), total))
        seen.add(clip, len(data.classes))
    progress(Progress("check clips", total, total))
    role = "target" if data.role in ("trial", "test") else data.role
    findings = [*_broken(seen), *_lengths(seen, data), *_plausible(seen.measures), *_texts(seen, data, role)]
    if isinstance(data, Raw):
        findings += _lists(data)
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def check_split(data: TrialData) -> list[Finding]:
    """Return the findings on trial data; a subject on both sides makes dev look easier than it is."""
    corpus, shared = data.corpus, data.shared_subjects
    findings = [
        Finding("info", f"{part} clips", len(side)) for part, side in (("train", data.train), ("dev", data.dev))
    ]
    if shared:
        findings.insert(0, Finding("warning", "subjects in train and in dev", len(shared), shared[0]))
    unknown = [corpus.names[i] for i in (*data.train, *data.dev) if corpus.subjects[i] is None]
    if unknown:
        findings.insert(
            0, Finding("warning", "clips of unknown subjects: train and dev may share one", len(unknown), unknown[0])
        )
    return findings


def measure(clip: Clip) -> Measures:
    """Return a sound clip's frame count, speed, bone variation, floor height and leg length."""
    joints_TJ3 = features_to_joints(clip.features_TF)
    steps = np.linalg.norm(np.diff(joints_TJ3[:, END_JOINTS], axis=0), axis=-1)
    parents, children = np.array(BONES).T
    bones_TB = np.linalg.norm(joints_TJ3[:, children] - joints_TJ3[:, parents], axis=-1)
    lengths_B = bones_TB.mean(axis=0)
    legs = lengths_B[np.isin(children, (4, 5, 7, 8))].sum() / 2
    return Measures(
        name=clip.name,
        frames=len(joints_TJ3),
        speed=float(np.quantile(steps, 0.95) * FPS) if len(steps) else 0.0,
        # Spine and collar bones of a few centimetres vary much without meaning anything, so 2 cm is the least divisor.
        bone_variation=float((bones_TB.std(axis=0) / np.maximum(lengths_B, 0.02)).max()),
        floor=float(np.sort(joints_TJ3[..., 1], axis=None)[:20].mean()),
        leg=float(legs),
    )


@dataclass
class _Seen:
    """What is gathered while clips pass."""

    names: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    measures: list[Measures] = field(default_factory=list)
    uncaptioned: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    unknown_subject: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    subjects: set[str] = field(default_factory=set)

    def add(self, clip: Clip | DataError, classes: int) -> None:
        if isinstance(clip, Clip):
            try:
                check_clip(clip, classes)
            except DataError as error:
                self.broken.append(str(error))
                return
        else:
            self.broken.append(str(clip))
            return
        self.names[clip.name] += 1
        self.measures.append(measure(clip))
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


def _clips(data: Corpus | Raw) -> Iterator[Clip | DataError]:
    if isinstance(data, Corpus):
        for i, name in enumerate(data.names):
            label = int(data.labels[i])
            yield Clip(name, data.clip(i), data.captions[i], None if label < 0 else label, data.subjects[i])
        return
    items = iter(data.items())
    while True:
        try:
            item = next(items, None)
            if item is None:
                return
            yield from item.load()
        except DataError as error:
            yield error


def _broken(seen: _Seen) -> list[Finding]:
    findings = [Finding("info", "clips", sum(seen.names.values()))]
    if seen.broken:
        findings.append(
            Finding(
                "error",
                "unusable: unreadable, wrong width, NaN or infinite, no caption file",
                len(seen.broken),
                seen.broken[0],
            )
        )
    twice = [name for name, count in seen.names.items() if count > 1]
    if twice:
        findings.append(Finding("error", "names that come twice", len(twice), twice[0]))
    if not seen.names:
        findings.append(Finding("error", "no usable clip", 0))
    return findings


def _lengths(seen: _Seen, data: Corpus | Raw) -> list[Finding]:
    if not seen.measures:
        return []
    frames = np.array([m.frames for m in seen.measures])
    least = data.shortest if isinstance(data, Raw) else 0  # of a packed corpus none was left that is too short
    low, middle, high = np.quantile(frames, [0.05, 0.5, 0.95])
    findings = [
        Finding("info", f"frames at 20 fps: median {middle:.0f}, 90 % within {low:.0f}..{high:.0f}", int(frames.sum()))
    ]
    notices: tuple[tuple[Level, str, NDArray[np.bool_]], ...] = (
        ("warning", f"shorter than {least} frames: dropped when packed", frames < least),
        ("info", f"longer than {MAX_FRAMES} frames: cropped when packed", frames > MAX_FRAMES),
    )
    for level, what, mask in notices:
        if mask.any():
            findings.append(Finding(level, what, int(mask.sum()), seen.measures[int(np.argmax(mask))].name))
    return findings


def _plausible(measures: list[Measures]) -> list[Finding]:
    if not measures:
        return []
    speeds, legs = (np.array([getattr(m, key) for m in measures]) for key in ("speed", "leg"))
    speed, leg = float(np.median(speeds)), float(np.median(legs))
    good = SPEED_MS[0] <= speed <= SPEED_MS[1]
    what = (
        f"frame rate: hands and feet reach {speed:.2f} m/s (95th percentile a clip, median of clips), expected "
        f"{SPEED_MS[0]:g}..{SPEED_MS[1]:g}"
    )
    findings = [Finding("info" if good else "warning", what + ("" if good else "; is it 20 fps?"), len(measures))]
    if not LEG_M[0] <= leg <= LEG_M[1]:
        findings.append(Finding("warning", f"scale: legs of {leg:.3g} m; expected metres", len(measures)))
    off = np.abs([m.floor for m in measures])
    for what, values, limit in (
        (f"a hand or foot faster than {CLIP_SPEED_MS:g} m/s", speeds, CLIP_SPEED_MS),
        (
            f"bone lengths vary by more than {BONE_VARIATION:.0%}",
            np.array([m.bone_variation for m in measures]),
            BONE_VARIATION,
        ),
        (f"lowest joints more than {FLOOR_M:g} m off the floor", off, FLOOR_M),
    ):
        findings += _above(what, values, limit, measures)
    return findings


def _above(what: str, values: NDArray[np.floating], limit: float, measures: list[Measures]) -> list[Finding]:
    over = int((values > limit).sum())
    worst = int(np.argmax(values))
    return [Finding("warning", what, over, f"{measures[worst].name} ({values[worst]:.3g})")] if over else []


def _texts(seen: _Seen, data: Corpus | Raw, role: str) -> list[Finding]:
    findings = []
    uncaptioned: Level = "error" if role == "source" else "warning"
    if seen.uncaptioned:
        findings.append(Finding(uncaptioned, "clips without a caption", len(seen.uncaptioned), seen.uncaptioned[0]))
    if role != "target":
        return findings
    if seen.unlabelled:
        findings.append(Finding("error", "target clips without a label", len(seen.unlabelled), seen.unlabelled[0]))
    for what, names in (
        ("classes without a clip", [name for i, name in enumerate(data.classes) if not seen.labels[i]]),
        (
            "classes without a caption",
            [n for n, c in zip(data.classes, data.class_captions, strict=True) if not any(c)],
        ),
    ):
        if names:
            findings.append(Finding("error", what, len(names), names[0]))
    if seen.labels:
        fewest = min(range(len(data.classes)), key=lambda label: seen.labels[label])
        what = f"classes, the smallest with {seen.labels[fewest]} clips"
        findings.append(Finding("info", what, len(data.classes), data.classes[fewest]))
    if seen.subjects:
        findings.append(Finding("info", "subjects", len(seen.subjects), min(seen.subjects)))
    if seen.unknown_subject:
        what = "clips of unknown subjects: no split can tell them apart"
        findings.append(Finding("warning", what, len(seen.unknown_subject), seen.unknown_subject[0]))
    return findings


def _lists(data: Raw) -> list[Finding]:
    findings = []
    if data.missing:
        findings.append(Finding("warning", "listed clips that are not there", len(data.missing), data.missing[0]))
    names = list(data.sides)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = data.sides[one] & data.sides[other]
            if both:
                findings.append(Finding("warning", f"subjects in {one} and in {other}", len(both), min(both)))
    return findings
