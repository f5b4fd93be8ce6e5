"""Seconds of the parts that cost time, beside the published code's and beside what this machine's fp32 products allow.

The ceiling is a matrix product measured in the same run; the share is the FLOPs that torch counts in one call, over
seconds, over that ceiling. bf16 has rows of its own. Run: python benchmarks/speed.py [--long] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kinemic.adapt import Adaptation
from kinemic.classify import train_classifier
from kinemic.clips import ClipSet
from kinemic.config import AdaptConfig, JudgeConfig, JudgeProfile, LossConfig, MiningConfig, ModelConfig, Precision
from kinemic.diffusion import cosine_schedule, ddpm_sample, guided
from kinemic.judge_profiles import NesterovCosine
from kinemic.mining import mine
from kinemic.models.mdm import MDM
from kinemic.models.stgcn import STGCN
from kinemic.motion import Statistics
from kinemic.prior import Prior

FEATURES, CLIPS, CLASSES = 263, 30, 3
SMALL = ModelConfig(width=64, layers=2, heads=4, ff=1024)
PUBLIC = ModelConfig()


@dataclass(frozen=True)
class Case:
    """One thing to time; ``published`` are the published code's seconds on a machine of this kind, where measured."""

    name: str
    published: float | None
    call: Callable[[], object]
    repeats: int = 3
    flops_repeat: int = 1  # calls of the counted part in one timed call


