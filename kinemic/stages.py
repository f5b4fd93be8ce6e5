"""The stages of one repetition, each taken from the store where another trial has made it: pools, generator, clips.

The judge's stage is ``scoring.score_kept``. What a stage depends on is its key: a trial that differs downstream alone
finds everything upstream of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kinemic.adapt import Adaptation
from kinemic.bundle import GeneratorBundle
from kinemic.classify import Classifier, JudgeReport
from kinemic.config import TrialConfig, TrialSeeds
from kinemic.material import Material, mine_pools, start_adaptation
from kinemic.mining import MiningResult, Pool
from kinemic.progress import ProgressCallback, silent
from kinemic.scoring import score_kept, train_judges
from kinemic.skeleton import NUM_FEATURES
from kinemic.store import StageStore, digest, mark
from kinemic.synthesis import Synthetic

POOLS, ADAPTED, SYNTHETIC = "pools", "adapted", "synthetic"
Made = TypeVar("Made")


@dataclass
class Clock:
    """Seconds by stage, added up: those that passed, and those that results found in the store had once taken."""

    seconds: dict[str, float] = field(default_factory=dict)
    reused: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the block's duration to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def reuse(self, stage: str, seconds: float) -> None:
        """Add what a result had taken that need not be made again."""
        if seconds > 0:
            self.reused[stage] = self.reused.get(stage, 0.0) + seconds


class Stages:
    """One repetition of a trial on one set of few shots: what is asked for is found, or made and kept."""

    def __init__(
        self,
        material: Material,
        config: TrialConfig,
        seeds: TrialSeeds,
        store: StageStore,
        device: str,
        clock: Clock,
        progress: ProgressCallback = silent,
    ) -> None:
        self.material, self.config, self.seeds, self.store = material, config, seeds, store
        self.device, self.clock, self.progress = device, clock, progress

    @cached_property
    def pools(self) -> MiningResult | None:
        """The mined pools; None where nothing asks for them."""
        if not self.config.mines:
            return None
        material, mining = self.material, self.config.mining
        captions = material.data.corpus.class_captions
        key = digest(material.source.content_hash, captions, material.encoder.id, mining.model_dump(mode="json"))
        back = partial(_pools_in, classes=len(captions), clips=len(material.source))
        return self._kept(POOLS, "mine", key, lambda: mine_pools(material, mining), _pools_out, back)

    @property
    def classes(self) -> list[int]:
        """The classes that get synthetic clips: all but those whose pool is empty."""
        every = range(len(self.material.data.corpus.classes))
        return [c for c in every if self.pools is None or len(self.pools.pools[c].indices)]

    @property
    def trains(self) -> bool:
        """Whether anything is fine-tuned; with all pools empty, nothing is."""
        return self.config.trains and bool(self.classes)

    @property
    def adapts(self) -> bool:
        """Whether a generator is fine-tuned and scored, rung by rung; with all pools empty, none is."""
        return self.config.adapts and bool(self.classes)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The rungs, in steps, that are scored."""
        return self.config.scored_rungs if self.adapts else self.config.scored_rungs[-1:]

    def adapt(self, steps: int) -> dict[str, float]:
        """Bring the fine-tuning to a step, from the last rung before it that is there.

        Returns the mean of the loss and of each term over the steps in between, whoever did them.
        """
        adaptation = self.adaptation
        first, before, known = adaptation.step, adaptation.totals, adaptation.seconds
        with self.clock.time("adapt"):
            rungs = [s for s in self.config.adapt.rungs if first < s < steps]
            any(self._restore(s) for s in (steps, *reversed(rungs)))
            self.clock.reuse("adapt", adaptation.seconds - known)
            if adaptation.step < steps:
                adaptation.run(steps, self.progress)
                key = self._key_of_step(steps)
                adaptation.save(self.store.file(ADAPTED, key), mark(ADAPTED, key))
        return {k: (total - before.get(k, 0.0)) / (steps - first) for k, total in adaptation.totals.items()}

    @property
    def generator(self) -> GeneratorBundle:
        """The generator as it stands, with everything that generation needs."""
        return generator_bundle(self.material, self.adaptation, self.config, self.seeds)

    @property
    def adapted_key(self) -> str:
        """What names the fine-tuning as it stands."""
        return self._key_of_step(self.adaptation.step)

    @property
    def pools_key(self) -> str:
        """What names the mined clips: settings that give the same ones share what is made of them."""
        assert self.pools is not None
        return digest(self.material.source.content_hash, [pool.indices.tolist() for pool in self.pools.pools])

    def kept_clips(self, make: Callable[[], Synthetic], *parts: Any) -> Synthetic:
        """Return the clips that ``parts``, the classes and the generation seed name, made once for all trials."""
        key = digest(*parts, self.classes, self.seeds.generation, self.device.partition(":")[0])
        back = partial(_clips_in, classes=len(self.material.data.corpus.classes))
        return self._kept(SYNTHETIC, "synthesise", key, make, _clips_out, back)

    def judge(self, synthetic: Synthetic | None) -> list[JudgeReport]:
        """Return the judge's reports on the few shots and these clips, one a judge seed."""
        with self.clock.time("classify"):
            reports, reused = score_kept(
                self.store,
                self.material.data,
                synthetic,
                self.config.judge,
                self.seeds.judge,
                self.device,
                self.progress,
            )
        self.clock.reuse("classify", reused)
        return reports

    def train_judges(self, synthetic: Synthetic | None, seeds: Sequence[int]) -> list[Classifier]:
        """Return judges trained on the few shots and these clips, one a judge seed, where nothing is left to score."""
        data, judge = self.material.data, self.config.judge
        with self.clock.time("classify"):
            return train_judges(data, synthetic, judge, seeds, self.device, self.progress)

    @cached_property
    def adaptation(self) -> Adaptation:
        """The fine-tuning, at step 0 when it is first asked for."""
        pools = self.pools if self._sees_pools else None
        with self.clock.time("load"):
            return start_adaptation(self.material, pools, self.config, self.seeds, self.device)

    @property
    def _sees_pools(self) -> bool:
        """Whether the pools change the fine-tuning: by their clips, or by being empty."""
        return self.config.loss.mines or len(self.classes) < len(self.material.data.corpus.classes)

    def _key_of_step(self, steps: int) -> str:
        data = self.material.data
        shots = [data.corpus.content_hash, data.train.tolist(), data.corpus.class_captions, self.material.max_frames]
        mined = self.pools_key if self._sees_pools else None
        return digest(self.adaptation.identity, shots, mined, steps, self.device.partition(":")[0])

    def _restore(self, steps: int) -> bool:
        key = self._key_of_step(steps)

        def restore(file: Path) -> bool:
            self.adaptation.restore(file, mark(ADAPTED, key))
            return True

        return self.store.use(ADAPTED, key, restore) or False

    def _kept(
        self,
        name: str,
        stage: str,
        key: str,
        make: Callable[[], Made],
        out: Callable[[Made], tuple[dict[str, Tensor], dict[str, Any]]],
        back: Callable[[dict[str, Tensor], dict[str, Any]], Made],
    ) -> Made:
        with self.clock.time(stage):
            kept = self.store.read(name, key, lambda tensors, meta: (back(tensors, meta), float(meta["seconds"])))
            if kept is not None:
                self.clock.reuse(stage, kept[1])
                return kept[0]
            start = time.perf_counter()
            made = make()
            tensors, meta = out(made)
            self.store.write(name, key, tensors, meta | {"seconds": time.perf_counter() - start})
            return made


