"""What the generated corpus can tell apart: is there something to win, and does mining, adapting and tuning win it?

Prints, over several seeds: real-only accuracy from few shots and from all data; adaptation against the prior as it is;
oracle pools (source clips that truly hold the action) against random pools; the spread of random configurations against
the spread of seeds; and how well the mined windows lie on the truth. Run: python benchmarks/corpus_signal.py
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the runs are many and small: a process each, one thread each

import numpy as np
import torch

from kinemic.adapt import Adaptation
from kinemic.classify import Classifier, train_classifier
from kinemic.clips import ClipSet
from kinemic.config import ExperimentConfig, ModelConfig, PriorConfig, SplitConfig, TrialConfig, TrialSeeds
from kinemic.data.procedural import SUBJECTS
from kinemic.data.splits import load_trial_data
from kinemic.inputs import prepare_inputs, prepare_trial_data
from kinemic.judge_profiles import PROFILES, Updates
from kinemic.losses import prior_timesteps
from kinemic.material import Material, mine_pools, start_adaptation
from kinemic.mining import MiningResult, Pool
from kinemic.motion import features_to_joints
from kinemic.reading import load_experiment, with_values
from kinemic.report import mean, shown, standard_error
from kinemic.scoring import score_on
from kinemic.seeding import numpy_generator
from kinemic.sources import synthetic_clips
from kinemic.stages import Clock, Stages
from kinemic.store import StageStore
from kinemic.synthesis import Synthetic, synthesise

EXPERIMENT = Path(__file__).parent.parent / "examples" / "demo.yaml"
# The demo is cut to minutes. Here prior and adaptation get the steps that it takes to see a difference at all. The
# published pool scaled to this source: 250 / 23384 of its clips; the rate makes up for the fewer steps (published: 2e-5
# over 10 000), and was chosen on corpora that aren't reported.
SOURCE_CLIPS = 1500
SHOTS = 10  # a class
PRIOR: dict[str, object] = {
    "steps": 12_000, "learning_rate": 2e-3,
    "model": ModelConfig(width=64, layers=4, ff=256, dropout=0.0),
}  # fmt: skip
MEANINGFUL: dict[str, object] = {
    "mining.top_k": 36, "adapt.rungs": (300,), "adapt.learning_rate": 1e-3, "adapt.average": 0.99,
    "adapt.batch_size": 20, "synthesis.clips_per_class": 10, "synthesis.guidance": 1.5, "synthesis.sampling_steps": 50,
}  # fmt: skip
FULL_DATA_UPDATES = 1000  # of the judge on all clips, where the profile's own updates stop short
JUDGES = 3
# One judge seed deviates by 0.045, far more than seeds of adaptation; three would leave of that as much as there is to
# see between configurations.
CONFIGURATION_JUDGES = 8
CACHE = Path("runs/cache")


def experiment(seed: int, full: bool = False) -> ExperimentConfig:
    """The demo with a larger source and prior, another target and few-shot seed; ``full`` takes all but dev."""
    base = load_experiment(EXPERIMENT)
    source = base.data.source.model_copy(update={"clips": SOURCE_CLIPS})
    target = base.data.target.model_copy(update={"seed": seed})
    changes: dict[str, object] = {"seed": seed, "shots": SHOTS}
    if full:
        others = tuple(s for s in SUBJECTS if s not in (base.data.split.dev_subjects or ()))
        changes |= {"shots": len(others) * target.clips // len(SUBJECTS), "train_subjects": others}
    split = SplitConfig(**(base.data.split.model_dump() | changes))
    assert base.prior.pretrain is not None
    prior = PriorConfig(pretrain=base.prior.pretrain.model_copy(update=PRIOR))
    data = base.data.model_copy(update={"source": source, "target": target, "split": split})
    return base.model_copy(update={"data": data, "prior": prior})


@lru_cache
def material(seed: int) -> Material:
    """Open the few-shot experiment of a seed."""
    return Material.open(prepare_inputs(experiment(seed), CACHE), "cpu")


def trial_config(values: Mapping[str, object] | None = None) -> TrialConfig:
    """The demo's trial with enough steps to tell, and ``values`` set on top."""
    return with_values(experiment(0).trial, {**MEANINGFUL, **(values or {})})


