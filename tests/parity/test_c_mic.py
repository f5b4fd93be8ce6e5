"""MIC against golden set c."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from kinemic.models.mic import MIC


def test_embedding_and_attention_are_the_published_ones(
    golden: Callable[[str], Mapping[str, np.ndarray]], assert_close: Callable[[Any, Any], None]
) -> None:
    arrays = golden("c_mic")
    latent_BTD = torch.from_numpy(arrays["latents"]).transpose(0, 1)
    mic = MIC(latent_BTD.shape[2])
    mic.load_state_dict({n.removeprefix("sd."): torch.from_numpy(a) for n, a in arrays.items() if n.startswith("sd.")})
    z_BD, attention_BT = mic(latent_BTD, torch.from_numpy(arrays["lengths"]))
    longest = arrays["attention"].shape[1]
    assert_close(z_BD, arrays["z"])
    assert_close(attention_BT[:, :longest], arrays["attention"])
    assert not attention_BT[:, longest:].any()
