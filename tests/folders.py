"""Small folders in the layouts that readers take, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kinemic.config import JointsReader
from kinemic.data.joints import write_joints
from kinemic.skeleton import NUM_FEATURES

TWO_NAMES = ("S018C001P008R001A099", "S018C002P043R001A104")


def features(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, NUM_FEATURES)).astype(np.float32)


def humanml3d_folder(root: Path) -> Path:
    """Three recordings: one of 240 frames with a captioned stretch, one too short, one that the list leaves out."""
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


def ntu_folder(root: Path) -> Path:
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


def joints_folder(root: Path) -> Path:
    clips = [moving_joints(50 + i, i) for i in range(4)]
    captions = [["b waves", "a waves"], ["a waves"], ["kicks"], ["kicks"]]
    write_joints(root, clips, ["wave", "wave", "kick", "kick"], captions)
    rows = [
        json.loads(line) | {"subject": f"s{i % 2}"}
        for i, line in enumerate((root / "clips.jsonl").read_text().splitlines())
    ]
    (root / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def joints_reader(root: Path, **settings: object) -> JointsReader:
    return JointsReader(path=root, files=("clips.npz",), **settings)  # type: ignore[arg-type]
