"""The generated corpus: long captioned source clips of chained actions, short labelled target clips with a domain gap.

Every source clip has a performer of its own; target clips share performers, whose habits (tempo, reach, handedness,
posture, body) return in all their clips. So a few target clips show few ways of doing an action, and the source shows
many. Metres, y up, 20 frames a second; segments are counted in feature frames, of which a clip has one fewer than
joints. Clip i is the same for any number of clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kinemic import skeleton
from kinemic.data import procedural_body as body
from kinemic.data import procedural_captions as words
from kinemic.data.procedural_actions import ACTIONS
from kinemic.data.procedural_body import Array, Channel
from kinemic.data.procedural_curves import MAX_DRAWS, Curves, Style, hump
from kinemic.seeding import numpy_generator

SUBJECTS = tuple(f"s{n:02d}" for n in range(1, 25))  # of the target
SOURCE_FRAMES = (60, 196)  # feature frames
TARGET_FRAMES = (16, 60)
GAP = (4, 16)  # frames between chained actions
ALONE_SHARE = 1 / 2  # of the actions of source clips: told alone too, as a stretch with captions of its own
ALONE_FRAMES = 16  # of such a stretch at least: one padded to 40 would show its neighbours, of which nothing is told
ALONE_MARGIN = 4  # frames before and after the action at most
_BLOCK = 100  # clips posed at a time


@dataclass(frozen=True)
class Domain:
    """What source and target differ in: bodies, posture and wobble (degrees), sensors (metres), habits, cutting."""

    body_mean: tuple[float, ...]
    body_deviation: float
    posture: float
    wobble: float
    fidget: float
    noise: float
    spikes: float  # share of frames in which a joint jumps
    habit: float  # share of style that a performer keeps over clips
    tempo: tuple[float, float]
    left_handed: float  # share of performers, in the source of performances; most people favour the right hand
    truncation: float  # largest share cut from either end
    idle: float  # largest share added at either end, where the performer stands about


SOURCE = Domain((1.0,) * 6, 0.06, 6.0, 3.0, 12.0, 0.002, 0.0, 0.0, (0.7, 1.45), 0.15, 0.0, 0.0)
TARGET = Domain(
    (0.93, 1.06, 0.93, 1.0, 0.9, 1.05), 0.05, 10.0, 5.0, 22.0, 0.008, 0.01, 0.6, (0.75, 1.5), 0.15, 0.2, 0.5
)


@dataclass(frozen=True)
class Segment:
    """Where one action lies in a clip: feature frames start..end, end excluded."""

    action: str
    start: int
    end: int


@dataclass(frozen=True)
class Stretch:
    """A part of a source clip that captions of its own tell of, loosely cut around one action; end excluded."""

    start: int
    end: int
    captions: tuple[str, ...]
    segment: Segment


@dataclass(frozen=True)
class GeneratedClip:
    """One generated clip: joints (T, 22, 3) in metres, captions, and for a target clip its class and subject."""

    name: str
    joints_TJ3: NDArray[np.float32]  # noqa: N815
    captions: tuple[str, ...]
    action: str | None
    subject: str
    segments: tuple[Segment, ...]
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Performer:
    """Who moves: body proportions, posture (degrees a channel), hand, own tempo, and own style of every action."""

    proportions: Array
    posture: Array
    left_handed: bool
    tempo: float
    style: Array  # (actions, MAX_DRAWS) standard normal

    @classmethod
    def draw(cls, domain: Domain, rng: np.random.Generator) -> Performer:
        """Draw a performer of a domain."""
        proportions = np.array(domain.body_mean) * (
            1 + domain.body_deviation * rng.standard_normal(body.NUM_PROPORTIONS)
        )
        return cls(
            np.clip(proportions, 0.7, 1.35),
            _POSTURE_SHARE * domain.posture * np.clip(rng.standard_normal(body.NUM_CHANNELS), -2, 2),
            bool(rng.random() < domain.left_handed),
            float(rng.uniform(*domain.tempo)),
            rng.standard_normal((len(ACTIONS), MAX_DRAWS)),
        )


@dataclass(frozen=True)
class _Take:
    """Joint angles of one clip before it is posed."""

    angles: Array
    performer: Performer
    rng: np.random.Generator
    clip: GeneratedClip


def _posture_share() -> Array:
    """How much of posture and wobble each channel takes: arms all, trunk half, legs little, paths and lift nothing."""
    share = np.ones(body.NUM_CHANNELS)
    share[[Channel.YAW, Channel.LIFT, Channel.DRIFT]] = 0
    share[[Channel.PITCH, Channel.ROLL, Channel.TWIST, Channel.LEAN, Channel.BEND]] = 0.4
    for hip in (Channel.L_HIP, Channel.R_HIP):
        share[hip : hip + 4] = 0.2
    return share


def _stance() -> Array:
    """Angles of a body at rest: arms a little off the trunk, elbows and knees soft."""
    stance = np.zeros(body.NUM_CHANNELS)
    for arm, hip in ((Channel.L_ARM, Channel.L_HIP), (Channel.R_ARM, Channel.R_HIP)):
        stance[arm : arm + 4] = (2, 9, 8, 14)
        stance[hip : hip + 4] = (4, 3, 6, 7)
    return stance


_POSTURE_SHARE = _posture_share()
_STANCE = _stance()
_RANGES = {Channel.L_ELBOW: (0, 150), Channel.R_ELBOW: (0, 150), Channel.L_KNEE: (0, 150), Channel.R_KNEE: (0, 150)}


# --- public -------------------------------------------------------------------------------------------------------


def target_classes() -> list[tuple[str, tuple[str, ...]]]:
    """Return the target's class names, each with its captions."""
    return [(action.name, words.CLASS_CAPTIONS[action.name]) for action in ACTIONS if action.target]


