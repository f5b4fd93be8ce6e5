"""Diffusion, by invariants that need no golden numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kinemic import diffusion
from kinemic.config import ModelConfig
from kinemic.models.mdm import MDM
from kinemic.skeleton import NUM_FEATURES

SHAPE = (2, 4, NUM_FEATURES)


def noise(seed: int = 0) -> diffusion.Noise:
    return diffusion.generator_noise(torch.Generator().manual_seed(seed))


def shrink(x_BTF: Tensor, t_B: Tensor) -> Tensor:
    """A denoiser without a network."""
    return x_BTF * 0.5 + 0.01 * t_B.view(-1, 1, 1)


def model_and_condition() -> tuple[MDM, tuple[Tensor, Tensor, Tensor]]:
    model = MDM(ModelConfig(width=16, layers=1, heads=2, ff=16, text_dim=4), 2).eval()
    text_BE = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    return model, (text_BE, torch.tensor([4, 2]), torch.tensor([1, 0]))


@pytest.mark.parametrize("steps", [2, 50, 1000])
def test_signal_falls_from_nearly_all_to_nearly_none(steps: int) -> None:
    schedule = diffusion.cosine_schedule(steps)
    assert len(schedule) == steps
    assert (np.diff(schedule.alphas_cumprod) < 0).all()
    assert schedule.alphas_cumprod[-1] < 0.01
    assert (schedule.betas <= 0.999).all()


@pytest.mark.parametrize("sampler", [diffusion.ddpm_sample, diffusion.ddim_sample])
def test_a_respacing_that_keeps_every_step_is_the_plain_schedule(sampler: diffusion.Sampler) -> None:
    plain = diffusion.cosine_schedule(20)
    full = plain.respaced(diffusion.space_timesteps(20, [20]))
    np.testing.assert_allclose(full.betas, plain.betas)
    samples = [sampler(shrink, noise(1)(torch.empty(SHAPE)), s, noise(2), eta=1.0) for s in (plain, full)]
    torch.testing.assert_close(samples[0], samples[1])


def test_respacing_keeps_noise_levels_and_composes() -> None:
    plain = diffusion.cosine_schedule(40)
    half = plain.respaced(range(0, 40, 2))
    np.testing.assert_allclose(half.alphas_cumprod, plain.alphas_cumprod[::2])
    quarter = half.respaced(range(0, 20, 2))
    np.testing.assert_allclose(quarter.betas, plain.respaced(range(0, 40, 4)).betas)
    assert quarter.timestep_map.tolist() == list(range(0, 40, 4))


def test_impossible_respacings_say_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"cannot keep 51 of 50 diffusion steps; give 1\.\.50"):
        diffusion.space_timesteps(50, [51])
    with pytest.raises(ValueError, match="keeps exactly 49 of 50"):
        diffusion.space_timesteps(50, "ddim49")
    with pytest.raises(ValueError, match=r"some of 0\.\.9"):
        diffusion.cosine_schedule(10).respaced([10])


def test_noised_clips_have_unit_variance_and_the_first_step_is_nearly_clean() -> None:
    schedule = diffusion.cosine_schedule(50)
    x0_BTF, eps_BTF = noise(1)(torch.empty(50, 30, NUM_FEATURES)), noise(2)(torch.empty(50, 30, NUM_FEATURES))
    x_BTF = diffusion.q_sample(x0_BTF, torch.arange(50), eps_BTF, schedule)
    torch.testing.assert_close(x_BTF.var((1, 2)), torch.ones(50), atol=0.1, rtol=0)
    assert (x_BTF[0] - x0_BTF[0]).abs().mean() < 0.1


@pytest.mark.parametrize("sampler", [diffusion.ddpm_sample, diffusion.ddim_sample])
def test_a_denoiser_that_knows_the_clip_ends_at_it(sampler: diffusion.Sampler) -> None:
    target = noise(7)(torch.empty(SHAPE))
    schedule = diffusion.cosine_schedule(10)
    sample = sampler(lambda x, t: target, noise(1)(torch.empty(SHAPE)), schedule, noise(2), eta=1.0)
    torch.testing.assert_close(sample, target)


def test_ddim_without_noise_draws_none_and_repeats() -> None:
    def forbidden(x: Tensor) -> Tensor:
        raise AssertionError("noise was drawn")

    x_BTF, schedule = noise(1)(torch.empty(SHAPE)), diffusion.cosine_schedule(10)
    samples = [diffusion.ddim_sample(shrink, x_BTF, schedule, forbidden) for _ in range(2)]
    assert torch.equal(samples[0], samples[1])


def test_ddim_with_full_noise_is_ddpm_in_distribution_of_one_step() -> None:
    """At eta 1 both steps have the posterior's mean; DDIM's deviation is that posterior's own (DDIM, section 4.1)."""
    schedule = diffusion.cosine_schedule(10)
    x_BTF = noise(1)(torch.empty(SHAPE))
    steps: list[list[Tensor]] = [[], []]
    for seen, sampler in zip(steps, (diffusion.ddpm_sample, diffusion.ddim_sample), strict=True):
        sampler(shrink, x_BTF, schedule, noise(3), eta=1.0, on_step=lambda _, x, seen=seen: seen.append(x))
    for ddpm, ddim in zip(*steps, strict=True):
        torch.testing.assert_close(ddpm, ddim, atol=1e-4, rtol=1e-4)


def test_one_step_is_a_process_too() -> None:
    schedule = diffusion.cosine_schedule(50).respaced([49])
    x_BTF = noise(1)(torch.empty(SHAPE))
    for sampler in (diffusion.ddpm_sample, diffusion.ddim_sample):
        torch.testing.assert_close(sampler(shrink, x_BTF, schedule, noise()), shrink(x_BTF, torch.tensor([49, 49])))


def test_guidance_of_1_is_the_conditional_pass_and_of_0_the_unconditional_one() -> None:
    model, condition = model_and_condition()
    x_BTF, t_B = noise(4)(torch.empty(SHAPE)), torch.tensor([3, 30])
    conditional_BTF = model(x_BTF, t_B, *condition)[0]
    dropped_BTF = model(x_BTF, t_B, *condition, torch.ones(2, dtype=torch.bool))[0]
    for one in (1, 1.0, torch.ones(2)):
        torch.testing.assert_close(diffusion.guided(model, one, *condition)(x_BTF, t_B), conditional_BTF)
    torch.testing.assert_close(diffusion.guided(model, 0.0, *condition)(x_BTF, t_B), dropped_BTF)
    mixed_BTF = diffusion.guided(model, torch.tensor([0.0, 2.5]), *condition)(x_BTF, t_B)
    torch.testing.assert_close(mixed_BTF[0], dropped_BTF[0])
    torch.testing.assert_close(mixed_BTF[1], (dropped_BTF + 2.5 * (conditional_BTF - dropped_BTF))[1])


def test_guidance_runs_the_network_once_a_step() -> None:
    model, condition = model_and_condition()
    sizes: list[int] = []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    x_BTF = noise(4)(torch.empty(SHAPE))
    diffusion.ddpm_sample(diffusion.guided(model, 2.5, *condition), x_BTF, diffusion.cosine_schedule(5), noise())
    assert sizes == [2 * len(x_BTF)] * 5
