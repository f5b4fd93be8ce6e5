from __future__ import annotations

import numpy as np
import pytest
import torch

from kinemic.config import ModelConfig, SynthesisConfig
from kinemic.errors import DataError, DivergedError
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.synthesis import edit, sampling_schedule, synthesise

MODEL = ModelConfig(width=16, layers=1, heads=2, ff=16, dropout=0.5, text_dim=6)
STEPS = 5
LENGTHS = ((17, 20), (25,), (18, 30, 22))


@pytest.fixture(scope="module")
def model():
    return MDM(MODEL, actions=3, seed=1)


@pytest.fixture(scope="module")
def text():
    return [torch.randn((n, 6), generator=torch.Generator().manual_seed(n)) for n in (2, 1, 3)]


def _statistics(mean=0.0, std=1.0):
    return Statistics(np.full(263, mean, np.float32), np.full(263, std, np.float32))


def _synthesise(model, text, seed=0, statistics=None, classes=None, progress=lambda _: None, **settings):
    config = SynthesisConfig(**({"clips_per_class": 4, "sampling_steps": STEPS} | settings))
    return synthesise(
        model, STEPS, text, LENGTHS, config, statistics or _statistics(), seed, progress=progress, classes=classes
    )


def _assert_same(first, second, **tolerance):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_every_class_gets_its_clips_at_its_own_few_shot_lengths(model, text):
    made = _synthesise(model, text, clips_per_class=8)
    assert made.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert all(f.shape[1] == 263 and f.dtype == np.float32 for f in made.features)
    for c, lengths in enumerate(LENGTHS):
        drawn = {len(f) for f, label in zip(made.features, made.labels, strict=True) if label == c}
        assert drawn == set(lengths)
        assert set(made.prompts[made.labels == c].tolist()) == set(range(len(text[c])))


