"""Stick-figure pictures of clips: PNG strips and GIFs, several clips side by side.

Legend: T frames, J = 22 joints. Every clip is seen by one fixed camera, half from the front and half from its left.
Left limbs are blue, right limbs orange, the trunk grey. Bodies of one picture share one scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from kinemic import skeleton
from kinemic.errors import DataError

Floats = NDArray[np.floating[Any]]

LEFT, RIGHT, TRUNK, FLOOR, INK = "#2f6fd0", "#e07b1f", "#44494f", "#dfe3e8", "#22262b"
_CAMERA_TURN = np.radians(38.0)  # from the front towards the body's left
_CAMERA_TILT = np.radians(12.0)  # from level, downwards
_PIXELS_PER_METRE = 62.0
_DPI = 100.0
_MARGIN = 0.2  # metres around what a clip covers
_TITLE = 0.3  # metres of room under a row for its titles
_BONES = np.array(skeleton.BONES)


@dataclass(frozen=True)
class _Cell:
    """One clip on the picture: bone ends over time, and where the clip's own origin lies on the page (metres)."""

    points: Floats  # (T, J, 2) on the page, without the origin
    depth: Floats  # (T, J), larger is nearer
    origin: tuple[float, float]
    title: str

    def bones(self, frame: int) -> tuple[Floats, list[str], Floats]:
        """Bone segments (21, 2, 2), colours and head position of one frame, the farthest bone first."""
        frame = min(frame, len(self.points) - 1)
        points = self.points[frame] + np.array(self.origin)
        order = np.argsort(self.depth[frame][_BONES].mean(axis=1))
        return points[_BONES[order]], [_COLOURS[i] for i in order], points[15]


def in_place(joints: Floats) -> Floats:
    """Return joints (T, 22, 3) with the pelvis held over the origin, so that a walk stays in its cell."""
    followed: Floats = joints - joints[:, :1] * np.array([1.0, 0.0, 1.0], dtype=joints.dtype)
    return followed


def strip_png(path: Path, clips: Sequence[Floats], titles: Sequence[str] = (), frames: int = 8) -> None:
    """Write a PNG with one row a clip and ``frames`` evenly spaced moments in each.

    ``clips`` are joints (T, 22, 3), metres, y up, floor at 0; ``titles`` stand under the rows. Every moment is centred
    on its own pelvis. Raises DataError where there is nothing to draw or a clip has another shape.
    """
    rows = [_moments(_checked(clip), frames) for clip in clips]
    labels = [[title] + [""] * (frames - 1) for title in _filled(titles, len(clips))]
    page = _Page(rows, labels, align="left")
    page.save_png(path)


def gif(
    path: Path,
    rows: Sequence[Sequence[Floats]],
    titles: Sequence[Sequence[str]] = (),
    fps: float = skeleton.FPS,
    max_frames: int = 100,
) -> None:
    """Write an endless GIF of clips in rows (such as real, prior, generated), all started together.

    ``rows`` hold joints (T, 22, 3), metres, y up, floor at 0; ``titles`` has the same form as ``rows`` and stands
    under the bodies. A clip that ends early stays in its last frame; the GIF stops after ``max_frames``. Raises
    DataError where there is nothing to draw or a clip has another shape.
    """
    bodies = [[_checked(clip) for clip in row] for row in rows]
    page = _Page(bodies, [_filled(row, len(bodies[i])) for i, row in enumerate(_padded(titles, len(bodies)))])
    images = list(page.images(max_frames))
    path.parent.mkdir(parents=True, exist_ok=True)
    delay = max(20, round(1000 / fps))  # browsers slow GIFs down that ask for less than 20 ms
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=delay, loop=0, optimize=True)


