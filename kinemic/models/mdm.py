"""MDM, the motion diffusion model: a transformer encoder over [condition token, T frame tokens] that predicts x0.

Tevet et al., Human Motion Diffusion Model, arXiv 2209.14916. Parameter names are those of the public checkpoints.
Shapes: B batch, T frames, S = T + 1 tokens, F features, D width, H heads, E text dim.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from kinemic.config import MAX_DIFFUSION_STEPS, ModelConfig
from kinemic.models.dropout import Dropout, DropoutSource
from kinemic.models.initial import seeded
from kinemic.skeleton import NUM_FEATURES

MAX_POSITIONS = MAX_DIFFUSION_STEPS  # as in the public model
# Public checkpoints carry the position table (computed here) and may carry the CLIP tower (kinemic.text loads its own).
IGNORED_PREFIXES = ("clip_model.",)
IGNORED_SUFFIXES = ("sequence_pos_encoder.pe",)


def is_ignored(name: str) -> bool:
    """Whether a public checkpoint's tensor has no place in this model."""
    return name.startswith(IGNORED_PREFIXES) or name.endswith(IGNORED_SUFFIXES)


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the (positions, width) table: sine in even columns, cosine in odd ones, wavelengths up to 10000 * 2 pi."""
    angle = torch.arange(positions).float()[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :width].contiguous()


class SelfAttention(nn.Module):
    """Multi-head self-attention with one stacked input projection; ``dropout`` acts on the attention probabilities."""

    def __init__(self, width: int, heads: int, p: float, source: DropoutSource) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.dropout = Dropout(p, source)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def project_in(self, x_BSD: Tensor) -> Tensor:
        """Return queries, keys and values side by side, (B, S, 3 D)."""
        return fn.linear(x_BSD, self.in_proj_weight, self.in_proj_bias)

    def project_out(self, x_BSD: Tensor) -> Tensor:
        """Mix the heads, (B, S, D)."""
        out: Tensor = self.out_proj(x_BSD)
        return out

    def forward(self, x_BSD: Tensor, bias_B11S: Tensor | None) -> Tensor:
        """Attend; ``bias`` is 0 for visible keys and -inf for padding, or None where every key is visible."""
        B, S, D = x_BSD.shape
        q, k, v = self.project_in(x_BSD).view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if bias_B11S is not None:
            bias_B11S = bias_B11S.to(q.dtype)
        # CUDA's fused attention sums gradients in another order each time; the CPU's backward is slow in bfloat16.
        unfused = torch.is_grad_enabled() and (x_BSD.is_cuda or q.dtype == torch.bfloat16)
        if self.dropout.active or unfused:
            mixed = self._attend_in_steps(q, k, v, bias_B11S)
        else:
            mixed = fn.scaled_dot_product_attention(q, k, v, attn_mask=bias_B11S)
        return self.project_out(mixed.transpose(1, 2).reshape(B, S, D))

    def _attend_in_steps(self, q: Tensor, k: Tensor, v: Tensor, bias_B11S: Tensor | None) -> Tensor:
        scores_BHSS = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if bias_B11S is not None:
            scores_BHSS = scores_BHSS.add_(bias_B11S)
        mixed: Tensor = self.dropout(scores_BHSS.softmax(-1)) @ v
        return mixed


class EncoderLayer(nn.Module):
    """One post-norm transformer encoder layer with GELU."""

    def __init__(self, config: ModelConfig, source: DropoutSource) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config.width, config.heads, config.dropout, source)
        self.linear1 = nn.Linear(config.width, config.ff)
        self.linear2 = nn.Linear(config.ff, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout, source)

    def forward(self, x_BSD: Tensor, bias_B11S: Tensor | None) -> Tensor:
        """Return the layer's output, (B, S, D)."""
        x_BSD = self.norm1(self.dropout(self.self_attn(x_BSD, bias_B11S), x_BSD))
        hidden = self.linear2(self.dropout(fn.gelu(self.linear1(x_BSD))))
        out: Tensor = self.norm2(self.dropout(hidden, x_BSD))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: ModelConfig, source: DropoutSource) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(config, source) for _ in range(config.layers)])


class _InputProcess(nn.Module):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.poseEmbedding = nn.Linear(features, width)


class _OutputProcess(nn.Module):
    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.poseFinal = nn.Linear(width, features)


class _TimestepEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))


class _ActionEmbedding(nn.Module):
    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.action_embedding = nn.Parameter(torch.randn(actions, width))


