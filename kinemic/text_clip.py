"""CLIP text towers of open_clip, which is imported only here and only on use.

Legend: n captions, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import OpenClipConfig
from kinemic.errors import CheckpointError, DataError
from kinemic.text_weights import ClipWeights, find_weights, quiet
from kinemic.weights import check_torch, is_torchscript, read_torchscript, reason

if TYPE_CHECKING:
    from kinemic.text import TextEncoder

_OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")  # numbers that lie among OpenAI's weights
_NOT_TORCH = (".safetensors", ".npz", ".npy")  # formats of weights that open_clip reads by their suffix


@dataclass(frozen=True)
class OpenClipEncoder:
    """A frozen CLIP text tower: raw embeddings, not of unit length, as the public motion priors were given.

    ``tokens`` is where captions are cut (None: at the tower's context); ``whole`` then embeds those that are shorter.
    ``note`` is what a user should know of the choice of its activation.
    """

    id: str
    dim: int
    model: Any
    tokenizer: Any
    device: str
    batch_size: int
    note: str = ""
    tokens: int | None = None
    whole: TextEncoder | None = None

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per caption, (n, E); captions beyond ``tokens``, or the tower's context, are cut."""
        if self.whole is None or self.tokens is None:
            return self._embed(captions)
        cut = np.array([len(self.tokenizer.encode(caption)) > self.tokens for caption in captions], dtype=bool)
        rows = np.empty((len(captions), self.dim), dtype=np.float32)
        for chosen, embed in ((cut, self._embed), (~cut, self.whole.encode)):
            rows[chosen] = embed([caption for caption, wanted in zip(captions, chosen, strict=True) if wanted])
        return rows

    def limited(self, tokens: int | None, whole: TextEncoder | None = None) -> OpenClipEncoder:
        """Return the encoder that cuts captions after so many tokens and leaves those that are shorter to ``whole``.

        It has an id of its own. Raises CheckpointError for a tower whose tokens are not CLIP's.
        """
        from open_clip.tokenizer import SimpleTokenizer

        if tokens is None:
            return self
        if not isinstance(self.tokenizer, SimpleTokenizer):
            raise CheckpointError(f"the prior knows captions of {tokens} CLIP tokens, {self.id} has tokens of its own")
        return replace(self, id=f"{self.id}-{tokens}tokens", tokens=tokens, whole=whole or self)

    def _embed(self, captions: Sequence[str]) -> NDArray[np.float32]:
        import torch

        from kinemic.device import to_host

        rows = [np.zeros((0, self.dim), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(captions), self.batch_size):
                tokens = self._tokenised(captions[start : start + self.batch_size]).to(self.device)
                rows.append(to_host(self.model.encode_text(tokens, normalize=False).float()).numpy())
        return np.concatenate(rows)

    def _tokenised(self, captions: Sequence[str]) -> Any:
        from torch.nn.functional import pad

        if self.tokens is None:
            return self.tokenizer(list(captions))
        context = self.tokenizer.context_length
        # Start and end come on top, and zeros fill the context, as in the public code of the motion priors.
        cut = self.tokenizer(list(captions), context_length=min(self.tokens + 2, context))
        return pad(cut, (0, context - cut.shape[1]))


def build_open_clip(config: OpenClipConfig, device: str) -> OpenClipEncoder:
    """Return the text tower of a configuration: a pretrained tag, downloaded where it isn't on disk, or a local file.

    Raises ConfigError for an unknown architecture or tag, DataError where the weights can't be had, CheckpointError
    where they don't fit the architecture.
    """
    weights = find_weights(config)
    with quiet():
        model = _load(config.architecture, weights, device)
        tokenizer = _tokenizer(config.architecture)
    del model.visual  # half of the weights, never asked
    _check_finite(model, weights.file)
    encoder = OpenClipEncoder(weights.id, 0, model, tokenizer, device, config.batch_size, note=weights.note)
    return replace(encoder, dim=_width(encoder))


def _load(architecture: str, weights: ClipWeights, device: str) -> Any:
    import open_clip

    archive = read_torchscript(weights.file) if is_torchscript(weights.file) else None
    if archive is None and weights.file.suffix not in _NOT_TORCH:
        check_torch(weights.file)
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=None if archive is not None else str(weights.file),
            pretrained_text=False,
            force_quick_gelu=weights.quick_gelu,
            device=device,
            weights_only=True,
        )
        if archive is not None:
            model.load_state_dict({name: tensor for name, tensor in archive.items() if name not in _OPENAI_SIZES})
    except Exception as error:  # whatever the readers, and open_clip's renaming, make of bytes that are something else
        raise CheckpointError(f"{weights.file}: not weights of open_clip's {architecture} ({reason(error)})") from error
    return model.eval().requires_grad_(False)


def _check_finite(model: Any, file: Path) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{file}: {name} holds numbers that are not finite; download it again")


def _tokenizer(architecture: str) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(architecture)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise DataError(
            f"open_clip's {architecture} needs a tokenizer that is not on disk and can't be downloaded; choose an "
            "architecture with the built-in one, such as ViT-B-32"
        ) from error


def _width(encoder: OpenClipEncoder) -> int:
    import torch

    with torch.inference_mode():
        return int(encoder.model.encode_text(encoder.tokenizer(["a person"]).to(encoder.device)).shape[-1])
