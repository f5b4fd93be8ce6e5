"""The temporal classifier: convolutions over the frames of a skeleton clip, as in Wang et al. (arXiv 1611.06455).

Shapes: N clips, T frames, V joints, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kinemic.models.dropout import Dropout, DropoutSource
from kinemic.models.initial import seeded
from kinemic.skeleton import NUM_JOINTS


class TemporalCNN(nn.Module):
    """Classifier of 22-joint clips: 1-D convolutions with batch norm and ReLU, the mean over frames, dropout.

    Layer i has ``channels[i]`` channels and a stride of ``strides[i]`` frames. Initial weights and dropout come from
    ``seed``.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: Sequence[int] = (64, 64, 128),
        strides: Sequence[int] = (1, 2, 2),
        kernel: int = 5,
        dropout: float = 0.3,
        in_channels: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = (NUM_JOINTS * in_channels, *channels)
        with seeded(seed):
            self.layers = nn.Sequential()
            for width, wider, stride in zip(widths, channels, strides, strict=False):
                # The batch norm that follows has a bias of its own.
                conv = nn.Conv1d(width, wider, kernel, stride, kernel // 2, bias=False)
                self.layers.extend([conv, nn.BatchNorm1d(wider), nn.ReLU(inplace=True)])
            self.dropout = Dropout(dropout, DropoutSource(seed))
            self.fc_cls = nn.Linear(widths[-1], num_classes)

    def forward(self, x_NTV3: Tensor) -> Tensor:
        """Return logits (N, classes) of clips of joint positions (N, T, V, 3)."""
        logits: Tensor = self.fc_cls(self.dropout(self.features(x_NTV3)))
        return logits

    def features(self, x_NTV3: Tensor) -> Tensor:
        """Return the mean over frames of the last layer's activations, (N, C)."""
        x_NCT = x_NTV3.flatten(2).transpose(1, 2)
        pooled: Tensor = self.layers(x_NCT).mean(2)
        return pooled
