"""ST-GCN against golden set g: graph, evaluation, training pass, gradients, running statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from kinemic.models.stgcn import STGCN, spatial_graph
from kinemic.skeleton import BONES, NUM_JOINTS

Arrays = Mapping[str, np.ndarray]
Golden = Callable[[str], Arrays]
Close = Callable[[Any, Any], None]


def own_name(published: str) -> str:
    return published.removeprefix("backbone.").removeprefix("cls_head.")


@pytest.fixture
def model(golden: Golden, golden_meta: dict[str, Any]) -> STGCN:
    sizes, arrays = golden_meta["stgcn"], golden("g_stgcn")
    model = STGCN(
        sizes["base_channels"],
        sizes["num_stages"],
        sizes["num_classes"],
        inflate_stages=sizes["inflate_stages"],
        down_stages=sizes["down_stages"],
        in_channels=sizes["in_channels"],
    )
    names = [name for name in arrays if name.startswith("sd.")]
    model.load_state_dict({own_name(name.removeprefix("sd.")): torch.from_numpy(arrays[name]) for name in names})
    return model


def clips(arrays: Arrays) -> Tensor:
    return torch.from_numpy(arrays["x"])[:, 0]


class Written(nn.Module):
    """The same weights through the definition as written: 1x1 convolution to all kinds, einsum, 9x1 convolution."""

    def __init__(self, model: STGCN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_NTVC: Tensor) -> Tensor:
        N, T, V, C = x_NTVC.shape
        x = self.model.data_bn(x_NTVC.permute(0, 2, 3, 1).reshape(N, V * C, T)).view(N, V, C, T).permute(0, 2, 3, 1)
        for block in self.model.gcn:
            adjacency = block.gcn.A * block.gcn.PA
            kinds = block.gcn.conv(x.contiguous()).unflatten(1, (len(adjacency), -1))
            mixed = torch.einsum("nkctv,kvw->nctw", kinds, adjacency).contiguous()
            out = block.tcn.bn(block.tcn.conv(fn.relu(block.gcn.bn(mixed))))
            if block.skips:
                out = out + (x if block.residual is None else block.residual.bn(block.residual.conv(x)))
            x = fn.relu(out)
        logits: Tensor = self.model.fc_cls(x.mean((2, 3)))
        return logits


def gradients(model: STGCN, forward: nn.Module, arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    model.train().to(dtype).zero_grad()
    fn.cross_entropy(forward(clips(arrays).to(dtype)), torch.from_numpy(arrays["label"])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_graph(golden: Golden, assert_close: Close) -> None:
    assert_close(spatial_graph(BONES, NUM_JOINTS), golden("g_stgcn")["adjacency"])


def test_evaluation(golden: Golden, assert_close: Close, model: STGCN) -> None:
    arrays = golden("g_stgcn")
    model.eval()
    with torch.no_grad():
        map_VNTC, logits = model.feature_map(clips(arrays)), model(clips(arrays))
    assert_close(map_VNTC.permute(1, 3, 2, 0)[:, None], arrays["feat_eval"])
    assert_close(logits, arrays["logits_eval"])
    assert_close(logits.softmax(-1), arrays["prob_test"])


def test_training_pass_and_running_statistics(golden: Golden, assert_close: Close, model: STGCN) -> None:
    arrays = golden("g_stgcn")
    logits = model.train()(clips(arrays))
    assert_close(logits, arrays["logits_train"])
    assert_close(fn.cross_entropy(logits, torch.from_numpy(arrays["label"])), arrays["loss_train"])
    assert_close(model.data_bn.running_mean, arrays["running_mean_after_1_train_fwd"])
    assert_close(model.data_bn.running_var, arrays["running_var_after_1_train_fwd"])


def test_gradients(golden: Golden, assert_close: Close, model: STGCN) -> None:
    """In two legs, because a ReLU input within rounding of 0 flips float32 gradients between orders of summation.

    The published float32 norms against the definition as written, in float32; then that definition against ours in
    float64, where nothing flips.
    """
    arrays = golden("g_stgcn")
    written = gradients(model, Written(model), arrays, torch.float32)
    names = [own_name(str(name)) for name in arrays["grad_norm_names"]]
    assert set(names) == set(written)
    assert_close(np.array([written[name].norm().item() for name in names]), arrays["grad_norms"].astype(np.float64))
    exact = gradients(model, Written(model), arrays, torch.float64)
    for name, gradient in gradients(model, model, arrays, torch.float64).items():
        torch.testing.assert_close(gradient, exact[name], atol=1e-10, rtol=1e-8)