def generate_source(n_clips: int, seed: int) -> list[GeneratedClip]:
    """Return captioned clips of two or three chained actions, 60..196 feature frames, 1..3 captions each.

    Half of the actions are told alone too, as captioned stretches cut closely around them (HumanML3D has such as well,
    but of 40 frames or more).
    """
    return _posed([_source_take(i, numpy_generator(seed, "source", i)) for i in range(n_clips)], SOURCE)


def generate_target(clips_per_class: int, seed: int) -> list[GeneratedClip]:
    """Return labelled clips of one action each, 16..60 feature frames, the subjects taking turns within a class."""
    cast = {name: Performer.draw(TARGET, numpy_generator(seed, "subject", name)) for name in SUBJECTS}
    takes = [
        _target_take(n, i, cast, numpy_generator(seed, "target", action.name, n))
        for i, action in enumerate(ACTIONS)
        if action.target
        for n in range(clips_per_class)
    ]
    return _posed(takes, TARGET)


# --- clips as joint angles ----------------------------------------------------------------------------------------


def _source_take(number: int, rng: np.random.Generator) -> _Take:
    performer = Performer.draw(SOURCE, rng)
    chosen = rng.choice(len(ACTIONS), size=int(rng.integers(2, 4)), replace=False)
    parts, tempos, sides = [], [], []
    for i in chosen:
        tempo = performer.tempo * rng.uniform(0.85, 1.15)
        left = bool(rng.random() < SOURCE.left_handed)
        parts.append(_perform(int(i), performer, SOURCE, tempo, left, rng))
        tempos.append(tempo)
        sides.append("left" if left else "right")
    names = [ACTIONS[i].name for i in chosen]
    angles, spans = _chain(_fitted(parts, SOURCE_FRAMES), rng)
    segments = tuple(Segment(name, a, min(b, len(angles) - 1)) for name, (a, b) in zip(names, spans, strict=True))
    text = words.captions(names, sides, tempos, rng)
    stretches = tuple(
        _told_alone(segment, len(angles) - 1, words.captions([segment.action], [side], [tempo], rng), rng)
        for segment, side, tempo in zip(segments, sides, tempos, strict=True)
        if rng.random() < ALONE_SHARE
    )
    name = f"source_{number:05d}"
    return _Take(angles, performer, rng, GeneratedClip(name, _NOTHING, text, None, name, segments, stretches))


def _told_alone(segment: Segment, frames: int, captions: tuple[str, ...], rng: np.random.Generator) -> Stretch:
    before, after = rng.integers(ALONE_MARGIN + 1, size=2)
    start, end = max(0, segment.start - int(before)), min(frames, segment.end + int(after))
    start = max(0, min(start, end - ALONE_FRAMES))
    return Stretch(start, max(end, start + ALONE_FRAMES), captions, segment)


def _target_take(number: int, action: int, cast: dict[str, Performer], rng: np.random.Generator) -> _Take:
    kind = ACTIONS[action]
    subject = SUBJECTS[number % len(SUBJECTS)]
    performer = cast[subject]
    tempo = performer.tempo * rng.uniform(0.85, 1.15)
    left = performer.left_handed != bool(rng.random() < 0.1)
    angles = _perform(action, performer, TARGET, tempo, left, rng)
    head, tail = (int(len(angles) * rng.uniform(0, TARGET.truncation)) for _ in range(2))
    before, after = (int(len(angles) * max(0.0, rng.uniform(-TARGET.idle, TARGET.idle))) for _ in range(2))
    cut = np.pad(angles[head : len(angles) - tail], ((before, after), (0, 0)), mode="edge")
    angles = _fitted([cut], TARGET_FRAMES)[0]
    captions = words.CLASS_CAPTIONS[kind.name]
    clip = GeneratedClip(
        f"{subject}_{kind.name}_{number:03d}",
        _NOTHING,
        captions,
        kind.name,
        subject,
        (Segment(kind.name, 0, len(angles) - 1),),
    )
    return _Take(angles, performer, rng, clip)


_NOTHING = np.zeros((0, skeleton.NUM_JOINTS, 3), dtype=np.float32)