class MDM(nn.Module):
    """The denoiser: predicts the clean clip and returns the last layer's frame latents with it.

    With ``actions`` it has an action embedding (the target stream); without, it is conditioned on text alone.
    Initial weights come from ``seed``.
    """

    position_table: Tensor

    def __init__(self, config: ModelConfig, actions: int | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.actions = actions
        self.dropout_source = DropoutSource(seed)
        with seeded(seed):
            self.input_process = _InputProcess(NUM_FEATURES, config.width)
            self.seqTransEncoder = _Encoder(config, self.dropout_source)
            self.embed_timestep = _TimestepEmbedding(config.width)
            self.embed_text = nn.Linear(config.text_dim, config.width)
            self.output_process = _OutputProcess(config.width, NUM_FEATURES)
            self.embed_action = None if actions is None else _ActionEmbedding(actions, config.width)
        self.dropout = Dropout(config.dropout, self.dropout_source)
        self.register_buffer("position_table", sinusoids(MAX_POSITIONS, config.width), persistent=False)
        self.register_load_state_dict_pre_hook(_drop_ignored)  # type: ignore[no-untyped-call]

    def forward(
        self,
        x_BTF: Tensor,
        t_B: Tensor,
        text_BE: Tensor,
        lengths_B: Tensor | None = None,
        action_B: Tensor | None = None,
        drop_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (x0_BTF, latent_BTD).

        ``t_B`` are diffusion steps, ``text_BE`` raw caption embeddings, ``lengths_B`` valid frames (None: all of T).
        Frames beyond a length are hidden as keys; their own outputs mean nothing. Where the bool ``drop_B`` is true the
        whole condition is dropped: text is zeroed before its projection, the action after its lookup.
        """
        T = x_BTF.shape[1]
        condition_BD = self.condition(t_B, text_BE, action_B, drop_B)
        tokens_BSD = torch.cat((condition_BD[:, None], self.input_process.poseEmbedding(x_BTF)), dim=1)
        tokens_BSD = self.dropout(tokens_BSD + self.position_table[: T + 1].to(tokens_BSD.dtype))
        bias_B11S = None if lengths_B is None else _key_bias(lengths_B, T)
        for layer in self.layers:
            tokens_BSD = layer(tokens_BSD, bias_B11S)
        latent_BTD = tokens_BSD[:, 1:]
        return self.output_process.poseFinal(latent_BTD), latent_BTD

    @property
    def layers(self) -> list[EncoderLayer]:
        """The encoder's layers, first to last."""
        return [layer for layer in self.seqTransEncoder.layers if isinstance(layer, EncoderLayer)]

    def condition(
        self, t_B: Tensor, text_BE: Tensor, action_B: Tensor | None = None, drop_B: Tensor | None = None
    ) -> Tensor:
        """Return the condition token: time embedding + text projection (+ action embedding), (B, D)."""
        if (action_B is None) != (self.embed_action is None):
            needs = "an action a clip" if action_B is None else "no action"
            raise ValueError(f"this model has actions={self.actions}; it takes {needs}")
        keep_B1 = None if drop_B is None else (~drop_B)[:, None].to(text_BE.dtype)
        text_BD = self.embed_text(text_BE if keep_B1 is None else text_BE * keep_B1)
        token_BD: Tensor = self.embed_timestep.time_embed(self.position_table[t_B]) + text_BD
        if action_B is None or self.embed_action is None:
            return token_BD
        action_BD = self.embed_action.action_embedding[action_B]
        return token_BD + (action_BD if keep_B1 is None else action_BD * keep_B1)

    def with_actions(self, actions: int, *, seed: int) -> MDM:
        """Return a copy that also takes an action: same weights, and ``actions`` embeddings drawn from N(0, 1)."""
        model = copy.deepcopy(self)
        with seeded(seed):
            model.embed_action = _ActionEmbedding(actions, self.config.width).to(self.position_table.device)
        model.actions = actions
        return model


def _key_bias(lengths_B: Tensor, frames: int) -> Tensor | None:
    """Additive attention bias (B, 1, 1, S), -inf at padded keys; None where nothing is padded (CPU only: no sync)."""
    if lengths_B.device.type == "cpu" and bool((lengths_B >= frames).all()):
        return None
    hidden_BT = torch.arange(frames, device=lengths_B.device) >= lengths_B[:, None]
    bias_BT = torch.zeros(hidden_BT.shape, device=lengths_B.device).masked_fill_(hidden_BT, -math.inf)
    return fn.pad(bias_BT, (1, 0))[:, None, None]  # the condition token is always visible


def _drop_ignored(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state_dict if is_ignored(name.removeprefix(prefix))]:
        del state_dict[name]
