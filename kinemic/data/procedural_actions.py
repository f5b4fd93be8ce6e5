"""The actions of the generated corpus: joint-angle curves over a phase of 0..1, with style variables.

One-sided actions are written for the right side; the corpus mirrors them. Angles in degrees (see ``Channel``).
Some pairs are alike on purpose: waving and raising a hand, punching and throwing, kicking ahead and to the side,
squatting and jumping, bowing and picking something up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kinemic.data.procedural_body import Channel as C  # noqa: N817 (read on every line)
from kinemic.data.procedural_curves import Array, Curves, Style, hump

BOTH_HIPS, BOTH_KNEES, BOTH_ARMS = (C.L_HIP, C.R_HIP), (C.L_KNEE, C.R_KNEE), (C.L_ARM, C.R_ARM)
BOTH_ELBOWS = (C.L_ELBOW, C.R_ELBOW)


@dataclass(frozen=True)
class Action:
    """One kind of movement: its curves, how long it lasts (seconds) and whether it is a target class."""

    name: str
    build: Callable[[Curves, Style], None]
    seconds: tuple[float, float]
    target: bool = False


def wave(c: Curves, s: Style) -> None:
    """Hold a hand up, high or low, and swing the forearm from side to side."""
    rise, fall = s.draw(0.12, 0.28), s.draw(0.72, 0.88)
    up = c.hump(0, rise, fall, 1)
    c.add(C.R_ARM, up * s.draw(60, 130))
    c.add(C.R_ARM_OUT, up * s.draw(20, 75))
    c.add(C.R_ELBOW, up * s.draw(55, 105))
    held = c.hump(rise * 0.7, rise, fall, fall + 0.05)
    cycles = max(1.5, len(c.u) / 20 * s.draw(1.2, 2.4))  # hands wave at one or two hertz
    swing = np.sin(2 * np.pi * cycles * c.u) * held * s.draw(28, 65)
    c.add(C.R_ARM_TWIST, swing)
    c.add(C.R_ARM_OUT, swing * s.draw(0.1, 0.6))
    c.add(C.LEAN, up * s.draw(-8, 8))


def raise_hand(c: Curves, s: Style) -> None:
    """Lift one hand and hold it still."""
    up = c.hump(0, s.draw(0.2, 0.45), s.draw(0.6, 0.8), 1)
    c.add(C.R_ARM, up * s.draw(110, 175))
    c.add(C.R_ARM_OUT, up * s.draw(-5, 40) + c.hump(0, 0.15, 0.2, 0.5) * s.draw(0, 50))
    c.add(C.R_ELBOW, up * s.draw(-5, 70))
    c.add(C.R_ARM_TWIST, up * s.draw(-25, 25))
    c.add(C.LEAN, up * s.draw(-8, 8))
    c.add(C.NOD, up * s.draw(-20, 5))


def punch(c: Curves, s: Style) -> None:
    """Bring the fists up and thrust one forward, once or more, straight or hooked."""
    times = s.count(1, 2)
    guard = c.hump(0, 0.2, 0.8, 1)
    bent, height, hook = s.draw(70, 125), s.draw(65, 110), s.draw(0, 50)
    peaks = np.linspace(0.5, 0.5 + 0.25 * (times - 1), times)
    thrust = np.sum([c.hump(t - 0.14, t, t + 0.03, t + 0.2) for t in peaks], axis=0)
    rest = 1 - thrust
    c.add(C.R_ARM, guard * rest * s.draw(5, 45) + thrust * height)
    c.add(C.R_ELBOW, guard * rest * bent + thrust * (5 + hook))
    c.add(C.R_ARM_OUT, thrust * hook * 0.6)
    c.add(C.L_ARM, guard * s.draw(5, 50))
    c.add(C.L_ELBOW, guard * s.draw(10, 115))
    c.add(C.TWIST, thrust * s.draw(5, 45) - guard * rest * s.draw(0, 25))
    c.add(C.BEND, thrust * s.draw(0, 20))
    c.add(C.R_HIP, -guard * s.draw(0, 18))
    c.add(C.L_HIP, guard * s.draw(5, 25))
    c.add(C.L_KNEE, guard * s.draw(5, 35))


def throw(c: Curves, s: Style) -> None:
    """Draw one arm back, then swing it through, over or under the shoulder."""
    back, release = s.draw(0.3, 0.45), s.draw(0.55, 0.65)
    wound, over = c.hump(0, back, back + 0.05, release), s.draw(-45, 110)
    through = c.hump(back, release, release + 0.05, 1)
    c.add(C.R_ARM, wound * over + through * s.draw(60, 120))
    c.add(C.R_ARM_OUT, wound * s.draw(10, 75) + through * s.draw(-15, 20))
    c.add(C.R_ARM_TWIST, -wound * max(over, 0) * s.draw(0.2, 0.8))
    c.add(C.R_ELBOW, wound * s.draw(20, 110) + through * s.draw(0, 30))
    c.add(C.TWIST, through * s.draw(5, 40) - wound * s.draw(5, 40))
    c.add(C.BEND, through * s.draw(5, 35) - wound * s.draw(0, 12))
    c.add(C.L_ARM, wound * s.draw(0, 70))
    c.add(C.L_HIP, through * s.draw(0, 25))
    c.add(C.L_KNEE, through * s.draw(0, 35))


def kick(c: Curves, s: Style) -> None:
    """Swing one leg forward and up."""
    back, hit = s.draw(0.2, 0.35), s.draw(0.45, 0.6)
    wound, swing = c.hump(0, back, back + 0.05, hit), c.hump(back, hit, hit + 0.06, 1)
    c.add(C.R_HIP, swing * s.draw(52, 100) + wound * s.draw(-30, 60))
    c.add(
        C.R_KNEE,
        wound * s.draw(40, 100) + swing * s.draw(0, 35) + c.hump(hit, hit + 0.15, hit + 0.2, 1) * s.draw(10, 60),
    )
    c.add(C.R_HIP_OUT, swing * s.draw(-5, 32))
    c.add(C.R_HIP_TWIST, swing * s.draw(-10, 30))
    c.add(C.BEND, swing * s.draw(-15, 15))
    c.add(C.PITCH, -swing * s.draw(0, 22))
    _balance(c, s, swing)


def side_kick(c: Curves, s: Style) -> None:
    """Draw one knee up and thrust the leg out to the side."""
    up, hit = s.draw(0.2, 0.35), s.draw(0.45, 0.6)
    chamber, swing = c.hump(0, up, up + 0.05, hit), c.hump(up, hit, hit + 0.06, 1)
    c.add(C.R_HIP, chamber * s.draw(10, 75) + swing * s.draw(-8, 38))
    c.add(C.R_KNEE, chamber * s.draw(40, 115) + swing * s.draw(0, 30))
    c.add(C.R_HIP_OUT, chamber * s.draw(0, 30) + swing * s.draw(38, 78))
    c.add(C.LEAN, -swing * s.draw(0, 30))
    c.add(C.ROLL, -swing * s.draw(5, 25))
    c.add(C.YAW, c.hump(0, up, hit, 1) * s.draw(0, 30))
    _balance(c, s, swing)


def _balance(c: Curves, s: Style, swing: Array) -> None:
    """Arms out and standing knee soft while on one leg."""
    c.add(C.L_KNEE, swing * s.draw(0, 25))
    for out, elbow in ((C.L_ARM_OUT, C.L_ELBOW), (C.R_ARM_OUT, C.R_ELBOW)):
        c.add(out, swing * s.draw(0, 50))
        c.add(elbow, swing * s.draw(0, 70))


def _crouch(c: Curves, depth: Array, hip: float, knee: float) -> None:
    for channel in BOTH_HIPS:
        c.add(channel, depth * hip)
    for channel in BOTH_KNEES:
        c.add(channel, depth * knee)


def squat(c: Curves, s: Style) -> None:
    """Bend the knees deeply and come up again, once or twice."""
    times, knee = s.count(1, 2), s.draw(60, 130)
    width, hold = s.draw(3, 22), s.draw(0.02, 0.12)
    phases = [c.u * times - n for n in range(times)]
    low = np.sum([hump(phase, 0, 0.5 - hold, 0.5 + hold, 1) for phase in phases], axis=0)
    _crouch(c, low, knee * s.draw(0.7, 0.9), knee)
    c.add(C.PITCH, low * s.draw(5, 35))
    c.add(C.BEND, low * s.draw(0, 25))
    forward, elbow = s.draw(-15, 100), s.draw(0, 70)
    for arm, bend in zip(BOTH_ARMS, BOTH_ELBOWS, strict=True):
        c.add(arm, low * forward)
        c.add(bend, low * elbow)
    for out in (C.L_HIP_OUT, C.R_HIP_OUT):
        c.add(out, c.hump(0, 0.12, 0.88, 1) * width)


def jump(c: Curves, s: Style) -> None:
    """Crouch, leave the floor with both feet, land soft; once or twice."""
    times, knee, height = s.count(1, 2), s.draw(35, 95), s.draw(0.08, 0.42)
    swing, drift, tuck = s.draw(10, 170), s.draw(-0.01, 0.05), s.draw(0, 60)
    back, elbow = s.draw(0, 45), s.draw(0, 80)
    for n in range(times):
        phase = c.u * times - n
        flight: Array = np.asarray(np.clip((phase - 0.42) / 0.26, 0, 1), dtype=np.float64)
        air: Array = 4 * flight * (1 - flight)
        low = hump(phase, 0, 0.28, 0.32, 0.44) + 0.7 * hump(phase, 0.64, 0.74, 0.78, 1)
        _crouch(c, low, knee * 0.75, knee)
        _crouch(c, air, tuck * 0.6, tuck)
        c.add(C.LIFT, air * height)
        c.add(C.DRIFT, np.where(air > 0, drift, 0.0))
        c.add(C.PITCH, low * 20)
        reach = hump(phase, 0.3, 0.5, 0.56, 0.85)
        for arm, bend in zip(BOTH_ARMS, BOTH_ELBOWS, strict=True):
            c.add(arm, reach * swing - hump(phase, 0, 0.25, 0.32, 0.42) * back)
            c.add(bend, reach * elbow)


def bow(c: Curves, s: Style) -> None:
    """Bend the trunk forward with the legs straight, hold, rise."""
    down = c.hump(0, s.draw(0.25, 0.45), s.draw(0.55, 0.75), 1)
    pitch, bend = s.draw(15, 60), s.draw(8, 50)
    c.add(C.PITCH, down * pitch)
    c.add(C.BEND, down * bend)
    c.add(C.NOD, down * s.draw(-10, 35))
    hang = s.draw(0, 0.8)
    for arm in BOTH_ARMS:
        c.add(arm, down * (pitch + bend) * hang)
    c.add(C.R_ELBOW, down * s.draw(0, 85))
    c.add(C.R_ARM_TWIST, down * s.draw(0, 45))
    _crouch(c, down, s.draw(0, 14), s.draw(0, 20))


def pick_up(c: Curves, s: Style) -> None:
    """Reach for the floor with one hand, stooping or crouching, and bring something up."""
    reach, lift = s.draw(0.3, 0.45), s.draw(0.5, 0.62)
    down = c.hump(0, reach, lift, 1)
    pitch, bend, knee = s.draw(20, 65), s.draw(20, 60), s.draw(15, 105)
    c.add(C.PITCH, down * pitch)
    c.add(C.BEND, down * bend)
    _crouch(c, down, knee * 0.65, knee)
    c.add(C.R_ARM, down * (pitch + bend) * s.draw(0.85, 1.15))
    c.add(C.L_ARM, down * (pitch + bend) * s.draw(0.0, 1.1))
    c.add(C.R_ELBOW, c.hump(lift, lift + 0.2, 0.95, 1.0) * s.draw(10, 90))
    c.add(C.L_ELBOW, down * s.draw(0, 60))
    c.add(C.TWIST, down * s.draw(-5, 25))
    c.add(C.LEAN, down * s.draw(-5, 15))


# --- only in the source -------------------------------------------------------------------------------------------


def _gait(c: Curves, cycles: float, stride: float, lift: float, knee: float, arm: float, elbow: float) -> None:
    on = c.hump(0, 0.1, 0.9, 1)
    for sign, hip, bend, other_arm, fold in (
        (0.0, C.L_HIP, C.L_KNEE, C.R_ARM, C.R_ELBOW),
        (np.pi, C.R_HIP, C.R_KNEE, C.L_ARM, C.L_ELBOW),
    ):
        phase = 2 * np.pi * cycles * c.u + sign
        # The leg comes forward while cos(phase) > 0; the knee straightens a little earlier, before the foot lands.
        swing = np.clip(np.cos(phase + 0.6), 0, 1) ** 1.5
        c.add(hip, on * (stride * np.sin(phase) + lift * swing))
        c.add(bend, on * knee * swing)
        c.add(other_arm, on * arm * np.sin(phase))
        c.add(fold, on * elbow)


def walk(c: Curves, s: Style) -> None:
    """Walk ahead."""
    cycles = max(1.0, round(len(c.u) / 20 * s.draw(0.85, 1.15)))
    _gait(c, cycles, s.draw(16, 30), s.draw(2, 12), s.draw(40, 65), s.draw(10, 35), s.draw(0, 30))
    c.add(C.BEND, c.hump(0, 0.1, 0.9, 1) * s.draw(-4, 12))


def run_in_place(c: Curves, s: Style) -> None:
    """Run on the spot with knees up and elbows bent."""
    cycles = max(2.0, round(len(c.u) / 20 * s.draw(1.2, 1.9)))
    _gait(c, cycles, 2, s.draw(25, 75), s.draw(60, 110), s.draw(15, 45), s.draw(50, 100))
    c.add(C.LIFT, c.hump(0, 0.1, 0.9, 1) * s.draw(0, 0.05) * np.sin(2 * np.pi * cycles * c.u) ** 2)


def turn_around(c: Curves, s: Style) -> None:
    """Turn on the spot with small steps."""
    angle = s.draw(90, 330)
    c.keys(C.YAW, (0, 0), (0.1, 0), (0.9, angle), (1, angle))
    _gait(c, max(1.0, round(angle / 110)), 3, s.draw(8, 22), s.draw(25, 50), s.draw(0, 12), s.draw(0, 20))
    c.add(C.LOOK, c.hump(0, 0.2, 0.6, 0.9) * s.draw(0, 35))


def sit_down(c: Curves, s: Style) -> None:
    """Lower the body onto a seat and stay there."""
    end = s.draw(0.5, 0.75)
    down = 1 - c.hump(-1, -0.5, 0.05, end)
    _crouch(c, down, s.draw(70, 95), s.draw(75, 100))
    c.add(C.PITCH, c.hump(0, end * 0.6, end * 0.7, 1) * s.draw(15, 45) - down * s.draw(0, 15))
    for arm, elbow in zip(BOTH_ARMS, BOTH_ELBOWS, strict=True):
        c.add(arm, down * 25)
        c.add(elbow, down * 40)


def stand_up(c: Curves, s: Style) -> None:
    """Rise from a seat."""
    begin, end = s.draw(0.1, 0.3), s.draw(0.7, 0.95)
    down = c.hump(-1, -0.5, begin, end)
    _crouch(c, down, s.draw(70, 95), s.draw(75, 100))
    c.add(C.PITCH, c.hump(0, begin + 0.15, begin + 0.2, end) * s.draw(15, 45))
    for arm, elbow in zip(BOTH_ARMS, BOTH_ELBOWS, strict=True):
        c.add(arm, down * 25)
        c.add(elbow, down * 40)


def clap(c: Curves, s: Style) -> None:
    """Bring both hands together again and again."""
    up, raised, elbow = c.hump(0, 0.15, 0.85, 1), s.draw(25, 110), s.draw(30, 75)
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * s.count(2, 6) * c.u)
    inward, open_ = s.draw(12, 25), s.draw(20, 50)
    for arm, out, twist, bend in (
        (C.L_ARM, C.L_ARM_OUT, C.L_ARM_TWIST, C.L_ELBOW),
        (C.R_ARM, C.R_ARM_OUT, C.R_ARM_TWIST, C.R_ELBOW),
    ):
        c.add(arm, up * raised)
        c.add(bend, up * elbow)
        c.add(twist, up * inward)
        c.add(out, up * (open_ * (1 - beat) - 12))


def stretch(c: Curves, s: Style) -> None:
    """Reach up and out with both arms and lean back."""
    up, raised, out = c.hump(0, s.draw(0.25, 0.4), s.draw(0.6, 0.75), 1), s.draw(110, 175), s.draw(5, 55)
    for arm, side, elbow in zip(BOTH_ARMS, (C.L_ARM_OUT, C.R_ARM_OUT), BOTH_ELBOWS, strict=True):
        c.add(arm, up * raised)
        c.add(side, up * out)
        c.add(elbow, up * s.draw(-5, 50))
    c.add(C.BEND, -up * s.draw(0, 25))
    c.add(C.NOD, -up * s.draw(0, 25))
    c.add(C.LEAN, np.sin(2 * np.pi * c.u) * up * s.draw(0, 20))


def step_aside(c: Curves, s: Style) -> None:
    """Step sideways, one foot after the other."""
    cycles, wide = s.count(1, 3), s.draw(12, 24)
    on = c.hump(0, 0.05, 0.95, 1)
    phase = 2 * np.pi * cycles * c.u
    apart = 0.5 - 0.5 * np.cos(phase)
    for hip, knee, out, sign in ((C.R_HIP, C.R_KNEE, C.R_HIP_OUT, 1), (C.L_HIP, C.L_KNEE, C.L_HIP_OUT, -1)):
        raised = np.clip(sign * np.sin(phase), 0, 1) * on
        c.add(out, on * apart * wide)
        c.add(hip, raised * 25)
        c.add(knee, raised * 45)
    c.add(C.LOOK, -on * s.draw(0, 40))


ACTIONS = (
    Action("wave", wave, (1.8, 3.2), target=True),
    Action("raise_hand", raise_hand, (1.3, 2.8), target=True),
    Action("punch", punch, (1.0, 2.2), target=True),
    Action("throw", throw, (1.1, 2.4), target=True),
    Action("kick", kick, (1.0, 2.2), target=True),
    Action("side_kick", side_kick, (1.1, 2.3), target=True),
    Action("squat", squat, (1.3, 3.0), target=True),
    Action("jump", jump, (1.1, 2.4), target=True),
    Action("bow", bow, (1.3, 3.0), target=True),
    Action("pick_up", pick_up, (1.4, 3.0), target=True),
    Action("walk", walk, (1.8, 4.0)),
    Action("run_in_place", run_in_place, (1.5, 3.2)),
    Action("turn_around", turn_around, (1.5, 3.0)),
    Action("sit_down", sit_down, (1.3, 2.8)),
    Action("stand_up", stand_up, (1.2, 2.5)),
    Action("clap", clap, (1.4, 3.0)),
    Action("stretch", stretch, (1.8, 3.5)),
    Action("step_aside", step_aside, (1.4, 3.0)),
)
