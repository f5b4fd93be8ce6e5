"""Sets of generated clips, written by `kinemic synth write` as a user does, and read back by this project's readers."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from kinemic.bundle import GeneratorBundle
from kinemic.cli import run
from kinemic.config import HumanML3DReader, JointsReader, NTUReader, Reader
from kinemic.data.corpus import Clip
from kinemic.data.joints import read_set
from kinemic.data.raw import Raw
from kinemic.data.readers import open_raw
from kinemic.data.writers import LabelledClips, write_ntu
from kinemic.motion import canonicalise, features_to_joints
from tests.bundles import CAPTIONS, CLASSES, random_bundle

FORMATS = ("npz", "humanml3d", "ntu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "generator.safetensors"
    random_bundle(lengths=(41, 60)).save(path)
    return path


def write(bundle: Path, out: Path, layout: str, *options: object) -> int:
    arguments = ["--model", bundle, "--format", layout, "-n", 3, "--seed", 5, "--device", "cpu", *options, out]
    return run(["synth", "write", *map(str, arguments)])


def generated(bundle: Path) -> list[tuple[str, np.ndarray]]:
    """Return what the same settings generate, as (class name, features), class by class."""
    model = GeneratorBundle.load(bundle)
    made = model.generate(None, 3, 5)
    return [(model.classes[label], features) for label, features in zip(made.labels, made.features, strict=True)]


def opened(folder: Path, layout: str) -> Raw:
    readers: dict[str, Reader] = {
        "npz": JointsReader(path=folder, files=("clips.npz",)),
        "humanml3d": HumanML3DReader(path=folder),
        "ntu": NTUReader(path=folder),
    }
    return open_raw(readers[layout])


def read(folder: Path, layout: str) -> tuple[Raw, list[Clip]]:
    raw = opened(folder, layout)
    return raw, list(raw.clips())


@pytest.mark.parametrize("layout", FORMATS)
def test_a_set_has_no_error_and_every_caption(
    layout: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(bundle, tmp_path / "set", layout) == 0
    assert "wrote 9 clips" in capsys.readouterr().out
    _, clips = read(tmp_path / "set", layout)
    assert len(clips) == 9
    captions = dict(zip(CLASSES, CAPTIONS, strict=True))
    assert sorted(clip.captions for clip in clips) == sorted(captions[name] for name, _ in generated(bundle))
    # Auto-detected, as a user would check it; the exit code is 1 where there is an error.
    assert run(["data", "check", str(tmp_path / "set")]) == 0
    how = json.loads((tmp_path / "set" / "generated.json").read_text())
    assert (how["seed"], how["clips_per_class"], how["classes"]) == (5, 3, list(CLASSES))


def test_joint_files_hold_the_generated_joints_and_labels(bundle: Path, tmp_path: Path) -> None:
    assert write(bundle, tmp_path, "npz") == 0
    stored = dict(read_set(tmp_path / "clips.npz"))
    raw, clips = read(tmp_path, "npz")
    for clip, (name, features) in zip(clips, generated(bundle), strict=True):
        np.testing.assert_allclose(stored[clip.name].joints(), features_to_joints(features), atol=1e-6)
        assert raw.classes[clip.label or 0] == name
        # The last frame only serves the velocities of the one before; the reader turns and places a clip its own way.
        placed = canonicalise(features_to_joints(features))[:-1]
        np.testing.assert_allclose(features_to_joints(clip.features_TF), placed, atol=1e-4)
    assert dict(zip(raw.classes, raw.class_captions, strict=True)) == dict(zip(CLASSES, CAPTIONS, strict=True))


def test_a_humanml3d_folder_holds_the_generated_features_and_the_sources_statistics(
    bundle: Path, tmp_path: Path
) -> None:
    assert write(bundle, tmp_path, "humanml3d") == 0
    raw, clips = read(tmp_path, "humanml3d")
    assert [clip.name for clip in clips] == [f"{n:06d}" for n in range(9)]
    for clip, (_, features) in zip(clips, generated(bundle), strict=True):
        np.testing.assert_array_equal(clip.features_TF, features)
        joints = np.load(tmp_path / "new_joints" / f"{clip.name}.npy")
        np.testing.assert_array_equal(joints, features_to_joints(features))
    statistics, expected = raw.statistics(), GeneratorBundle.load(bundle).statistics
    assert statistics is not None
    np.testing.assert_array_equal(statistics.mean_F, expected.mean_F)
    np.testing.assert_array_equal(statistics.std_F, expected.std_F)
    assert {len((tmp_path / f"{part}.txt").read_text().split()) for part in ("train", "all", "train_val")} == {9}
    assert (tmp_path / "test.txt").read_text() == ""


def test_an_ntu_folder_holds_the_generated_features_classes_and_codes(bundle: Path, tmp_path: Path) -> None:
    assert write(bundle, tmp_path, "ntu") == 0
    raw, clips = read(tmp_path, "ntu")
    assert (raw.classes, raw.class_captions) == (CLASSES, CAPTIONS)
    by_name = {clip.name: clip for clip in clips}
    for n, (name, features) in enumerate(generated(bundle)):
        clip = by_name[f"S000C000P000R{n % 3 + 1:03d}A{CLASSES.index(name) + 1:03d}"]
        np.testing.assert_array_equal(clip.features_TF, features)
        assert (raw.classes[clip.label or 0], clip.subject) == (name, "P000")
        joints = np.load(tmp_path / "new_joints" / f"{clip.name}.npy")
        np.testing.assert_array_equal(joints, features_to_joints(features).reshape(len(features), 66))
    default, few = (tmp_path / "splits" / place / "xsub" / "train_y.txt" for place in ("default", "fewshot/S0000"))
    assert default.read_text() == few.read_text() == "0\n" * 3 + "1\n" * 3 + "2\n" * 3


def test_ntu_classes_take_the_published_numbers(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("kick", 102), ("wave", 23), ("squat", 80), ("run", 99)]
    actions = [{"action": name, "tag": f"A{n:03d}", "captions": [f"does {name}"]} for name, n in rows]
    (tmp_path / "ntu_metadata.json").write_text(json.dumps({"actions": actions}))
    options = ("--ntu-metadata", tmp_path / "ntu_metadata.json")
    assert write(bundle, tmp_path / "set", "ntu", *options, "--action", "kick", "--action", "wave") == 0
    raw, clips = read(tmp_path / "set", "ntu")
    assert raw.classes == ("wave", "kick")  # by number
    kicks = [features for name, features in generated(bundle) if name == "kick"]
    for clip, features in zip([c for c in clips if c.name.endswith("A102")], kicks, strict=True):
        np.testing.assert_array_equal(clip.features_TF, features)
    assert sum(clip.name.endswith("A023") for clip in clips) == 3
    assert (tmp_path / "set" / "ntu_classes.txt").read_text().split("\n")[101] == "kick"

    (tmp_path / "ntu_metadata.json").write_text(json.dumps({"actions": actions[:1]}))
    assert write(bundle, tmp_path / "other", "ntu", *options) == 2
    assert "class 'wave' is no action of the given NTU metadata" in capsys.readouterr().err
    assert write(bundle, tmp_path / "other", "npz", *options) == 2
    assert not (tmp_path / "other").exists()


def test_more_ntu_clips_than_three_digits_count_have_names_of_their_own(tmp_path: Path) -> None:
    clip = np.zeros((2, 263), np.float32)
    write_ntu(tmp_path, LabelledClips([clip] * 1001, [0] * 1001, ["wave"], [["waves"]]))
    names = (tmp_path / "splits/fewshot/S0000/xsub/train.txt").read_text().split()
    assert len(set(names)) == 1001
    assert names[-1] == "S000C001P000R002A001"


@pytest.mark.parametrize("layout", ["humanml3d", "ntu"])
def test_a_text_line_is_one_that_every_reader_can_split(layout: str, tmp_path: Path) -> None:
    captions = (("He # jumps,\nthen runs.", "x"), *CAPTIONS[1:])
    dataclasses.replace(random_bundle((41,)), captions=captions).save(tmp_path / "m.safetensors")
    assert write(tmp_path / "m.safetensors", tmp_path / "set", layout, "--action", "wave") == 0
    text = next((tmp_path / "set" / "texts").iterdir()).read_text()
    assert text.splitlines()[0] == "He jumps, then runs.#he/OTHER jumps/OTHER then/OTHER runs/OTHER#0.0#0.0"


@pytest.mark.parametrize(("layout", "least"), [("npz", 16), ("humanml3d", 40), ("ntu", 16)])
def test_clips_that_readers_drop_are_warned_of(
    layout: str, least: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for frames in (least - 1, least):
        random_bundle((frames,)).save(tmp_path / "m.safetensors")
        assert write(tmp_path / "m.safetensors", tmp_path / f"set{frames}", layout) == 0
        kept = len(read(tmp_path / f"set{frames}", layout)[1])
        warned = re.search(r"(\d) of 9 clips are shorter", capsys.readouterr().out)
        assert kept == 9 - int(warned[1] if warned else 0) == (9 if frames == least else 0)


def test_a_set_appears_whole_or_not_at_all(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert write(bundle, tmp_path / "full", "npz") == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]

    (tmp_path / "empty").mkdir()
    assert write(bundle, tmp_path / "empty", "npz") == 0

    model = random_bundle()
    model.model.get_parameter("input_process.poseEmbedding.weight").data.fill_(3e38)
    model.save(tmp_path / "m.safetensors")
    assert write(tmp_path / "m.safetensors", tmp_path / "set", "humanml3d") == 2
    assert "NaN" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty", "m.safetensors"}
