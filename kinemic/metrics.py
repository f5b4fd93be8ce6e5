"""Distances and scores over pooled features and logits: Frechet distance, diversity, accuracy, log-likelihood, Brier.

Shapes: N, M clips, D feature width, C classes, S groups (classes or captions), R clips a group, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from kinemic.errors import DataError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_LEAST_PROBABILITY: Final = 1e-300  # its logarithm is finite


def frechet_distance(real_ND: Array, generated_MD: Array) -> float:
    """Return the Frechet distance between two feature sets taken as Gaussians (FID; Heusel et al. 2017, eq. 6).

    The trace of the square root of the covariances' product is the nuclear norm of the product of their own square
    roots, which stays real and exact where a covariance is singular (fewer clips than dimensions). Covariances are
    unbiased. Raises DataError for fewer than 2 clips, different widths, or values that are not finite.
    """
    real, generated = _features(real_ND, 2, "real"), _features(generated_MD, 2, "generated")
    if real.shape[1] != generated.shape[1]:
        raise DataError(
            f"Frechet distance: expected one feature width, got {real.shape[1]} (real) and {generated.shape[1]} "
            "(generated); take both from the same classifier"
        )
    shift = real.mean(axis=0) - generated.mean(axis=0)
    root_real, root_generated = _covariance_root(real), _covariance_root(generated)
    overlap = np.linalg.svd(root_real @ root_generated, compute_uv=False).sum()
    spread = np.square(root_real).sum() + np.square(root_generated).sum()
    return max(0.0, float(shift @ shift + spread - 2.0 * overlap))


def diversity(features_ND: Array, times: int, seed: int) -> float:
    """Return the mean Euclidean distance of ``times`` random pairs of clips (Guo et al. 2020).

    With fewer clips than ``times`` no draw is needed: the mean over all pairs of different clips.
    """
    features = _features(features_ND, 2, "diversity")
    count = len(features)
    if count < times:
        first, second = np.triu_indices(count, k=1)
    else:
        rng = np.random.default_rng(seed)
        first, second = (rng.choice(count, times, replace=False) for _ in range(2))
    return mean_distance(features, first, second)


def multimodality(features_SRD: Array, times: int, seed: int) -> float:
    """Return the mean distance of ``times`` random pairs inside each group, averaged over groups (Guo et al. 2020).

    Raises DataError where ``times`` is above the R clips of a group.
    """
    clips = features_SRD.shape[1]
    if times > clips:
        raise DataError(f"multimodality: expected at least {times} clips a group, got {clips}; lower times")
    rng = np.random.default_rng(seed)
    first, second = (rng.choice(clips, times, replace=False) for _ in range(2))
    return mean_distance(np.asarray(features_SRD, np.float64).swapaxes(0, 1), first, second)


def mean_distance(features: Array, first_P: Array, second_P: Array) -> float:
    """Return the mean Euclidean distance between ``features[first]`` and ``features[second]``, over every axis."""
    features = np.asarray(features, np.float64)
    return float(np.linalg.norm(features[first_P] - features[second_P], axis=-1).mean())


def top_k_accuracy(logits_NC: Array, labels_N: Array, ks: Sequence[int] = (1,)) -> tuple[float, ...]:
    """Return for each k the share (0..1) of clips whose label is among the k highest logits."""
    ranked_NC = np.argsort(-np.asarray(logits_NC), axis=1, kind="stable")
    hits_NC = ranked_NC == np.asarray(labels_N)[:, None]
    return tuple(float(hits_NC[:, :k].any(axis=1).mean()) for k in ks)


def confusion_matrix(labels_N: Array, predictions_N: Array, classes: int) -> Indices:
    """Return counts (C, C): row the true class, column the predicted one."""
    flat = np.asarray(labels_N, np.int64) * classes + np.asarray(predictions_N, np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def accuracy(confusion_CC: Array) -> float:
    """Return the share (0..1) of all clips that were recognised."""
    return float(np.trace(confusion_CC) / confusion_CC.sum())


def per_class_accuracy(confusion_CC: Array) -> Floats:
    """Return the share (0..1) of each class's clips that were recognised; NaN for a class without clips."""
    total = confusion_CC.sum(axis=1).astype(np.float64)
    return np.where(total > 0, np.diagonal(confusion_CC) / np.maximum(total, 1.0), np.nan)


def softmax(logits_NC: Array) -> Floats:
    """Return the probabilities of logits over the last axis."""
    logits = np.asarray(logits_NC, np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def log_likelihood(probabilities_NC: Array, labels_N: Array) -> float:
    """Return the mean log probability of the true class, nats a clip: 0 at best.

    A probability of 0 counts as 1e-300.
    """
    of_truth = np.asarray(probabilities_NC)[np.arange(len(labels_N)), labels_N]
    return float(np.log(np.maximum(of_truth, _LEAST_PROBABILITY)).mean())


def brier_score(probabilities_NC: Array, labels_N: Array) -> float:
    """Return the mean over clips of the squared error of the probabilities, summed over classes (Brier 1950): 0..2.

    0 is certain and right, 2 certain and wrong; the same probability for all of C classes gives 1 - 1/C.
    """
    error_NC = np.array(probabilities_NC, np.float64)
    error_NC[np.arange(len(labels_N)), labels_N] -= 1.0
    return float(np.square(error_NC).sum(axis=1).mean())


def _covariance_root(features: Floats) -> Floats:
    """Symmetric square root of the unbiased covariance, from the singular values of the centred features."""
    centred = features - features.mean(axis=0)
    _, values, directions = np.linalg.svd(centred / math.sqrt(len(features) - 1), full_matrices=False)
    root: Floats = (directions.T * values) @ directions
    return root


def _features(features: Array, least: int, name: str) -> Floats:
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or len(array) < least:
        raise DataError(f"{name} features: expected at least {least} rows of shape (N, D), got {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} features: expected finite values, got NaN or infinity; check the clips")
    return array
