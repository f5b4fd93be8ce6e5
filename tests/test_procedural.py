from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kinemic import motion, skeleton
from kinemic.config import MiningConfig
from kinemic.data import procedural
from kinemic.data import procedural_body as body
from kinemic.data.procedural_actions import ACTIONS
from kinemic.data.procedural_body import Channel
from kinemic.data.procedural_captions import CLASS_CAPTIONS, PHRASES
from kinemic.data.procedural_curves import MAX_DRAWS, Curves, Style
from kinemic.mining import average_clip_embeddings, mine
from kinemic.text_tfidf import TfidfEncoder


@pytest.fixture(scope="module")
def source():
    return procedural.generate_source(40, seed=3)


@pytest.fixture(scope="module")
def target():
    return procedural.generate_target(24, seed=3)


def bone_lengths(joints):
    parents, children = np.array(skeleton.BONES).T
    return np.linalg.norm(joints[:, children] - joints[:, parents], axis=-1)


def posed(action, numbers=None, frames=40, left=False):
    curves = Curves(frames, 1.0)
    kind = next(kind for kind in ACTIONS if kind.name == action)
    kind.build(curves, Style(np.zeros(MAX_DRAWS) if numbers is None else numbers))
    angles = curves.values + procedural._STANCE
    angles = body.mirrored(angles) if left else angles
    first = np.zeros(frames, dtype=bool)
    first[0] = True
    return body.pose(angles, np.repeat(body.offsets(np.ones(6))[None], frames, axis=0), first)


def test_source_clips_have_the_promised_form(source):
    names = {action.name for action in ACTIONS}
    for clip in source:
        features = motion.joints_to_features(clip.joints_TJ3)
        assert clip.joints_TJ3.dtype == np.float32
        assert 60 <= len(features) <= 196
        assert 1 <= len(clip.captions) <= 3
        assert clip.action is None
        assert 2 <= len(clip.segments) <= 3
        at = 0
        for segment in clip.segments:
            assert segment.action in names
            assert at <= segment.start < segment.end <= len(features)
            at = segment.end


def test_stretches_told_alone_hold_their_action(source):
    stretches = [(clip, stretch) for clip in source for stretch in clip.stretches]
    assert 0.3 < len(stretches) / sum(len(clip.segments) for clip in source) < 0.7
    for clip, stretch in stretches:
        assert 0 <= stretch.start <= stretch.segment.start < stretch.segment.end <= stretch.end
        assert stretch.end <= len(clip.joints_TJ3) - 1
        assert stretch.end - stretch.start >= procedural.ALONE_FRAMES
        assert stretch.segment in clip.segments
        assert 1 <= len(stretch.captions) <= 3


def test_target_clips_have_the_promised_form(target):
    classes = dict(procedural.target_classes())
    assert Counter(clip.action for clip in target) == dict.fromkeys(classes, 24)
    for clip in target:
        assert 16 <= len(clip.joints_TJ3) - 1 <= 60
        assert clip.captions == classes[clip.action]
        assert clip.segments == (procedural.Segment(clip.action, 0, len(clip.joints_TJ3) - 1),)
    by_class = {(clip.action, clip.subject) for clip in target}
    assert len(by_class) == len(classes) * len(procedural.SUBJECTS)
    assert len({clip.name for clip in target}) == len(target)


def test_the_same_seed_gives_the_same_clips_and_another_seed_others(source):
    again = procedural.generate_source(5, seed=3)
    for clip, same in zip(source, again, strict=False):
        assert (clip.name, clip.captions, clip.segments) == (same.name, same.captions, same.segments)
        np.testing.assert_array_equal(clip.joints_TJ3, same.joints_TJ3)
    other = procedural.generate_source(5, seed=4)
    assert all(
        a.joints_TJ3.shape != b.joints_TJ3.shape or a.captions != b.captions for a, b in zip(again, other, strict=True)
    )


def test_every_action_occurs_in_the_source_and_distractors_are_no_target_class(source):
    seen = {segment.action for clip in source for segment in clip.segments}
    assert seen == {action.name for action in ACTIONS}
    assert len(ACTIONS) >= 12
    assert {name for name, _ in procedural.target_classes()} < seen


def test_words_are_known_for_every_action():
    assert set(PHRASES) == {action.name for action in ACTIONS}
    assert set(CLASS_CAPTIONS) == {action.name for action in ACTIONS if action.target}


