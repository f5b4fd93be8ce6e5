"""ST-GCN, the judge: a classifier of skeleton clips (Yan et al., arXiv 1801.07455; block and graph as in PYSKL).

Activations lie as (V, N, T, C): every joint's frames are rows of one matrix, so that the graph convolution is one
product per edge of the skeleton, and the temporal convolution runs over a contiguous axis. On a GPU, where starting 64
small products takes longer than they do, it is two dense ones.
Shapes: N clips, T frames, V joints, C channels (I in, P out), K neighbour kinds, E edges, M = N T rows of one joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn

from kinemic.models.dropout import Dropout, DropoutSource
from kinemic.models.initial import seeded
from kinemic.skeleton import BONES, NUM_JOINTS


def spatial_graph(bones: Sequence[tuple[int, int]], joints: int, center: int = 0) -> NDArray[np.float32]:
    """Return adjacency (3, V, V), [kind, from, to]: itself, neighbours at least as far from the center, nearer ones.

    As in PYSKL, distances beyond one hop are not told apart, so only bones at the center have a nearer end.
    Columns are normalised: what flows into a joint sums to 1 over all kinds.
    """
    linked = np.zeros((joints, joints), dtype=bool)
    for a, b in bones:
        linked[a, b] = linked[b, a] = True
    distance = np.where(linked[center], 1, 2)
    distance[center] = 0
    outward = distance[:, None] >= distance[None, :]
    kinds = np.stack((np.eye(joints, dtype=bool), linked & outward, linked & ~outward))
    adjacency: NDArray[np.float32] = (kinds / kinds.sum((0, 1))).astype(np.float32)
    return adjacency


class _EdgeConv(torch.autograd.Function):
    """``out[w] = sum over edges (k, v, w) of strength x[v] W_k^T`` (+ a bias a joint).

    A skeleton is a tree: of the 3 V V adjacency entries only 3 V - 2 are not zero. One product per entry does the graph
    sum and the 1x1 convolution at once, at the cost of the convolution alone. g[w]^T x[v] gives both dW and d strength.
    ``pairs`` are the edges (v, w), every joint to itself first, and ``kinds_E`` their k.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_VMI: Tensor,
        weight_KPI: Tensor,
        strength_E: Tensor,
        bias_VP: Tensor,
        kinds_E: Tensor,
        pairs: list[tuple[int, int]],
    ) -> Tensor:
        ctx.wanted = weight_KPI.dtype
        if torch.is_autocast_enabled(x_VMI.device.type):
            dtype = torch.get_autocast_dtype(x_VMI.device.type)
            x_VMI, weight_KPI, bias_VP = x_VMI.to(dtype), weight_KPI.to(dtype), bias_VP.to(dtype)
        # One scaled weight an edge: E P I numbers, far fewer than the M rows that they act on.
        scaled_EIP = (weight_KPI[kinds_E] * strength_E[:, None, None].to(x_VMI.dtype)).transpose(1, 2)
        out = x_VMI.new_empty(*x_VMI.shape[:2], bias_VP.shape[1])
        x, rows = x_VMI.unbind(), out.unbind()
        for index, ((v, w), scaled_IP) in enumerate(zip(pairs, scaled_EIP.unbind(), strict=True)):
            if index < len(rows):  # every joint's edge to itself comes first, and sets the row instead of adding to it
                torch.addmm(bias_VP[w], x[v], scaled_IP, out=rows[w])
            else:
                rows[w].addmm_(x[v], scaled_IP)
        ctx.save_for_backward(x_VMI, weight_KPI, strength_E, scaled_EIP, kinds_E)
        ctx.pairs = pairs
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, None, None]:
        x_VMI, weight_KPI, strength_E, scaled_EIP, kinds_E = ctx.saved_tensors
        g_VMP = grads[0].contiguous()
        g, x = g_VMP.unbind(), x_VMI.unbind()
        products_EPI = torch.stack([g[w].t() @ x[v] for v, w in ctx.pairs]).to(ctx.wanted)
        dstrength_E = (products_EPI * weight_KPI[kinds_E]).sum((1, 2)).to(strength_E.dtype)
        dweight_KPI = torch.zeros(weight_KPI.shape, dtype=ctx.wanted, device=g_VMP.device)
        dweight_KPI.index_add_(0, kinds_E, products_EPI * strength_E[:, None, None])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x_VMI)
            rows = dx.unbind()
            for index, ((v, w), scaled_IP) in enumerate(zip(ctx.pairs, scaled_EIP.unbind(), strict=True)):
                if index < len(rows):
                    torch.mm(g[w], scaled_IP.t(), out=rows[v])
                else:
                    rows[v].addmm_(g[w], scaled_IP.t())
        return dx, dweight_KPI, dstrength_E, g_VMP.sum(1).to(ctx.wanted), None, None


