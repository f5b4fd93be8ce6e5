from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from kinemic import render
from kinemic.artifacts import confusion_figure
from kinemic.data import procedural
from kinemic.errors import DataError


@pytest.fixture(scope="module")
def clips():
    return [clip.joints_TJ3 for clip in procedural.generate_target(1, seed=0)[:3]]


def pixels_near(image, colour):
    difference = np.asarray(image.convert("RGB"), dtype=int) - ImageColor.getrgb(colour)
    return int((np.abs(difference).max(axis=-1) < 12).sum())


def frames_of(path):
    with Image.open(path) as image:
        for frame in range(image.n_frames):
            image.seek(frame)
            yield np.asarray(image.convert("RGB"), dtype=int)


def test_a_strip_shows_both_sides_and_is_as_wide_as_its_moments(clips, tmp_path):
    render.strip_png(tmp_path / "new" / "a.png", clips, ["one", "two", "three"], frames=4)
    render.strip_png(tmp_path / "b.png", clips, frames=8)
    with Image.open(tmp_path / "new" / "a.png") as few, Image.open(tmp_path / "b.png") as many:
        assert min(pixels_near(few, render.LEFT), pixels_near(few, render.RIGHT)) > 100
        assert many.width > 1.5 * few.width
        assert many.height == pytest.approx(few.height, rel=0.25)


def test_titles_are_written(clips, tmp_path):
    render.strip_png(tmp_path / "bare.png", clips)
    render.strip_png(tmp_path / "named.png", clips, ["a title", "b", "c"])
    with Image.open(tmp_path / "bare.png") as bare, Image.open(tmp_path / "named.png") as named:
        assert pixels_near(named, render.INK) > pixels_near(bare, render.INK)


def test_a_name_is_no_formula(clips, tmp_path):
    name = r"$\frac{$ \x1b <b>"
    render.strip_png(tmp_path / "a.png", clips[:1], [name])
    confusion_figure(np.eye(2), (name, "kick")).savefig(tmp_path / "b.png")


def test_a_gif_has_a_frame_for_every_frame_of_the_longest_clip_and_moves(clips, tmp_path):
    path = tmp_path / "clips.gif"
    render.gif(path, [clips[:2], clips[2:]], [["real", "prior"], ["generated"]], max_frames=6)
    frames = list(frames_of(path))
    assert len(frames) == 6
    assert np.abs(frames[0] - frames[5]).max() > 100
    with Image.open(path) as image:
        assert (image.info["duration"], image.info["loop"]) == (50, 0)


def test_a_clip_that_ends_early_stays_in_its_last_frame(clips):
    page = render._Page([[clips[0][:3], clips[0][:15]]], [["short", "long"]])
    assert page.frames == 15
    early, late = (np.asarray(page.show(frame), dtype=int) for frame in (2, 13))
    half = early.shape[1] // 2
    np.testing.assert_array_equal(early[:, : half - 20], late[:, : half - 20])
    assert np.abs(early - late).max() > 100


def test_bodies_do_not_leave_the_picture(clips):
    seen = render._Page([[clip] for clip in clips], [["x"]] * len(clips))
    for frame in (0, 5):
        edge = np.asarray(seen.show(frame))
        border = np.concatenate([edge[:3].reshape(-1, 3), edge[-3:].reshape(-1, 3)])
        assert border.min() > 200


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "nothing to draw"), ([[]], "nothing to draw"), ([[np.zeros((4, 21, 3))]], "expected joints")],
)
def test_what_cannot_be_drawn_is_refused(rows, message, tmp_path):
    with pytest.raises(DataError, match=message):
        render.gif(tmp_path / "x.gif", rows)
    assert not (tmp_path / "x.gif").exists()


def test_clips_that_are_not_finite_are_refused(clips, tmp_path):
    broken = clips[0].copy()
    broken[2, 3, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        render.strip_png(tmp_path / "x.png", [broken])


def test_a_followed_walk_stays_over_the_origin_and_keeps_its_height() -> None:
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((9, 22, 3)).astype(np.float32) + np.arange(9, dtype=np.float32)[:, None, None]
    followed = render.in_place(walk)
    assert np.abs(followed[:, 0, [0, 2]]).max() == 0
    np.testing.assert_array_equal(followed[..., 1], walk[..., 1])
    np.testing.assert_allclose(followed[:, 5] - followed[:, 0], walk[:, 5] - walk[:, 0], rtol=1e-5, atol=1e-5)