# --- what is measured, each once a seed -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What a way of making clips is worth: dev accuracy of the judge with them, and how many a full-data judge takes
    for what they should be; for an adapted generator also the share of its windows, mined and blind, in the truth."""

    accuracy: float
    recognised: float = math.nan
    windows: tuple[float, float] = (math.nan, math.nan)


def real_only(seed: int) -> Verdict:
    """The judge on the few shots alone."""
    return Verdict(accuracy(material(seed), None, seed))


def full_data(seed: int) -> Verdict:
    """The judge on every clip of every subject outside dev."""
    m, judge = material(seed), full_judge(seed)
    joints, labels = [m.data.corpus.joints(i) for i in m.data.dev], m.data.corpus.labels[m.data.dev]
    return Verdict(float((judge.score(joints)[0].argmax(axis=1) == labels).mean()))


def unadapted(seed: int) -> Verdict:
    """Clips of the prior as it is, given the class captions."""
    m, config = material(seed), trial_config()
    text, lengths = m.class_text(), m.few_shot_lengths
    made = synthesise(m.prior.model, m.prior.diffusion_steps, text, lengths, config.synthesis, m.prior.statistics, seed)
    return verdict(m, made, seed)


def adapted(seed: int, values: Mapping[str, object] | None = None, run: int = 0, judges: int = JUDGES) -> Verdict:
    """Clips of the adapted generator, its pools mined by caption."""
    m, config = material(seed), trial_config(values)
    return with_pools(m, mine_pools(m, config.mining), config, seed, run, judges)


def adapted_bf16(seed: int) -> Verdict:
    """The same as ``adapted`` in bf16."""
    return adapted(seed, {"adapt.precision": "bf16"})


def oracle_pools(seed: int) -> Verdict:
    """The same with every source clip that truly holds the action."""
    m = material(seed)
    return with_pools(m, as_mined(holders(m)), trial_config(), seed)


def random_pools(seed: int) -> Verdict:
    """The same with as many clips a class as the oracle has, drawn blindly from the whole source."""
    m = material(seed)
    rng = numpy_generator(seed, "random pools")
    drawn = [rng.choice(len(m.source), len(held), replace=False) for held in holders(m)]
    return with_pools(m, as_mined(drawn), trial_config(), seed)


def mined_windows(seed: int) -> Verdict:
    """The windows that ``adapted`` trains on, as they are, without a generator."""
    m, seeds = material(seed), TrialSeeds(adaptation=derive(seed, 0), generation=derive(seed, 0))
    with tempfile.TemporaryDirectory() as folder:
        config = trial_config({"synthesis.source": "mined_windows"})
        stages = Stages(m, config, seeds, StageStore(Path(folder)), "cpu", Clock())
        stages.adapt(stages.rungs[-1])
        made = synthetic_clips(stages)
    return verdict(m, made, seed)


# --- how ---------------------------------------------------------------------------------------------------------


def accuracy(m: Material, made: Synthetic | None, seed: int, judges: int = JUDGES) -> float:
    """Mean dev accuracy over the judge seeds."""
    return mean(
        [
            v.accuracy
            for v in score_on(m.data, made, trial_config().judge, [derive(seed, j) for j in range(judges)], "cpu")
        ]
    )


def verdict(m: Material, made: Synthetic, seed: int, run: int = 0, judges: int = JUDGES) -> Verdict:
    """Judge generated clips both ways."""
    joints = [features_to_joints(clip) for clip in made.features]
    recognised = full_judge(seed).score(joints)[0].argmax(axis=1) == made.labels
    return Verdict(accuracy(m, made, derive(seed, run), judges), float(recognised.mean()))


@lru_cache
def full_judge(seed: int) -> Classifier:
    """A judge trained to the end on every clip outside dev."""
    data = load_trial_data(prepare_trial_data(experiment(seed, full=True).data, CACHE))
    joints, labels = [data.corpus.joints(i) for i in data.train], data.corpus.labels[data.train]
    config = trial_config().judge
    usual = PROFILES[config.profile]
    try:
        PROFILES[config.profile] = replace(usual, batches=Updates(FULL_DATA_UPDATES))
        return train_classifier(joints, labels, len(data.corpus.classes), config, seed)
    finally:
        PROFILES[config.profile] = usual


def derive(seed: int, j: int) -> int:
    """Seeds of the parts of a run that no two corpus seeds share."""
    return 1000 * seed + j


def holders(m: Material) -> list[np.ndarray]:
    """Source clips that truly hold each class's action, class by class."""
    told = [{action for action, *_ in segments} for segments in m.source.segments]
    return [np.array([i for i, actions in enumerate(told) if name in actions]) for name in m.data.corpus.classes]