class GraphConv(nn.Module):
    """Graph convolution with a learned factor ``PA`` on every edge, batch norm and ReLU.

    The first kind of ``adjacency`` must be every joint to itself.
    """

    A: Tensor
    kinds: Tensor
    flat: Tensor

    def __init__(self, adjacency: NDArray[np.float32], channels_in: int, channels_out: int) -> None:
        super().__init__()
        assert np.array_equal(adjacency[0] != 0, np.eye(adjacency.shape[1], dtype=bool))
        kinds, sources, targets = np.nonzero(adjacency)
        self.pairs = list(zip(sources.tolist(), targets.tolist(), strict=True))
        self.register_buffer("A", torch.from_numpy(adjacency))
        self.register_buffer("kinds", torch.from_numpy(kinds), persistent=False)
        self.register_buffer("flat", torch.from_numpy(np.flatnonzero(adjacency)), persistent=False)
        self.PA = nn.Parameter(torch.ones(adjacency.shape))
        self.conv = nn.Conv2d(channels_in, len(adjacency) * channels_out, 1)  # holds the parameters
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x_VNTI: Tensor) -> Tensor:
        """Return (V, N, T, P)."""
        V, N, T, I = x_VNTI.shape  # noqa: E741
        adjacency_KVV = self.A * self.PA
        weight_KPI = self.conv.weight.view(len(adjacency_KVV), -1, I)
        assert self.conv.bias is not None
        bias_KP = self.conv.bias.view(len(adjacency_KVV), -1)
        sum_over_graph = self._by_edge if x_VNTI.device.type == "cpu" else dense
        out = sum_over_graph(x_VNTI.reshape(V, N * T, I), weight_KPI, adjacency_KVV, bias_KP)
        return fn.relu_(_norm(out.view(V, N, T, -1), self.bn))

    def _by_edge(self, x_VMI: Tensor, weight_KPI: Tensor, adjacency_KVV: Tensor, bias_KP: Tensor) -> Tensor:
        bias_VP = adjacency_KVV.sum(1).t() @ bias_KP  # a joint gets each kind's bias as often as it sums
        strength_E = adjacency_KVV.flatten()[self.flat]
        out: Tensor = _EdgeConv.apply(x_VMI, weight_KPI, strength_E, bias_VP, self.kinds, self.pairs)
        return out


def dense(x_VMI: Tensor, weight_KPI: Tensor, adjacency_KVV: Tensor, bias_KP: Tensor) -> Tensor:
    """Return the graph convolution (V, M, P) in two products: 1x1 to all kinds, then the sum of all over the joints."""
    (V, M, I), (K, P, _) = x_VMI.shape, weight_KPI.shape  # noqa: E741
    rows_KVMI = x_VMI.reshape(1, V * M, I).expand(K, -1, -1)
    kinds_KVMP = torch.baddbmm(bias_KP[:, None], rows_KVMI, weight_KPI.transpose(1, 2))
    return (adjacency_KVV.view(K * V, V).t() @ kinds_KVMP.view(K * V, M * P)).view(V, M, P)


