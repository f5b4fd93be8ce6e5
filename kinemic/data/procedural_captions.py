"""Captions of generated clips: the same actions in many words, sometimes partial, sometimes vague."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WHO = ("a person", "someone", "a man", "a woman", "the figure", "a person", "the man", "somebody")
JOIN = (
    ", then ",
    " and then ",
    " and after a moment ",
    " and afterwards ",
    ", next the person ",
    " and ",
    ", after that ",
)
VAGUE = (
    "{who} moves around",
    "{who} does a few movements",
    "{who} is warming up",
    "{who} acts something out",
    "{who} moves arms and legs",
    "{who} does some kind of exercise",
)
SLOW, FAST = ("slowly", "calmly", "in a relaxed way"), ("quickly", "with energy", "in a hurry")
USUAL = ("once", "at an even pace", "carefully")

VAGUE_SHARE = 0.12  # of captions
PARTIAL_SHARE = 0.2  # of captions that leave one action out
ADVERB_SHARE = 0.35  # of phrases

PHRASES: dict[str, tuple[str, ...]] = {
    "wave": (
        "waves a hand",
        "waves with {side} hand",
        "waves hello",
        "greets somebody by waving",
        "swings {side} forearm from side to side to say goodbye",
    ),
    "raise_hand": (
        "raises a hand",
        "raises {side} arm",
        "lifts {side} hand up and holds it",
        "puts an arm up as if to ask a question",
        "holds one hand up high",
    ),
    "punch": (
        "throws a punch",
        "punches with {side} fist",
        "boxes into the air",
        "hits forward with {side} fist",
        "punches straight ahead",
    ),
    "throw": (
        "throws a ball",
        "throws something with {side} hand",
        "tosses an object forward",
        "pitches a ball with {side} arm",
        "hurls something away",
    ),
    "kick": (
        "kicks forward",
        "kicks with {side} leg",
        "kicks a ball",
        "swings {side} leg up in front",
        "does a front kick",
    ),
    "side_kick": (
        "kicks to the side",
        "does a side kick",
        "thrusts {side} leg out sideways",
        "kicks sideways with {side} foot",
        "performs a karate kick to the side",
    ),
    "squat": (
        "squats down",
        "does a squat",
        "bends both knees deeply and comes up again",
        "crouches down and stands up",
        "does squats",
    ),
    "jump": (
        "jumps up",
        "jumps with both feet",
        "hops into the air",
        "leaps up and lands",
        "does a jump",
    ),
    "bow": (
        "bows",
        "takes a bow",
        "bends forward at the waist to greet politely",
        "bows down",
        "lowers the head and upper body respectfully",
    ),
    "pick_up": (
        "picks something up from the floor",
        "picks up an object with {side} hand",
        "bends down to pick up something",
        "lifts something off the ground",
        "reaches down and grabs an object",
    ),
    "walk": ("walks forward", "walks ahead", "takes some steps", "strolls forward", "goes a few steps"),
    "run_in_place": (
        "runs on the spot",
        "jogs in place",
        "runs in place with high knees",
        "jogs without moving ahead",
    ),
    "turn_around": ("turns around", "spins on the spot", "turns to the other direction", "makes a turn"),
    "sit_down": ("sits down", "takes a seat", "sits on a chair", "lowers onto a stool"),
    "stand_up": ("stands up", "gets up from a chair", "rises from a seat", "stands up from sitting"),
    "clap": ("claps", "claps hands", "applauds", "claps both hands together"),
    "stretch": (
        "stretches",
        "stretches both arms up",
        "reaches up with both arms and stretches the body",
        "yawns and stretches out",
    ),
    "step_aside": ("steps to the side", "takes steps sideways", "sidesteps", "moves sideways to {side} side"),
}

# As a catalogue of exercises names them: by body part and direction, where the source's captions name the act. So words
# are shared in part and among classes ("leg raise" is a kick, yet "raises" tells of hands): a caption alone neither
# finds the action in the source nor tells the prior what to draw, as with the labels of a recognition set.
CLASS_CAPTIONS: dict[str, tuple[str, ...]] = {
    "wave": ("forearm swings to both sides",),
    "raise_hand": ("one arm lift",),
    "punch": ("straight arm thrust",),
    "throw": ("forward arm swing with an object",),
    "kick": ("straight leg raise to the front",),
    "side_kick": ("leg raise to the side",),
    "squat": ("deep knee bend",),
    "jump": ("both feet off the ground",),
    "bow": ("upper body bend",),
    "pick_up": ("reach to the ground",),
}


def captions(
    actions: Sequence[str], sides: Sequence[str], tempos: Sequence[float], rng: np.random.Generator
) -> tuple[str, ...]:
    """Write one to three captions of a clip from its actions, their sides and tempos (1 is usual, above is fast)."""
    return tuple(_caption(actions, sides, tempos, rng) for _ in range(rng.integers(1, 4)))


def _caption(actions: Sequence[str], sides: Sequence[str], tempos: Sequence[float], rng: np.random.Generator) -> str:
    who = _pick(WHO, rng)
    if rng.random() < VAGUE_SHARE:
        return _pick(VAGUE, rng).format(who=who)
    told = list(range(len(actions)))
    if len(told) > 1 and rng.random() < PARTIAL_SHARE:
        told.pop(int(rng.integers(len(told))))
    text = who + " "
    for n, i in enumerate(told):
        text += (_pick(JOIN, rng) if n else "") + _phrase(actions[i], sides[i], tempos[i], rng)
    return text


def _phrase(action: str, side: str, tempo: float, rng: np.random.Generator) -> str:
    phrase = _pick(PHRASES[action], rng).format(side=_pick((f"the {side}", "one", f"the {side}"), rng))
    if rng.random() >= ADVERB_SHARE:
        return phrase
    words = FAST if tempo > 1.1 else SLOW if tempo < 0.9 else USUAL
    return f"{phrase} {_pick(words, rng)}"


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