def matmul_ceiling(size: int = 1536, repeats: int = 8) -> float:
    """Best fp32 FLOP/s of a square matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(seconds(lambda: a @ b) for _ in range(repeats))
    return 2 * size**3 / best


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def clip_set(clips: int, frames: int, text_dim: int, seed: int) -> ClipSet:
    """Stand-in clips, all of one length, of ``CLASSES`` classes."""
    rng = np.random.default_rng(seed)
    return ClipSet(
        features=torch.from_numpy(rng.standard_normal((clips * frames, FEATURES), dtype=np.float32)),
        starts=torch.arange(clips) * frames,
        lengths=torch.full((clips,), frames),
        labels=torch.arange(clips) % CLASSES,
        text=torch.from_numpy(rng.standard_normal((clips, text_dim), dtype=np.float32)),
        captions=torch.arange(clips),
        caption_starts=torch.arange(clips),
        caption_counts=torch.ones(clips, dtype=torch.int64),
        mean_F=torch.zeros(FEATURES),
        std_F=torch.ones(FEATURES),
    )


def adaptation_step(model: ModelConfig, frames: int, precision: Precision = "fp32") -> Callable[[], object]:
    """One optimiser step of the published loss on a batch of 30."""
    statistics_ = Statistics(np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32))
    prior = Prior(MDM(model), model, 50, statistics_, "stand-in")
    few_shot, source = (clip_set(CLIPS, frames, model.text_dim, seed) for seed in (0, 1))
    pools = [np.flatnonzero(source.labels.numpy() == c) for c in range(CLASSES)]
    config = AdaptConfig(rungs=(10**9,), precision=precision)
    adaptation = Adaptation(prior, few_shot, source, pools, LossConfig(), config, seed=0)
    return lambda: adaptation.run(adaptation.step + 1)


def sampling(model: ModelConfig, frames: int, steps: int, bf16: bool = False) -> Callable[[], object]:
    """``steps`` guided reverse steps of 30 clips."""
    net = MDM(model, actions=CLASSES).eval()
    text = torch.randn(CLIPS, model.text_dim)
    denoise = guided(net, 2.5, text, torch.full((CLIPS,), frames), torch.arange(CLIPS) % CLASSES)
    start = torch.randn(CLIPS, frames, FEATURES)
    schedule = cosine_schedule(steps)

    @torch.inference_mode()
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            ddpm_sample(denoise, start, schedule, torch.randn_like)

    return run


def stgcn_epoch(bf16: bool = False) -> Callable[[], object]:
    """One epoch of the published judge: 120 clips of 100 frames, batches of 64."""
    model = STGCN(64, 10, CLASSES).train()
    optimiser, _ = NesterovCosine().start(model, 1)
    x, labels = torch.randn(120, 100, 22, 3), torch.arange(120) % CLASSES

    def run() -> None:
        for clips in torch.arange(120).split(64):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = torch.nn.functional.cross_entropy(model(x[clips]).float(), labels[clips])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return run


def judge(profile: JudgeProfile) -> Callable[[], object]:
    """A whole training on 50 real clips and 200 others."""
    rng = np.random.default_rng(0)
    clips, labels = list(rng.standard_normal((250, 60, 22, 3), np.float32)), np.arange(250) % 10
    return lambda: train_classifier(clips, labels, 10, JudgeConfig(profile=profile), seed=0, real=50)


def mining() -> Callable[[], object]:
    """Pools of 250 for 30 targets out of 23 384 clips, embeddings given."""
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((23_384, 512), dtype=np.float32)
    names = [f"{i:06d}" for i in range(len(clips))]
    queries = [rng.standard_normal((1, 512), dtype=np.float32) for _ in range(30)]
    return lambda: mine(clips, names, queries, MiningConfig(top_k=250))


def cases(long: bool) -> list[Case]:
    """Everything that is timed; the long ones only where asked for."""
    steps = 5  # reverse steps that are timed; the published seconds are of one step
    rows = [
        Case("adaptation step  D 64  L 2 ff 1024 T 60", 1.13, adaptation_step(SMALL, 60), 10),
        Case("adaptation step  D 512 L 8 ff 1024 T 60", 12.0, adaptation_step(PUBLIC, 60)),
        Case("sampling step    D 512 L 8 T 60", 1.11, sampling(PUBLIC, 60, steps), 2, steps),
        Case("ST-GCN epoch     base 64, 120 x 100 frames", 44.0, stgcn_epoch(), 2),
        Case("judge temporal   50 real clips, 200 others", None, judge("temporal"), 1),
        Case("judge stgcn      50 real clips, 200 others", None, judge("stgcn"), 1),
        Case("mining           23 384 x 512, 30 targets, k 250", 0.05, mining(), 5),
        Case("adaptation step  D 512 L 8 T 60  bf16", 12.0, adaptation_step(PUBLIC, 60, "bf16")),
        Case("sampling step    D 512 L 8 T 60  bf16", 1.11, sampling(PUBLIC, 60, steps, bf16=True), 2, steps),
        Case("ST-GCN epoch     base 64         bf16", 44.0, stgcn_epoch(bf16=True), 2),
    ]
    if long:
        rows += [
            Case("adaptation step  D 512 L 8 T 196", 49.9, adaptation_step(PUBLIC, 196)),
            Case("sampling step    D 512 L 8 T 196", 3.96, sampling(PUBLIC, 196, steps), 1, steps),
        ]
    return rows


def main() -> None:
    """Time every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="also 196 frames at full width (minutes)")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'':<50}{'seconds':>9}{'published':>11}{'ratio':>7}{'GFLOP':>8}{'ceiling':>9}{'share':>7}")
    for case in cases(options.long):
        with FlopCounterMode(display=False) as counter:  # also the warm-up
            case.call()
        ceiling = matmul_ceiling()  # measured beside every row: neighbours of this machine come and go
        took = statistics.median(seconds(case.call) for _ in range(case.repeats)) / case.flops_repeat
        flops = counter.get_total_flops() / case.flops_repeat
        share = f"{flops / took / ceiling:7.0%}" if flops else f"{'':>7}"
        ratio = f"{case.published / took:6.1f}x" if case.published else f"{'':>7}"
        published = f"{case.published:>11.2f}" if case.published else f"{'':>11}"
        print(
            f"{case.name:<50}{took:>9.3f}{published}{ratio}{flops / 1e9:>8.1f}{ceiling / 1e9:>9.0f}{share}", flush=True
        )


if __name__ == "__main__":
    main()