def as_mined(pools: Sequence[np.ndarray]) -> MiningResult:
    """Pools that were not mined, in the form of mined ones."""
    made = [Pool(np.sort(p), np.zeros(len(p), np.float32), 0.0, fallback=False, clamped=False) for p in pools]
    return MiningResult(tuple(made), ())


def with_pools(
    m: Material, mined: MiningResult, config: TrialConfig, seed: int, run: int = 0, judges: int = JUDGES
) -> Verdict:
    """Adapt with these pools, generate, classify."""
    adaptation = start_adaptation(m, mined, config, TrialSeeds(adaptation=derive(seed, run)), "cpu")
    adaptation.run(config.adapt.rungs[-1])
    made = synthesise(
        adaptation.generator(),
        config.adapt.diffusion_steps,
        m.class_text(),
        m.few_shot_lengths,
        config.synthesis,
        m.prior.statistics,
        derive(seed, run),
    )
    return replace(verdict(m, made, seed, run, judges), windows=window_overlap(m, adaptation, seed))


@torch.no_grad()
def window_overlap(m: Material, adaptation: Adaptation, seed: int, clips: int = 64) -> tuple[float, float]:
    """Mean share inside the true action of (mined, blind) windows, over long clips that hold the class's action."""
    rng, noise = numpy_generator(seed, "windows"), torch.Generator().manual_seed(seed)
    mined: list[float] = []
    blind: list[float] = []
    for c, name in enumerate(m.data.corpus.classes):
        long = (i for i, segments in enumerate(m.source.segments) if len(segments) > 1)
        spans = {i: (a, b) for i in long for action, a, b in m.source.segments[i] if action == name}
        chosen = np.sort(rng.choice(list(spans), min(clips, len(spans)), replace=False))
        clips_of = ClipSet.build(m.source, chosen, m.prior.statistics, m.encoder)
        batch = clips_of.batch(torch.arange(len(chosen)))
        lengths_B = torch.from_numpy(rng.choice(m.few_shot_lengths[c], len(chosen)))
        t_B = torch.from_numpy(rng.integers(adaptation.adapt.diffusion_steps, size=len(chosen)))
        t_prior_B = prior_timesteps(t_B, adaptation.adapt.diffusion_steps, m.prior.diffusion_steps)
        noise_BTF = torch.randn(batch.x_BTF.shape, generator=noise)
        seen = adaptation.streams.see_source(batch, lengths_B, t_B, t_prior_B, noise_BTF)
        for i, start, length, frames in zip(chosen, seen.starts_B, seen.lengths_B, batch.lengths_B, strict=True):
            mined.append(inside(spans[i], int(start), int(length)))
            blind.append(inside(spans[i], int(rng.integers(int(frames - length) + 1)), int(length)))
    return mean(mined), mean(blind)


def inside(span: tuple[int, int], start: int, length: int) -> float:
    """Share of the window start..start+length that lies in the span."""
    return max(0, min(span[1], start + length) - max(span[0], start)) / length


