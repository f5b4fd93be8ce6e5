"""Each fault that recordings come with is found by what joints do; sound sets have none."""

from __future__ import annotations

import numpy as np
import pytest

from kinemic.config import GeneratedReader
from kinemic.data.check import check_corpus
from kinemic.data.procedural import generate_source
from kinemic.data.readers import open_raw
from tests.spoilt import EVERY, SOME, complaint, complaints, spoil


@pytest.fixture(scope="module")
def sound() -> list[np.ndarray]:
    return [clip.joints_TJ3 for clip in generate_source(21, 3)]


@pytest.mark.parametrize(("part", "clips"), [("source", 40), ("target", 8)])
def test_the_generated_corpus_is_sound(part, clips):
    found = check_corpus(open_raw(GeneratedReader(part=part, clips=clips)))
    assert [finding for finding in found if finding.level != "info"] == []


@pytest.mark.parametrize("fault", EVERY)
def test_a_fault_of_a_whole_set_is_found(sound, fault):
    spoils, start = EVERY[fault]
    assert complaint(sound, start) is None
    assert complaint(spoil(sound, spoils), start) is not None


@pytest.mark.parametrize("fault", SOME)
def test_a_fault_of_a_third_of_the_clips_is_found_with_their_names(sound, fault):
    spoils, start = SOME[fault]
    found = complaint(spoil(sound, spoils, every=3), start)
    assert found is not None
    assert found.clips == tuple(f"clip-{i}" for i in range(0, 21, 3))
    assert found.count == 7


def test_a_scale_of_its_own_does_not_hide_the_rest(sound):
    """Clips in millimetres reach kilometres an hour: they say nothing of the frame rate of the others."""
    starts = {finding.what.split(":")[0] for finding in complaints(spoil(sound, SOME["millimetres"][0], every=2))}
    assert starts == {"scale"}


def test_one_person_who_lies_is_told_without_a_warning(sound):
    lying = [EVERY["z up"][0](sound[0]), *sound[1:]]
    assert complaint(lying, "head never above") is None
