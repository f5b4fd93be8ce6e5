"""Fine-tuning of the two streams on few-shot clips (METHOD section 4): data drawing, steps, exact continuation.

Every random number of step n is drawn from a seed that (seed, n) name, so that a restored run needs no random states
and that runs with other loss weights see the same clips and timesteps; the noise too where both mine or neither does,
as its shape follows the longest clip.
Shapes: B batch, T frames, F features, C classes.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from kinemic import __version__, checkpoint
from kinemic.clips import Batch, ClipSet, endless_passes
from kinemic.config import ActionStart, AdaptConfig, LossConfig
from kinemic.device import generator, to_host
from kinemic.diffusion import cosine_schedule
from kinemic.errors import CheckpointError, ConfigError, DataError, DivergedError, EmptyPoolError
from kinemic.losses import MemoryBank
from kinemic.models.lora import add_lora, merge
from kinemic.models.mdm import MDM
from kinemic.models.mic import MIC
from kinemic.prior import Prior
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.seeding import derive_seed
from kinemic.streams import TwoStreams, total_loss

KIND = "adaptation"


class Adaptation:
    """A prior being adapted to few-shot classes; ``step`` counts the optimiser steps done.

    ``totals`` are the sums of the loss and of each term over all steps, ``seconds`` what those steps took; both are
    kept with a saved step, whoever did it.

    A batch holds ``adapt.batch_size`` few-shot clips, cut from an endless row of reshuffled passes over all of them. So
    every pass shows each clip once, and a clip comes twice in a batch only where the batch spans two passes, as it must
    where it is larger than the few shots; its timestep, noise and source clip then differ. Each few-shot clip is paired
    with a random clip of its class's pool (indices into ``source``). A class whose pool is empty has no few-shot clips
    here (``mining.floor``), but its place among the classes stays. Raises ConfigError where every loss weight is 0 and
    DataError where there is no few-shot clip, and for a pool that is missing, or empty beside few-shot clips.
    """

    def __init__(
        self,
        prior: Prior,
        few_shot: ClipSet,
        source: ClipSet,
        pools: Sequence[np.ndarray],
        loss: LossConfig,
        adapt: AdaptConfig,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if not (loss.mines or loss.rec > 0):
            raise ConfigError("every loss weight is 0, so there is nothing to learn; give at least one above 0")
        if len(few_shot) == 0:
            raise EmptyPoolError("no class has source clips to be adapted with; lower mining.floor")
        self.prior, self.loss, self.adapt, self.seed, self.device = prior, loss, adapt, seed, device
        self.few_shot = few_shot.on_device(device)
        self.source = source.on_device(device) if loss.mines else source
        self.classes = max(int(few_shot.labels.max()) + 1, len(pools))
        self.pools = _Pools(pools, self.few_shot.labels, len(source)) if loss.mines else None
        self.streams = self._build_streams(few_shot).to(device)
        self.bank = MemoryBank(loss.bank_size, prior.config.width, device)
        self.step = 0
        self.totals: dict[str, float] = {}
        self.seconds = 0.0
        self._data = torch.Generator()
        self._noise = generator(device)
        self._trained = {name: p for name, p in self.streams.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._trained.items()} if adapt.average else {}
        self._optimiser = torch.optim.AdamW(
            self._trained.values(), lr=adapt.learning_rate, weight_decay=adapt.weight_decay, fused=True
        )

    def run(self, until: int, progress: ProgressCallback = silent) -> dict[str, float]:
        """Train up to step ``until``; return the mean of the loss and of each term over the steps of this call.

        Raises DivergedError naming the step and the term that became NaN or infinite.
        """
        first, before, start = self.step, self.totals, time.perf_counter()
        while self.step < until:
            values = self._train_step()
            self.totals = {name: self.totals.get(name, 0.0) + value for name, value in values.items()}
            progress(Progress("adapt", self.step, until, values))
        self.seconds += time.perf_counter() - start
        return {name: (total - before.get(name, 0.0)) / (self.step - first) for name, total in self.totals.items()}

    def generator(self) -> MDM:
        """Return the adapted model as a plain one (text and action), LoRA merged, in evaluation mode.

        With ``adapt.average`` its weights are the running mean: at a constant rate that is high enough for few steps,
        the last ones are a noisy draw.
        """
        if not self._average:
            return merge(self.streams.target)
        streams = copy.deepcopy(self.streams)
        streams.load_state_dict(self._average, strict=False)
        return merge(streams.target)

    def save(self, path: Path, mark: Mapping[str, Any] | None = None) -> None:
        """Write what training has changed: trained parameters, memory bank, optimiser; never the frozen weights.

        ``mark`` is kept in the metadata.
        """
        tensors = {f"trained.{name}": p.detach() for name, p in self._trained.items()}
        for name, p in self._trained.items():
            tensors |= {f"optimiser.{name}.{key}": value for key, value in self._optimiser.state[p].items()}
        tensors |= {f"average.{name}": value for name, value in self._average.items()}
        tensors |= {"bank.embeddings": self.bank.embeddings_ND, "bank.labels": self.bank.labels_N}
        done = {"step": self.step, "totals": self.totals, "seconds": self.seconds}
        checkpoint.save(path, tensors, {**self.identity, **done, "version": __version__, **(mark or {})})

    def restore(self, path: Path, mark: Mapping[str, Any] | None = None) -> None:
        """Continue from a saved step, with the same numbers as if never stopped.

        Raises CheckpointError, before anything has changed, where the file belongs to another prior, text encoder,
        width, configuration, seed or ``mark``, and where it does not hold what ``save`` writes.
        """
        tensors, meta = checkpoint.load(path)
        checkpoint.require(meta, self.identity, path)
        checkpoint.require_if_there(meta, mark or {}, path)
        self._check_tensors(tensors, path)
        step, totals, seconds = _done(meta, path)
        with torch.no_grad():
            for name, p in self._trained.items():
                p.copy_(tensors[f"trained.{name}"])
            for name, value in self._average.items():
                value.copy_(tensors[f"average.{name}"])
        state = self._optimiser.state_dict()
        state["state"] = {i: moments for i, name in enumerate(self._trained) if (moments := _moments(tensors, name))}
        self._optimiser.load_state_dict(state)
        self.bank.embeddings_ND = tensors["bank.embeddings"].to(self.device)
        self.bank.labels_N = tensors["bank.labels"].to(self.device)
        self.step, self.totals, self.seconds = step, totals, seconds

    def _check_tensors(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Raise CheckpointError for a tensor that is missing or of another shape."""
        shapes = {f"trained.{name}": tuple(p.shape) for name, p in self._trained.items()}
        shapes |= {f"average.{name}": tuple(value.shape) for name, value in self._average.items()}
        for name, p in self._trained.items():
            shapes |= {f"optimiser.{name}.{key}": tuple(p.shape) for key in _moments(tensors, name) if key != "step"}
        entries = len(tensors.get("bank.labels", ()))
        shapes |= {"bank.embeddings": (entries, self.prior.config.width), "bank.labels": (entries,)}
        for name, shape in shapes.items():
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            if found != shape:
                raise CheckpointError(f"{path}: {name} is {found}, this run needs {shape}; delete the file")

    def _build_streams(self, few_shot: ClipSet) -> TwoStreams:
        def seeded(name: str) -> int:
            return derive_seed(self.seed, "adapt", name)

        target = self.prior.model.with_actions(self.classes, seed=seeded("action"))
        assert target.embed_action is not None
        start_actions(target.embed_action.action_embedding, self.adapt.action_start, target, few_shot)
        add_lora(target, self.adapt.lora, torch.Generator().manual_seed(seeded("lora")))
        mic = MIC(self.prior.config.width, seed=seeded("mic"))
        schedule = cosine_schedule(self.adapt.diffusion_steps)
        return TwoStreams(copy.deepcopy(self.prior.model), target, mic, self.loss, schedule, self.prior.diffusion_steps)

    def _train_step(self) -> dict[str, float]:
        target, source, t_B, drop_2B, place_B = self._draw()
        frames = max(batch.x_BTF.shape[1] for batch in (target, source) if batch is not None)
        shape = (len(t_B), frames, target.x_BTF.shape[2])
        noise_BTF = torch.randn(shape, generator=self._noise, device=self.device)
        self.streams.target.dropout_source.seek(self.seed, self.step)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.adapt.precision == "bf16"):
            terms = self.streams(target, source, t_B, noise_BTF, self.bank, drop_2B, place_B=place_B)
        loss = total_loss(terms, self.loss).mean()
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.adapt, self.step)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self.adapt.grad_clip, foreach=True)
        self._optimiser.step()
        self.streams.clamp_temperature()
        self.step += 1
        self._update_average()
        means = {"loss": loss, **{name: value.mean() for name, value in terms.named().items()}, "gradient_norm": norm}
        values = to_host(torch.stack(list(means.values()))).tolist()  # the one wait for the device in a step
        return _finite(dict(zip(means, values, strict=True)), self.step)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Follow the weights at the decay of ``adapt.average``, faster at first, where they move far."""
        if self._average:
            decay = min(self.adapt.average, self.step / (self.step + 10))
            torch._foreach_lerp_(list(self._average.values()), list(self._trained.values()), 1 - decay)

    def _draw(self) -> tuple[Batch, Batch | None, Tensor, Tensor, Tensor | None]:
        """Draw the step's clips, timesteps (B,), whose condition is dropped (2B,) and, without MIC, windows (B,)."""
        rng = self._data.manual_seed(derive_seed(self.seed, "data", self.step))
        self._noise.manual_seed(derive_seed(self.seed, "noise", self.step))
        size = self.adapt.batch_size
        indices = endless_passes(len(self.few_shot), self.step * size, size, self.seed)
        t_B = torch.randint(self.adapt.diffusion_steps, (size,), generator=rng)
        drop_2B = torch.rand(2 * size, generator=rng) < self.adapt.condition_dropout
        target = self.few_shot.batch(indices, rng)
        source = place_B = None
        if self.pools is not None:
            source = self.source.batch(self.pools.draw(self.few_shot.labels[indices], rng), rng)
            if not self.loss.trains_mic:
                place_B = torch.rand(size, generator=rng).to(self.device)
        return target, source, t_B.to(self.device), drop_2B.to(self.device), place_B

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a saved step must share with this run, beside the clips; most telling first."""
        return {
            "kind": KIND,
            "model": self.prior.config.model_dump(mode="json"),
            "encoder_id": self.prior.encoder_id,
            "caption_tokens": self.prior.caption_tokens,
            "prior_diffusion_steps": self.prior.diffusion_steps,
            "prior": fingerprint(self.prior),
            "classes": self.classes,
            "loss": self.loss.model_dump(mode="json"),
            "adapt": self.adapt.model_dump(mode="json", exclude={"rungs"}),
            "budget": self.adapt.rungs[-1] if self.adapt.follows_budget else None,
            "seed": self.seed,
        }


def learning_rate(adapt: AdaptConfig, step: int) -> float:
    """Return the rate of step ``step`` (from 0): up over ``warm_up`` of all steps, then level or half a cosine to 0."""
    total, rate = adapt.rungs[-1], adapt.learning_rate
    rising = round(adapt.warm_up * total)
    if step < rising:
        return rate * (step + 1) / rising
    if adapt.schedule == "constant":
        return rate
    return rate * (1 + math.cos(math.pi * min(1.0, (step - rising) / (total - rising)))) / 2


@torch.no_grad()
def start_actions(action_CD: Tensor, start: ActionStart, model: MDM, few_shot: ClipSet) -> None:
    """Set action embeddings as drawn, N(0, 1) (``normal``), to ``zero``, or by what sets a class's ``text`` apart.

    They are added to the text's projection. Drawn ones are as long as it is, which few steps can't unlearn; at zero the
    model starts as the prior. ``text`` adds the class's own mean projection minus that of all classes: the condition
    moves on from where the classes' captions are alike, in a direction that the prior knows.
    """
    if start == "normal":
        return
    action_CD.zero_()
    if start == "text":
        labels = sorted(set(few_shot.labels.tolist()))
        text_CE = torch.stack([few_shot.text_of(label).mean(0) for label in labels])
        # A prior that has made clips lies on their device; embeddings start at the same numbers before and after that.
        projected_CD = linear(text_CE, to_host(model.embed_text.weight), to_host(model.embed_text.bias))
        action_CD[labels] = (projected_CD - projected_CD.mean(0)).to(action_CD.device)


class _Pools:
    """The pools side by side, so that a batch of draws is one look-up."""

    def __init__(self, pools: Sequence[np.ndarray], labels: Tensor, clips: int) -> None:
        needed = sorted(set(labels.tolist()))
        if len(pools) <= needed[-1]:
            raise DataError(f"got {len(pools)} pools for {needed[-1] + 1} classes; every class needs one to mine from")
        for c, pool in enumerate(pools):
            if len(pool) == 0 and c in needed:
                raise EmptyPoolError(f"the pool of class {c} is empty; lower mining.threshold or raise mining.min_pool")
            if len(pool) and (min(pool) < 0 or max(pool) >= clips):
                raise DataError(f"the pool of class {c} points outside the {clips} source clips; mine this source anew")
        self.members = torch.from_numpy(np.concatenate(pools).astype(np.int64))
        self.counts_C = torch.tensor([len(pool) for pool in pools])
        self.starts_C = self.counts_C.cumsum(0) - self.counts_C

    def draw(self, labels_B: Tensor, rng: torch.Generator) -> Tensor:
        """Return a random member of each label's pool, (B,)."""
        at_B = (torch.rand(len(labels_B), generator=rng) * self.counts_C[labels_B]).long()
        return self.members[self.starts_C[labels_B] + at_B]


def _finite(values: dict[str, float], step: int) -> dict[str, float]:
    for name, value in sorted(values.items(), key=lambda item: item[0] in ("loss", "gradient_norm")):
        if not math.isfinite(value):  # a term comes before the sum that it spoils
            raise DivergedError(f"adaptation diverged: {name} became {value} at step {step}; lower adapt.learning_rate")
    return values


def _done(meta: Mapping[str, Any], path: Path) -> tuple[int, dict[str, float], float]:
    try:
        return int(meta["step"]), dict(meta["totals"]), float(meta["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not say what was done ({error}); delete the file") from error


def _moments(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    keys = ("step", "exp_avg", "exp_avg_sq")
    return {key: tensors[f"optimiser.{name}.{key}"] for key in keys if f"optimiser.{name}.{key}" in tensors}


def fingerprint(prior: Prior) -> str:
    """Hash of weights and statistics: a public prior's come from two files, and either may be the wrong one."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in prior.model.state_dict().items():
        digest.update(name.encode())
        digest.update(to_host(value).contiguous().numpy().data)
    for array_F in (prior.statistics.mean_F, prior.statistics.std_F):
        digest.update(np.ascontiguousarray(array_F).data)
    return digest.hexdigest()
