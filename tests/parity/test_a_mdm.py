"""MDM against golden set a: text alone, text + action, condition dropped, no mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from kinemic.config import ModelConfig
from kinemic.models.mdm import MDM

Arrays = Mapping[str, np.ndarray]


def tensors(arrays: Arrays, prefix: str = "sd.") -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}


def model_of(arrays: Arrays, heads: int, prefix: str = "sd.") -> MDM:
    """The golden model: every size read off its state dict."""
    state = tensors(arrays, prefix)
    ff, width = state["seqTransEncoder.layers.0.linear1.weight"].shape
    layers = sum(name.endswith("linear1.weight") for name in state)
    config = ModelConfig(width=width, ff=ff, layers=layers, heads=heads, text_dim=state["embed_text.weight"].shape[1])
    actions = len(state["embed_action.action_embedding"]) if "embed_action.action_embedding" in state else None
    model = MDM(config, actions)
    model.load_state_dict(state)
    return model.eval()


def clip(published: np.ndarray) -> torch.Tensor:
    """(B, F, 1, T) as published to (B, T, F)."""
    return torch.from_numpy(published)[:, :, 0].transpose(1, 2)


def inputs(arrays: Arrays) -> dict[str, Any]:
    given = {
        "x_BTF": clip(arrays["x_t"]),
        "t_B": torch.from_numpy(arrays["timesteps"]),
        "text_BE": torch.from_numpy(arrays["text_embed"])[0],
        "lengths_B": torch.from_numpy(arrays["mask"]).sum((1, 2, 3)),
    }
    return given | ({"action_B": torch.from_numpy(arrays["action"])[:, 0]} if "action" in arrays else {})


@pytest.mark.parametrize("name", ["a_mdm_text", "a_mdm_mixed"])
def test_forward_pass_and_latents_are_the_published_ones(
    golden: Callable[[str], Arrays], golden_meta: dict[str, Any], assert_close: Callable[[Any, Any], None], name: str
) -> None:
    arrays = golden(name)
    model, given = model_of(arrays, golden_meta["num_heads"]), inputs(arrays)
    with torch.no_grad():
        x0_BTF, latent_BTD = model(**given)
        dropped_BTF, dropped_latent_BTD = model(**given, drop_B=torch.ones(len(x0_BTF), dtype=torch.bool))
    assert_close(x0_BTF, clip(arrays["out"]))
    assert_close(latent_BTD, arrays["latent"].swapaxes(0, 1))
    assert_close(dropped_BTF, clip(arrays["out_uncond"]))
    if "latent_uncond" in arrays:
        assert_close(dropped_latent_BTD, arrays["latent_uncond"].swapaxes(0, 1))


def test_no_lengths_means_no_mask_and_the_time_embedding_is_published(
    golden: Callable[[str], Arrays], golden_meta: dict[str, Any], assert_close: Callable[[Any, Any], None]
) -> None:
    arrays = golden("a_mdm_text")
    model, given = model_of(arrays, golden_meta["num_heads"]), inputs(arrays)
    with torch.no_grad():
        assert_close(model(**given | {"lengths_B": None})[0], clip(arrays["out_nomask"]))
        assert_close(model.embed_timestep.time_embed(model.position_table[given["t_B"]])[None], arrays["time_emb"])