class TemporalConv(nn.Module):
    """Convolution over frames with batch norm; ``kernel`` is odd, ``stride`` drops frames."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, (kernel, 1), (stride, 1), (kernel // 2, 0))
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x_VNTI: Tensor) -> Tensor:
        """Return (V, N, T / stride, P)."""
        conv = self.conv
        # (V N, I, 1, T) in channels-last order: the frames become the width, over which the CPU kernels vectorise best.
        weight = conv.weight.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        out = fn.conv2d(_as_images(x_VNTI), weight, conv.bias, (1, conv.stride[0]), (0, int(conv.padding[0])))
        return _norm_images(out, self.bn).permute(0, 2, 3, 1).view(*x_VNTI.shape[:2], out.shape[3], out.shape[1])


def _as_images(x_VNTC: Tensor) -> Tensor:
    return x_VNTC.flatten(0, 1).unsqueeze(1).permute(0, 3, 1, 2)


def _norm_images(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    out: Tensor = norm(x)
    return out


def _norm(x_VNTC: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return _norm_images(_as_images(x_VNTC), norm).permute(0, 2, 3, 1).view(x_VNTC.shape)


class Block(nn.Module):
    """Graph convolution, temporal convolution, residual (none, identity, or a strided 1x1 convolution), ReLU."""

    def __init__(
        self,
        adjacency: NDArray[np.float32],
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        residual: bool,
    ) -> None:
        super().__init__()
        self.gcn = GraphConv(adjacency, channels_in, channels_out)
        self.tcn = TemporalConv(channels_out, channels_out, kernel, stride)
        self.skips = residual
        changes = residual and (channels_in != channels_out or stride != 1)
        self.residual = TemporalConv(channels_in, channels_out, 1, stride) if changes else None

    def forward(self, x_VNTC: Tensor) -> Tensor:
        """Return (V, N, T / stride, P)."""
        out = self.tcn(self.gcn(x_VNTC))
        if self.skips:
            out = out.add_(x_VNTC if self.residual is None else self.residual(x_VNTC))
        return fn.relu_(out)  # in place: batch norm's backward needs its input, not its output


class STGCN(nn.Module):
    """Spatial-temporal graph convolutional classifier of 22-joint clips.

    ``inflate_stages`` double the channels, ``down_stages`` halve the frames (stages count from 1). With ``by_joint``
    the classifying layer sees every joint's features instead of their mean over joints, which does not tell one hand
    from the other. Initial weights and dropout before that layer come from ``seed``.
    """

    def __init__(
        self,
        base_channels: int,
        num_stages: int,
        num_classes: int,
        *,
        inflate_stages: Sequence[int] = (5, 8),
        down_stages: Sequence[int] = (5, 8),
        kernel: int = 9,
        in_channels: int = 3,
        by_joint: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.by_joint = by_joint
        self.dropout = Dropout(dropout, DropoutSource(seed))
        adjacency = spatial_graph(BONES, NUM_JOINTS)
        with seeded(seed):
            self.data_bn = nn.BatchNorm1d(NUM_JOINTS * in_channels)
            self.gcn = nn.ModuleList()
            width = in_channels
            for stage in range(1, num_stages + 1):
                wider = base_channels if stage == 1 else width * (2 if stage in inflate_stages else 1)
                stride = 2 if stage in down_stages else 1
                self.gcn.append(Block(adjacency, width, wider, kernel, stride, residual=stage > 1))
                width = wider
            width *= NUM_JOINTS if by_joint else 1
            self.fc_cls = nn.Linear(width, num_classes)
            nn.init.normal_(self.fc_cls.weight, std=0.01)
            nn.init.zeros_(self.fc_cls.bias)
        self.feature_width = width

    def forward(self, x_NTVC: Tensor) -> Tensor:
        """Return logits (N, classes) of clips of joint positions (N, T, V, 3)."""
        logits: Tensor = self.fc_cls(self.dropout(self.features(x_NTVC)))
        return logits

    def features(self, x_NTVC: Tensor) -> Tensor:
        """Return the inputs of the classifying layer, (N, feature_width): the mean over frames (and joints)."""
        x_VNTC = self.feature_map(x_NTVC)
        pooled: Tensor = x_VNTC.mean(2).transpose(0, 1).flatten(1) if self.by_joint else x_VNTC.mean((0, 2))
        return pooled

    def feature_map(self, x_NTVC: Tensor) -> Tensor:
        """Return the last stage's activations, (V, N, T', C)."""
        N, T, V, C = x_NTVC.shape
        normed = self.data_bn(x_NTVC.reshape(N * T, V * C))
        x_VNTC: Tensor = normed.view(N, T, V, C).permute(2, 0, 1, 3).contiguous()
        for block in self.gcn:
            x_VNTC = block(x_VNTC)
        return x_VNTC