def test_a_class_caption_finds_its_action_better_than_chance_but_others_too():
    told = [(s.segment.action, s.captions) for clip in procedural.generate_source(150, seed=3) for s in clip.stretches]
    texts = [text for _, captions in told for text in captions]
    encoder = TfidfEncoder.fit(texts, 64)
    clips = average_clip_embeddings(encoder.encode(texts), np.repeat(np.arange(len(told)), [len(c) for _, c in told]))
    queries = [encoder.encode(captions) for _, captions in procedural.target_classes()]
    mined = mine(clips, [str(i) for i in range(len(told))], queries, MiningConfig(top_k=6))
    right = [
        np.mean([told[i][0] == name for i in pool.indices])
        for (name, _), pool in zip(procedural.target_classes(), mined.pools, strict=True)
    ]
    assert 3 / len(ACTIONS) < np.mean(right) < 0.75  # class captions in the source's own words: 0.93
    assert min(right) < 0.5


def test_captions_vary_and_most_tell_an_action(source):
    captions = [caption for clip in source for caption in clip.captions]
    assert len(set(captions)) > 0.8 * len(captions)
    assert all("{" not in caption for caption in captions)


def test_bodies_keep_their_bones_and_differ_from_each_other(source):
    spread = np.array([bone_lengths(clip.joints_TJ3).std(axis=0).max() for clip in source])
    assert spread.max() < 0.01  # sensor noise only
    heights = [bone_lengths(clip.joints_TJ3).mean(axis=0).sum() for clip in source]
    assert np.std(heights) / np.mean(heights) > 0.03


def test_clips_stand_on_the_floor(source):
    for clip in source:
        lowest = clip.joints_TJ3[..., 1].min(axis=1)
        assert lowest.min() > -0.03
        assert np.median(lowest) < 0.03


@pytest.mark.parametrize("left", [False, True])
def test_a_mirrored_performance_is_the_mirrored_motion(left):
    joints = posed("throw", left=left)
    np.testing.assert_allclose(motion.mirror_joints(joints), posed("throw", left=not left), atol=1e-6)


def test_the_foot_that_carries_does_not_slide():
    joints = posed("walk", frames=60)
    assert joints[-1, 0, 2] > 0.8
    feet = (joints[:, [7, 8]] + joints[:, [10, 11]]) / 2
    slide = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1).min(axis=1)
    # Metres a frame: still but for the moments at which one foot hands over to the other; the pelvis makes 0.1.
    assert np.median(slide) < 0.002
    assert np.quantile(slide, 0.9) < 0.03


def test_a_jump_leaves_the_floor_and_a_squat_does_not():
    assert posed("jump")[..., 1].min(axis=1).max() > 0.15
    assert posed("squat")[..., 1].min(axis=1).max() < 0.02
    assert np.ptp(posed("squat")[:, 0, 1]) > 0.25


def test_turning_turns_and_sitting_stays_low():
    shoulders = posed("turn_around")
    assert shoulders[0, 16, 0] > shoulders[0, 17, 0]
    across = shoulders[:, 16] - shoulders[:, 17]
    assert across[:, 0].min() < -0.2
    assert posed("sit_down")[-1, 0, 1] < 0.7 * posed("sit_down")[0, 0, 1]


def test_hands_go_where_the_action_says():
    assert posed("raise_hand")[:, 21, 1].max() > 1.5
    assert posed("pick_up")[:, 21, 1].min() < 0.55
    reach = posed("punch")[:, 21] - posed("punch")[:, 17]
    assert reach[:, 2].max() > 0.4
    kick, side = posed("kick"), posed("side_kick")
    assert np.ptp(kick[:, 8, 2] - kick[:, 0, 2]) > np.ptp(kick[:, 8, 0] - kick[:, 0, 0])
    assert (side[:, 0, 0] - side[:, 8, 0]).max() > 0.5


def test_styles_change_the_performance():
    rng = np.random.default_rng(0)
    for action in ACTIONS:
        one, two = (posed(action.name, rng.standard_normal(MAX_DRAWS)) for _ in range(2))
        assert np.abs(one - two).max() > 0.03, action.name


def test_a_performer_repeats_habits():
    performer, rng = np.random.default_rng(0).standard_normal(MAX_DRAWS), np.random.default_rng(1)
    own = np.array([Style.of(performer, 0.6, rng).numbers for _ in range(400)])
    np.testing.assert_allclose(own.var(axis=0).mean(), 0.4, rtol=0.1)
    np.testing.assert_allclose(own.mean(axis=0), np.sqrt(0.6) * performer, atol=0.15)


def test_style_variables_stay_in_their_range():
    extreme = Style(np.array([-9.0, 9.0, 0.0, 9.0]))
    assert extreme.draw(2, 5) == pytest.approx(2)
    assert extreme.draw(2, 5) == pytest.approx(5)
    assert extreme.draw(2, 5) == pytest.approx(3.5)
    assert extreme.count(1, 3) == 3


def test_left_and_right_channels_pair_up():
    for left in Channel:
        if left.name.startswith("L_"):
            assert Channel[f"R_{left.name[2:]}"] - left == Channel.R_ARM - Channel.L_ARM
