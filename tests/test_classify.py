from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kinemic import classify
from kinemic.classify import PROFILES, judge, limit_generated, train_classifier
from kinemic.config import JudgeConfig
from kinemic.errors import DataError, DivergedError
from kinemic.skeleton import LEFT_HIP, LEFT_SHOULDER, RIGHT_HIP, RIGHT_SHOULDER

DEMO = JudgeConfig(profile="demo")
TINY = dataclasses.replace(PROFILES["demo"], epochs=2, least_updates=0)


def _clips(per_class=6, seed=0):
    """Three classes of short clips: left arm, right arm or legs swing; size, length, tempo and phase vary."""
    rng = np.random.default_rng(seed)
    body = np.random.default_rng(7).normal(scale=0.4, size=(22, 3))
    body[[LEFT_HIP, RIGHT_HIP, LEFT_SHOULDER, RIGHT_SHOULDER], 0] = (0.2, -0.2, 0.2, -0.2)  # a heading that noise keeps
    clips, labels = [], []
    for label, moving in enumerate(([16, 18, 20], [17, 19, 21], [4, 5, 7, 8])):
        for _ in range(per_class):
            frames = int(rng.integers(18, 34))
            clip = np.repeat(body[None] * rng.uniform(0.9, 1.1), frames, axis=0)
            swing = np.sin(rng.uniform(0.3, 0.6) * np.arange(frames) + rng.uniform(0, 6))
            clip[:, moving, 1] += 0.4 * swing[:, None]
            clips.append((clip + rng.normal(scale=0.01, size=clip.shape)).astype(np.float32))
            labels.append(label)
    return clips, np.array(labels)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(PROFILES, "demo", TINY)


@pytest.fixture(scope="module")
def report():
    return judge(*_clips(per_class=20), *_clips(seed=1), 3, DEMO, seed=0)


def test_the_judge_learns_to_tell_classes_apart(report):
    assert report.accuracy > 0.9
    assert report.loss < 0.5


def test_a_report_agrees_with_itself(report):
    assert report.confusion.sum() == 18
    assert report.accuracy == pytest.approx(np.trace(report.confusion) / 18)
    np.testing.assert_allclose(report.per_class, np.diagonal(report.confusion) / 6)
    assert report.profile == "demo"
    assert report.seconds > 0


