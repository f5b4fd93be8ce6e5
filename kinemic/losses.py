"""The terms of the adaptation loss and the pieces they are made of, as pure functions (METHOD section 4).

Shapes: B batch, T frames, W window frames, F features, D embedding width, A anchors, N candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's clamp: a temperature of at least 0.01


def length_mask(lengths_B: Tensor, frames: int) -> Tensor:
    """Return the (B, frames) bool mask that is True inside each clip."""
    return torch.arange(frames, device=lengths_B.device) < lengths_B[:, None]


def masked_mean(values_BTF: Tensor, mask_BT: Tensor) -> Tensor:
    """Return each sample's mean over the features of its masked frames, (B,); 0 where a mask is empty."""
    sums = (values_BTF.sum(2) * mask_BT).sum(1)
    return sums / (mask_BT.sum(1) * values_BTF.shape[2]).clamp_min(1)


def masked_mse(a_BTF: Tensor, b_BTF: Tensor, mask_BT: Tensor) -> Tensor:
    """Return each sample's mean squared error over its masked frames, (B,), in float32."""
    return masked_mean((a_BTF.float() - b_BTF.float()).square(), mask_BT)


def soft_nearest_neighbours(
    anchors_AD: Tensor, candidates_ND: Tensor, labels_A: Tensor, labels_N: Tensor, logit_scale: Tensor
) -> Tensor:
    """Return the soft nearest neighbour loss of each anchor, (A,), under cosine similarity.

    ``-(logsumexp over candidates of the same label - logsumexp over all)`` of ``exp(logit_scale) * cos``
    (Frosst et al. 2019, arXiv 1902.01889). An anchor with no candidate of its label gives +inf.
    """
    anchors_AD = functional.normalize(anchors_AD.float(), dim=1)
    candidates_ND = functional.normalize(candidates_ND.float(), dim=1)
    logits_AN = logit_scale.exp() * anchors_AD @ candidates_ND.T
    same_AN = labels_A[:, None] == labels_N
    return logits_AN.logsumexp(1) - logits_AN.masked_fill(~same_AN, -math.inf).logsumexp(1)


def find_windows(attention_BT: Tensor, prior_lengths_B: Tensor, target_lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and length, (B,) each, of the stretch of a source clip with the largest attention mass.

    It is as long as the target clip, or all of the source clip where that is shorter; the first of equals wins.
    """
    frames = attention_BT.shape[1]
    mass = attention_BT.masked_fill(~length_mask(prior_lengths_B, frames), 0.0)
    ends = functional.pad(mass.cumsum(1), (1, 0))  # ends[k] is the mass of the first k frames
    lengths_B = torch.minimum(prior_lengths_B, target_lengths_B)
    starts = torch.arange(frames, device=mass.device)
    stop_BT = (starts + lengths_B[:, None]).clamp_max(frames)
    sums_BT = ends.gather(1, stop_BT) - ends[:, :-1]
    sums_BT = sums_BT.masked_fill(starts > (prior_lengths_B - lengths_B)[:, None], -math.inf)
    return sums_BT.argmax(1), lengths_B


def place_windows(place_B: Tensor, prior_lengths_B: Tensor, target_lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and length, (B,) each, as ``find_windows`` does, for places (0..1) drawn uniformly."""
    lengths_B = torch.minimum(prior_lengths_B, target_lengths_B)
    return (place_B * (prior_lengths_B - lengths_B + 1)).long(), lengths_B


def cut_windows(x_BTF: Tensor, starts_B: Tensor, lengths_B: Tensor, frames: int) -> Tensor:
    """Return the windows of ``x_BTF`` as (B, frames, F), each padded with its own last frame."""
    offsets = torch.arange(frames, device=x_BTF.device)
    index_BW = starts_B[:, None] + torch.minimum(offsets, (lengths_B - 1)[:, None])
    return x_BTF.gather(1, index_BW[:, :, None].expand(-1, -1, x_BTF.shape[2]))


def dynamic_window_weight(z_target_BD: Tensor, z_window_BD: Tensor) -> Tensor:
    """Return the weight (1 + cos) / 2 of each window, (B,), without gradient."""
    return (1 + functional.cosine_similarity(z_target_BD.detach().float(), z_window_BD.detach().float(), dim=1)) / 2


def prior_timesteps(t_B: Tensor, steps: int, prior_steps: int) -> Tensor:
    """Return the prior's own timesteps for those of a process of ``steps``: ceil(t * prior_steps / steps), clamped."""
    return (t_B * prior_steps + steps - 1).div(steps, rounding_mode="floor").clamp_max(prior_steps - 1)


class MemoryBank:
    """The last ``limit`` embeddings of source clips, detached, with the class that each was paired with."""

    def __init__(self, limit: int, width: int, device: torch.device | str = "cpu") -> None:
        self.limit = limit
        self.embeddings_ND = torch.empty(0, width, device=device)
        self.labels_N = torch.empty(0, dtype=torch.int64, device=device)

    def push(self, embeddings_BD: Tensor, labels_B: Tensor) -> None:
        """Append a batch, forgetting the oldest beyond the limit."""
        if self.limit:
            self.embeddings_ND = torch.cat([self.embeddings_ND, embeddings_BD.detach().float()])[-self.limit :]
            self.labels_N = torch.cat([self.labels_N, labels_B])[-self.limit :]
