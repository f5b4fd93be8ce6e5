"""The two streams of the method and the loss terms of one step (METHOD section 4, arXiv 2512.11654).

Shapes: B batch, T target frames, P source (prior) frames, F features, D width. Windows have T frames too.
"""

# ruff: noqa: N815 - fields carry shape suffixes like every tensor here
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kinemic.clips import Batch
from kinemic.config import LossConfig
from kinemic.diffusion import Schedule, q_sample
from kinemic.losses import (
    MAX_LOGIT_SCALE,
    MemoryBank,
    cut_windows,
    dynamic_window_weight,
    find_windows,
    length_mask,
    masked_mse,
    place_windows,
    prior_timesteps,
    soft_nearest_neighbours,
)
from kinemic.models.mdm import MDM
from kinemic.models.mic import MIC


@dataclass(frozen=True)
class Terms:
    """Per-sample terms of one step, (B,) each, None where no positive weight needs them."""

    rec: Tensor | None = None
    contrastive: Tensor | None = None
    window_rec: Tensor | None = None
    window_distill: Tensor | None = None
    window_weight: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Return what was computed, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def total_loss(terms: Terms, weights: LossConfig) -> Tensor:
    """Return ``rec + contrastive + window_weight * (window_rec + window_distill)``, weighted, per sample (B,)."""
    parts = []
    for name, value in terms.named().items():
        if name != "window_weight":
            if name.startswith("window_") and terms.window_weight is not None:
                value = terms.window_weight * value
            parts.append(getattr(weights, name) * value)
    return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class View:
    """What the target stream is to reconstruct: clean clips, the same noised, lengths, whose condition is dropped."""

    x_BTF: Tensor
    x_t_BTF: Tensor
    lengths_B: Tensor
    drop_B: Tensor | None


@dataclass(frozen=True)
class Seen:
    """A view as the target stream sees it: predicted clean clips and last-layer latents."""

    x0_BTF: Tensor
    latent_BTD: Tensor


@dataclass(frozen=True)
class Context:
    """The prior stream's side of a step: its windows, and as far as a term needs them latents (B, P, D) and embedding.

    ``attention_BP`` is where the windows come from, None where they were drawn.
    """

    starts_B: Tensor
    lengths_B: Tensor
    latent_BPD: Tensor | None = None
    z_BD: Tensor | None = None
    attention_BP: Tensor | None = None