def test_labels_without_a_pattern_are_not_recognised():
    clips, labels = _clips()
    shuffled = np.random.default_rng(0).permutation(labels)
    assert judge(clips, shuffled, *_clips(per_class=20, seed=1), 3, DEMO, seed=0).accuracy < 0.6


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("augment", [False, True])
def test_a_seed_decides_the_result(augment):
    config = JudgeConfig(profile="demo", augment=augment)
    first, same, other = (
        train_classifier(*_clips(), 3, config, seed).score(_clips(seed=1)[0])[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


@pytest.mark.usefixtures("tiny")
def test_a_seed_draws_the_first_weights_and_the_order_of_clips(monkeypatch):
    first = []
    step = classify._step

    def spy(model, optimiser, x, y):
        first.append((model.fc_cls.weight.detach().clone(), y.tolist()))
        return step(model, optimiser, x, y)

    monkeypatch.setattr(classify, "_step", spy)
    for seed in (0, 1):
        train_classifier(*_clips(), 3, DEMO, seed)
    (weights, order), (other_weights, other_order) = first[0], first[len(first) // 2]
    assert not torch.equal(weights, other_weights)
    assert order != other_order


@pytest.mark.usefixtures("tiny")
def test_training_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    judge(*_clips(), *_clips(seed=1), 3, DEMO, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.usefixtures("tiny")
def test_augmentation_changes_training_and_not_dev(monkeypatch):
    seen = []
    monkeypatch.setattr(classify, "augment", lambda x, generator: seen.append(len(x)) or x)
    plain = judge(*_clips(), *_clips(seed=1), 3, DEMO, seed=0)
    assert seen == []
    augmented = judge(*_clips(), *_clips(seed=1), 3, JudgeConfig(profile="demo", augment=True), seed=0)
    assert sum(seen) == 18 * TINY.epochs
    unseen, _ = _clips(seed=1)
    np.testing.assert_array_equal(plain.classifier.score(unseen)[0], augmented.classifier.score(unseen)[0])


@pytest.mark.usefixtures("tiny")
def test_every_epoch_sees_every_clip_as_often_as_the_profile_repeats_it(monkeypatch):
    monkeypatch.setitem(PROFILES, "demo", dataclasses.replace(TINY, epochs=1, repeat=3, batch_size=7))
    seen = []
    step = classify._step
    monkeypatch.setattr(classify, "_step", lambda m, o, x, y: seen.extend(y.tolist()) or step(m, o, x, y))
    train_classifier(*_clips(), 3, DEMO, seed=0)
    assert np.bincount(seen).tolist() == [18, 18, 18]


def test_few_batches_an_epoch_are_made_up_for_by_more_epochs(monkeypatch):
    monkeypatch.setitem(PROFILES, "demo", dataclasses.replace(TINY, least_updates=5))  # 2 batches an epoch, 2 epochs
    seen = []
    train_classifier(*_clips(), 3, DEMO, seed=0, progress=lambda p: seen.append((p.done, p.total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_generated_clips_do_not_change_how_often_a_real_one_is_seen(monkeypatch):
    monkeypatch.setitem(PROFILES, "demo", dataclasses.replace(TINY, batch_size=3, least_updates=12))
    joints, labels = _clips()
    seen = []
    step = classify._step
    monkeypatch.setattr(classify, "_step", lambda m, o, x, y: seen.extend(y.tolist()) or step(m, o, x, y))
    train_classifier(joints[:6], labels[:6], 3, DEMO, seed=0)
    alone, seen[:] = len(seen) / 6, []
    train_classifier(joints, labels, 3, DEMO, seed=0, real=6)
    assert len(seen) / len(joints) == alone == 6  # epochs: 12 updates in batches of 3 of 6 real clips


@pytest.mark.parametrize(("clips", "sizes"), [(33, [11, 11, 11]), (18, [9, 9]), (17, [9, 8]), (16, [16]), (2, [2])])
def test_batches_are_as_alike_as_can_be_so_that_none_is_tiny(clips, sizes):
    assert classify._batch_sizes(clips, 16) == sizes


@pytest.mark.usefixtures("tiny")
def test_the_learning_rate_falls_from_a_tenth_along_a_cosine_to_zero(monkeypatch):
    rates = []
    step = classify._step
    monkeypatch.setattr(classify, "_step", lambda m, o, x, y: rates.append(o.param_groups[0]["lr"]) or step(m, o, x, y))
    train_classifier(*_clips(), 3, DEMO, seed=0)
    steps = len(rates)
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(steps) / steps)), atol=1e-9)


@pytest.mark.usefixtures("tiny")
def test_progress_counts_epochs_to_the_end():
    seen = []
    judge(*_clips(), *_clips(seed=1), 3, DEMO, seed=0, progress=lambda p: seen.append((p.done, p.total, *p.values)))
    assert seen == [(1, 2, "loss"), (2, 2, "loss")]


@pytest.mark.usefixtures("tiny")
def test_a_class_without_dev_clips_has_no_accuracy():
    clips, labels = _clips(seed=1)
    kept = np.flatnonzero(labels != 1)
    report = judge(*_clips(), [clips[i] for i in kept], labels[kept], 3, DEMO, seed=0)
    assert np.isnan(report.per_class).tolist() == [False, True, False]


@pytest.mark.usefixtures("tiny")
def test_a_trained_classifier_scores_other_clips_the_same_alone_or_together():
    classifier = train_classifier(*_clips(), 3, DEMO, seed=0)
    clips, _ = _clips(seed=2)
    logits, features = classifier.score(clips)
    assert logits.shape == (18, 3)
    alone, _ = classifier.score(clips[4:5])
    np.testing.assert_allclose(alone[0], logits[4], rtol=1e-4, atol=1e-4)
    assert np.isfinite(features).all()


def test_a_loss_that_is_not_finite_is_diverged(tiny, monkeypatch):
    monkeypatch.setattr(classify, "LEARNING_RATE", 1e30)
    with pytest.raises(DivergedError, match="epoch"):
        judge(*_clips(), *_clips(seed=1), 3, DEMO, seed=0)


@pytest.mark.parametrize(
    ("labels", "says"), [([0, 1], "one label each"), ([0, 1, 3], r"0\.\.2"), ([0, 1, -1], r"0\.\.2")]
)
def test_labels_that_do_not_fit_are_refused(labels, says):
    clips = _clips()[0][:3]
    with pytest.raises(DataError, match=says):
        judge(clips, labels, clips, [0, 1, 2], 3, DEMO, seed=0)


def test_an_empty_dev_is_refused():
    with pytest.raises(DataError, match="at least 1 dev"):
        judge(*_clips(), [], [], 3, DEMO, seed=0)


def test_a_profile_takes_the_first_generated_clips_of_each_class_and_says_so():
    labels = np.array([0, 0, 0, 1, 0, 1])
    labels = np.concatenate([labels, np.zeros(20, np.int64)])
    kept, warning = limit_generated(labels, "small")
    assert np.bincount(labels[kept]).tolist() == [20, 2]
    assert kept.tolist() == list(range(22))
    assert "20 generated clips a class" in warning


@pytest.mark.parametrize("profile", ["published", "small", "demo"])
def test_a_profile_that_takes_all_generated_clips_is_silent(profile):
    kept, warning = limit_generated(np.array([2, 0, 1]), profile)
    assert kept.tolist() == [0, 1, 2]
    assert warning is None


def test_named_profiles_are_those_of_the_method():
    published, small = PROFILES["published"], PROFILES["small"]
    sizes = (published.base_channels, published.stages, published.frames, published.repeat, published.epochs)
    assert sizes == (64, 10, 100, 4, 20)
    assert (small.base_channels, small.stages, small.frames, small.repeat, small.epochs) == (16, 6, 48, 1, 20)
    assert small.max_generated_per_class == 20
    assert published.batch_size == 64
    assert small.least_updates >= 300  # 20 updates, as batches of 64 make them, learn nothing from 50 clips
