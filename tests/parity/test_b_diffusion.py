"""Schedules, respacing, forward process, posterior, samplers and guidance against golden set b."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinemic import diffusion
from kinemic.config import ModelConfig
from kinemic.models.mdm import MDM

Arrays = Mapping[str, np.ndarray]
Golden = Callable[[str], Arrays]
Close = Callable[[Any, Any], None]


def clip(published: np.ndarray) -> Tensor:
    return torch.from_numpy(published)[..., 0, :].transpose(-1, -2)


def tape(noise_K: Tensor) -> diffusion.Noise:
    """Noise that was recorded: the k-th draw is the k-th entry."""
    draws: Iterator[Tensor] = iter(noise_K)
    return lambda _: next(draws)


def test_schedules_are_the_published_ones_in_float64(golden: Golden) -> None:
    arrays = golden("b_schedules")
    checked = 0
    for name, expected in arrays.items():
        if match := re.fullmatch(r"f64\.(\d+)\.(\w+)", name):
            actual = getattr(diffusion.cosine_schedule(int(match[1])), match[2])
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)
            checked += 1
    assert checked >= 7


def test_respacing_keeps_the_published_steps_at_the_published_noise(golden: Golden) -> None:
    arrays = golden("b_schedules")
    names = [name.removeprefix("space.") for name in arrays if name.startswith("space.")]
    assert names
    for name in names:
        steps, sections = name.split("_")
        kept = diffusion.space_timesteps(int(steps), sections.replace("-", ","))
        np.testing.assert_array_equal(kept, arrays[f"space.{name}"])
        respaced = diffusion.cosine_schedule(int(steps)).respaced(kept)
        np.testing.assert_array_equal(respaced.timestep_map, arrays[f"resp.{name}.timestep_map"])
        np.testing.assert_allclose(respaced.betas, arrays[f"f64.resp.{name}.betas"], rtol=1e-10)


@pytest.fixture(scope="module")
def model(golden: Golden, golden_meta: dict[str, Any]) -> MDM:
    arrays = golden("a_mdm_mixed")
    state = {name.removeprefix("sd."): torch.from_numpy(a) for name, a in arrays.items() if name.startswith("sd.")}
    ff, width = state["seqTransEncoder.layers.0.linear1.weight"].shape
    config = ModelConfig(
        width=width,
        ff=ff,
        layers=sum(name.endswith("linear1.weight") for name in state),
        heads=golden_meta["num_heads"],
        text_dim=state["embed_text.weight"].shape[1],
    )
    model = MDM(config, len(state["embed_action.action_embedding"]))
    model.load_state_dict(state)
    return model.eval()


def condition(arrays: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    text_BE, action_B = torch.from_numpy(arrays["text_embed"])[0], torch.from_numpy(arrays["action"])[:, 0]
    return text_BE, torch.from_numpy(arrays["lengths"]), action_B


def test_forward_process_and_posterior(
    golden: Golden, golden_meta: dict[str, Any], assert_close: Close, model: MDM
) -> None:
    arrays = golden("b_sampling")
    schedule = diffusion.cosine_schedule(golden_meta["sampling_steps"])
    x0_BTF, t_B, noise_BTF = clip(arrays["q_x0"]), torch.from_numpy(arrays["q_t"]), clip(arrays["q_noise"])
    x_BTF = diffusion.q_sample(x0_BTF, t_B, noise_BTF, schedule)
    assert_close(x_BTF, clip(arrays["q_xt"]))
    mean, variance, log_variance = diffusion.q_posterior(x0_BTF, x_BTF, t_B, schedule)
    assert_close(mean, clip(arrays["q_post_mean"]))
    assert_close(variance.flatten(), arrays["q_post_var"])
    assert_close(log_variance.flatten(), arrays["q_post_logvar"])
    with torch.no_grad():
        predicted_BTF = diffusion.conditional(model, *condition(arrays))(x_BTF, t_B)
        mixed_BTF = diffusion.guided(model, torch.from_numpy(arrays["scale"]), *condition(arrays))(x_BTF, t_B)
    assert_close(predicted_BTF, clip(arrays["p_pred_xstart"]))
    assert_close(mixed_BTF, clip(arrays["cfg_out"]))
    mean, _, log_variance = diffusion.q_posterior(predicted_BTF, x_BTF, t_B, schedule)
    assert_close(mean, clip(arrays["p_mean"]))
    assert_close(log_variance.flatten(), arrays["p_logvar"])
    later = (t_B > 0).view(-1, 1, 1)  # no noise at the last step
    sample = mean + later * torch.exp(0.5 * log_variance) * clip(arrays["noise"])[0]
    assert_close(sample, clip(arrays["p_sample"]))


@pytest.mark.parametrize(
    ("expected", "sampler", "eta", "sections", "with_guidance"),
    [
        ("ddpm50", diffusion.ddpm_sample, 1.0, None, False),
        ("ddpm50_cfg", diffusion.ddpm_sample, 1.0, None, True),
        ("ddpm_resp10", diffusion.ddpm_sample, 1.0, "10", False),
        ("ddim_respddim10_eta0", diffusion.ddim_sample, 0.0, "ddim10", False),
        ("ddim_respddim10_eta0_cfg", diffusion.ddim_sample, 0.0, "ddim10", True),
    ],
)
def test_sampling_loops_end_where_the_published_ones_do(
    golden: Golden,
    golden_meta: dict[str, Any],
    assert_close: Close,
    model: MDM,
    expected: str,
    sampler: Callable[..., Tensor],
    eta: float,
    sections: str | None,
    with_guidance: bool,
) -> None:
    arrays = golden("b_sampling")
    schedule = diffusion.cosine_schedule(golden_meta["sampling_steps"])
    if sections is not None:
        schedule = schedule.respaced(diffusion.space_timesteps(len(schedule), sections))
    scale = torch.from_numpy(arrays["scale"]) if with_guidance else 1.0
    seen: list[Tensor] = []
    with torch.no_grad():
        sample = sampler(
            diffusion.guided(model, scale, *condition(arrays)),
            clip(arrays["xT"]),
            schedule,
            tape(clip(arrays["noise"])),
            eta=eta,
            on_step=lambda _, x: seen.append(x),
        )
    assert_close(sample, clip(arrays[expected]))
    if expected == "ddpm50":
        for published, step in zip(arrays["ddpm50_after_steps_1_2_26"], (1, 2, 26), strict=True):
            assert_close(seen[step - 1], clip(published))


def ddim_step(
    denoise: diffusion.Denoise, x_BTF: Tensor, t_B: Tensor, noise: Tensor, schedule: Any, eta: float
) -> Tensor:
    """One step of the sampler for every clip at its own t: a process of the steps up to t, stopped after the first."""
    rows = []
    for row, t in enumerate(t_B.tolist()):
        first: list[Tensor] = []

        def one(x: Tensor, steps: Tensor, row: int = row) -> Tensor:
            everyone = x_BTF.clone()
            everyone[row] = x[0]
            return denoise(everyone, torch.where(torch.arange(len(t_B)) == row, steps, t_B))[row : row + 1]

        diffusion.ddim_sample(
            one,
            x_BTF[row : row + 1],
            schedule.respaced(range(t + 1)),
            lambda x, row=row: noise[row : row + 1],  # type: ignore[misc]
            eta=eta,
            on_step=lambda _, x, first=first: first.append(x),  # type: ignore[misc]
        )
        rows.append(first[0])
    return torch.cat(rows)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_single_ddim_steps(
    golden: Golden, golden_meta: dict[str, Any], assert_close: Close, model: MDM, eta: float
) -> None:
    arrays = golden("b_sampling")
    schedule = diffusion.cosine_schedule(golden_meta["sampling_steps"])
    denoise = diffusion.conditional(model, *condition(arrays))
    with torch.no_grad():
        stepped = ddim_step(
            denoise, clip(arrays["q_xt"]), torch.from_numpy(arrays["q_t"]), clip(arrays["noise"])[0], schedule, eta
        )
    assert_close(stepped, clip(arrays[f"ddim_eta{eta:.0f}"]))
