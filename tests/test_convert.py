"""What recordings are kept as, frame rate, axes, unit and joints, is brought onto one skeleton on reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinemic.config import HumanML3DReader, JointsReader
from kinemic.data import convert
from kinemic.data.corpus import Corpus
from kinemic.data.joints import write_joints
from kinemic.data.prepare import prepare
from kinemic.data.procedural import generate_source
from kinemic.errors import ConfigError
from kinemic.motion import canonicalise, features_to_joints, joints_to_features, resample
from kinemic.reading import parse
from tests.spoilt import complaints, z_up

# By SMPL's place, which of Kinect's 25 joints lies there.
SAME = {1: 12, 2: 16, 4: 13, 5: 17, 7: 14, 8: 18, 10: 15, 11: 19, 15: 3, 16: 4, 17: 8, 18: 5, 19: 9, 20: 6, 21: 10}


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [clip.joints_TJ3 for clip in generate_source(4, 1)]


def read(folder: Path, clips: list[np.ndarray], **settings: object) -> Corpus:
    write_joints(folder / "set", clips, [""] * len(clips), [["a person moves"]] * len(clips))
    reader = JointsReader(path=folder / "set", files=("clips.npz",), **settings)  # type: ignore[arg-type]
    return prepare(reader, folder / "cache", role="source")


def test_thirty_frames_a_second_z_up_in_centimetres_read_back_as_they_were(clips, tmp_path):
    told = {"fps": 30, "up": "z", "units": "cm"}
    corpus = read(tmp_path, [z_up(resample(clip, 20, 30)) * 100 for clip in clips], **told)
    for i, clip in enumerate(clips):
        there, back = canonicalise(clip)[:-1], corpus.joints(i)
        assert abs(len(there) - len(back)) <= 1
        frames = min(len(there), len(back))
        off = np.linalg.norm(there[:frames] - back[:frames], axis=-1)
        # Interpolated twice, over a frame more or less: a fast hand is off by a part of its step, most joints less.
        assert np.median(off) < 0.02
        assert off.max() < 0.35


@pytest.mark.parametrize("up", ["y", "z", "x", "-y", "-z", "-x"])
def test_every_up_axis_is_turned_to_y(clips, tmp_path, up):
    place, sign = "xyz".index(up[-1]), -1 if up.startswith("-") else 1
    x, y, z = np.moveaxis(clips[0], -1, 0)
    turned = np.empty_like(clips[0])
    # The others follow in the order y, z, x, or, as up is negated, in the other one: a rotation, no mirror image.
    for axis, values in enumerate((sign * y, z, x) if sign > 0 else (sign * y, x, z)):
        turned[..., (place + axis) % 3] = values
    corpus = read(tmp_path, [turned], up=up)
    np.testing.assert_allclose(corpus.joints(0), canonicalise(clips[0])[:-1], atol=2e-3)


def test_smpls_hands_are_left_out(clips, tmp_path):
    hands = clips[0][:, [20, 21]] + 0.1
    corpus = read_24(tmp_path, np.concatenate([clips[0], hands], axis=1), "smpl24")
    np.testing.assert_allclose(corpus.joints(0), canonicalise(clips[0])[:-1], atol=2e-3)


def read_24(folder: Path, clip: np.ndarray, joints: str) -> Corpus:
    write_joints(folder / "set", [clip[:, :22]], [""], [["moves"]])
    rel = clip - clip[:, :1]
    stored = {"root": clip[:, 0], "start": np.array([0, len(clip)]), "ids": np.array(["clip-00000"])}
    np.savez(folder / "set" / "clips.npz", rel=rel.astype(np.float32), **stored)
    reader = JointsReader(path=folder / "set", files=("clips.npz",), joints=joints)  # type: ignore[arg-type]
    return prepare(reader, folder / "cache", role="source")


def test_kinects_joints_become_smpls(clips, tmp_path):
    body = clips[0]
    kinect = np.repeat(body[:, :1], 25, axis=1)
    for smpl, place in SAME.items():
        kinect[:, place] = body[:, smpl]
    kinect[:, 1] = (body[:, 3] + body[:, 6]) / 2
    kinect[:, 20] = (body[:, 12] + body[:, 9]) / 2
    kinect[:, 2] = body[:, 12]
    corpus = read_24(tmp_path, kinect, "kinect25")
    back, there = corpus.joints(0), canonicalise(body)[:-1]
    np.testing.assert_allclose(back[:, list(SAME)], there[:, list(SAME)], atol=2e-3)
    between = np.setdiff1d(np.arange(22), list(SAME))
    assert np.linalg.norm(back[:, between] - there[:, between], axis=-1).max() < 0.15
    assert complaints([back]) == []


def test_features_of_another_frame_rate_are_resampled(clips, tmp_path):
    folder = tmp_path / "h"
    (folder / "new_joint_vecs").mkdir(parents=True)
    (folder / "texts").mkdir()
    np.save(folder / "new_joint_vecs" / "000001.npy", joints_to_features(resample(clips[0], 20, 30)))
    (folder / "texts" / "000001.txt").write_text("walks#walk/VERB#0#0\nturns#turn/VERB#1.0#3.3\n")
    corpus = prepare(HumanML3DReader(path=folder, split=None, fps=30), tmp_path / "cache", role="source")
    there = canonicalise(clips[0])
    assert dict(zip(corpus.names, corpus.lengths.tolist(), strict=True)) == {
        "000001": pytest.approx(len(there) - 2, abs=1),
        "000001@1-3.3": 45,  # 2.3 s, without what velocities take
    }
    frames = len(corpus.clip(0))
    assert np.median(np.linalg.norm(corpus.joints(0) - there[:frames], axis=-1)) < 0.02
    assert not (folder / "Mean.npy").exists()  # at 30 fps they would be of other velocities: computed, not asked for


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("up", "w", "'y', 'z', 'x', '-y', '-z' or '-x'"),
        ("units", "km", "'m', 'cm' or 'mm'"),
        ("joints", "coco", "'smpl22', 'smpl24' or 'kinect25'"),
        ("on_bad", "skip", "'stop' or 'drop'"),
        ("fps", 0, "greater than or equal to 1"),
        ("fps", 1e9, "less than or equal to 1000"),
    ],
)
def test_a_value_that_no_reader_knows_is_refused_with_those_that_it_knows(key, value, known):
    with pytest.raises(ConfigError, match=f"{key}: Input should be .*{known}"):
        parse(JointsReader, {"path": "x", "files": ["a.npz"], key: value}, "file")


def test_a_long_clip_is_cropped_before_anything_is_computed(clips, tmp_path, monkeypatch):
    computed: list[int] = []

    def count(joints: np.ndarray) -> np.ndarray:
        computed.append(len(joints))
        return joints_to_features(joints)

    monkeypatch.setattr(convert, "joints_to_features", count)
    corpus = read(tmp_path, [np.tile(clips[0], (100, 1, 1))], fps=40)
    assert corpus.lengths.tolist() == [196]
    assert corpus.notes["cropped"] == corpus.notes["long"] == 1
    assert max(computed) <= 199


def test_what_is_read_of_a_long_file_is_what_is_kept(tmp_path, clips):
    np.save(tmp_path / "long.npy", np.tile(joints_to_features(clips[0]), (20, 1)))
    features, frames = convert.read_features(tmp_path / "long.npy")
    assert (len(features), frames) == (196, 20 * (len(clips[0]) - 1))
    np.testing.assert_array_equal(features_to_joints(features)[0], features_to_joints(joints_to_features(clips[0]))[0])