def generator_bundle(
    material: Material, adaptation: Adaptation, config: TrialConfig, seeds: TrialSeeds
) -> GeneratorBundle:
    """Return the adapted generator with everything that generation needs."""
    corpus, adapted = material.data.corpus, set(adaptation.few_shot.labels.tolist())
    return GeneratorBundle(
        model=adaptation.generator(),
        model_config=material.prior.config,
        statistics=material.prior.statistics,
        diffusion_steps=config.adapt.diffusion_steps,
        classes=corpus.classes,
        captions=corpus.class_captions,
        text=tuple(material.class_text()),
        lengths=tuple(tuple(n) if c in adapted else () for c, n in enumerate(material.few_shot_lengths)),
        trial=config,
        seeds=seeds,
        encoder_id=material.encoder.id,
        caption_tokens=material.prior.caption_tokens,
    )


def _pools_out(mined: MiningResult) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"indices.{c}": torch.from_numpy(pool.indices) for c, pool in enumerate(mined.pools)}
    tensors |= {f"similarities.{c}": torch.from_numpy(pool.similarities) for c, pool in enumerate(mined.pools)}
    rest = [[float(p.threshold), bool(p.fallback), bool(p.clamped), float(p.best)] for p in mined.pools]
    return tensors, {"pools": rest, "warnings": list(mined.warnings)}


def _pools_in(tensors: dict[str, Tensor], meta: dict[str, Any], classes: int, clips: int) -> MiningResult:
    pools = [
        Pool(tensors[f"indices.{c}"].numpy(), tensors[f"similarities.{c}"].numpy(), *rest)
        for c, rest in enumerate(meta["pools"])
    ]
    if len(pools) != classes or any(not _within(pool.indices, clips) for pool in pools):
        raise ValueError(f"expected {classes} pools of indices into {clips} clips")
    return MiningResult(tuple(pools), tuple(meta["warnings"]))


def _clips_out(made: Synthetic) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {
        "features": torch.from_numpy(np.concatenate(made.features)),
        "frames": torch.tensor([len(clip) for clip in made.features]),
        "labels": torch.from_numpy(made.labels),
    }
    if made.prompts is not None:
        tensors["prompts"] = torch.from_numpy(made.prompts)
    return tensors, {"warnings": list(made.warnings)}


def _clips_in(tensors: dict[str, Tensor], meta: dict[str, Any], classes: int) -> Synthetic:
    features = [clip.numpy() for clip in torch.split(tensors["features"], tensors["frames"].tolist())]
    labels = tensors["labels"].numpy()
    if tensors["features"].shape[1:] != (NUM_FEATURES,) or labels.shape != (len(features),):
        raise ValueError(f"expected labelled clips of {NUM_FEATURES} features")
    if not _within(labels, classes):
        raise ValueError(f"expected labels of {classes} classes")
    prompts = tensors["prompts"].numpy() if "prompts" in tensors else None
    return Synthetic(features, labels, prompts, tuple(meta["warnings"]))


def _within(indices: np.ndarray, limit: int) -> bool:
    return indices.dtype == np.int64 and indices.ndim == 1 and not ((indices < 0) | (indices >= limit)).any()
