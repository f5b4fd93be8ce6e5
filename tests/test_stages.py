"""Shared stages: a trial that differs downstream makes nothing upstream again, and its numbers stay the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kinemic import checkpoint, store
from kinemic.cli import run as command
from kinemic.config import TrialSeeds
from kinemic.errors import ConfigError, DataError
from kinemic.inputs import prepare_inputs
from kinemic.material import Material, mine_pools, start_adaptation
from kinemic.prior import load_prior, save_prior
from kinemic.reading import with_values
from kinemic.report import RungReport, TrialInputs
from kinemic.stages import Clock, Stages, generator_bundle
from kinemic.store import StageStore, collect, digest, usage
from kinemic.text_cache import CachedEncoder
from kinemic.trial import run_trial
from tests.toy import toy_experiment

EXPERIMENT = toy_experiment()
FIRST = (TrialSeeds(judge=(0,)),)
ONE_MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    return prepare_inputs(EXPERIMENT, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def inputs(prepared: TrialInputs, tmp_path: Path) -> TrialInputs:
    return replace(prepared, stages=tmp_path / "stages")


def run(inputs: TrialInputs, workdir: Path, seeds: tuple[TrialSeeds, ...] = FIRST, **values: Any) -> list[RungReport]:
    config = with_values(EXPERIMENT.trial, {path.replace("__", "."): value for path, value in values.items()})
    return list(run_trial(inputs, config, seeds, workdir))


def run_elsewhere(inputs: TrialInputs, workdir: Path) -> list[RungReport]:
    """Run a trial in a process of its own."""
    return run(inputs, workdir)


def comparable(reports: list[RungReport]) -> list[RungReport]:
    return [replace(report, seconds={}, reused={}, peak_memory_mb=0.0) for report in reports]


def made(inputs: TrialInputs) -> dict[str, int]:
    assert inputs.stages is not None
    return usage(inputs.stages).files


def test_an_equal_trial_makes_nothing_again(inputs: TrialInputs, tmp_path: Path) -> None:
    first = run(inputs, tmp_path / "a")
    stages = {"pools": 1, "adapted": 2, "synthetic": 2, "judged": 2}
    assert made(inputs) == stages
    assert all(report.reused == {} for report in first)
    again = run(inputs, tmp_path / "b")
    assert made(inputs) == stages
    assert comparable(again) == comparable(first)
    assert again[0].reused.keys() == {"mine", "adapt", "synthesise", "classify"}
    assert again[1].reused.keys() == {"adapt", "synthesise", "classify"}
    # What was once paid is what the first trial paid, but for the reading and writing around it.
    for one, other in zip(first, again, strict=True):
        assert 0 < other.reused["adapt"] <= one.seconds["adapt"]


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"synthesis__guidance": 1.5}, {"synthetic": 2, "judged": 2}),
        ({"judge__augment": False}, {"judged": 2}),
        ({"judge__profile": "temporal"}, {"judged": 2}),
        ({"judge__keep": True}, {}),
        ({"adapt__learning_rate": 1e-3}, {"adapted": 2, "synthetic": 2, "judged": 2}),
        ({"adapt__rungs": (2, 4, 5)}, {"adapted": 1, "synthetic": 1, "judged": 1}),
        ({"mining__top_k": 6}, {"pools": 1, "adapted": 2, "synthetic": 2, "judged": 2}),
        ({"mining__min_pool": 3}, {"pools": 1}),  # the same clips come out, so what is adapted to them is the same
    ],
)
def test_a_trial_makes_what_lies_downstream_of_its_difference(
    change: dict[str, Any], more: dict[str, int], inputs: TrialInputs, tmp_path: Path
) -> None:
    run(inputs, tmp_path / "a")
    before = made(inputs)
    run(inputs, tmp_path / "b", **change)
    assert {stage: n - before[stage] for stage, n in made(inputs).items() if n > before[stage]} == more


def test_the_prior_is_shown_no_longer_clips_than_it_was_trained_on(inputs: TrialInputs, tmp_path: Path) -> None:
    material = Material.open(inputs, "cpu")
    few = material.few_shot_lengths
    mined = mine_pools(material, EXPERIMENT.trial.mining)
    keys = []
    for trained_on, longest in ((20, 20), (300, 196), (None, 196)):  # a public prior's file does not say
        cropped = replace(material, prior=replace(material.prior, max_frames=trained_on))
        assert cropped.few_shot_lengths == [[min(frames, longest) for frames in shots] for shots in few]
        adaptation = start_adaptation(cropped, mined, EXPERIMENT.trial, FIRST[0], "cpu")
        assert (adaptation.few_shot.max_frames, adaptation.source.max_frames) == (longest, longest)
        keys.append(Stages(cropped, EXPERIMENT.trial, FIRST[0], StageStore(tmp_path), "cpu", Clock()).adapted_key)
    assert keys[0] != keys[1] == keys[2]  # of the same weights, too


def test_shots_of_a_class_without_source_clips_are_left_out(inputs: TrialInputs) -> None:
    material = Material.open(inputs, "cpu")
    mined = mine_pools(material, EXPERIMENT.trial.mining)
    pools = (*mined.pools[:2], replace(mined.pools[2], indices=np.arange(0)))
    adaptation = start_adaptation(material, replace(mined, pools=pools), EXPERIMENT.trial, FIRST[0], "cpu")
    assert sorted(adaptation.few_shot.labels.tolist()) == [0, 0, 1, 1]
    assert adaptation.classes == 3
    bundle = generator_bundle(material, adaptation, EXPERIMENT.trial, FIRST[0])
    assert bundle.generate(None, 1, seed=0).labels.tolist() == [0, 1]
    with pytest.raises(ConfigError, match="'kick' is not one that this model knows: wave, squat"):
        bundle.class_index("kick")


def test_other_seeds_share_what_does_not_depend_on_them(inputs: TrialInputs, tmp_path: Path) -> None:
    run(inputs, tmp_path / "a")
    before = made(inputs)
    run(inputs, tmp_path / "b", (TrialSeeds(generation=1, judge=(0,)),))
    between = made(inputs)
    assert {stage: between[stage] - before[stage] for stage in before} == {
        "pools": 0, "adapted": 0, "synthetic": 2, "judged": 2,
    }  # fmt: skip
    run(inputs, tmp_path / "c", (TrialSeeds(adaptation=1, judge=(0,)),))
    assert {stage: made(inputs)[stage] - between[stage] for stage in before} == {
        "pools": 0, "adapted": 2, "synthetic": 2, "judged": 2,
    }  # fmt: skip


def test_other_shots_share_nothing_but_the_pools(inputs: TrialInputs, tmp_path: Path) -> None:
    run(inputs, tmp_path / "a")
    split = EXPERIMENT.data.split.model_copy(update={"shots": 1})
    other = EXPERIMENT.model_copy(update={"data": EXPERIMENT.data.model_copy(update={"split": split})})
    fewer = replace(prepare_inputs(other, inputs.cache.parent.parent), stages=inputs.stages)
    run(fewer, tmp_path / "b")
    assert made(inputs) == {"pools": 1, "adapted": 4, "synthetic": 4, "judged": 4}


def test_a_prior_of_other_statistics_shares_nothing_but_the_pools(inputs: TrialInputs, tmp_path: Path) -> None:
    run(inputs, tmp_path / "a")
    prior = load_prior(inputs.prior)
    wider = replace(prior.statistics, std_F=prior.statistics.std_F * 2)
    save_prior(replace(prior, statistics=wider), tmp_path / "other.safetensors")
    run(replace(inputs, prior=tmp_path / "other.safetensors"), tmp_path / "b")
    assert made(inputs) == {"pools": 1, "adapted": 4, "synthetic": 4, "judged": 4}


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def other_seconds(file: Path) -> None:
    content = bytearray(file.read_bytes())
    digit = content.index(b"seconds") + len(b'seconds\\": ')
    content[digit] = ord("8") if content[digit] == ord("9") else ord("9")
    file.write_bytes(content)


def another(file: Path) -> None:
    tensors, meta = checkpoint.load(file)
    checkpoint.save(file, tensors, meta | {"result": "of/another"})


def of_other_shapes(file: Path) -> None:
    tensors, meta = checkpoint.load(file)
    checkpoint.save(file, {name: tensor[None] for name, tensor in tensors.items()}, meta)


def of_other_content(file: Path) -> None:
    checkpoint.save(file, {"x": torch.ones(1)}, {})


@pytest.mark.parametrize("damage", [truncated, flipped, other_seconds, another, of_other_content])
def test_a_damaged_result_is_none(damage: Callable[[Path], None], tmp_path: Path) -> None:
    kept = StageStore(tmp_path)
    kept.write("pools", "key", {"indices": torch.arange(9)}, {"seconds": 1.5})
    assert kept.read("pools", "key", lambda tensors, meta: meta["seconds"]) == 1.5
    assert kept.damaged == []
    damage(kept.file("pools", "key"))
    assert kept.read("pools", "key", lambda tensors, meta: tensors["indices"]) is None
    assert kept.damaged[0].startswith(f"pools was damaged and is made again: {kept.file('pools', 'key')} (")


@pytest.mark.parametrize("damage", [Path.unlink, flipped, of_other_shapes])
def test_what_is_lost_or_damaged_is_made_again_with_the_same_numbers(
    damage: Callable[[Path], None], inputs: TrialInputs, tmp_path: Path
) -> None:
    assert inputs.stages is not None
    whole = run(inputs, tmp_path / "a", adapt__rungs=(2,))
    files = sorted(inputs.stages.glob("*/*.safetensors"))
    for file in files:
        damage(file)
    (again,) = run(inputs, tmp_path / "b", adapt__rungs=(2,))
    assert comparable([replace(again, warnings=())]) == comparable(whole)
    assert sorted(inputs.stages.glob("*/*.safetensors")) == files
    damaged = [warning.split()[0] for warning in again.warnings if "was damaged and is made again" in warning]
    assert sorted(damaged) == ([] if damage is Path.unlink else ["adapted", "judged", "pools", "synthetic"])


def test_a_trial_goes_on_though_its_last_rung_was_collected(inputs: TrialInputs, tmp_path: Path) -> None:
    assert inputs.stages is not None
    whole = run(inputs, tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "rung-4")
    shutil.rmtree(inputs.stages)
    assert comparable(run(inputs, tmp_path / "a")) == comparable(whole)


def test_every_repetition_is_scored_at_the_last_rung_and_all_its_values_are_kept(
    inputs: TrialInputs, tmp_path: Path
) -> None:
    seeds = tuple(TrialSeeds(adaptation=k, generation=k, judge=(0, 1)) for k in range(2))
    reports = run(inputs, tmp_path / "both", seeds)
    assert [(r.steps, r.repetition, r.step, r.last) for r in reports] == [
        (2, 0, 2, False), (4, 0, 4, False), (4, 1, 5, True),
    ]  # fmt: skip
    first, second = (run(inputs, tmp_path / str(k), (each,))[-1] for k, each in enumerate(seeds))
    assert reports[-1].accuracies == (*first.accuracies, *second.accuracies)
    assert reports[-1].by_repetition(reports[-1].accuracies) == (first.accuracies, second.accuracies)
    assert reports[-1].log_likelihoods == (*first.log_likelihoods, *second.log_likelihoods)
    assert reports[-1].brier_ensemble not in (first.brier_ensemble, second.brier_ensemble)
    # A trial cut off between two repetitions goes on.
    shutil.rmtree(tmp_path / "both" / "rung-4-repetition-1")
    assert comparable(run(inputs, tmp_path / "both", seeds)) == comparable(reports)
    shutil.rmtree(tmp_path / "both" / "rung-4-repetition-1")
    next((tmp_path / "both" / "rung-4").glob("predictions*")).unlink()
    with pytest.raises(DataError, match=r"delete .*rung-4, and it is made again"):
        run(inputs, tmp_path / "both", seeds)


def test_workers_that_write_at_once_leave_whole_results(inputs: TrialInputs, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run_elsewhere, inputs, tmp_path / str(n)) for n in range(2)]
        results = [comparable(job.result()) for job in jobs]
    assert results[0] == results[1]
    assert made(inputs) == {"pools": 1, "adapted": 2, "synthetic": 2, "judged": 2}
    assert inputs.stages is not None
    assert not list(inputs.stages.glob("*/.*"))


def filled(folder: Path, sizes: dict[str, int]) -> StageStore:
    """A store with a result of each size, the first used longest ago."""
    import os

    kept = StageStore(folder)
    for age, (name, size) in enumerate(sizes.items()):
        kept.write("adapted", name, {"weights": torch.zeros(size // 4)}, {})
        os.utime(kept.file("adapted", name), (1000 + age, 1000 + age))
    return kept


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    kept = filled(tmp_path, dict.fromkeys("abcd", ONE_MEBIBYTE))
    assert kept.read("adapted", "a", lambda tensors, meta: tensors) is not None  # in use again
    removed = collect(tmp_path, int(2.5 * ONE_MEBIBYTE))
    assert removed.files == {"adapted": 2}
    assert [name for name in "abcd" if kept.has("adapted", name)] == ["a", "d"]
    assert collect(tmp_path, int(2.5 * ONE_MEBIBYTE)).total == 0
    assert collect(tmp_path, 0).files == {"adapted": 2}
    assert usage(tmp_path).total == 0


def encoder_of(name: str, folder: Path, width: int) -> CachedEncoder:
    """A cached encoder of constant rows."""
    inner = SimpleNamespace(id=name, dim=width, encode=lambda captions: np.ones((len(captions), width), np.float32))
    return CachedEncoder(inner, folder / "captions")


def test_captions_are_forgotten_too_when_they_were_not_used_for_longest(tmp_path: Path) -> None:
    import os

    captions = [f"a person waves {n} times" for n in range(50)]
    old, new = (encoder_of(name, tmp_path, ONE_MEBIBYTE // 200) for name in ("old", "new"))
    for encoder in (old, new):
        encoder.encode(captions)
    filled(tmp_path, {"a": ONE_MEBIBYTE})
    for age, encoder in enumerate((new, old)):
        os.utime(encoder.file, (2000 + age, 2000 + age))
    new.encode(captions[:1])  # in use again
    removed = collect(tmp_path, int(1.5 * ONE_MEBIBYTE))
    assert removed.files == {"adapted": 1, "captions": 1}
    assert new.file.stat().st_size > ONE_MEBIBYTE > 100_000 > old.file.stat().st_size
    assert np.array_equal(old.encode(captions), new.encode(captions))
    assert collect(tmp_path, 0).files == {"captions": 2}
    assert collect(tmp_path, 0).total == 0  # an empty database is nothing to remove


def test_captions_that_are_being_written_stay(tmp_path: Path) -> None:
    encoder = encoder_of("x", tmp_path, 8)
    encoder.encode(["a person waves"])
    with encoder._database() as database, database:
        database.execute("DELETE FROM embeddings WHERE caption = 'none'")  # takes the write lock
        assert collect(tmp_path, 0).total == 0
    encoder.file.write_bytes(b"damaged, and not ours to judge")
    assert collect(tmp_path, 0).total == 0
    assert encoder.file.exists()


def test_a_search_keeps_captions_within_the_limit_too(prepared: TrialInputs) -> None:
    assert prepared.stages is not None
    assert prepared.cache.parent == prepared.stages
    assert usage(prepared.stages).files["captions"] == 1


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    import os

    filled(tmp_path, {"a": 8})
    fresh, old = tmp_path / "adapted" / ".b.x", tmp_path / "adapted" / ".c.x"
    for room in (fresh, old):
        room.mkdir()
        (room / "half.safetensors").write_bytes(b"half")
    os.utime(old, (1000, 1000))
    collect(tmp_path, ONE_MEBIBYTE)
    assert (fresh.exists(), old.exists()) == (True, False)


@pytest.mark.parametrize("look", [0, 1])
def test_what_another_process_removes_meanwhile_stops_nothing(
    look: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    rooms = [tmp_path / "adapted" / name for name in (".b.x", ".c.x")]
    for room in rooms:
        room.mkdir(parents=True)
        os.utime(room, (1000, 1000))
    looks, stat = iter(range(9)), Path.stat

    def vanishing(path: Path, **how: bool) -> os.stat_result:
        if path == rooms[0] and next(looks) == look:
            shutil.rmtree(path)
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", vanishing)
    collect(tmp_path, ONE_MEBIBYTE)
    assert not any(room.exists() for room in rooms)


def test_other_code_finds_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest("x", 1), digest("x", 2), digest(b"x", 1)
    assert len(set(before)) == 3
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    assert digest("x", 1) != before[0]


def test_gc_says_what_it_keeps_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache" / "stages"
    filled(folder, dict.fromkeys("abc", ONE_MEBIBYTE))
    assert command(["search", "gc", "--runs", str(tmp_path), "--limit", "0.0025"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["adapted", "2", "2.1", "1", "1.0"]
    assert usage(folder).files == {"adapted": 2}
