"""CLIP weights from every kind of file: OpenAI's TorchScript archive, the right activation, captions cut as a prior was
trained, and what is no file of weights."""

from __future__ import annotations

import json
import sqlite3
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kinemic import weights
from kinemic.config import OpenClipConfig
from kinemic.errors import CheckpointError, ConfigError
from kinemic.text import CachedEncoder, build_encoder, load_encoder, save_encoder
from kinemic.text_clip import OpenClipEncoder

SIZES = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 30, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
GELU, QUICK = "kinemic-act", "kinemic-act-quickgelu"
SHORT = "a person kicks"
LONG = "a person walks forward then turns around and sits down on a chair to rest for a while"  # 18 tokens
CAPTIONS = [SHORT, LONG]


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def archive(state: Mapping[str, Tensor], path: Path, root: nn.Module | None = None) -> Path:
    """Write a TorchScript archive whose state dict has these names, as OpenAI's have those of CLIP."""
    root = root or Root()
    for name, tensor in state.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(root), str(path))
    return path


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Register a small architecture with either activation; the folder holds its random weights in every format."""
    folder = tmp_path_factory.mktemp("clip")
    for name, sizes in ((GELU, SIZES), (QUICK, SIZES | {"quick_gelu": True})):
        (folder / f"{name}.json").write_text(json.dumps(sizes))
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    state = {name: tensor.half() for name, tensor in state_of(open_clip.create_model(GELU)).items()}
    state = {
        name: tensor * (300 if "c_proj.weight" in name else 1) for name, tensor in state.items()
    }  # activations tell
    torch.save(state, folder / "plain.pt")
    save_file(state, folder / "plain.safetensors")
    archive(state | {"context_length": torch.tensor(30), "vocab_size": torch.tensor(49408)}, folder / "openai.pt")
    return folder


def embeddings(folder: Path, architecture: str, captions: list[str]) -> np.ndarray:
    """Return what open_clip itself makes of the weights under an architecture's own activation."""
    model = open_clip.create_model(architecture, pretrained=str(folder / "plain.safetensors")).eval()
    with torch.inference_mode():
        rows: np.ndarray = model.encode_text(open_clip.get_tokenizer(architecture)(captions)).numpy()
    return rows


def encoder(folder: Path, architecture: str, file: str) -> OpenClipEncoder:
    built = build_encoder(OpenClipConfig(architecture=architecture, pretrained=str(folder / file)))
    assert isinstance(built, OpenClipEncoder)
    return built


def test_openais_archive_gives_quickgelu_embeddings_under_either_name(folder: Path) -> None:
    expected = embeddings(folder, QUICK, CAPTIONS)
    assert np.abs(expected - embeddings(folder, GELU, CAPTIONS)).max() > 0.01  # else nothing would be shown below
    named = encoder(folder, QUICK, "openai.pt")
    with pytest.warns(UserWarning, match=f"with QuickGELU.*write architecture: {QUICK}") as told:
        bare = encoder(folder, GELU, "openai.pt")
    assert "\n" not in str(told[0].message)
    for built in (named, bare):
        np.testing.assert_allclose(built.encode(CAPTIONS), expected, atol=1e-5)
    assert named.id == bare.id  # one function, one id


@pytest.mark.parametrize("file", ["plain.pt", "plain.safetensors"])
def test_a_plain_file_goes_by_the_architectures_activation_and_ids_tell_them_apart(folder: Path, file: str) -> None:
    quick = encoder(folder, QUICK, file)
    with pytest.warns(UserWarning, match=f"doesn't tell its activation; GELU is used.*need architecture: {QUICK}"):
        gelu = encoder(folder, GELU, file)
    for built, name in ((quick, QUICK), (gelu, GELU)):
        np.testing.assert_allclose(built.encode(CAPTIONS), embeddings(folder, name, CAPTIONS), atol=1e-5)
    assert quick.id != gelu.id


def test_a_saved_encoder_of_the_archive_is_loaded_again_without_a_second_warning(folder: Path, tmp_path: Path) -> None:
    config = OpenClipConfig(architecture=GELU, pretrained=str(folder / "openai.pt"))
    with pytest.warns(UserWarning, match="QuickGELU"):
        built = build_encoder(config)
    save_encoder(built, config, tmp_path / "e")
    assert load_encoder(tmp_path / "e").id == built.id