def random_configurations(count: int) -> list[dict[str, object]]:
    """Configurations over what a search varies, drawn blindly: wide enough to hold bad ones."""
    rng = numpy_generator(0, "configurations")
    return [
        {
            "mining.top_k": int(np.exp(rng.uniform(np.log(4), np.log(60)))),
            "loss.window_rec": float(rng.uniform(0, 2)),
            "loss.contrastive": float(rng.uniform(0, 2)),
            "adapt.learning_rate": float(np.exp(rng.uniform(np.log(1e-5), np.log(3e-3)))),
            "adapt.lora.rank": int(np.exp(rng.uniform(np.log(2), np.log(32)))),
            "adapt.diffusion_steps": int(np.exp(rng.uniform(np.log(10), np.log(100)))),
            "synthesis.guidance": float(rng.uniform(1, 5)),
            "synthesis.clips_per_class": int(np.exp(rng.uniform(np.log(4), np.log(20)))),
        }
        for _ in range(count)
    ]


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Paired difference a - b over seeds, its standard error, and how many of those it is."""
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    m, se = mean(gaps), standard_error(gaps) or math.nan
    return f"{m:+.3f} ± {se:.3f}  ({m / se:.1f} standard errors)"


def level(values: Sequence[float]) -> str:
    """Mean ± standard error."""
    return f"{mean(values):.3f} ± {shown(standard_error(values), 3)}"


def main() -> None:
    """Run everything on two processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--configurations", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2, help="seeds a configuration")
    parser.add_argument("--rows", nargs="*", help="only these, by the names that the table prints")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    seeds = range(options.seeds)
    for seed in seeds:  # prepared once, before processes share it
        prepare_inputs(experiment(seed), CACHE)
        prepare_inputs(experiment(seed, full=True), CACHE)
    measures: list[Callable[[int], Verdict]] = [
        real_only, full_data, unadapted, adapted, oracle_pools, random_pools, adapted_bf16, mined_windows,
    ]  # fmt: skip
    configurations = random_configurations(options.configurations)
    with ProcessPoolExecutor(options.processes) as pool:
        wanted = [f for f in measures if options.rows is None or f.__name__ in options.rows]
        jobs = {f.__name__: [pool.submit(f, seed) for seed in seeds] for f in wanted}
        spread = [
            [pool.submit(adapted, 0, c, r, CONFIGURATION_JUDGES) for r in range(options.repeats)]
            for c in configurations
        ]
        found = {name: told(name, [job.result() for job in group]) for name, group in jobs.items()}
        tried = [told(f"configuration {n}", [job.result() for job in group]) for n, group in enumerate(spread)]
    for title, a, b in (
        ("adaptation - none", "adapted", "unadapted"),
        ("adaptation - real only", "adapted", "real_only"),
        ("adaptation - windows", "adapted", "mined_windows"),
        ("oracle - random pools", "oracle_pools", "random_pools"),
        ("bf16 - fp32", "adapted_bf16", "adapted"),
    ):
        if {a, b} <= found.keys():
            print_difference(title, found[a], found[b])
    if "adapted" in found:
        mined, blind = zip(*[v.windows for v in found["adapted"]], strict=True)
        print(f"window inside the action, in clips of several: mined {level(mined)}, random {level(blind)}, "
              f"difference {difference(mined, blind)}")  # fmt: skip
    if tried:
        print_spread("accuracy", np.array([[v.accuracy for v in group] for group in tried]))
        print_spread("recognised", np.array([[v.recognised for v in group] for group in tried]))


def print_difference(title: str, a: list[Verdict], b: list[Verdict]) -> None:
    """Print how far two rows differ, paired over seeds."""
    print(f"{title:<22} accuracy   {difference([v.accuracy for v in a], [v.accuracy for v in b])}")
    if not math.isnan(b[0].recognised):
        print(f"{'':<22} recognised {difference([v.recognised for v in a], [v.recognised for v in b])}")


def print_spread(title: str, values: np.ndarray) -> None:
    """Print how far configurations (rows) differ beside how far seeds (columns) do."""
    within = math.sqrt(values.var(axis=1, ddof=1).mean())
    between = math.sqrt(max(values.mean(axis=1).var(ddof=1) - within**2 / values.shape[1], 0.0))
    print(f"{title}, {len(values)} configurations x {values.shape[1]} seeds: deviation between configurations (seeds' ")
    print(f"  share taken out) {between:.3f}, between seeds {within:.3f}, ratio {between / within:.1f}")
    print(f"  means {np.round(values.mean(axis=1), 3).tolist()}")


def told(name: str, verdicts: list[Verdict]) -> list[Verdict]:
    """Print one row as soon as it is there."""
    accuracies = [v.accuracy for v in verdicts]
    recognised = [round(v.recognised, 3) for v in verdicts]
    seen = "" if math.isnan(recognised[0]) else f"  recognised {level(recognised)} {recognised}"
    print(f"{name:<16} accuracy {level(accuracies)} {[round(v, 3) for v in accuracies]}{seen}", flush=True)
    return verdicts


if __name__ == "__main__":
    main()
