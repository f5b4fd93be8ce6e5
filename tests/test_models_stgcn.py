"""ST-GCN: sizes, and its edge-wise graph convolution against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kinemic.models import stgcn
from kinemic.models.stgcn import STGCN, GraphConv, spatial_graph
from kinemic.skeleton import BONES, NUM_JOINTS

TREE = [(0, 1), (1, 2), (0, 3)]


def clips(n: int = 3, frames: int = 12) -> Tensor:
    return torch.randn(n, frames, NUM_JOINTS, 3, generator=torch.Generator().manual_seed(0))


def test_the_graph_links_bones_only_and_its_columns_sum_to_1() -> None:
    adjacency = spatial_graph(BONES, NUM_JOINTS)
    np.testing.assert_allclose(adjacency.sum((0, 1)), 1, rtol=1e-6)
    assert np.count_nonzero(adjacency) == NUM_JOINTS + 2 * len(BONES)
    assert adjacency[1][1, 0] > 0  # a joint at the center takes its neighbours as the outer kind
    assert adjacency[2][0, 1] > 0  # and is the nearer kind for them


def test_edges_give_the_definition_of_a_graph_convolution_and_its_gradients() -> None:
    conv = GraphConv(spatial_graph(TREE, 4), 2, 3).double()
    torch.nn.init.uniform_(conv.PA, 0.5, 1.5, generator=torch.Generator().manual_seed(0))
    x_VNTC = torch.randn(4, 2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    kinds = conv.conv(x_VNTC.permute(1, 3, 2, 0)).unflatten(1, (3, -1))
    expected = torch.einsum("nkctv,kvw->wntc", kinds, conv.A * conv.PA)
    expected = torch.relu(conv.bn(expected.permute(1, 3, 2, 0))).permute(3, 0, 2, 1)
    actual = conv(x_VNTC)
    torch.testing.assert_close(actual, expected)
    wanted = [x_VNTC, *conv.parameters()]
    for a, e in zip(
        torch.autograd.grad(actual.sin().sum(), wanted), torch.autograd.grad(expected.sin().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(a, e)


def test_a_gpus_dense_convolution_gives_what_the_edges_give_and_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = STGCN(8, 3, 2, inflate_stages=(2,), down_stages=(3,), seed=1)
    wanted = list(model.parameters())

    def outcome() -> list[Tensor]:
        x = clips().requires_grad_()
        logits = model(x)
        return [logits, *torch.autograd.grad(logits.sin().sum(), [x, *wanted])]

    by_edge = outcome()
    monkeypatch.setattr(GraphConv, "_by_edge", lambda _, *given: stgcn.dense(*given))
    for dense, expected in zip(outcome(), by_edge, strict=True):
        torch.testing.assert_close(dense, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stages", "width", "frames"), [(4, 4, 12), (6, 8, 6), (10, 16, 3)])
def test_stages_double_channels_and_halve_frames(stages: int, width: int, frames: int) -> None:
    model = STGCN(4, stages, 5).eval()
    assert model.feature_width == width
    assert model.feature_map(clips()).shape == (NUM_JOINTS, 3, frames, width)
    assert model.features(clips()).shape == (3, width)
    assert model(clips()).shape == (3, 5)


def test_inflating_and_downsampling_are_separate() -> None:
    model = STGCN(4, 3, 2, inflate_stages=(2,), down_stages=(3,)).eval()
    assert model.feature_map(clips()).shape == (NUM_JOINTS, 3, 6, 8)


def test_in_evaluation_a_clip_is_scored_alone_as_in_a_batch() -> None:
    model = STGCN(4, 4, 2).eval()
    torch.testing.assert_close(model(clips())[1:2], model(clips()[1:2]))


def test_every_parameter_learns_and_a_few_steps_fit_two_clips() -> None:
    model = STGCN(4, 3, 2, seed=1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    x, y = clips(2), torch.tensor([0, 1])
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_it_runs_in_bf16_under_autocast() -> None:
    model = STGCN(8, 3, 2).train()
    reference = model(clips())
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clips())
    torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 0])).backward()
    torch.testing.assert_close(logits.float(), reference, atol=0.05, rtol=0.1)
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_joints_kept_apart_have_the_mean_that_is_seen_otherwise() -> None:
    x = torch.randn(2, 12, 22, 3, generator=torch.Generator().manual_seed(0))
    pooled, apart = (STGCN(4, 3, 2, by_joint=by_joint, seed=1).eval() for by_joint in (False, True))
    features_NVC = apart.features(x).view(2, 22, pooled.feature_width)
    torch.testing.assert_close(features_NVC.mean(1), pooled.features(x))
    assert apart(x).shape == (2, 2)


def test_dropout_is_of_training_alone_and_comes_from_the_seed() -> None:
    x = torch.randn(2, 12, 22, 3, generator=torch.Generator().manual_seed(0))
    first, same, other = (STGCN(4, 3, 2, dropout=0.5, seed=seed) for seed in (1, 1, 2))
    other.load_state_dict(first.state_dict())
    trained = [model(x) for model in (first, same, other)]
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(x), other.eval()(x))
