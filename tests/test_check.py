"""``kinemic data check`` and its findings: each fault is found, and a sound set has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kinemic.commands.data import data
from kinemic.commands.data_check import check_experiment
from kinemic.commands.data_options import named_data
from kinemic.config import GeneratedReader, HumanML3DReader
from kinemic.data.check import check_corpus, check_split
from kinemic.data.corpus import Clip, Corpus
from kinemic.data.joints import write_joints
from kinemic.data.measures import Finding
from kinemic.data.prepare import prepare
from kinemic.data.procedural import generate_source
from kinemic.data.raw import Item, Raw, ReadClip
from kinemic.data.readers import open_raw
from kinemic.data.splits import TrialData
from kinemic.documents import dump_yaml
from kinemic.errors import ConfigError, DataError
from kinemic.motion import joints_to_features, resample
from tests.folders import humanml3d_folder

NOTHING = {"split": "train", "shots_folder": "S0000", "task": "xsub", "npz": (), "ids": None, "drop": None}


@pytest.fixture(scope="module")
def sound() -> list[Clip]:
    """Generated source clips, which are sound, as clips of two classes and two subjects."""
    return [
        Clip(c.name, joints_to_features(c.joints_TJ3), c.captions, i % 2, f"s{i % 2}")
        for i, c in enumerate(generate_source(8, 3))
    ]


def findings(
    tmp_path: Path, clips: list[Clip], role: str = "target", classes: tuple[str, ...] = ("a", "b")
) -> list[Finding]:
    captions = [(f"does {name}",) if name != "mute" else () for name in classes]
    return check_corpus(Corpus.write(tmp_path / "c", clips, classes, captions, role))  # type: ignore[arg-type]


def bad(found: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in found if finding.level != "info"}


def altered(clip: Clip, **values: object) -> Clip:
    return Clip(**{**vars(clip), **values})  # type: ignore[arg-type]


def test_a_sound_set_has_counts_and_no_complaint(tmp_path, sound):
    found = findings(tmp_path, sound)
    assert bad(found) == {}
    assert next(f.count for f in found if f.what == "clips") == 8
    assert next(f.count for f in found if f.what == "subjects") == 2


def test_every_damaged_clip_of_a_packed_corpus_is_counted(tmp_path, sound):
    findings(tmp_path, sound)
    corpus = Corpus.open(tmp_path / "c")
    features = np.load(corpus.path / "features.npy")
    features[corpus.offsets[[2, 5]]] += 1.0
    np.save(corpus.path / "features.npy", features)
    (finding,) = bad(check_corpus(Corpus.open(corpus.path))).values()
    assert finding.clips == (sound[2].name, sound[5].name)
    assert "is not what was packed" in finding.reasons[1]
    assert "on_bad" not in finding.what


def test_errors_come_first(tmp_path, sound):
    levels = [f.level for f in findings(tmp_path, [altered(sound[0], label=None, subject=None), *sound[1:]])]
    assert levels[0] == "error"
    assert levels == sorted(levels, key=("error", "warning", "info").index)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_wrong_frame_rate_is_noticed(tmp_path, sound, factor):
    clips = []
    for clip, generated in zip(sound, generate_source(8, 3), strict=True):
        wrong = resample(generated.joints_TJ3, 20.0, 20.0 / factor)
        clips.append(altered(clip, features_TF=joints_to_features(wrong)))
    whats = [what for what in bad(findings(tmp_path, clips)) if what.startswith("frame rate")]
    assert len(whats) == 1
    assert "is it 20 fps?" in whats[0]


def test_centimetres_bones_and_a_missing_floor_are_noticed(tmp_path, sound):
    joints = [clip.joints_TJ3 for clip in generate_source(8, 3)]
    hovering = sound[0].features_TF.copy()
    hovering[:, 3] += 0.5
    hovering[:, 5:67:3] += 0.5  # heights of the other joints
    rubber = joints[1] * np.linspace(0.5, 1.5, len(joints[1]))[:, None, None]
    clips = [
        altered(sound[0], features_TF=hovering),
        altered(sound[1], features_TF=joints_to_features(rubber)),
        *sound[2:],
    ]
    found = bad(findings(tmp_path, clips))
    assert found["lowest joints more than 0.1 m off the floor"].example.startswith(sound[0].name)
    assert found["lowest joints more than 0.1 m off the floor"].count == 1
    assert found["bone lengths vary by more than 15%"].example.startswith(sound[1].name)
    cm = [altered(c, features_TF=joints_to_features(j * 100)) for c, j in zip(sound, joints, strict=True)]
    assert any(what.startswith("scale: legs") for what in bad(findings(tmp_path, cm)))


def test_missing_captions_labels_and_subjects_are_counted(tmp_path, sound):
    clips = [altered(sound[0], captions=(" ",), subject=None), altered(sound[1], label=None), *sound[2:]]
    found = bad(findings(tmp_path, clips, classes=("a", "b", "empty", "mute")))
    assert found["clips without a caption"] == Finding("warning", "clips without a caption", 1, sound[0].name)
    assert found["target clips without a label"] == Finding("error", "target clips without a label", 1, sound[1].name)
    assert found["classes without a clip"] == Finding("error", "classes without a clip", 2, "empty")
    assert found["classes without a caption"].example == "mute"
    assert found["clips of unknown subjects: no split can tell them apart"].count == 1
    assert bad(findings(tmp_path, clips, "source"))["clips without a caption"].level == "error"


def test_names_that_a_person_would_take_for_one_are_reported(tmp_path, sound):
    subjects = ["s01", "s01 ", "s02", "s03"] * 2
    clips = [altered(clip, subject=subject) for clip, subject in zip(sound, subjects, strict=True)]
    found = bad(findings(tmp_path, clips, classes=("wave", "Wave", "wave ", "kick", "high  kick")))
    assert found["classes that differ only by case or blanks"].example == "'Wave' 'wave' 'wave '"
    assert found["classes that differ only by case or blanks"].count == 1
    assert found["subjects that differ only by case or blanks"].example == "'s01' 's01 '"


def test_short_and_long_clips_are_counted(sound):
    long = np.concatenate([sound[1].features_TF] * 6)[:300]
    clips = [altered(sound[0], features_TF=sound[0].features_TF[:10]), altered(sound[1], features_TF=long), *sound[2:]]
    read = [ReadClip(clip, len(clip.features_TF)) for clip in clips]
    raw = Raw(
        Path("clips"), "target", (), len(clips), lambda: [Item("clips", lambda: read)], ("a", "b"), (("a",), ("b",))
    )
    found = {f.what: f for f in check_corpus(raw)}
    assert found["shorter than 16 frames: dropped when packed"].example == sound[0].name
    assert found["longer than 196 frames: cropped when packed"].example == sound[1].name


def test_the_short_stretches_of_the_generated_source_are_no_complaint(tmp_path):
    corpus = prepare(GeneratedReader(part="source", clips=40), tmp_path, role="source")
    assert min(corpus.lengths) < 40
    for packed_or_raw in (corpus, open_raw(GeneratedReader(part="source", clips=40))):
        assert bad(check_corpus(packed_or_raw)) == {}


def test_every_bad_clip_of_a_raw_set_is_counted_not_only_the_first(tmp_path, sound):
    root = tmp_path / "h"
    (root / "new_joint_vecs").mkdir(parents=True)
    (root / "texts").mkdir()
    for i, clip in enumerate(sound):
        features = clip.features_TF.copy()
        if i == 1:
            features[12, 100] = np.inf
        if i == 2:
            features = features[:, :200]
        np.save(root / "new_joint_vecs" / f"{i}.npy", features)
        if i != 3:
            (root / "texts" / f"{i}.txt").write_text("a man jumps.#a#0.0#0.0")
    (root / "new_joint_vecs" / "4.npy").write_bytes(b"junk")
    (root / "train.txt").write_text("\n".join(map(str, range(9))))
    found = bad(check_corpus(open_raw(HumanML3DReader(path=root))))
    unusable = next(f for what, f in found.items() if what.startswith("unusable"))
    assert unusable.level == "error"
    assert unusable.count == 4
    assert "1.npy" in unusable.example
    assert "inf at frame 12" in unusable.example
    assert found["listed clips that are not there"] == Finding("warning", "listed clips that are not there", 1, "8")


def test_a_generated_corpus_has_no_error():
    for part, clips in (("source", 4), ("target", 2)):
        found = check_corpus(open_raw(GeneratedReader(part=part, clips=clips)))  # type: ignore[arg-type]
        assert [f for f in found if f.level == "error"] == []


def test_subjects_on_both_sides_of_a_split_are_reported(tmp_path, sound):
    corpus = Corpus.write(tmp_path / "c", sound, ("a", "b"), [("a",), ("b",)], "trial")
    mixed = TrialData(corpus, np.arange(4), np.arange(4, 8))
    found = {f.what: f for f in check_split(mixed)}
    assert found["subjects in train and in dev"] == Finding("warning", "subjects in train and in dev", 2, "s0")
    apart = TrialData(corpus, np.arange(0, 8, 2), np.arange(1, 8, 2))
    assert bad(check_split(apart)) == {}


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def joint_folder(tmp_path: Path) -> Path:
    clips = [clip.joints_TJ3 for clip in generate_source(8, 3)]
    root = tmp_path / "set"
    write_joints(root, clips, ["wave", "kick"] * 4, [["a person moves"]] * 8)
    lines = (root / "clips.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"subject": f"s{i // 2}"} for i, line in enumerate(lines)]
    (root / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(data, [str(a) for a in arguments])
    if isinstance(result.exception, DataError):
        raise result.exception  # kinemic.cli turns it into one line and exit code 2
    return result.exit_code, result.output


def test_check_exits_0_on_a_sound_folder_and_1_on_an_error(joint_folder):
    code, output = run("check", joint_folder)
    assert code == 0, output
    assert "frame rate" in output
    (joint_folder / "clips.npz").write_bytes(b"junk")
    code, output = run("check", joint_folder)
    assert code == 1
    assert "unusable" in output


def test_the_list_names_every_clip_with_its_reason_and_drops_them(joint_folder, tmp_path):
    z = dict(np.load(joint_folder / "clips.npz"))
    z["rel"][z["start"][2], 5, 1] = np.nan
    z["rel"][z["start"][6] : z["start"][7]] *= 1000
    np.savez(joint_folder / "clips.npz", **z)
    listed = tmp_path / "bad.txt"
    code, output = run("check", joint_folder, "--list", listed)
    assert code == 1, output
    lines = dict(line.split("\t") for line in listed.read_text().splitlines())
    assert lines.keys() == {"clip-00002", "clip-00006"}
    assert lines["clip-00002"].startswith("error: ")
    assert "NaN or infinite joints at frame 0" in lines["clip-00002"]
    assert lines["clip-00006"].startswith("warning: scale: legs outside")
    for command in ("check", "prepare"):
        code, output = run(
            command, joint_folder, "--drop", listed, *(["--out", tmp_path] if command == "prepare" else [])
        )
        assert code == 0, output
    assert "left out by `drop`" in output
    code, output = run("prepare", joint_folder, "--on-bad", "drop", "--out", tmp_path)
    assert code == 0
    assert "1: clip-00002" in output
    with pytest.raises(ConfigError, match="options of --format joints: up: Input should be"):
        named_data(joint_folder, "joints", None, None, 0, up="w", **NOTHING)


def errors_of(file: Path, search: dict[str, object]) -> dict[str, list[str]]:
    file.write_text(dump_yaml(search))
    found = check_experiment(file)
    return {name: [f.what for f in rows if f.level == "error"] for name, rows in found.items()}


def test_whatever_would_stop_a_search_of_a_file_is_a_row(joint_folder, tmp_path):
    file, recordings = tmp_path / "mine.yaml", {"format": "joints", "path": str(joint_folder), "files": ["clips.npz"]}
    split = {"shots": 1, "train_subjects": ["s0"], "dev_subjects": ["s1"]}
    sound = {
        "data": {"source": recordings, "target": recordings, "split": split},
        "text": {"encoder": "tfidf", "dim": 2},
        "prior": {"pretrain": {}},
        "confirm": {"test_subjects": ["s2"], "best": 2},
    }
    assert errors_of(file, sound) == {"source": [], "target": [], "split": [], "text and prior": []}
    prior = {"prior": {"path": str(tmp_path / "no.safetensors")}}
    weights = {"text": {"encoder": "open_clip", "architecture": "ViT-B-32", "pretrained": str(tmp_path / "no.pt")}}
    errors = errors_of(file, sound | prior | weights | {"confirm": {"test_subjects": ["nobody"]}})
    assert [error.split()[:2] for error in errors["split"]] == [["subject", "'nobody'"]]
    assert [name in error for name, error in zip(("no.pt", "no.safetensors"), errors["text and prior"], strict=True)]
    assert "are train or dev clips" in errors_of(file, sound | {"confirm": {"test_subjects": ["s1"]}})["split"][0]
    # Clips that can't be used are rows of their own, and the split of the others is looked at all the same.
    lines = (joint_folder / "clips.jsonl").read_text()
    (joint_folder / "clips.jsonl").write_text(lines + '{"id": "ghost", "label": "wave"}\n')
    errors = errors_of(file, sound)
    assert (len(errors["source"]), len(errors["target"]), errors["split"]) == (1, 1, [])


def test_statistics_that_divide_by_zero_are_a_row(tmp_path):
    root = humanml3d_folder(tmp_path / "h")
    np.save(root / "Std.npy", np.zeros(263))
    found = check_corpus(open_raw(HumanML3DReader(path=root)))
    assert any("every deviation must be above 0" in f.what for f in found if f.level == "error")


def test_prepare_split_and_check_go_hand_in_hand(joint_folder, tmp_path):
    code, output = run("prepare", joint_folder, "--out", tmp_path / "cache")
    assert code == 0, output
    (packed,) = (tmp_path / "cache").iterdir()
    split = ("split", packed, "--out", tmp_path / "trial", "--shots", 1, "--dev-subject", "s3")
    code, output = run(*split)
    assert code == 0, output
    code, output = run("check", tmp_path / "trial")
    assert code == 0, output
    assert "dev clips" in output
    with pytest.raises(DataError, match="class 'kick': 3 clips to draw from, 4 shots needed"):
        run(*split[:5], 4, "--dev-subject", "s3")


def test_a_folder_of_no_known_format_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a known data set"):
        run("check", tmp_path)


def test_only_classes_of_the_split_need_captions_that_the_encoder_knows(joint_folder, tmp_path):
    rows = [json.loads(line) for line in (joint_folder / "clips.jsonl").read_text().splitlines()]
    rows = [row | ({"captions": ["kicking"]} if row["label"] == "kick" else {}) for row in rows]
    (joint_folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "waves.txt").write_text("".join(row["id"] + "\n" for row in rows if row["label"] == "wave"))
    target = {"format": "joints", "path": str(joint_folder), "files": ["clips.npz"]}
    split = {"classes": ["wave"], "shots": 1, "train_subjects": ["s0"], "dev_subjects": ["s1"]}
    source = target | {"ids": {"file": str(tmp_path / "waves.txt")}}
    search = {
        "data": {"source": source, "target": target, "split": split},
        "text": {"encoder": "tfidf", "dim": 2},
        "prior": {"pretrain": {}},
    }
    assert errors_of(tmp_path / "mine.yaml", search)["text and prior"] == []
    split["classes"] = ["wave", "kick"]
    (error,) = errors_of(tmp_path / "mine.yaml", search)["text and prior"]
    assert "'kicking'" in error


@pytest.mark.parametrize(("place", "subject"), [(2, "dev"), (4, "test")])
def test_a_moved_copy_is_one_row_and_no_second_warning(joint_folder, tmp_path, recwarn, place, subject):
    clips = [clip.joints_TJ3 for clip in generate_source(8, 3)]
    clips[place] = clips[0] + np.float32([1.0, 0.0, -2.0])
    lines = (joint_folder / "clips.jsonl").read_text()
    write_joints(joint_folder, clips, [""] * 8, [[]] * 8)
    (joint_folder / "clips.jsonl").write_text(lines)
    recordings = {"format": "joints", "path": str(joint_folder), "files": ["clips.npz"]}
    split = {"shots": 1, "train_subjects": ["s0"], "dev_subjects": ["s1"]}
    search = {
        "data": {"source": recordings, "target": recordings, "split": split},
        "text": {"encoder": "tfidf", "dim": 2},
        "prior": {"pretrain": {}},
        "confirm": {"test_subjects": ["s2"]},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(dump_yaml(search))
    (row,) = (finding for finding in check_experiment(file)["split"] if finding.level == "warning")
    assert row.what.lstrip("1 ").startswith(f"{subject} clips")
    assert all(name in row.what + row.example for name in ("clip-00000", f"clip-0000{place}"))
    assert not list(recwarn)
