"""Data sets of every format become the same corpus; what is wrong with them is named by file and value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import CorpusReader, GeneratedReader, HumanML3DReader, IdList, JointsReader, NTUReader
from kinemic.data.joints import read_joints, write_joints
from kinemic.data.prepare import prepare
from kinemic.data.procedural import generate_source
from kinemic.data.readers import open_raw
from kinemic.errors import DataError, FirewallError, KinemicError
from kinemic.motion import joints_to_features
from kinemic.skeleton import NUM_FEATURES

TWO_NAMES = ("S018C001P008R001A099", "S018C002P043R001A104")


def features(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, NUM_FEATURES)).astype(np.float32)


@pytest.fixture
def humanml3d(tmp_path: Path) -> Path:
    """Three recordings: one of 240 frames with a captioned stretch, one too short, one that the list leaves out."""
    root = tmp_path / "humanml3d"
    (root / "new_joint_vecs").mkdir(parents=True)
    (root / "texts").mkdir()
    for name, frames in (("000001", 240), ("000002", 39), ("000003", 60), ("M000003", 60)):
        np.save(root / "new_joint_vecs" / f"{name}.npy", features(frames, int(name[-1])))
        (root / "texts" / f"{name}.txt").write_text(f"a person moves {name}.#a/DET person/NOUN#0.0#0.0\n")
    text = (
        "a man jumps.#a/DET#0.0#0.0\nhe # hops.#he/PRON#nan#nan\na man lands.#a/DET#2.0#5.5\nhe sits.#he/PRON#2.0#5.5\n"
    )
    (root / "texts" / "000001.txt").write_text(text)
    (root / "train.txt").write_text("000001\n000002\nM000003\n000009\n")
    np.save(root / "Mean.npy", np.full(NUM_FEATURES, 0.5))
    np.save(root / "Std.npy", np.full(NUM_FEATURES, 2.0))
    return root


@pytest.fixture
def ntu(tmp_path: Path) -> Path:
    root = tmp_path / "ntu"
    lists = root / "splits" / "fewshot" / "S0000" / "xsub"
    lists.mkdir(parents=True)
    (root / "new_joint_vecs").mkdir()
    (root / "texts").mkdir()
    for name in TWO_NAMES:
        np.save(root / "new_joint_vecs" / f"{name}.npy", features(30))
        (root / "texts" / f"{name}.txt").write_text("a person does it.#a/DET#0.0#0.0")
    (lists / "train.txt").write_text("\n".join(TWO_NAMES))
    (lists / "train_y.txt").write_text("98\n103")
    (lists / "val.txt").write_text("S026C003P043R001A099\nS026C003P072R001A104\n")
    (lists / "val_y.txt").write_text("98\n103\n")
    actions = [
        {"action": "run", "tag": "A099", "captions": ["A person runs."]},
        {"action": "stretch", "tag": "A104", "captions": ["A person stretches."]},
        {"action": "eat", "tag": "A002", "captions": ["A person eats."]},
    ]
    (root / "ntu_metadata.json").write_text(json.dumps({"actions": actions}))
    return root


def moving_joints(frames: int, seed: int = 0) -> np.ndarray:
    """A body of scattered joints that drifts; enough for a reader, which does not ask whether it could live."""
    rng = np.random.default_rng(seed)
    body = rng.uniform(0, 1, (22, 3))
    body[[1, 16], 0], body[[2, 17], 0] = 0.2, -0.2  # hips and shoulders apart, so that there is a facing
    drift = np.cumsum(rng.normal(0, 0.01, (frames, 1, 3)), axis=0)
    return (body + drift).astype(np.float32)


@pytest.fixture
def joints(tmp_path: Path) -> Path:
    root = tmp_path / "joints"
    clips = [moving_joints(50 + i, i) for i in range(4)]
    captions = [["b waves", "a waves"], ["a waves"], ["kicks"], ["kicks"]]
    write_joints(root, clips, ["wave", "wave", "kick", "kick"], captions)
    rows = [
        json.loads(line) | {"subject": f"s{i % 2}"}
        for i, line in enumerate((root / "clips.jsonl").read_text().splitlines())
    ]
    (root / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


# --- HumanML3D ----------------------------------------------------------------------------------------------------


def test_humanml3d_packs_whole_recordings_and_captioned_stretches(humanml3d, tmp_path):
    corpus = prepare(HumanML3DReader(path=humanml3d), tmp_path / "cache")
    assert dict(zip(corpus.names, corpus.lengths.tolist(), strict=True)) == {
        "000001": 196,  # cropped from 240
        "000001@2-5.5": 70,  # 3.5 s at 20 fps
        "M000003": 60,
    }
    whole, stretch = corpus.index_of("000001"), corpus.index_of("000001@2-5.5")
    assert corpus.captions[whole] == ("a man jumps.", "he # hops.")
    assert corpus.captions[stretch] == ("a man lands.", "he sits.")
    np.testing.assert_array_equal(corpus.clip(stretch), features(240, 1)[40:110])
    assert corpus.role == "source"
    assert corpus.labels.tolist() == [-1, -1, -1]
    assert corpus.statistics.mean_F[0] == 0.5
    assert corpus.statistics.std_F[262] == 2.0
    assert corpus.notes["too_short"] == 1
    assert corpus.notes["cropped"] == 1
    assert (corpus.notes["missing"], corpus.notes["missing_first"]) == (1, ["000009"])


def test_humanml3d_without_a_list_takes_every_clip(humanml3d, tmp_path):
    corpus = prepare(HumanML3DReader(path=humanml3d, split=None), tmp_path / "cache")
    assert set(corpus.names) == {"000001", "000001@2-5.5", "000003", "M000003"}


# --- NTU-VIBE -----------------------------------------------------------------------------------------------------


def test_ntu_takes_classes_from_the_lists_and_subjects_from_the_names(ntu, tmp_path):
    corpus = prepare(NTUReader(path=ntu), tmp_path / "cache")
    assert corpus.names == TWO_NAMES
    assert corpus.classes == ("run", "stretch")
    assert corpus.class_captions == (("A person runs.",), ("A person stretches.",))
    assert corpus.labels.tolist() == [0, 1]
    assert corpus.subjects == ("P008", "P043")
    assert corpus.captions[0] == ("a person does it.",)
    assert corpus.notes["missing"] == 2  # of val.txt, and no reason to fail


def test_ntu_reports_performers_of_both_lists(ntu):
    sides = open_raw(NTUReader(path=ntu)).sides
    assert sides["train.txt"] & sides["val.txt"] == {"P043"}


def test_ntu_refuses_a_label_that_is_not_the_names_own(ntu, tmp_path):
    (ntu / "splits/fewshot/S0000/xsub/train_y.txt").write_text("98\n101")
    with pytest.raises(DataError, match=r"train_y\.txt: label '101' of S018C002P043R001A104"):
        prepare(NTUReader(path=ntu), tmp_path / "cache")


# --- plain joints -------------------------------------------------------------------------------------------------


def reader(root: Path, **settings: object) -> JointsReader:
    return JointsReader(path=root, files=("clips.npz",), **settings)  # type: ignore[arg-type]


def test_joints_become_features_with_classes_from_labels(joints, tmp_path):
    corpus = prepare(reader(joints), tmp_path / "cache", role="target")
    assert corpus.classes == ("kick", "wave")
    assert corpus.class_captions == (("kicks",), ("a waves", "b waves"))
    assert corpus.labels.tolist() == [1, 1, 0, 0]
    assert corpus.subjects == ("s0", "s1", "s0", "s1")
    np.testing.assert_allclose(corpus.clip(2), joints_to_features(moving_joints(52, 2)), atol=1e-5)


def test_joints_as_a_source_go_by_their_captions_alone(joints, tmp_path):
    corpus = prepare(reader(joints), tmp_path / "cache", role="source")
    assert corpus.role == "source"
    assert corpus.classes == ()
    assert set(corpus.labels.tolist()) == {-1}
    assert corpus.captions[0] == ("b waves", "a waves")


def test_a_source_recording_of_40_frames_is_long_enough_and_one_of_39_is_not(tmp_path):
    write_joints(tmp_path / "j", [moving_joints(40), moving_joints(39)], ["a", "a"], [["x"], ["x"]])
    corpus = prepare(reader(tmp_path / "j"), tmp_path / "cache", role="source")
    assert corpus.names == ("clip-00000",)
    assert corpus.notes["too_short"] == 1


def test_an_id_list_chooses_clips_by_text_file_and_by_dotted_key(joints, tmp_path):
    (tmp_path / "ids.txt").write_text("clip-00003\nclip-00001\n")
    (tmp_path / "ids.json").write_text(json.dumps({"a": {"b": ["clip-00003", "clip-00001"]}}))
    for ids in (IdList(file=tmp_path / "ids.txt"), IdList(file=tmp_path / "ids.json", key="a.b")):
        corpus = prepare(reader(joints, ids=ids), tmp_path / "cache")
        assert set(corpus.names) == {"clip-00001", "clip-00003"}


def test_what_write_joints_writes_reads_back(tmp_path):
    clips = [moving_joints(30, 5), moving_joints(41, 6)]
    write_joints(tmp_path, clips, ["wave", "kick"], [["a person waves"], ["a person kicks"]])
    back = read_joints(tmp_path, ("clips.npz",))
    assert [clip.label for clip in back] == ["wave", "kick"]
    for clip, original in zip(back, clips, strict=True):
        np.testing.assert_allclose(clip.features, joints_to_features(original), atol=1e-5)


# --- generated ----------------------------------------------------------------------------------------------------


def test_generated_clips_keep_classes_subjects_and_places_of_actions(tmp_path):
    target = prepare(GeneratedReader(part="target", clips=2), tmp_path / "cache")
    assert len(target) == 2 * len(target.classes)
    assert set(target.labels.tolist()) == set(range(len(target.classes)))
    assert None not in target.subjects
    assert all(target.class_captions)
    source = prepare(GeneratedReader(part="source", clips=4), tmp_path / "cache")
    assert sum("@" not in name for name in source.names) == 4
    assert sum("@" in name for name in source.names) == sum(len(c.stretches) for c in generate_source(4, 0)) > 0
    for segments, frames in zip(source.segments, source.lengths.tolist(), strict=True):
        assert segments
        assert all(0 <= start < end <= frames for _, start, end in segments)


# --- once, and again ----------------------------------------------------------------------------------------------


def test_a_packed_copy_is_reused_until_a_file_or_setting_changes(joints, tmp_path):
    cache = tmp_path / "cache"
    first = prepare(reader(joints), cache)
    stamp = (first.path / "features.npy").stat().st_mtime_ns
    again = prepare(reader(joints), cache)
    assert again.path == first.path
    assert (again.path / "features.npy").stat().st_mtime_ns == stamp
    assert prepare(reader(joints), cache, role="source").path != first.path
    write_joints(joints, [moving_joints(50)], ["wave"], [["waves"]])
    changed = prepare(reader(joints), cache)
    assert changed.path != first.path
    assert len(changed) == 1


def test_progress_ends_at_the_total(joints, tmp_path):
    reports = []
    prepare(reader(joints), tmp_path / "cache", reports.append)
    assert (reports[-1].done, reports[-1].total) == (4, 4)


def test_a_packed_corpus_serves_only_as_what_it_is(joints, tmp_path):
    corpus = prepare(reader(joints), tmp_path / "cache", role="target")
    assert prepare(CorpusReader(path=corpus.path), tmp_path, role="target").content_hash == corpus.content_hash
    with pytest.raises(DataError, match="holds target clips, expected source clips"):
        prepare(CorpusReader(path=corpus.path), tmp_path, role="source")


def test_test_clips_cannot_be_named_as_a_data_set(joints, tmp_path):
    target = prepare(reader(joints), tmp_path / "cache", role="target")
    meta = target.path / "corpus.json"
    meta.write_text(meta.read_text().replace('"role": "target"', '"role": "test"'))
    with pytest.raises(FirewallError, match="test clips"):
        prepare(CorpusReader(path=target.path), tmp_path, role="target")


# --- bad input ----------------------------------------------------------------------------------------------------


def spoil_npy(root: Path) -> None:
    (root / "new_joint_vecs" / "000001.npy").write_bytes(b"\x93NUMPY garbage")


def cut_npy(root: Path) -> None:
    file = root / "new_joint_vecs" / "000001.npy"
    file.write_bytes(file.read_bytes()[:5000])


def other_width(root: Path) -> None:
    np.save(root / "new_joint_vecs" / "000001.npy", np.zeros((60, 251), np.float32))


def with_nan(root: Path) -> None:
    clip = features(60)
    clip[41, 7] = np.nan
    np.save(root / "new_joint_vecs" / "000001.npy", clip)


def pickled(root: Path) -> None:
    np.save(root / "new_joint_vecs" / "000001.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def no_text(root: Path) -> None:
    (root / "texts" / "000001.txt").unlink()


def empty_text(root: Path) -> None:
    (root / "texts" / "000001.txt").write_text("\n")


def odd_text(root: Path) -> None:
    (root / "texts" / "000001.txt").write_text("a man jumps.#a/DET#0.0\n")


def backward_text(root: Path) -> None:
    (root / "texts" / "000001.txt").write_text("a man jumps.#a/DET#5.0#2.0\n")


def no_list(root: Path) -> None:
    (root / "train.txt").unlink()


def no_texts(root: Path) -> None:
    for file in (root / "texts").iterdir():
        file.unlink()
    (root / "texts").rmdir()


def no_mean(root: Path) -> None:
    (root / "Mean.npy").unlink()


def short_std(root: Path) -> None:
    np.save(root / "Std.npy", np.ones(10))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil_npy, r"000001\.npy: not a readable npy file"),
        (cut_npy, r"000001\.npy: not a readable npy file"),
        (other_width, r"000001\.npy: .*263\), got \(60, 251\)"),
        (with_nan, r"000001\.npy: .*nan at frame 41, feature 7"),
        (pickled, r"000001\.npy: not a readable npy file"),
        (no_text, r"000001\.txt: no such file; expected lines caption#tokens#start#end"),
        (empty_text, r"000001\.txt: no caption"),
        (odd_text, r"000001\.txt, line 1: expected caption#tokens#start#end"),
        (backward_text, r"000001\.txt, line 1: the stretch 5\.0\.\.2\.0 s is empty"),
        (no_list, r"train\.txt: no such file"),
        (no_texts, r"texts: no such folder; expected captions"),
        (no_mean, r"Mean\.npy: no such file"),
        (short_std, r"Std\.npy: .*263 finite numbers, got shape \(10,\)"),
    ],
)
def test_a_bad_humanml3d_folder_is_one_line_and_packs_nothing(humanml3d, tmp_path, damage: Callable, message: str):
    damage(humanml3d)
    with pytest.raises(DataError, match=message) as caught:
        prepare(HumanML3DReader(path=humanml3d), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def nan_joint(root: Path) -> None:
    clips = [moving_joints(50)]
    clips[0][33, 4, 1] = np.nan
    write_joints(root, clips, ["wave"], [["waves"]])


def missing_joints(root: Path) -> None:
    with (root / "clips.jsonl").open("a") as file:
        file.write(json.dumps({"id": "ghost", "set": "clips", "captions": []}) + "\n")


def odd_line(root: Path) -> None:
    (root / "clips.jsonl").write_text('{"name": "x"}\n')


def cut_npz(root: Path) -> None:
    file = root / "clips.npz"
    file.write_bytes(file.read_bytes()[:2000])


def torn_npz(root: Path) -> None:
    np.savez(root / "clips.npz", rel=np.zeros((5, 22, 3)), root=np.zeros((5, 3)), start=np.array([0, 4]), ids=["a"])


def lacking_npz(root: Path) -> None:
    np.savez(root / "clips.npz", rel=np.zeros((5, 22, 3)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nan_joint, r"clips\.npz: clip clip-00000: NaN or infinite joints at frame 33"),
        (missing_joints, "clip ghost has a line but no joints"),
        (odd_line, r"clips\.jsonl, line 1: expected a JSON object with id and captions"),
        (cut_npz, r"clips\.npz: not a readable npz file"),
        (torn_npz, r"clips\.npz: start must rise from 0 to the 5 frames, got 0 to 4"),
        (lacking_npz, r"clips\.npz: no array 'root'"),
    ],
)
def test_bad_joint_files_are_one_line(joints, tmp_path, damage: Callable, message: str):
    damage(joints)
    with pytest.raises(DataError, match=message):
        prepare(reader(joints), tmp_path / "cache")


def test_a_bad_id_list_names_file_and_key(joints, tmp_path):
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"a": {"b": ["clip-00000", "nobody"]}}))
    for key, message in (("a.c", "no key 'a.c'; at a it has b"), ("a", "expected a list of clip ids at 'a', got dict")):
        with pytest.raises(DataError, match=message):
            prepare(reader(joints, ids=IdList(file=file, key=key)), tmp_path / "cache")
    with pytest.raises(DataError, match=r"ids\.json: 1 listed clips are not in clips\.npz, first nobody"):
        prepare(reader(joints, ids=IdList(file=file, key="a.b")), tmp_path / "cache")


@pytest.mark.parametrize("make", [HumanML3DReader, NTUReader, lambda path: JointsReader(path=path, files=("a.npz",))])
def test_a_missing_folder_is_named(tmp_path, make):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        prepare(make(path=tmp_path / "nowhere"), tmp_path / "cache")


def test_a_format_that_cannot_serve_is_refused(ntu, tmp_path):
    with pytest.raises(KinemicError, match="format ntu holds target clips here; it can't serve as source"):
        prepare(NTUReader(path=ntu), tmp_path / "cache", role="source")