class _Page:
    """A figure of the size that its cells need, drawn once for what rests and once a frame for what moves."""

    def __init__(
        self, rows: Sequence[Sequence[Floats]], titles: Sequence[Sequence[str]], align: str = "center"
    ) -> None:
        self.align = align
        if not any(len(row) for row in rows):
            raise DataError("nothing to draw: expected at least one clip")
        seen = [[_projected(clip) for clip in row] for row in rows]
        flat = np.concatenate([points.reshape(-1, 2) for row in seen for points, _ in row])
        low, high = flat.min(axis=0) - _MARGIN, flat.max(axis=0) + _MARGIN
        width, height = high[0] - low[0], high[1] - low[1] + _TITLE
        self.cells = [
            _Cell(
                points,
                depth,
                (column * width - low[0], (len(rows) - 1 - row) * height - low[1] + _TITLE),
                titles[row][column],
            )
            for row, cells in enumerate(seen)
            for column, (points, depth) in enumerate(cells)
        ]
        self.frames = max(len(cell.points) for cell in self.cells)
        self._draw_still(max(map(len, rows)) * width, len(rows) * height, float(low[1]))

    def _draw_still(self, width: float, height: float, below: float) -> None:
        figure = Figure(figsize=(width * _PIXELS_PER_METRE / _DPI, height * _PIXELS_PER_METRE / _DPI), dpi=_DPI)
        self.canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        floor = np.concatenate([_floor() + np.array(cell.origin) for cell in self.cells])
        axes.add_collection(LineCollection(list(floor), colors=FLOOR, linewidths=0.9))
        for cell in self.cells:
            x = cell.origin[0] - (0.6 if self.align == "left" else 0.0)
            axes.text(
                x,
                cell.origin[1] + below,
                cell.title,
                ha=self.align,
                va="center",
                fontsize=8,
                color=INK,
                parse_math=False,
            )
        self.bodies = LineCollection([], linewidths=2.4, capstyle="round")
        axes.add_collection(self.bodies)
        (self.heads,) = axes.plot([], [], "o", color=TRUNK, markersize=7)

    def show(self, frame: int) -> Image.Image:
        """Draw one frame and return its pixels."""
        drawn = [cell.bones(frame) for cell in self.cells]
        self.bodies.set_segments(list(np.concatenate([bones for bones, _, _ in drawn])))
        self.bodies.set_color([colour for _, colours, _ in drawn for colour in colours])
        heads = np.array([head for _, _, head in drawn])
        self.heads.set_data(heads[:, 0], heads[:, 1])
        self.canvas.draw()
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])

    def images(self, max_frames: int) -> Iterator[Image.Image]:
        """Yield the frames for a GIF, in the palette of the first: a frame is then stored as what changed in it."""
        palette = self.show(0).quantize(64, dither=Image.Dither.NONE)
        for frame in range(min(self.frames, max_frames)):
            yield self.show(frame).quantize(palette=palette, dither=Image.Dither.NONE)

    def save_png(self, path: Path) -> None:
        """Write the first frame."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.show(0).save(path, format="PNG")


def _checked(clip: Floats) -> Floats:
    joints = np.asarray(clip, dtype=np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (skeleton.NUM_JOINTS, 3) or len(joints) == 0:
        raise DataError(f"picture: expected joints of shape (frames, 22, 3), got {joints.shape}")
    if not np.isfinite(joints).all():
        raise DataError("picture: the clip has joints that are NaN or infinite")
    middle = (joints[:, 0].min(axis=0) + joints[:, 0].max(axis=0)) / 2
    centred: Floats = joints - middle * np.array([1.0, 0.0, 1.0])
    return centred


def _moments(joints: Floats, frames: int) -> list[Floats]:
    """Single frames, evenly spaced, each over its own origin."""
    chosen = np.linspace(0, len(joints) - 1, frames).round().astype(int)
    return [_checked(joints[i : i + 1]) for i in chosen]


def _projected(points: Floats) -> tuple[Floats, Floats]:
    """Where points (..., 3) lie on the page (..., 2), metres, and how near they are (...); no perspective."""
    x, y, z = np.moveaxis(points, -1, 0)
    across = np.cos(_CAMERA_TURN) * x - np.sin(_CAMERA_TURN) * z
    near = np.sin(_CAMERA_TURN) * x + np.cos(_CAMERA_TURN) * z
    up = np.cos(_CAMERA_TILT) * y - np.sin(_CAMERA_TILT) * near
    return np.stack([across, up], axis=-1), near * np.cos(_CAMERA_TILT) + np.sin(_CAMERA_TILT) * y


def _floor() -> Floats:
    """Segments (S, 2, 2) of a small grid on the floor, on the page."""
    ticks = np.linspace(-0.6, 0.6, 5)
    ends = [[(t, 0, -0.6), (t, 0, 0.6)] for t in ticks] + [[(-0.6, 0, t), (0.6, 0, t)] for t in ticks]
    return _projected(np.array(ends))[0]


def _colours() -> list[str]:
    sides = {"left": LEFT, "right": RIGHT}
    return [sides.get(skeleton.JOINT_NAMES[child].split("_")[0], TRUNK) for _, child in skeleton.BONES]


_COLOURS = _colours()


def _filled(titles: Sequence[str], count: int) -> list[str]:
    return [*titles, *[""] * count][:count]


def _padded(titles: Sequence[Sequence[str]], count: int) -> list[Sequence[str]]:
    return [*titles, *[()] * count][:count]
