"""Golden set f: averaged caption embeddings and nearest source clips against the published code's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kinemic.config import MiningConfig
from kinemic.mining import average_clip_embeddings, mine


@pytest.fixture
def arrays(golden):
    return golden("f_mining")


def test_averaged_embeddings_match(arrays, assert_close):
    assert_close(average_clip_embeddings(arrays["raw_prior"], arrays["caption_motion"]), arrays["averaged"])


def test_nearest_clips_match_in_order_and_distance(arrays, assert_close):
    averaged = average_clip_embeddings(arrays["raw_prior"], arrays["caption_motion"])
    captions, k = arrays["topk_idx"].shape
    queries = [arrays["raw_target"][i : i + 1] for i in range(captions)]
    result = mine(averaged, [str(i) for i in range(len(averaged))], queries, MiningConfig(top_k=k))
    assert_close(1 - np.stack([pool.similarities for pool in result.pools]), arrays["topk_dist"])
    np.testing.assert_array_equal(np.stack([pool.indices for pool in result.pools]), arrays["topk_idx"])