def test_a_seed_decides_every_clip(model, text):
    first = _synthesise(model, text, seed=3)
    _assert_same(first.features, _synthesise(model, text, seed=3).features, rtol=0, atol=0)
    other = _synthesise(model, text, seed=4)
    assert not any(
        a.shape == b.shape and np.allclose(a, b) for a, b in zip(first.features, other.features, strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_batch_size_does_not_change_a_clip(model, text, batch_size, sampler):
    whole = _synthesise(model, text, sampler=sampler).features
    _assert_same(whole, _synthesise(model, text, sampler=sampler, batch_size=batch_size).features, rtol=1e-3, atol=1e-3)


def test_more_clips_or_fewer_classes_leave_the_others_as_they_were(model, text):
    few, many = _synthesise(model, text, clips_per_class=2), _synthesise(model, text, clips_per_class=5)
    _assert_same(few.features, [f for start in (0, 5, 10) for f in many.features[start : start + 2]], atol=1e-3)
    alone = _synthesise(model, text, clips_per_class=2, classes=[1])
    assert alone.labels.tolist() == [1, 1]
    _assert_same(alone.features, few.features[2:4], atol=1e-3)


def test_clips_of_a_class_differ(model, text):
    made = _synthesise(model, text, classes=[1])
    assert not np.allclose(made.features[0], made.features[1])


def test_output_is_denormalised(model, text):
    plain = _synthesise(model, text)
    scaled = _synthesise(model, text, statistics=_statistics(mean=7.0, std=2.0))
    _assert_same([2.0 * f + 7.0 for f in plain.features], scaled.features, rtol=1e-5, atol=1e-4)


def test_the_action_reaches_the_clips(model, text):
    same_text = [text[1]] * 3
    lengths_alike = [(20,)] * 3
    config = SynthesisConfig(clips_per_class=1, sampling_steps=STEPS)
    made = synthesise(model, STEPS, same_text, lengths_alike, config, _statistics(), 0)
    other = MDM(MODEL, actions=3, seed=1)
    with torch.no_grad():
        other.embed_action.action_embedding[2] = other.embed_action.action_embedding[0]
        other.embed_action.action_embedding[0] += 1.0
    changed = synthesise(other, STEPS, same_text, lengths_alike, config, _statistics(), 0)
    assert not np.allclose(made.features[0], changed.features[0])
    np.testing.assert_allclose(made.features[1], changed.features[1], atol=1e-4)
    assert not np.allclose(made.features[2], changed.features[2])


def test_a_prior_without_actions_is_given_the_text_alone(text):
    prior = MDM(MODEL, actions=None, seed=2)
    made = _synthesise(prior, text)
    assert len(made.features) == 12
    swapped = _synthesise(prior, [text[0] + 1.0, text[1], text[2]])
    assert not np.allclose(made.features[0], swapped.features[0])


def test_guidance_and_sampler_are_those_asked_for(model, text):
    plain = _synthesise(model, text, guidance=1.0).features[0]
    assert not np.allclose(plain, _synthesise(model, text, guidance=2.5).features[0])
    assert not np.allclose(plain, _synthesise(model, text, guidance=1.0, sampler="ddim").features[0])


def test_fewer_sampling_steps_skip_diffusion_steps(model, text):
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(int(inputs[1][0])))
    _synthesise(model, text, sampling_steps=3, batch_size=100)
    hook.remove()
    assert seen == [4, 2, 0]


def test_more_sampling_steps_than_diffusion_steps_are_clamped_with_a_warning(model, text):
    made = _synthesise(model, text, sampling_steps=50)
    assert len(made.warnings) == 1
    assert "50" in made.warnings[0]
    _assert_same(made.features, _synthesise(model, text).features, rtol=0, atol=0)
    assert _synthesise(model, text).warnings == ()


def test_one_sampling_step_starts_from_pure_noise():
    schedule, _ = sampling_schedule(50, 1)
    assert schedule.timestep_map.tolist() == [49]


def test_dropout_is_off_while_sampling_and_the_mode_is_put_back(text):
    model = MDM(MODEL, actions=3, seed=1).train()
    first = _synthesise(model, text)
    _assert_same(first.features, _synthesise(model, text).features, rtol=0, atol=0)
    assert model.training


def test_progress_counts_clips_to_the_end(model, text):
    seen = []
    _synthesise(model, text, batch_size=5, progress=lambda p: seen.append((p.stage, p.done, p.total)))
    assert seen == [("synthesise", 5, 12), ("synthesise", 10, 12), ("synthesise", 12, 12)]


def test_no_clips_asked_for_is_no_clips(model, text):
    made = _synthesise(model, text, clips_per_class=0)
    assert made.features == []
    assert made.labels.shape == (0,)


def test_a_class_without_few_shot_clips_is_refused(model, text):
    config = SynthesisConfig(clips_per_class=1)
    with pytest.raises(DataError, match="class 1"):
        synthesise(model, STEPS, text, [(20,), (), (20,)], config, _statistics(), 0)


def test_a_generator_that_gives_nan_is_diverged(text):
    model = MDM(MODEL, actions=3, seed=1)
    with torch.no_grad():
        model.output_process.poseFinal.bias[0] = float("nan")
    with pytest.raises(DivergedError, match="NaN"):
        _synthesise(model, text)


@pytest.mark.parametrize(("strength", "sampling_steps"), [(0.4, 10), (1.0, 10), (0.3, 20), (0.3, 99)])
def test_an_edit_starts_at_its_share_of_the_sampling_steps(text, strength, sampling_steps):
    model, clip = MDM(MODEL, actions=3, seed=1), np.full((20, 263), 100.0, np.float32)
    config, seen = SynthesisConfig(strength=strength, sampling_steps=sampling_steps, guidance=1.0), []
    model.register_forward_pre_hook(lambda _, given: seen.append((given[0].clone(), int(given[1][0]))))
    made = edit(model, 20, text, {2: [clip, clip]}, config, _statistics(), seed=0)
    schedule, _ = sampling_schedule(20, sampling_steps)
    taken = round(strength * len(schedule))
    assert [t for _, t in seen] == schedule.timestep_map[:taken][::-1].tolist()
    x_BTF = seen[0][0]
    np.testing.assert_allclose(x_BTF.mean().item(), 100 * schedule.alphas_cumprod[taken - 1] ** 0.5, atol=0.05)
    np.testing.assert_allclose(x_BTF.std().item(), (1 - schedule.alphas_cumprod[taken - 1]) ** 0.5, atol=0.05)
    assert made.labels.tolist() == [2, 2]
    assert [len(clip) for clip in made.features] == [20, 20]
    assert not np.allclose(x_BTF[0], x_BTF[1])  # each has noise of its own


def test_neither_batch_size_nor_other_clips_change_an_edit(model, text):
    clips = [np.random.default_rng(n).standard_normal((n, 263), dtype=np.float32) for n in (17, 30, 22)]
    whole = edit(model, STEPS, text, {0: clips, 2: clips}, SynthesisConfig(sampling_steps=STEPS), _statistics(1, 2), 0)
    one = SynthesisConfig(sampling_steps=STEPS, batch_size=1)
    alone = edit(model, STEPS, text, {2: clips[:2]}, one, _statistics(1, 2), 0)
    _assert_same(whole.features[3:5], alone.features, rtol=1e-3, atol=1e-3)