def _perform(
    action: int, performer: Performer, domain: Domain, tempo: float, left: bool, rng: np.random.Generator
) -> Array:
    """Angles (T, C) of one action as this performer does it this time, relative to the stance."""
    kind = ACTIONS[action]
    seconds = rng.uniform(*kind.seconds) / tempo
    curves = Curves(max(12, round(seconds * skeleton.FPS)), float(np.exp(rng.normal(0, 0.15))))
    kind.build(curves, Style.of(performer.style[action], domain.habit, rng))
    _fidget(curves, domain.fidget, rng)
    return body.mirrored(curves.values) if left else curves.values


def _fidget(curves: Curves, strength: float, rng: np.random.Generator) -> None:
    """Small gestures that have nothing to do with the action: an arm that moves up and back, a look around."""
    for channel in (Channel.L_ARM, Channel.R_ARM, Channel.L_ELBOW, Channel.R_ELBOW, Channel.LOOK, Channel.TWIST):
        start, full, fall, end = np.sort(rng.uniform(-0.3, 1.3, 4)) + np.array([0, 0.05, 0.1, 0.15])
        curves.add(channel, strength * rng.standard_normal() * hump(curves.u, start, full, fall, end))


def _fitted(parts: list[Array], frames: tuple[int, int]) -> list[Array]:
    """Stretch or squeeze parts in time so that with their gaps they can make a clip of allowed length."""
    total, gaps = sum(map(len, parts)), len(parts) - 1
    # A frame of slack a gap, because every part is rounded.
    least, most = frames[0] + 1 - (GAP[0] - 1) * gaps, frames[1] + 1 - (GAP[1] + 1) * gaps
    wanted = min(max(total, least), most)
    if wanted == total:
        return parts
    return [_stretched(part, max(8, round(len(part) * wanted / total))) for part in parts]


def _stretched(part: Array, frames: int) -> Array:
    old, new = np.linspace(0, 1, len(part)), np.linspace(0, 1, frames)
    return np.stack([np.interp(new, old, column) for column in part.T], axis=1)


def _chain(parts: Sequence[Array], rng: np.random.Generator) -> tuple[Array, list[tuple[int, int]]]:
    """Join actions by short smooth passages; the heading goes on from where the last action left it."""
    pieces, spans, at, yaw = [parts[0]], [(0, len(parts[0]))], len(parts[0]), parts[0][-1, Channel.YAW]
    for part in parts[1:]:
        part = part.copy()
        part[:, Channel.YAW] += yaw
        far = np.abs(part[0] - pieces[-1][-1]).max()
        gap = int(np.clip(rng.integers(4, 13) + far / 10, *GAP))
        share = hump(np.linspace(0, 1, gap + 2)[1:-1], 0, 1, 2, 3)[:, None]
        pieces += [pieces[-1][-1] * (1 - share) + part[0] * share, part]
        spans.append((at + gap, at + gap + len(part)))
        at, yaw = at + gap + len(part), part[-1, Channel.YAW]
    return np.concatenate(pieces), spans


# --- angles to joints ---------------------------------------------------------------------------------------------


def _posed(takes: Sequence[_Take], domain: Domain) -> list[GeneratedClip]:
    clips: list[GeneratedClip] = []
    for start in range(0, len(takes), _BLOCK):
        clips += _posed_block(takes[start : start + _BLOCK], domain)
    return clips


def _posed_block(takes: Sequence[_Take], domain: Domain) -> Iterable[GeneratedClip]:
    lengths = [len(take.angles) for take in takes]
    starts = np.cumsum([0, *lengths[:-1]])
    angles = np.concatenate([take.angles + _manner(take, domain) for take in takes])
    for channel, (low, high) in _RANGES.items():
        np.clip(angles[:, channel], low, high, out=angles[:, channel])
    offsets = np.repeat([body.offsets(take.performer.proportions) for take in takes], lengths, axis=0)
    first = np.zeros(len(angles), dtype=np.bool_)
    first[starts] = True
    joints = np.split(body.pose(angles, offsets, first), starts[1:])
    for take, clean in zip(takes, joints, strict=True):
        yield replace(take.clip, joints_TJ3=(clean + _sensed(len(clean), domain, take.rng)).astype(np.float32))


def _manner(take: _Take, domain: Domain) -> Array:
    """Stance, posture and a slow wobble of every channel: three sines of 0.8 to 4 seconds."""
    rng, time = take.rng, np.arange(len(take.angles))[:, None, None] / skeleton.FPS
    period = np.exp(rng.uniform(np.log(0.8), np.log(4.0), (body.NUM_CHANNELS, 3)))
    wobble = np.sin(2 * np.pi * (time / period + rng.random((body.NUM_CHANNELS, 3)))).mean(axis=2)
    manner: Array = _STANCE + take.performer.posture + _POSTURE_SHARE * domain.wobble * 2 * wobble
    return manner


def _sensed(frames: int, domain: Domain, rng: np.random.Generator) -> Array:
    """What a sensor adds to the joints (T, 22, 3): noise everywhere, now and then a joint that jumps."""
    noise: Array = domain.noise * rng.standard_normal((frames, skeleton.NUM_JOINTS, 3))
    spikes = rng.random((frames, skeleton.NUM_JOINTS, 1)) < domain.spikes
    return noise + spikes * 5 * domain.noise * rng.standard_normal(noise.shape)
