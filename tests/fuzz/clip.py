"""A CLIP architecture that is small enough to be built hundreds of times."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

NAME = "kinemic-fuzz"
SIZES = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def register() -> None:
    """Make the architecture known to open_clip in this process."""
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{NAME}.json"
        file.write_text(json.dumps(SIZES))
        open_clip.add_model_config(file)
        assert open_clip.get_model_config(NAME) is not None


def save(file: Path) -> None:
    """Write random weights of it."""
    import open_clip
    import torch

    register()
    model = open_clip.create_model(NAME, load_weights=False)
    torch.save(model.state_dict(), file)
