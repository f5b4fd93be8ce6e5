"""Golden set d_training_losses: three successive steps of the two-stream loss, with every gradient of the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinemic.clips import Batch
from kinemic.config import LossConfig, ModelConfig
from kinemic.diffusion import cosine_schedule
from kinemic.losses import MemoryBank, length_mask
from kinemic.models.mdm import MDM
from kinemic.models.mic import MIC
from kinemic.streams import Context, Seen, Terms, TwoStreams, context_window, total_loss

Close = Callable[[Any, Any], None]


class Recorder(TwoStreams):
    """Keeps what the streams saw in the last step."""

    context: Context
    seen: dict[str, Seen]

    def see_source(self, *args: Any) -> Context:
        self.context = super().see_source(*args)
        return self.context

    def see_target(self, *args: Any) -> dict[str, Seen]:
        self.seen = super().see_target(*args)
        return self.seen


class Golden:
    """The set with its settings: builds the streams and runs its calls."""

    def __init__(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        self.arrays = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind != "U"}
        self.names = [str(name) for name in arrays["grad_norm_names"]]
        self.meta, self.heads, self.actions = meta["training_losses"], meta["num_heads"], meta["num_actions"]
        self.calls = len(self.arrays["t"])

    def streams(self) -> Recorder:
        ff, width = self.arrays["sd.streams.target.seqTransEncoder.layers.0.linear1.weight"].shape
        layers = {k.split(".layers.")[1].split(".")[0] for k in self.arrays if k.startswith("sd.") and ".layers." in k}
        text_dim = self.arrays["sd.streams.target.embed_text.weight"].shape[1]
        config = ModelConfig(width=width, layers=len(layers), heads=self.heads, ff=ff, text_dim=text_dim)
        schedule = cosine_schedule(self.meta["diffusion_steps"])
        prior, target, mic = MDM(config), MDM(config, self.actions), MIC(width)
        streams = Recorder(prior, target, mic, self.weights(), schedule, self.meta["prior_diffusion_steps"])
        for module, prefix in ((prior, "streams.prior"), (target, "streams.target"), (mic, "mic_module")):
            module.load_state_dict(self.state(prefix), strict=True)
        with torch.no_grad():
            torch.testing.assert_close(streams.logit_scale, self.arrays["sd.logit_scale"])
            streams.logit_scale.copy_(self.arrays["sd.logit_scale"])
        streams.eval()
        return streams

    def weights(self) -> LossConfig:
        weights = self.meta["weights"]
        return LossConfig(
            rec=weights["rec"],
            contrastive=weights["contrastive"],
            window_rec=weights["window_rec"],
            window_distill=0,  # the published term is defective; it is built below
            dynamic_window_weighting=self.meta["dynamic_window_weighting"],
            temperature=self.meta["temperature"],
            bank_size=self.meta["bank_size"],
        )

    def state(self, prefix: str) -> dict[str, Tensor]:
        prefix = f"sd.{prefix}."
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def batch(self, call: int, side: str) -> Batch:
        """Each side is padded to its own longest clip only, as in training."""
        lengths_B = self.arrays[f"len_{side}"]
        x_BTF = self.arrays[f"x_{side}"][call, :, :, 0, : int(lengths_B.max())].transpose(1, 2)
        return Batch(x_BTF, lengths_B, self.arrays[f"te_{side}"][call, 0], self.arrays["action"][call, :, 0])

    def run(self, streams: Recorder, bank: MemoryBank, call: int) -> Terms:
        t_B = self.arrays["t"][call]
        steps, prior_steps = self.meta["diffusion_steps"], self.meta["prior_diffusion_steps"]
        t_prior_B = torch.ceil(t_B * prior_steps / steps).long()  # unclamped, as the set was computed
        noise_BTF = self.arrays["noise"][call, :, :, 0].transpose(1, 2)
        batches = self.batch(call, "target"), self.batch(call, "prior")
        terms: Terms = streams(*batches, t_B, noise_BTF, bank, t_prior_B=t_prior_B)
        return terms

    def defective_distillation(self, streams: Recorder) -> Tensor:
        """The published term: sample i's mask summed over the latents of the whole batch, (B, B, D, T)."""
        prior_BTD, window_BTD = context_window(streams.context, streams.seen["window"])
        error_BDT = (prior_BTD - window_BTD).square().transpose(1, 2)
        mask_B11T = length_mask(streams.context.lengths_B, error_BDT.shape[2])[:, None, None]
        sums_B = (error_BDT[None] * mask_B11T).sum((1, 2, 3))
        return sums_B / (mask_B11T.sum((1, 2, 3)) * error_BDT.shape[1])


@pytest.fixture(scope="module")
def reference(golden: Callable[[str], Mapping[str, np.ndarray]], golden_meta: dict[str, Any]) -> Golden:
    return Golden(golden("d_training_losses"), golden_meta)


def test_terms_windows_losses_and_gradients_of_successive_steps(reference: Golden, assert_close: Close) -> None:
    streams = reference.streams()
    arrays = reference.arrays
    bank = MemoryBank(reference.meta["bank_size"], streams.mic.hidden.shape[2])
    for call in range(reference.calls):
        terms = reference.run(streams, bank, call)
        weight = terms.window_weight
        for name, value in (
            ("target_rec", terms.rec),
            ("contrastive", terms.contrastive),
            ("window_rec", terms.window_rec),
            ("dww_mean", weight.mean()),
            ("dww_std", weight.std()),
            ("dww_median", weight.median()),
        ):
            assert_close(value, arrays[f"term.{name}"][call])
        assert streams.context.starts_B.tolist() == arrays["window.starts"][call].tolist()
        assert streams.context.lengths_B.tolist() == arrays["window.efflen"][call].tolist()
        assert_close(streams.context.attention_BP, arrays["window.att"][call])
        distillation = reference.defective_distillation(streams)
        assert_close(distillation, arrays["term.window_distill"][call])
        loss = total_loss(terms, streams.weights)
        loss = loss + weight * reference.meta["weights"]["window_distill"] * distillation
        assert_close(loss, arrays["term.loss"][call])
        assert_close(loss.mean(), arrays["loss_mean"][call])
        streams.zero_grad(set_to_none=True)
        loss.mean().backward()
        norms = [_norm(_parameter(streams, name)) for name in reference.names]
        assert_close(torch.tensor(norms), arrays["grad_norms"][call])
        assert all(p.grad is None for p in streams.prior.parameters())
    for key in (k for k in arrays if k.startswith("grad.")):
        assert_close(_parameter(streams, key.removeprefix("grad.")).grad, arrays[key])


def _parameter(streams: TwoStreams, name: str) -> torch.nn.Parameter:
    own = name.replace("streams.target.", "target.").replace("mic_module.", "mic.")
    parameter: torch.nn.Parameter = streams.get_parameter(own)
    return parameter


def _norm(parameter: torch.nn.Parameter) -> float:
    return float("nan") if parameter.grad is None else float(parameter.grad.norm())
