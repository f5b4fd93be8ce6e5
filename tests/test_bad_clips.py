"""What is wrong with clips, captions and lists is named by file and value, or left out where the reader says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinemic.commands.data_check import check_set
from kinemic.commands.data_options import Named
from kinemic.config import HumanML3DReader, IdList, JointsReader, NTUReader, Reader
from kinemic.data.check import check_corpus
from kinemic.data.corpus import Role
from kinemic.data.humanml3d import read_captions
from kinemic.data.joints import write_joints
from kinemic.data.measures import Finding
from kinemic.data.prepare import prepare
from kinemic.errors import DataError, KinemicError
from tests.folders import (
    features,
    joints_reader,
    moving_joints,
)

# --- captions and classes ------------------------------------------------------------------------------------------


def captions_of(root: Path, text: bytes) -> dict[str, tuple[str, ...]]:
    (root / "texts" / "000003.txt").write_bytes(text)
    read = read_captions(root / "texts" / "000003.txt")
    return {f"{start:g}-{end:g}": captions for (start, end), captions in read.items()}


def test_a_byte_order_mark_is_no_part_of_a_caption_or_id(humanml3d, tmp_path):
    assert captions_of(humanml3d, b"\xef\xbb\xbfa man runs.#a/DET#0.0#0.0\n") == {"0-0": ("a man runs.",)}
    (humanml3d / "train.txt").write_bytes(b"\xef\xbb\xbf000003\r\n")
    assert prepare(HumanML3DReader(path=humanml3d), tmp_path / "cache").names == ("000003",)


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ("a man takes number #1.#a/DET man/NOUN #/SYM 1/NUM#0.0#0.0", "a man takes number #1."),
        ("#1 sits.##/SYM 1/NUM sit/VERB#0.0#0.0", "#1 sits."),
        ("he plays c# loudly#he/PRON play/VERB c#/NOUN loudly/ADV#0.0#0.0", "he plays c# loudly"),
        ("a man sits.#no tokens of any kind#0.0#0.0", "a man sits."),
        ("a man sits.##0.0#0.0", "a man sits."),
    ],
)
def test_a_hash_belongs_to_the_part_that_it_lies_in(humanml3d, line, caption):
    assert captions_of(humanml3d, line.encode()) == {"0-0": (caption,)}


@pytest.mark.parametrize("line", ["a#b#c#0.0#0.0", "a#b/X#0.0#inf", "a#b/X#-inf#1", "a#b/X#0#1e308", "a#b/X#0"])
def test_a_caption_line_that_is_open_to_doubt_is_refused(humanml3d, line):
    with pytest.raises(DataError, match=r"000003\.txt, line 1: expected caption#tokens#start#end, got 'a#b"):
        captions_of(humanml3d, line.encode())


@pytest.mark.parametrize("label", ["²", "-1", "9" * 5000, "98.0"])
def test_ntu_refuses_a_label_that_is_no_number(ntu, tmp_path, label):
    (ntu / "splits/fewshot/S0000/xsub/train_y.txt").write_text(f"{label}\n103")
    with pytest.raises(DataError, match=r"train_y\.txt: label .* expected its A number - 1"):
        prepare(NTUReader(path=ntu), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": None}, "expected actions with action"),
        ({"action": 7}, "expected actions with action"),
        ({"tag": "A²"}, "expected actions with action"),
        ({"captions": "A person runs."}, "expected actions with action"),
        ({"captions": [None]}, "expected actions with action"),
        ({"tag": "A104"}, "action A104 comes twice"),
    ],
)
def test_ntu_refuses_an_action_of_another_form(ntu, tmp_path, change, message):
    meta = json.loads((ntu / "ntu_metadata.json").read_text())
    meta["actions"][0] |= change
    (ntu / "ntu_metadata.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=rf"ntu_metadata\.json: {message}"):
        prepare(NTUReader(path=ntu), tmp_path / "cache")


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
    assert error_rows(HumanML3DReader(path=humanml3d))
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def error_rows(reader: Reader, role: Role | None = None) -> list[Finding]:
    return [finding for finding in check_set(Named("set", reader, role))[0] if finding.level == "error"]


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


def add_lines(*lines: str) -> Callable[[Path], None]:
    """Return what adds lines to the four that are there."""

    def damage(root: Path) -> None:
        with (root / "clips.jsonl").open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    return damage


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
        (add_lines('{"id": "clip-00001"}'), r"clips\.jsonl: lines 2 and 5 both describe clip clip-00001"),
        (add_lines('{"id": "x", "label": "a", "label": "b"}'), r"clips\.jsonl, line 5: .*'label' comes twice"),
        (add_lines('{"id": "x", "captions": ["\\ud800"]}'), r"clips\.jsonl, line 5: .*surrogates"),
        (add_lines("[" * 100_000), r"clips\.jsonl, line 5: .*nested too deeply"),
        (add_lines('{"id": 7}'), r"clips\.jsonl, line 5: expected a JSON object with id"),
        (add_lines('{"id": "x", "subject": 7}'), r"clips\.jsonl, line 5: expected .*text or null"),
        (add_lines('{"id": "x", "label": true}'), r"clips\.jsonl, line 5: expected .*text or null"),
    ],
)
def test_bad_joint_files_are_one_line(joints, tmp_path, damage: Callable, message: str):
    damage(joints)
    with pytest.raises(DataError, match=message) as caught:
        prepare(joints_reader(joints), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert error_rows(joints_reader(joints))


def test_an_id_that_no_line_could_hold_is_refused(tmp_path):
    write_joints(tmp_path / "j", [moving_joints(50)], ["a"], [["x"]])
    for odd in ("a\tb", "a\nb", ""):
        write_joints(tmp_path / "j", [moving_joints(50)], ["a"], [["x"]])
        z = dict(np.load(tmp_path / "j" / "clips.npz"))
        np.savez(tmp_path / "j" / "clips.npz", **(z | {"ids": np.array([odd])}))
        (tmp_path / "j" / "clips.jsonl").write_text(json.dumps({"id": odd, "captions": ["x"]}) + "\n")
        with pytest.raises(DataError, match="expected an id of printable characters"):
            prepare(joints_reader(tmp_path / "j"), tmp_path / "cache")


# --- clips to leave out -------------------------------------------------------------------------------------------


def test_every_bad_clip_is_counted_and_the_first_named_before_packing_stops(humanml3d, tmp_path):
    spoil_npy(humanml3d)
    (humanml3d / "texts" / "M000003.txt").unlink()
    with pytest.raises(DataError, match=r"000001\.npy: not a readable .* \(2 of 3 clips can't be used: .*on_bad: drop"):
        prepare(HumanML3DReader(path=humanml3d), tmp_path / "cache")


def test_bad_clips_are_dropped_where_the_reader_says_so_and_noted(humanml3d, tmp_path):
    spoil_npy(humanml3d)
    corpus = prepare(HumanML3DReader(path=humanml3d, on_bad="drop"), tmp_path / "cache")
    assert corpus.names == ("M000003",)
    ((name, reason),) = corpus.notes["bad"]
    assert name == "000001"
    assert "000001.npy: not a readable npy file" in reason
    (told,) = [finding for finding in check_corpus(corpus) if "dropped when packed" in finding.what]
    assert (told.level, told.count) == ("info", 1)


def test_joints_of_a_bad_line_clip_or_file_are_dropped(joints, tmp_path):
    z = dict(np.load(joints / "clips.npz"))
    z["rel"][10, 3, 1] = np.nan
    np.savez(joints / "clips.npz", **z)
    add_lines('{"id": "clip-00001"}', "no JSON", '{"id": "ghost"}')(joints)
    (joints / "other.npz").write_bytes(b"junk")
    add_lines('{"id": "o1", "set": "other"}', '{"id": "o2", "set": "other"}')(joints)
    both = JointsReader(path=joints, files=("clips.npz", "other.npz"), on_bad="drop")
    corpus = prepare(both, tmp_path / "cache", role="target")
    assert corpus.names == ("clip-00002", "clip-00003")
    assert [name for name, _ in corpus.notes["bad"]] == [
        "clip-00000", "clip-00001", "o1", "o2", "clips.jsonl, line 6", "ghost",
    ]  # fmt: skip


def test_what_a_list_drops_is_left_out_unread(humanml3d, tmp_path):
    spoil_npy(humanml3d)
    drop = tmp_path / "bad.txt"
    drop.write_text("000001\terror: not a readable npy file\nnobody\n")
    corpus = prepare(HumanML3DReader(path=humanml3d, drop=IdList(file=drop)), tmp_path / "cache")
    assert corpus.names == ("M000003",)
    assert corpus.notes["left_out"] == ["000001", "nobody"]
    drop.write_text("000001\nM000003\n")
    with pytest.raises(DataError, match="no clip to pack"):
        prepare(HumanML3DReader(path=humanml3d, drop=IdList(file=drop)), tmp_path / "cache")


def test_a_source_clip_without_a_caption_is_bad_and_a_target_clip_is_not(tmp_path):
    write_joints(tmp_path / "j", [moving_joints(50), moving_joints(50)], ["a", "a"], [["x"], [" "]])
    with pytest.raises(DataError, match="clip clip-00001: no caption; every source clip needs at least one"):
        prepare(joints_reader(tmp_path / "j"), tmp_path / "cache", role="source")
    assert len(prepare(joints_reader(tmp_path / "j"), tmp_path / "cache", role="target")) == 2


def test_a_bad_id_list_names_file_and_key(joints, tmp_path):
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"a": {"b": ["clip-00000", "nobody"]}}))
    for key, message in (("a.c", "no key 'a.c'; at a it has b"), ("a", "expected a list of clip ids at 'a', got dict")):
        with pytest.raises(DataError, match=message):
            prepare(joints_reader(joints, ids=IdList(file=file, key=key)), tmp_path / "cache")
    with pytest.raises(DataError, match=r"ids\.json: 1 listed clips are not in clips\.npz, first nobody"):
        prepare(joints_reader(joints, ids=IdList(file=file, key="a.b")), tmp_path / "cache")


@pytest.mark.parametrize("make", [HumanML3DReader, NTUReader, lambda path: JointsReader(path=path, files=("a.npz",))])
def test_a_missing_folder_is_named(tmp_path, make):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        prepare(make(path=tmp_path / "nowhere"), tmp_path / "cache")


def test_a_format_that_cannot_serve_is_refused(ntu, tmp_path):
    with pytest.raises(KinemicError, match="format ntu holds target clips here; it can't serve as source"):
        prepare(NTUReader(path=ntu), tmp_path / "cache", role="source")
