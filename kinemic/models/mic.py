"""MIC, the motion-in-context module: what a clip's latents mean as a whole, and which frames carry it.

KineMIC, METHOD section 4: linear -> BiGRU with learned initial state -> attention over frames -> embedding.
Shapes: B batch, T frames, D width; the two GRU directions are stacked first where they run together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from kinemic.models.initial import seeded


class _Weights(nn.GRU):
    """A GRU's parameters alone: ``gru_scan`` runs them, so they are not laid out anew for cuDNN when they move."""

    def flatten_parameters(self) -> None:
        pass


class MIC(nn.Module):
    """Motion encoder with attention: latents of a clip to one embedding and one weight a frame.

    Initial weights come from ``seed``: Xavier-normal with zero bias for linear layers, N(0, 1) for the initial state.
    """

    def __init__(self, width: int, *, seed: int = 0) -> None:
        super().__init__()
        self.width = width
        with seeded(seed):
            self.input_emb = nn.Linear(width, width)
            self.gru = _Weights(width, width, bidirectional=True)
            self.hidden = nn.Parameter(torch.randn(2, 1, width))
            self.attention_net = nn.Sequential(
                nn.Linear(2 * width, width), nn.LayerNorm(width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
            )
            self.output_net = nn.Sequential(
                nn.Linear(2 * width, width), nn.LayerNorm(width), nn.LeakyReLU(0.2), nn.Linear(width, width)
            )
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_normal_(module.weight)
                    nn.init.zeros_(module.bias)

    def forward(self, latent_BTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z_BD, attention_BT); attention sums to 1 over a clip's valid frames and is 0 beyond them.

        Frames beyond a length influence nothing. Lengths are 1..T.
        """
        with torch.autocast(latent_BTD.device.type, enabled=False):  # small, and its softmax decides the window
            out_BTE = self._bigru(self.input_emb(latent_BTD.float()), lengths_B)
            scores_BT = self.attention_net(out_BTE).squeeze(-1)
            padded_BT = torch.arange(scores_BT.shape[1], device=lengths_B.device) >= lengths_B[:, None]
            attention_BT = scores_BT.masked_fill(padded_BT, -torch.inf).softmax(-1)
            z_BD: Tensor = self.output_net((attention_BT[:, None] @ out_BTE).squeeze(1))
        return z_BD, attention_BT

    def _bigru(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Run both directions over each clip's own frames, (B, T, 2 D); what lies beyond a length is unspecified.

        The reverse direction reads each clip mirrored inside its own length. Then both run forward together, and
        padding comes last in either, where it can't reach a valid frame.
        """
        B, T, D = x_BTD.shape
        frames_T = torch.arange(T, device=x_BTD.device)
        mirrored_BT = lengths_B[:, None] - 1 - frames_T
        mirrored_BT = torch.where(mirrored_BT >= 0, mirrored_BT, frames_T)
        mirror_BTD = mirrored_BT[:, :, None].expand(B, T, D)
        # all_weights: one list a direction of input weight, recurrent weight, input bias, recurrent bias.
        (in_ahead, rec_ahead, bias_ahead, rec_bias_ahead), (in_back, rec_back, bias_back, rec_bias_back) = (
            self.gru.all_weights
        )
        ahead = fn.linear(x_BTD, in_ahead, bias_ahead)
        back = fn.linear(x_BTD.gather(1, mirror_BTD), in_back, bias_back)
        states_T2BD = gru_scan(
            torch.stack((ahead, back)).permute(2, 0, 1, 3),
            torch.stack((rec_ahead, rec_back)),
            torch.stack((rec_bias_ahead, rec_bias_back)),
            self.hidden.expand(2, B, D),
        )
        ahead_BTD, back_BTD = states_T2BD.permute(1, 2, 0, 3).unbind(0)
        return torch.cat((ahead_BTD, back_BTD.gather(1, mirror_BTD)), dim=-1)


def gru_scan(inputs_TGBK: Tensor, weight_GKD: Tensor, bias_GK: Tensor, initial_GBD: Tensor) -> Tensor:
    """Run G independent GRUs over T steps and return their states, (T, G, B, D).

    ``inputs`` are already projected (K = 3 D: reset, update, new), ``weight`` and ``bias`` are the recurrent ones.
    Cho et al., arXiv 1406.1078, with the reset gate after the product as in cuDNN. Backward is written out: torch's own
    costs about 15 graph nodes a step, and weight gradients are one product at the end instead of one a step.
    """
    out: Tensor = _GruScan.apply(inputs_TGBK, weight_GKD, bias_GK, initial_GBD)
    return out


class _GruScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs_TGBK: Tensor, weight_GKD: Tensor, bias_GK: Tensor, initial_GBD: Tensor) -> Tensor:
        T, G, B, K = inputs_TGBK.shape
        D = K // 3
        states = inputs_TGBK.new_empty(T + 1, G, B, D)
        states[0] = initial_GBD
        gates = inputs_TGBK.new_empty(T, G, B, 3 * D)  # reset, update, new
        recurrent_new = inputs_TGBK.new_empty(T, G, B, D)
        weight_GDK, bias_G1K = weight_GKD.transpose(1, 2).contiguous(), bias_GK[:, None]
        # Views are taken for all steps at once: slicing inside the loop would cost as much as the arithmetic.
        per_step = zip(
            states[:-1].unbind(),
            states[1:].unbind(),
            inputs_TGBK[..., : 2 * D].unbind(),
            inputs_TGBK[..., 2 * D :].unbind(),
            gates[..., : 2 * D].unbind(),
            *(gate.unbind() for gate in gates.chunk(3, dim=-1)),
            recurrent_new.unbind(),
            strict=True,
        )
        product = inputs_TGBK.new_empty(G, B, K)
        product_gates, product_new = product[..., : 2 * D], product[..., 2 * D :]
        for before, after, input_gates, input_new, reset_update, reset, update, new, kept in per_step:
            torch.baddbmm(bias_G1K, before, weight_GDK, out=product)
            torch.add(input_gates, product_gates, out=reset_update).sigmoid_()
            kept.copy_(product_new)
            torch.addcmul(input_new, reset, kept, out=new).tanh_()
            torch.lerp(new, before, update, out=after)
        ctx.save_for_backward(states, gates, recurrent_new, weight_GKD)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        states, gates, recurrent_new, weight_GKD = ctx.saved_tensors
        T, G, B, D = recurrent_new.shape
        reset, update, new = gates.chunk(3, dim=-1)
        # Everything that doesn't depend on the running gradient, for all steps at once.
        to_new = (1 - update) * (1 - new * new)
        to_update = (states[:-1] - new) * update * (1 - update)
        to_reset = to_new * recurrent_new * reset * (1 - reset)
        factors = torch.cat((to_reset, to_update, to_new * reset), dim=-1).view(T, G, B, 3, D)
        dproduct = torch.empty_like(factors)
        running = torch.zeros_like(states[0])
        dstates = torch.empty_like(recurrent_new)
        running = torch.zeros_like(states[0])
        per_step = zip(
            grads[0].unbind(), dstates.unbind(), factors.unbind(), dproduct.unbind(), update.unbind(), strict=True
        )
        for grad, dstate, factor, dprod, keep in reversed(list(per_step)):
            torch.add(running, grad, out=dstate)
            torch.mul(factor, dstate.unsqueeze(2), out=dprod)
            running = torch.baddbmm(dstate * keep, dprod.view(G, B, 3 * D), weight_GKD)
        dproduct_GNK = dproduct.view(T, G, B, 3 * D).transpose(0, 1).reshape(G, T * B, 3 * D)
        before_GND = states[:-1].transpose(0, 1).reshape(G, T * B, D)
        dinputs = torch.cat((dproduct.view(T, G, B, 3 * D)[..., : 2 * D], dstates * to_new), dim=-1)
        return dinputs, dproduct_GNK.transpose(1, 2) @ before_GND, dproduct_GNK.sum(1), running
