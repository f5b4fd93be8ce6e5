"""Data sets of every format become the same corpus; what is wrong with them is named by file and value."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinemic.config import CorpusReader, GeneratedReader, HumanML3DReader, IdList, NTUReader
from kinemic.data.corpus import digest_of_meta
from kinemic.data.joints import read_joints, write_joints
from kinemic.data.prepare import prepare
from kinemic.data.procedural import generate_source
from kinemic.data.readers import open_raw
from kinemic.errors import DataError, FirewallError
from kinemic.motion import joints_to_features
from tests.folders import (
    TWO_NAMES,
    features,
    joints_reader,
    moving_joints,
)

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


def test_joints_become_features_with_classes_from_labels(joints, tmp_path):
    corpus = prepare(joints_reader(joints), tmp_path / "cache", role="target")
    assert corpus.classes == ("kick", "wave")
    assert corpus.class_captions == (("kicks",), ("a waves", "b waves"))
    assert corpus.labels.tolist() == [1, 1, 0, 0]
    assert corpus.subjects == ("s0", "s1", "s0", "s1")
    np.testing.assert_allclose(corpus.clip(2), joints_to_features(moving_joints(52, 2)), atol=1e-5)


def test_joints_as_a_source_go_by_their_captions_alone(joints, tmp_path):
    corpus = prepare(joints_reader(joints), tmp_path / "cache", role="source")
    assert corpus.role == "source"
    assert corpus.classes == ()
    assert set(corpus.labels.tolist()) == {-1}
    assert corpus.captions[0] == ("b waves", "a waves")


def test_a_source_recording_of_40_frames_is_long_enough_and_one_of_39_is_not(tmp_path):
    write_joints(tmp_path / "j", [moving_joints(40), moving_joints(39)], ["a", "a"], [["x"], ["x"]])
    corpus = prepare(joints_reader(tmp_path / "j"), tmp_path / "cache", role="source")
    assert corpus.names == ("clip-00000",)
    assert corpus.notes["too_short"] == 1


def test_an_id_list_chooses_clips_by_text_file_and_by_dotted_key(joints, tmp_path):
    (tmp_path / "ids.txt").write_text("clip-00003\nclip-00001\n")
    (tmp_path / "ids.json").write_text(json.dumps({"a": {"b": ["clip-00003", "clip-00001"]}}))
    for ids in (IdList(file=tmp_path / "ids.txt"), IdList(file=tmp_path / "ids.json", key="a.b")):
        corpus = prepare(joints_reader(joints, ids=ids), tmp_path / "cache")
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
    first = prepare(joints_reader(joints), cache)
    stamp = (first.path / "features.npy").stat().st_mtime_ns
    again = prepare(joints_reader(joints), cache)
    assert again.path == first.path
    assert (again.path / "features.npy").stat().st_mtime_ns == stamp
    assert prepare(joints_reader(joints), cache, role="source").path != first.path
    write_joints(joints, [moving_joints(50)], ["wave"], [["waves"]])
    changed = prepare(joints_reader(joints), cache)
    assert changed.path != first.path
    assert len(changed) == 1


def test_progress_ends_at_the_total(joints, tmp_path):
    reports = []
    prepare(joints_reader(joints), tmp_path / "cache", reports.append)
    assert (reports[-1].done, reports[-1].total) == (4, 4)


def test_a_packed_corpus_serves_only_as_what_it_is(joints, tmp_path):
    corpus = prepare(joints_reader(joints), tmp_path / "cache", role="target")
    assert prepare(CorpusReader(path=corpus.path), tmp_path, role="target").content_hash == corpus.content_hash
    with pytest.raises(DataError, match="holds target clips, expected source clips"):
        prepare(CorpusReader(path=corpus.path), tmp_path, role="source")


def test_test_clips_cannot_be_named_as_a_data_set(joints, tmp_path):
    target = prepare(joints_reader(joints), tmp_path / "cache", role="target")
    file = target.path / "corpus.json"
    meta = json.loads(file.read_text()) | {"role": "test"}
    file.write_text(json.dumps(meta | {"digest": digest_of_meta(meta)}))
    with pytest.raises(FirewallError, match="test clips"):
        prepare(CorpusReader(path=target.path), tmp_path, role="target")
