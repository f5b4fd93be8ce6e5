from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kinemic import classify
from kinemic.classify import judge, limit_generated, train_classifier
from kinemic.config import JudgeConfig
from kinemic.errors import DataError, DivergedError
from kinemic.judge_profiles import PROFILES, AdamOneCycle, Epochs, NesterovCosine, Updates
from kinemic.skeleton import LEFT_HIP, LEFT_SHOULDER, RIGHT_HIP, RIGHT_SHOULDER

USUAL = JudgeConfig(augment=False)
FEW = Updates(4, real=9, others=9, per_round=2)


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
    few_updates(monkeypatch)


def few_updates(monkeypatch, batches=FEW, profile="temporal"):
    monkeypatch.setitem(PROFILES, profile, dataclasses.replace(PROFILES[profile], batches=batches))


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        few_updates(patch, Updates(60))
        return judge(*_clips(per_class=20), *_clips(seed=1), 3, USUAL, seed=0)


def test_the_judge_learns_to_tell_classes_apart(report):
    assert report.accuracy > 0.9
    assert report.loss < 0.5


def test_a_report_agrees_with_itself(report):
    assert report.confusion.sum() == 18
    assert report.accuracy == pytest.approx(np.trace(report.confusion) / 18)
    np.testing.assert_allclose(report.per_class, np.diagonal(report.confusion) / 6)
    assert report.profile == "temporal"
    assert report.seconds > 0