class TwoStreams(nn.Module):
    """The frozen prior, the target stream and the MIC module between them.

    ``prior`` sees mined source clips with their text, in evaluation mode and without gradient; ``target`` sees few-shot
    clips with text and action; ``mic`` embeds the latents of both. What no positive weight needs is never run: the
    windows only for a window term, MIC only if the contrastive term trains it, and the prior only for MIC and
    distillation. An untrained MIC would find windows by its random weights: without one they are drawn uniformly.
    """

    def __init__(
        self, prior: MDM, target: MDM, mic: MIC, weights: LossConfig, schedule: Schedule, prior_steps: int
    ) -> None:
        super().__init__()
        self.prior, self.target, self.mic = prior.requires_grad_(False), target, mic
        self.weights, self.schedule, self.prior_steps = weights, schedule, prior_steps
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(weights.temperature)))
        self.has_windows = weights.window_rec > 0 or weights.window_distill > 0
        self.weighs_windows = self.has_windows and weights.dynamic_window_weighting and weights.trains_mic
        self.sees_target = weights.rec > 0 or weights.contrastive > 0 or self.weighs_windows
        if not weights.trains_mic:
            mic.requires_grad_(False)
            self.logit_scale.requires_grad_(False)
        self.clamp_temperature()
        self.train()

    def train(self, mode: bool = True) -> TwoStreams:
        """Switch the mode of everything but the prior, which stays in evaluation mode."""
        super().train(mode)
        self.prior.eval()
        return self

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learned temperature within 0.01..1, as CLIP does."""
        self.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)

    def forward(
        self,
        target: Batch,
        source: Batch | None,
        t_B: Tensor,
        noise_BTF: Tensor,
        bank: MemoryBank,
        drop_2B: Tensor | None = None,
        t_prior_B: Tensor | None = None,
        place_B: Tensor | None = None,
    ) -> Terms:
        """Return the terms of one step; ``source`` is None where no term mines.

        ``noise_BTF`` is as long as the longer batch, and both start at its first frame. ``drop_2B`` says whose
        condition the target stream goes without: first the few-shot clips, then the windows. The bank's embeddings
        join the candidates, and only afterwards does it take this batch's. ``t_prior_B`` None scales ``t_B``.
        ``place_B`` (0..1) is where windows start, of all the places that they can; None asks MIC.
        """
        context = None
        if source is not None:
            if t_prior_B is None:
                t_prior_B = prior_timesteps(t_B, len(self.schedule), self.prior_steps)
            seen = (source, target.lengths_B, t_B, t_prior_B, noise_BTF)
            context = self.see_source(*seen) if place_B is None else self.see_anywhere(*seen, place_B)
        target_drop, window_drop = (None, None) if drop_2B is None else drop_2B.chunk(2)
        views = {}
        if self.sees_target:
            x_t_BTF = self._noised(target.x_BTF, t_B, noise_BTF)
            views["target"] = View(target.x_BTF, x_t_BTF, target.lengths_B, target_drop)
        if context is not None and source is not None and self.has_windows:
            cut = (context.starts_B, context.lengths_B, target.x_BTF.shape[1])
            window_BTF, noise_BTF = cut_windows(source.x_BTF, *cut), cut_windows(noise_BTF, *cut)
            views["window"] = View(window_BTF, self._noised(window_BTF, t_B, noise_BTF), context.lengths_B, window_drop)
        return self._terms(target, context, views, self.see_target(target, views, t_B), bank)

    def see_source(
        self, source: Batch, target_lengths_B: Tensor, t_B: Tensor, t_prior_B: Tensor, noise_BTF: Tensor
    ) -> Context:
        """Run the frozen prior on mined clips, noised as of ``t_B``, at its own timesteps; embed its latents by MIC."""
        latent_BPD = self._see_prior(source, t_B, t_prior_B, noise_BTF)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights.trains_mic):
            z_BD, attention_BP = self.mic(latent_BPD, source.lengths_B)
        attention_BP = attention_BP.detach().float()
        starts_B, lengths_B = find_windows(attention_BP, source.lengths_B, target_lengths_B)
        return Context(starts_B, lengths_B, latent_BPD, z_BD, attention_BP)

    def see_anywhere(
        self,
        source: Batch,
        target_lengths_B: Tensor,
        t_B: Tensor,
        t_prior_B: Tensor,
        noise_BTF: Tensor,
        place_B: Tensor,
    ) -> Context:
        """Cut windows at places (0..1) that were drawn; the frozen prior is run only if it is distilled."""
        starts_B, lengths_B = place_windows(place_B, source.lengths_B, target_lengths_B)
        if self.weights.window_distill == 0:
            return Context(starts_B, lengths_B)
        return Context(starts_B, lengths_B, self._see_prior(source, t_B, t_prior_B, noise_BTF))

    @torch.no_grad()
    def _see_prior(self, source: Batch, t_B: Tensor, t_prior_B: Tensor, noise_BTF: Tensor) -> Tensor:
        x_t_BPF = self._noised(source.x_BTF, t_B, noise_BTF)
        latent_BPD: Tensor = self.prior(x_t_BPF, t_prior_B, source.text_BE, source.lengths_B)[1]
        return latent_BPD

    def see_target(self, target: Batch, views: dict[str, View], t_B: Tensor) -> dict[str, Seen]:
        """Run the target stream on all views in one forward pass, each with the few-shot clips' own condition."""
        many = list(views.values())
        drops = [view.drop_B for view in many if view.drop_B is not None]
        x0, latent = self.target(
            torch.cat([view.x_t_BTF for view in many]),
            t_B.repeat(len(many)),
            target.text_BE.repeat(len(many), 1),
            torch.cat([view.lengths_B for view in many]),
            target.labels_B.repeat(len(many)),
            torch.cat(drops) if drops else None,
        )
        parts = zip(views, x0.chunk(len(many)), latent.chunk(len(many)), strict=True)
        return {name: Seen(x0_BTF, latent_BTD) for name, x0_BTF, latent_BTD in parts}

    def _terms(
        self, target: Batch, context: Context | None, views: dict[str, View], seen: dict[str, Seen], bank: MemoryBank
    ) -> Terms:
        weights, terms = self.weights, {}
        z_target_BD = self._embed_target(target, seen)
        if weights.rec > 0:
            terms["rec"] = _reconstruction(views["target"], seen["target"])
        if z_target_BD is not None and context is not None and context.z_BD is not None:
            terms["contrastive"] = self._contrast(z_target_BD, context.z_BD, target.labels_B, bank)
        if weights.window_rec > 0:
            terms["window_rec"] = _reconstruction(views["window"], seen["window"])
        if weights.window_distill > 0 and context is not None:
            latents = context_window(context, seen["window"])
            terms["window_distill"] = masked_mse(*latents, length_mask(context.lengths_B, latents[0].shape[1]))
        if z_target_BD is not None and self.weighs_windows:
            with torch.no_grad():
                z_window_BD, _ = self.mic(seen["window"].latent_BTD, views["window"].lengths_B)
            terms["window_weight"] = dynamic_window_weight(z_target_BD, z_window_BD)
        return Terms(**terms)

    def _embed_target(self, target: Batch, seen: dict[str, Seen]) -> Tensor | None:
        if not self.weights.trains_mic:
            return None
        z_BD: Tensor = self.mic(seen["target"].latent_BTD, target.lengths_B)[0]
        return z_BD

    def _contrast(self, anchors_BD: Tensor, candidates_BD: Tensor, labels_B: Tensor, bank: MemoryBank) -> Tensor:
        candidates_ND = torch.cat([candidates_BD.float(), bank.embeddings_ND])
        labels_N = torch.cat([labels_B, bank.labels_N])
        loss_B = soft_nearest_neighbours(anchors_BD, candidates_ND, labels_B, labels_N, self.logit_scale)
        bank.push(candidates_BD, labels_B)
        return loss_B

    def _noised(self, x_BTF: Tensor, t_B: Tensor, noise_BTF: Tensor) -> Tensor:
        return q_sample(x_BTF, t_B, noise_BTF[:, : x_BTF.shape[1]], self.schedule)


def context_window(context: Context, window: Seen) -> tuple[Tensor, Tensor]:
    """Return the prior stream's latents cut to the windows, and the target stream's latents of them, (B, T, D) each."""
    frames = window.latent_BTD.shape[1]
    assert context.latent_BPD is not None
    return cut_windows(context.latent_BPD, context.starts_B, context.lengths_B, frames), window.latent_BTD


def _reconstruction(view: View, seen: Seen) -> Tensor:
    return masked_mse(seen.x0_BTF, view.x_BTF, length_mask(view.lengths_B, view.x_BTF.shape[1]))
