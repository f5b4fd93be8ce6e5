"""`kinemic data check` is silent on real recordings and sees each fault put into them; `examples/own.yaml` runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinemic.cli import run
from kinemic.config import JointsReader, NTUReader
from kinemic.data.check import check_corpus
from kinemic.data.joints import read_rows, read_set, write_joints
from kinemic.data.prepare import prepare
from kinemic.data.readers import open_raw
from kinemic.motion import canonicalise, compute_statistics, joints_to_features, resample
from tests.spoilt import EVERY, SOME, complaint, complaints, spoil, z_up

SETS = ("source_bandai", "source_cmu", "source_hdm05", "source_hmlcmu", "source_nwucla", "target_msr", "target_utd")
OWN = Path(__file__).parents[2] / "examples" / "own.yaml"
# Of clips this short no length tells of 30 fps, and their speed lies among those that sets at 20 fps have.
SHORT = ("source_hdm05", "source_nwucla", "target_msr", "target_utd")


def some_clips(recordings: Path, name: str, count: int) -> list[np.ndarray]:
    clips = [clip for _, clip in read_set(recordings / f"{name}.npz") if len(clip) >= 40]
    return [clip.joints() for clip in clips[:: max(len(clips) // count, 1)]]


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_recordings_has_no_complaint_but_for_short_clips(recordings, name):
    assert complaints(some_clips(recordings, name, 150)) == []


def test_features_of_recordings_have_no_complaint_but_for_their_lists(recordings):
    found = check_corpus(open_raw(NTUReader(path=recordings / "ntu_vibe")))
    complained = {finding.what for finding in found if finding.level != "info"}
    assert complained == {"listed clips that are not there", "subjects in train.txt and in val.txt"}


@pytest.mark.parametrize("name", SETS)
def test_every_fault_of_a_set_of_recordings_is_found(recordings, name):
    clips = some_clips(recordings, name, 24)
    missed = [fault for fault, (spoils, start) in EVERY.items() if complaint(spoil(clips, spoils), start) is None]
    assert missed in ([], ["30 fps"] if name in SHORT else [])
    for spoils, start in SOME.values():
        found = complaint(spoil(clips, spoils, every=3), start)
        assert found is not None
        assert found.count >= len(clips) // 4  # of a third; who bends down has his head in front of him, z up or not


def test_recordings_at_another_rate_in_other_units_and_axes_read_back_as_they_were(recordings, tmp_path):
    clips = some_clips(recordings, "target_utd", 8)
    other = [z_up(resample(clip, 20, 30)) * 100 for clip in clips]
    write_joints(tmp_path / "set", other, [""] * len(clips), [["moves"]] * len(clips))
    reader = JointsReader(path=tmp_path / "set", files=("clips.npz",), fps=30, up="z", units="cm")
    corpus = prepare(reader, tmp_path / "cache", role="source")
    for i, clip in enumerate(clips):
        there, back = canonicalise(clip)[:-1], corpus.joints(i)
        frames = min(len(there), len(back))
        assert np.median(np.linalg.norm(there[:frames] - back[:frames], axis=-1)) < 0.02


def test_own_yaml_runs_on_the_published_split_with_only_its_paths_changed(recordings, tmp_path, capsys):
    """But for the text encoder, whose weights are not among the recordings, and with it the prior."""
    source = tmp_path / "HumanML3D"
    (source / "new_joint_vecs").mkdir(parents=True)
    (source / "texts").mkdir()
    told = {name: row.captions for name, row in read_rows(recordings / "clips.jsonl").items()}
    clips = [(name, clip) for name, clip in read_set(recordings / "source_hmlcmu.npz") if len(clip) >= 45][:60]
    features = {name: joints_to_features(clip.joints()) for name, clip in clips}
    for name, values in features.items():
        np.save(source / "new_joint_vecs" / f"{name}.npy", values)
        lines = [f"{caption}#{caption.split()[0]}/OTHER#0.0#0.0\n" for caption in told[name]]
        (source / "texts" / f"{name}.txt").write_text("".join(lines))
    (source / "train.txt").write_text("\n".join(features))
    statistics = compute_statistics(features.values())
    np.save(source / "Mean.npy", statistics.mean_F)
    np.save(source / "Std.npy", statistics.std_F)
    text = OWN.read_text().replace("/data/HumanML3D", str(source))
    text = text.replace("/data/NTU-VIBE", str(recordings / "ntu_vibe"))
    swapped = [
        ("text: {encoder: open_clip", "text: {encoder: tfidf, dim: 16}"),
        ("prior: {path", "prior: {pretrain: {}}"),
    ]
    lines = text.splitlines()
    for start, other in swapped:
        (place,) = (i for i, line in enumerate(lines) if line.startswith(start))
        lines[place] = other
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(lines))
    assert run(["data", "check", str(file)]) == 0
    assert run(["mine", str(file), "--runs", str(tmp_path / "runs"), "--device", "cpu", "--show", "1"]) == 0
    told_classes = capsys.readouterr().out
    assert all(name in told_classes for name in ("run on the spot", "side kick", "stretch oneself"))