def test_labels_without_a_pattern_are_not_recognised(monkeypatch):
    few_updates(monkeypatch, Updates(60))
    clips, labels = _clips()
    shuffled = np.random.default_rng(0).permutation(labels)
    assert judge(clips, shuffled, *_clips(per_class=20, seed=1), 3, USUAL, seed=0).accuracy < 0.6


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("augment", [False, True])
def test_a_seed_decides_the_result(augment):
    config = JudgeConfig(augment=augment)
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
        train_classifier(*_clips(), 3, USUAL, seed)
    (weights, order), (other_weights, other_order) = first[0], first[len(first) // 2]
    assert not torch.equal(weights, other_weights)
    assert order != other_order


@pytest.mark.usefixtures("tiny")
def test_training_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    judge(*_clips(), *_clips(seed=1), 3, USUAL, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.usefixtures("tiny")
def test_augmentation_changes_training_and_not_dev(monkeypatch):
    seen = []
    monkeypatch.setattr(classify, "augment", lambda x, generator: seen.append(len(x)) or x)
    plain = judge(*_clips(), *_clips(seed=1), 3, USUAL, seed=0)
    assert seen == []
    augmented = judge(*_clips(), *_clips(seed=1), 3, JudgeConfig(augment=True), seed=0)
    assert seen == [9] * FEW.count
    unseen, _ = _clips(seed=1)
    np.testing.assert_array_equal(plain.classifier.score(unseen)[0], augmented.classifier.score(unseen)[0])


def batches_of(monkeypatch, real=None, clips=18, **changes):
    """Return the labels of each batch that a judge of many classes is trained on: the numbers of its clips."""
    few_updates(monkeypatch, **changes)
    seen = []

    def step(model, optimiser, x, y):
        seen.append(y.tolist())
        optimiser.step()  # there are no gradients
        return x.mean()

    monkeypatch.setattr(classify, "_step", step)
    train_classifier(_clips(per_class=clips // 3)[0], range(clips), clips, config_of(changes), seed=0, real=real)
    return seen


def config_of(changes):
    return JudgeConfig(profile=changes.get("profile", "temporal"), augment=False)


def test_generated_clips_change_neither_the_updates_nor_how_often_a_real_one_is_seen(monkeypatch):
    alone = batches_of(monkeypatch, clips=6, batches=Updates(9, real=4, others=5))
    beside = batches_of(monkeypatch, clips=18, real=6, batches=Updates(9, real=4, others=5))
    for found in (alone, beside):
        real = np.array([[clip for clip in batch if clip < 6] for batch in found])
        assert real.shape == (9, 4)
        assert np.bincount(real.ravel()).tolist() == [6] * 6
    others = np.array([[clip for clip in batch if clip >= 6] for batch in beside])
    assert others.shape == (9, 5)
    assert np.bincount(others.ravel(), minlength=18)[6:].max() == 4  # 45 draws of 12
    assert np.bincount(others.ravel(), minlength=18)[6:].min() == 3
    assert len({tuple(batch) for batch in beside}) == 9


def test_a_batch_is_no_larger_than_there_are_clips(monkeypatch):
    found = batches_of(monkeypatch, clips=6, real=3, batches=Updates(5, real=4, others=5))
    assert [sorted(batch) for batch in found] == [list(range(6))] * 5


def test_every_epoch_of_the_published_judge_sees_every_clip_as_often_as_it_is_repeated(monkeypatch):
    found = batches_of(monkeypatch, profile="published", real=3, batches=Epochs(2, repeat=3, batch_size=40))
    assert [len(batch) for batch in found] == [27] * 4  # not 40 and 14: batch norm suffers from a small last one
    for epoch in (found[:2], found[2:]):
        assert np.bincount(np.concatenate(epoch)).tolist() == [3] * 18


@pytest.mark.parametrize(("clips", "sizes"), [(33, [11, 11, 11]), (18, [9, 9]), (17, [9, 8]), (16, [16]), (2, [2])])
def test_batches_of_an_epoch_are_as_alike_as_can_be_so_that_none_is_tiny(clips, sizes):
    (epoch,) = Epochs(1, repeat=1, batch_size=16).rounds(clips, clips, torch.Generator())
    assert [len(batch) for batch in epoch] == sizes
    assert Epochs(3, repeat=1, batch_size=16).updates(clips) == 3 * len(sizes)


@pytest.mark.parametrize("optimiser", [NesterovCosine(), AdamOneCycle()])
def test_the_learning_rate_follows_its_schedule_to_the_end(optimiser, monkeypatch):
    rates = []
    step = classify._step
    monkeypatch.setattr(classify, "_step", lambda m, o, x, y: rates.append(o.param_groups[0]["lr"]) or step(m, o, x, y))
    changed = dataclasses.replace(PROFILES["temporal"], batches=Updates(20), optimiser=optimiser)
    monkeypatch.setitem(PROFILES, "temporal", changed)
    train_classifier(*_clips(), 3, USUAL, seed=0)
    if isinstance(optimiser, NesterovCosine):
        np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20)), atol=1e-9)
    else:
        assert max(rates) == pytest.approx(4e-3)
        assert (rates[0], int(np.argmax(rates))) == (pytest.approx(4e-3 / 25), 5)
        assert rates[-1] < 1e-6


@pytest.mark.usefixtures("tiny")
def test_progress_counts_updates_to_the_end():
    seen = []
    judge(*_clips(), *_clips(seed=1), 3, USUAL, seed=0, progress=lambda p: seen.append((p.done, p.total, *p.values)))
    assert seen == [(2, 4, "loss"), (4, 4, "loss")]


@pytest.mark.usefixtures("tiny")
def test_a_class_without_dev_clips_has_no_accuracy():
    clips, labels = _clips(seed=1)
    kept = np.flatnonzero(labels != 1)
    report = judge(*_clips(), [clips[i] for i in kept], labels[kept], 3, USUAL, seed=0)
    assert np.isnan(report.per_class).tolist() == [False, True, False]


@pytest.mark.usefixtures("tiny")
def test_a_trained_classifier_scores_other_clips_the_same_alone_or_together():
    classifier = train_classifier(*_clips(), 3, USUAL, seed=0)
    clips, _ = _clips(seed=2)
    logits, features = classifier.score(clips)
    assert logits.shape == (18, 3)
    alone, _ = classifier.score(clips[4:5])
    np.testing.assert_allclose(alone[0], logits[4], rtol=1e-4, atol=1e-4)
    assert np.isfinite(features).all()


def test_a_loss_that_is_not_finite_is_diverged(tiny, monkeypatch):
    changed = dataclasses.replace(PROFILES["temporal"], optimiser=NesterovCosine(rate=1e30))
    monkeypatch.setitem(PROFILES, "temporal", changed)
    with pytest.raises(DivergedError, match="updates"):
        judge(*_clips(), *_clips(seed=1), 3, USUAL, seed=0)


@pytest.mark.parametrize(
    ("labels", "says"), [([0, 1], "one label each"), ([0, 1, 3], r"0\.\.2"), ([0, 1, -1], r"0\.\.2")]
)
def test_labels_that_do_not_fit_are_refused(labels, says):
    clips = _clips()[0][:3]
    with pytest.raises(DataError, match=says):
        judge(clips, labels, clips, [0, 1, 2], 3, USUAL, seed=0)


def test_an_empty_dev_is_refused():
    with pytest.raises(DataError, match="at least 1 dev"):
        judge(*_clips(), [], [], 3, USUAL, seed=0)


def test_a_profile_takes_so_many_generated_clips_of_each_class_evenly_spread_and_says_so():
    labels = np.repeat([0, 1], [40, 2])
    kept, warning = limit_generated(labels, "temporal")
    assert kept.tolist() == [*range(0, 40, 2), 40, 41]  # as many of the first half as of the other
    assert "20 generated clips a class" in warning
    assert len(set(limit_generated(np.zeros(21, np.int64), "temporal")[0].tolist())) == 20


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_that_takes_all_generated_clips_is_silent(profile):
    kept, warning = limit_generated(np.array([2, 0, 1]), profile)
    assert kept.tolist() == [0, 1, 2]
    assert warning is None


def test_the_published_profile_is_that_of_the_method():
    published = PROFILES["published"]
    assert dataclasses.astuple(published.size) == (64, 10, (5, 8), False, 0.0)
    assert published.frames == 100
    assert published.batches == Epochs(20, repeat=4, batch_size=64)
    assert published.optimiser == NesterovCosine(rate=0.1, momentum=0.9, weight_decay=5e-4)
    assert published.max_generated_per_class is None
