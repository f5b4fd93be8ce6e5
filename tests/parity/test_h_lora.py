"""LoRA against golden set h: forward passes, gradients, and exactly what is converted, trainable and frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from kinemic.config import LoraConfig, ModelConfig
from kinemic.models.lora import LoraLinear, LoraSelfAttention, add_lora, lora_parameters, merge
from kinemic.models.mdm import MDM

Golden = Callable[[str], Mapping[str, np.ndarray]]
Close = Callable[[Any, Any], None]


def clip(published: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(published)[:, :, 0].transpose(1, 2)


def inputs(arrays: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    return (
        clip(arrays["x_t"]),
        torch.from_numpy(arrays["timesteps"]),
        torch.from_numpy(arrays["text_embed"])[0],
        torch.from_numpy(arrays["mask"]).sum((1, 2, 3)),
        torch.from_numpy(arrays["action"])[:, 0],
    )


@pytest.fixture
def model(golden: Golden, golden_meta: dict[str, Any]) -> MDM:
    """The golden model with its adapters, every dropout at 0."""
    arrays = golden("h_lora")
    base, lora = (
        {name.removeprefix(p): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(p)}
        for p in ("sd_base.", "sd_lora.")
    )
    ff, width = base["seqTransEncoder.layers.0.linear1.weight"].shape
    config = ModelConfig(
        width=width,
        ff=ff,
        layers=sum(name.endswith("linear1.weight") for name in base),
        heads=golden_meta["num_heads"],
        dropout=0,
        text_dim=base["embed_text.weight"].shape[1],
    )
    model = MDM(config, len(base["embed_action.action_embedding"]))
    model.load_state_dict(base)
    settings = LoraConfig(rank=int(arrays["rank"]), alpha=float(arrays["alpha"]), dropout=0)
    add_lora(model, settings, torch.Generator().manual_seed(0))
    report = model.load_state_dict(lora, strict=False)
    assert not report.unexpected_keys
    return model


def test_training_pass_and_gradients(golden: Golden, assert_close: Close, model: MDM) -> None:
    arrays = golden("h_lora")
    x0_BTF, latent_BTD = model.train()(*inputs(arrays))
    assert_close(x0_BTF, clip(arrays["out_train"]))
    assert_close(latent_BTD, arrays["latent_train"].swapaxes(0, 1))
    x0_BTF.square().mean().backward()
    checked = [name.removeprefix("grad.") for name in arrays if name.startswith("grad.")]
    assert checked
    for name in checked:
        assert_close(model.get_parameter(name).grad, arrays[f"grad.{name}"])


def test_evaluation_pass_and_the_merged_model(golden: Golden, assert_close: Close, model: MDM) -> None:
    arrays = golden("h_lora")
    with torch.no_grad():
        assert_close(model.eval()(*inputs(arrays))[0], clip(arrays["out_eval"]))
        assert_close(merge(model)(*inputs(arrays))[0], clip(arrays["out_eval"]))


def test_what_is_converted_trainable_and_frozen(golden: Golden, model: MDM) -> None:
    arrays = golden("h_lora")
    converted = {name for name, module in model.named_modules() if isinstance(module, LoraLinear | LoraSelfAttention)}
    assert converted == set(arrays["converted"].tolist())
    assert set(lora_parameters(model)) == set(arrays["trainable"].tolist())
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(arrays["frozen"].tolist())
