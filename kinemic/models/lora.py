"""LoRA: low-rank adapters in an MDM's attention, feed-forward, input, output and time projections.

Hu et al., arXiv 2106.09685; METHOD section 4. The weights themselves are never written, so nothing drifts: without
dropout the adapted weight W + s B A is formed on the fly, and ``merge`` returns a plain MDM.
Shapes: N rows, G stacked projections of one input, I in, P out, R rank; A is (R, I), B is (P, R), s = alpha / rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from kinemic.config import LoraConfig
from kinemic.models.dropout import Dropout, DropoutSource
from kinemic.models.mdm import MDM, SelfAttention


class _AdaptedLinear(torch.autograd.Function):
    """``x (W + s B A)^T + b`` for G stacked projections, with W and b frozen.

    Backward skips the product that a full weight gradient costs: dA = s (g B)^T x and dB = s g^T (x A^T) need
    2 R (I + P) multiplications a row instead of I P. Where the rank is too high for that to pay, it takes the full one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a_GRI: Tensor, b_GPR: Tensor, s: float
    ) -> Tensor:
        ctx.wanted = a_GRI.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, a_GRI, b_GPR = (tensor.to(dtype) for tensor in (x, weight, a_GRI, b_GPR))
            bias = None if bias is None else bias.to(dtype)
        merged = (
            torch.addmm(weight, b_GPR[0], a_GRI[0], alpha=s) if len(a_GRI) == 1 else _stacked(weight, a_GRI, b_GPR, s)
        )
        ctx.save_for_backward(x, merged, a_GRI, b_GPR)
        ctx.s = s
        return fn.linear(x, merged, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, merged, a_GRI, b_GPR = ctx.saved_tensors
        g_NK, x_NI = grads[0].reshape(-1, merged.shape[0]), x.reshape(-1, x.shape[-1])
        dx = (g_NK @ merged).view(x.shape).to(grads[0].dtype) if ctx.needs_input_grad[0] else None
        G, P, R = b_GPR.shape
        width = x_NI.shape[1]
        if 2 * R * (width + P) >= width * P:
            full_GPI = (g_NK.t() @ x_NI).view(G, P, width)
            da, db = b_GPR.transpose(1, 2) @ full_GPI, full_GPI @ a_GRI.transpose(1, 2)
        else:
            g_GNP = g_NK.view(-1, G, P).transpose(0, 1)
            h_GNR = (x_NI @ a_GRI.view(G * R, width).t()).view(-1, G, R).transpose(0, 1)
            da = (g_GNP @ b_GPR).transpose(0, 1).reshape(-1, G * R).t().mm(x_NI).view(G, R, width)
            db = g_GNP.transpose(1, 2) @ h_GNR
        return dx, None, None, da.mul_(ctx.s).to(ctx.wanted), db.mul_(ctx.s).to(ctx.wanted), None


def _stacked(weight: Tensor, a_GRI: Tensor, b_GPR: Tensor, s: float) -> Tensor:
    G, P, _ = b_GPR.shape
    return torch.baddbmm(weight.view(G, P, -1), b_GPR, a_GRI, alpha=s).view(weight.shape)


def _adapted(x: Tensor, weight: Tensor, bias: Tensor | None, a_GRI: Tensor, b_GPR: Tensor, s: float) -> Tensor:
    out: Tensor = _AdaptedLinear.apply(x, weight, bias, a_GRI, b_GPR, s)
    return out


class _DroppedLinear(torch.autograd.Function):
    """``x W^T + b + s (x mask) A^T B^T`` with W and b frozen; ``s`` includes the dropout scale."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, a_RI: Tensor, b_PR: Tensor, s: float
    ) -> Tensor:
        ctx.wanted = a_RI.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias, a_RI, b_PR = (tensor.to(dtype) for tensor in (x, weight, bias, a_RI, b_PR))
        x_NI, mask_NI = x.reshape(-1, x.shape[-1]), mask.view(-1, x.shape[-1])
        dropped_NI = mask_NI.to(x.dtype).mul_(x_NI)
        h_NR = dropped_NI @ a_RI.t()
        ctx.save_for_backward(dropped_NI, mask_NI, h_NR, weight, a_RI, b_PR)
        ctx.s, ctx.shape = s, x.shape
        return torch.addmm(bias, x_NI, weight.t()).addmm_(h_NR, b_PR.t(), alpha=s).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, Tensor, Tensor, None]:
        dropped_NI, mask_NI, h_NR, weight, a_RI, b_PR = ctx.saved_tensors
        g_NP = grads[0].reshape(-1, weight.shape[0])
        dh_NR = (g_NP @ b_PR).mul_(ctx.s)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g_NP @ weight).addcmul_(mask_NI.to(dh_NR.dtype), dh_NR @ a_RI).view(ctx.shape)
        return (
            dx,
            None,
            None,
            None,
            (dh_NR.t() @ dropped_NI).to(ctx.wanted),
            (g_NP.t() @ h_NR).mul_(ctx.s).to(ctx.wanted),
            None,
        )


class LoraLinear(nn.Linear):
    """``x W^T + b + s dropout(x) A^T B^T`` with W and b frozen."""

    def __init__(self, base: nn.Linear, config: LoraConfig, source: DropoutSource, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.lora_A, self.lora_B = _pair(base.weight, config.rank, generator)
        self.scale = config.alpha / config.rank
        self.lora_dropout = Dropout(config.dropout, source)

    def forward(self, x: Tensor) -> Tensor:
        """Project (..., I) to (..., P)."""
        dropout = self.lora_dropout
        if not dropout.active:
            return _adapted(x, self.weight, self.bias, self.lora_A[None], self.lora_B[None], self.scale)
        mask, kept_share = dropout.draw(x)
        scale = self.scale / kept_share
        out: Tensor = _DroppedLinear.apply(x, mask, self.weight, self.bias, self.lora_A, self.lora_B, scale)
        return out

    def merged(self) -> nn.Linear:
        """Return a plain Linear with the adapter added to the weight."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        plain.weight = nn.Parameter(torch.addmm(self.weight, self.lora_B, self.lora_A, alpha=self.scale).detach())
        plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain


class LoraSelfAttention(SelfAttention):
    """Self-attention with a pair each for query, key, value and output, without LoRA dropout (as published)."""

    def __init__(self, base: SelfAttention, config: LoraConfig, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.heads, self.dropout = base.heads, base.dropout
        self.in_proj_weight, self.in_proj_bias, self.out_proj = base.in_proj_weight, base.in_proj_bias, base.out_proj
        self.scale = config.alpha / config.rank
        self.q_lora_A, self.q_lora_B = _pair(base.out_proj.weight, config.rank, generator)
        self.k_lora_A, self.k_lora_B = _pair(base.out_proj.weight, config.rank, generator)
        self.v_lora_A, self.v_lora_B = _pair(base.out_proj.weight, config.rank, generator)
        self.out_lora_A, self.out_lora_B = _pair(base.out_proj.weight, config.rank, generator)

    def lora_pairs(self) -> tuple[Tensor, Tensor]:
        """Return the stacked A (3, R, D) and B (3, D, R) of query, key and value."""
        return (
            torch.stack((self.q_lora_A, self.k_lora_A, self.v_lora_A)),
            torch.stack((self.q_lora_B, self.k_lora_B, self.v_lora_B)),
        )

    def project_in(self, x_BSD: Tensor) -> Tensor:
        """Return adapted queries, keys and values side by side, (B, S, 3 D)."""
        return _adapted(x_BSD, self.in_proj_weight, self.in_proj_bias, *self.lora_pairs(), self.scale)

    def project_out(self, x_BSD: Tensor) -> Tensor:
        """Mix the heads through the adapted output projection, (B, S, D)."""
        out = self.out_proj
        return _adapted(x_BSD, out.weight, out.bias, self.out_lora_A[None], self.out_lora_B[None], self.scale)

    def merged(self) -> SelfAttention:
        """Return a plain SelfAttention with the adapters added to the weights."""
        width = self.out_proj.in_features
        with torch.device("meta"):
            plain = SelfAttention(width, self.heads, self.dropout.p, self.dropout.source)
        plain.in_proj_weight = nn.Parameter(_stacked(self.in_proj_weight, *self.lora_pairs(), self.scale).detach())
        plain.in_proj_bias = nn.Parameter(self.in_proj_bias.detach().clone())
        out_weight = torch.addmm(self.out_proj.weight, self.out_lora_B, self.out_lora_A, alpha=self.scale)
        plain.out_proj.weight = nn.Parameter(out_weight.detach())
        plain.out_proj.bias = nn.Parameter(self.out_proj.bias.detach().clone())
        return plain


def _pair(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """A from kaiming_uniform(a=sqrt 5), that is U(-1/sqrt I, 1/sqrt I), and B of zeros, for a weight of (P, I)."""
    a_RI = torch.empty(rank, weight.shape[1])
    nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
    device = weight.device
    return nn.Parameter(a_RI.to(device)), nn.Parameter(torch.zeros(weight.shape[0], rank, device=device))


def add_lora(model: MDM, config: LoraConfig, generator: torch.Generator) -> MDM:
    """Put adapters into ``model`` in place, set what is trainable (METHOD section 4), and return it.

    Trainable are the adapters and the action embedding; base weights, biases, norms and the text projection are frozen.
    ``generator`` is a CPU generator for the A matrices. Raises ValueError where the model already has adapters.
    """
    if any(isinstance(module, LoraLinear | LoraSelfAttention) for module in model.modules()):
        raise ValueError("the model already has adapters; merge() it first")
    model.requires_grad_(False)

    def linear(base: nn.Linear) -> LoraLinear:
        return LoraLinear(base, config, model.dropout_source, generator)

    model.input_process.poseEmbedding = linear(model.input_process.poseEmbedding)
    for layer in model.layers:
        layer.self_attn = LoraSelfAttention(layer.self_attn, config, generator)
        layer.linear1, layer.linear2 = linear(layer.linear1), linear(layer.linear2)
    time = model.embed_timestep.time_embed
    for index in (0, 2):
        first_or_last = time[index]
        assert isinstance(first_or_last, nn.Linear)
        time[index] = linear(first_or_last)
    model.output_process.poseFinal = linear(model.output_process.poseFinal)
    if model.embed_action is not None:
        model.embed_action.requires_grad_(True)
    return model.train(model.training)


def lora_parameters(model: MDM) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name: adapters and action embedding, what an adaptation checkpoint holds."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merge(model: MDM) -> MDM:
    """Return a plain MDM in eval mode whose weights contain the adapters; ``model`` stays as it is."""
    plain = copy.deepcopy(model)
    for parent, name, child in list(_adapted_children(plain)):
        setattr(parent, name, child.merged())
    return plain.requires_grad_(False).eval()


def _adapted_children(model: nn.Module) -> Iterable[tuple[nn.Module, str, LoraLinear | LoraSelfAttention]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, LoraLinear | LoraSelfAttention):
                yield parent, name, child
