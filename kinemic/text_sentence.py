"""Sentence encoders: a BERT-like transformer of transformers, which is imported only here and only on use.

A sentence encoder is trained so that sentences of one meaning come close (Reimers and Gurevych, arXiv 1908.10084).

Legend: n captions, L tokens, E embedding width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import SentenceConfig
from kinemic.errors import CheckpointError
from kinemic.text_folder import WEIGHTS, SentenceFolder, find_folder
from kinemic.text_weights import quiet
from kinemic.weights import reason

if TYPE_CHECKING:
    from kinemic.text import TextEncoder


@dataclass(frozen=True)
class SentenceEncoder:
    """A frozen sentence encoder; its transformer is read when the first caption comes that no cache holds."""

    folder: SentenceFolder
    device: str
    batch_size: int

    @property
    def id(self) -> str:
        """The folder's id."""
        return self.folder.id

    @property
    def dim(self) -> int:
        """Width E of an embedding."""
        return self.folder.dim

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per caption, (n, E); captions beyond the folder's ``max_tokens`` are cut.

        Captions of one length are embedded together, so that none is padded and a row does not depend on what is beside
        it, up to rounding. Raises CheckpointError if the transformer can't be read.
        """
        import torch

        from kinemic.device import to_host

        rows = np.zeros((len(captions), self.dim), dtype=np.float32)
        if not captions:
            return rows
        tokens, model = self._tokens(captions), self._model
        with torch.inference_mode():
            for batch in self._batches(tokens):
                ids_nL = torch.tensor([tokens[place] for place in batch], device=self.device)
                hidden_nLE = model(input_ids=ids_nL, attention_mask=torch.ones_like(ids_nL)).last_hidden_state
                pooled_nE = hidden_nLE.mean(dim=1) if self.folder.pooling == "mean" else hidden_nLE[:, 0]
                if self.folder.unit_length:
                    pooled_nE = torch.nn.functional.normalize(pooled_nE, dim=1)
                rows[batch] = to_host(pooled_nE.float()).numpy()
        return rows

    def limited(self, tokens: int | None, whole: TextEncoder | None = None) -> SentenceEncoder:
        """Return the encoder itself. Raises CheckpointError for a number of tokens: they are counted as CLIP's."""
        if tokens is not None:
            raise CheckpointError(f"the prior knows captions of {tokens} CLIP tokens, {self.id} has tokens of its own")
        return self

    def _batches(self, tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, each in enumerate(tokens):
            by_length[len(each)].append(place)
        for _, places in sorted(by_length.items()):
            yield from (places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size))

    def _tokens(self, captions: Sequence[str]) -> list[list[int]]:
        texts = [caption.strip() for caption in captions]
        if self.folder.lower_case:
            texts = [text.lower() for text in texts]
        return [each.ids for each in self._tokenizer.encode_batch(texts)]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file = self.folder.transformer / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_padding()
            tokenizer.enable_truncation(self.folder.max_tokens)
        except Exception as error:  # whatever the library makes of a file that is something else
            raise CheckpointError(f"{file}: not a tokenizer ({reason(error)}); save the encoder again") from error
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        file = self.folder.transformer / WEIGHTS
        try:
            model, report = _load(self.folder)
        except Exception as error:  # likewise
            raise CheckpointError(f"{file}: not weights of the folder's transformer ({reason(error)})") from error
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))  # which is not used
        if missing:
            raise CheckpointError(f"{file}: {len(missing)} tensors are missing, first {missing[0]}; save it again")
        for name, tensor in model.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{file}: {name} holds numbers that are not finite; save it again")
        words, known = self._tokenizer.get_vocab_size(), model.get_input_embeddings().num_embeddings
        if words > known:
            raise CheckpointError(f"{file}: has {known} words, the tokenizer {words}; save both again")
        return model.to(self.device)


def build_sentence(config: SentenceConfig, device: str) -> SentenceEncoder:
    """Return the sentence encoder of a configuration. Raises ConfigError or CheckpointError, each of one line."""
    return SentenceEncoder(find_folder(config), device, config.batch_size)


def _load(folder: SentenceFolder) -> Any:
    import torch
    import transformers

    with quiet(), _no_progress_bars():
        model, report = transformers.AutoModel.from_pretrained(
            folder.transformer,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",  # a file may name kernels, which would be fetched
            dtype=torch.float32,
            output_loading_info=True,
        )
    return model.eval().requires_grad_(False), report


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