def test_a_tag_that_wants_quickgelu_has_one_id_under_either_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinemic import text_weights

    monkeypatch.setattr(text_weights, "_on_disk", lambda settings: folder / "plain.safetensors")
    found = [
        text_weights.find_weights(OpenClipConfig(architecture=name, pretrained="openai"))
        for name in ("ViT-B-32", "ViT-B-32-quickgelu")
    ]
    assert [each.quick_gelu for each in found] == [True, True]
    assert {each.id for each in found} == {"open_clip-ViT-B-32-openai"}
    assert "write architecture: ViT-B-32-quickgelu" in found[0].note
    assert found[1].note == ""
    other = text_weights.find_weights(OpenClipConfig(architecture="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    assert (other.quick_gelu, other.note) == (False, "")


def test_captions_are_cut_where_the_prior_cut_them(folder: Path, tmp_path: Path) -> None:
    whole = encoder(folder, QUICK, "openai.pt")
    cut = whole.limited(4)
    assert whole.limited(None) is whole
    rows = cut.encode(CAPTIONS)
    np.testing.assert_allclose(rows[0], whole.encode([SHORT])[0], atol=1e-6)  # three tokens: nothing to cut
    np.testing.assert_allclose(rows[1], whole.encode(["a person walks forward"])[0], atol=1e-6)
    assert np.abs(rows[1] - whole.encode([LONG])[0]).max() > 1e-3
    cached = CachedEncoder(whole, tmp_path)
    files = {cached.file, cached.limited(4).file, cached.limited(5).file}
    assert len(files) == 3
    np.testing.assert_array_equal(cached.encode([LONG]), whole.encode([LONG]))
    np.testing.assert_array_equal(cached.limited(4).encode([LONG]), cut.encode([LONG]))
    cached.limited(4).encode([SHORT])
    with closing(sqlite3.connect(cached.file)) as database:  # a caption that needs no cut is shared
        assert {row for (row,) in database.execute("SELECT caption FROM embeddings")} == {LONG, SHORT}
    assert cached.limited(None) is cached
    np.testing.assert_allclose(whole.limited(100).encode([LONG]), whole.encode([LONG]), atol=1e-6)  # beyond the context


def test_cut_captions_are_tokenised_as_the_public_motion_prior_does() -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    cut = OpenClipEncoder("x", 0, None, tokenizer, "cpu", 1, tokens=20)._tokenised(["walk " * 30, "walk"])
    start, end, walk = tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.encode("walk")
    assert cut.shape == (2, 77)
    assert cut[0].tolist() == [start, *walk * 20, end, *[0] * 55]
    assert cut[1].tolist() == [start, *walk, end, *[0] * 74]


def test_a_tower_with_other_tokens_cannot_be_cut() -> None:
    with pytest.raises(CheckpointError, match="20 CLIP tokens, other has tokens of its own"):
        OpenClipEncoder("other", 0, None, object(), "cpu", 1).limited(20)


class Loud:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))


def bad_files(folder: Path, into: Path) -> dict[str, str]:
    """Write files that are no weights of this architecture; returns what each is refused with, by name."""
    plain = torch.load(folder / "plain.pt", weights_only=True)
    whole = (folder / "openai.pt").read_bytes()
    (into / "text.pt").write_text("hello, these are words\n" * 9)
    (into / "empty.pt").write_bytes(b"")
    (into / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"x": Loud()}, into / "code.pt")
    torch.save(plain | {"ln_final.weight": torch.full((16,), torch.nan)}, into / "nan.pt")
    torch.save(plain | {"ln_final.weight": torch.ones(17)}, into / "shape.pt")
    archive(plain | {"ln_final.weight": torch.ones(17)}, into / "shape-archive.pt")
    archive({n: t for n, t in plain.items() if "ln_final" not in n}, into / "part-archive.pt")
    with zipfile.ZipFile(into / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/data.pkl", bytes(40 * 2**20))
    return {
        "text.pt": "no torch file",
        "empty.pt": "no torch file",
        "cut.pt": "cut short or damaged",
        "code.pt": "holds",
        "nan.pt": "ln_final.weight holds numbers that are not finite",
        "shape.pt": "not weights of open_clip's",
        "shape-archive.pt": "not weights of open_clip's",
        "part-archive.pt": "not weights of open_clip's",
        "bomb.pt": "it unpacks to 41,943,040 bytes",
    }


def test_what_is_no_file_of_weights_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, why in bad_files(folder, tmp_path).items():
        with pytest.raises(CheckpointError) as caught:
            encoder(tmp_path, QUICK, name)
        line = str(caught.value)
        assert why in line, line
        assert str(tmp_path / name) in line
        assert "\n" not in line
        assert "weights_only" not in line  # no advice to run what is in the file
    assert "code ran" not in capsys.readouterr().out


class Waking(nn.Module):
    """A module whose TorchScript would run when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> int:
        return 3

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False
        print("code ran")  # noqa: T201 - what must not happen


def test_an_archive_that_runs_on_reading_is_not_opened(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = archive({}, tmp_path / "waking.pt", Waking())
    with pytest.raises(CheckpointError, match="runs code when it is read"):
        weights.read_torchscript(path)
    assert "code ran" not in capfd.readouterr().out


def test_an_archive_is_no_prior(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="as OpenAI's CLIP is; expected a file of plain weights"):
        weights.read_torch(folder / "openai.pt")


def test_a_home_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no such file, and no tag"):
        build_encoder(OpenClipConfig(pretrained="~nobody-of-this-name/x.pt"))
