"""Priors: saved and loaded whole, imported from public files, and refused where they don't fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinemic import checkpoint
from kinemic.config import ModelConfig
from kinemic.errors import CheckpointError
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.prior import Prior, load_prior, read_caption_tokens, save_prior
from kinemic.prior_import import import_public
from kinemic.skeleton import NUM_FEATURES

CONFIG = ModelConfig(width=16, layers=2, heads=4, ff=24, text_dim=8)
ARGS = {"arch": "trans_enc", "noise_schedule": "cosine", "dataset": "humanml", "latent_dim": 16, "diffusion_steps": 50}
ARGS |= {"mask_frames": True}


def statistics() -> Statistics:
    values = np.random.default_rng(0).uniform(0.5, 1, (2, NUM_FEATURES)).astype(np.float32)
    return Statistics(values[0], values[1])


def prior() -> Prior:
    return Prior(MDM(CONFIG, seed=3), CONFIG, 50, statistics(), "tfidf-abc", {"steps": 10})


def forward(model: MDM) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x_BTF, text_BE = torch.randn(2, 5, NUM_FEATURES, generator=generator), torch.randn(2, 8, generator=generator)
    with torch.no_grad():
        x0_BTF: torch.Tensor = model.eval()(x_BTF, torch.tensor([1, 40]), text_BE)[0]
    return x0_BTF


def test_a_prior_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    save_prior(prior(), path)
    loaded = load_prior(path, encoder_id="tfidf-abc")
    assert torch.equal(forward(loaded.model), forward(prior().model))
    assert (loaded.config, loaded.diffusion_steps, loaded.encoder_id) == (CONFIG, 50, "tfidf-abc")
    np.testing.assert_array_equal(loaded.statistics.std_F, statistics().std_F)
    assert loaded.meta["steps"] == 10
    assert not loaded.model.training


def test_a_prior_knows_how_long_the_clips_of_its_training_were(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    for recipe, frames in (({}, None), ({"pretrain": {"max_frames": 80, "steps": 3}}, 80)):
        save_prior(replace(prior(), meta=recipe), path)
        assert load_prior(path).max_frames == frames
    save_prior(replace(prior(), meta={"pretrain": {"max_frames": "80"}}), path)
    with pytest.raises(CheckpointError, match="max_frames is '80', expected a whole number"):
        load_prior(path)


def test_another_encoder_is_refused_with_both_ids(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    save_prior(prior(), path)
    with pytest.raises(CheckpointError, match=r"encoder_id is 'tfidf-abc', this run needs 'open_clip-x'"):
        load_prior(path, encoder_id="open_clip-x")


def test_a_checkpoint_that_is_no_prior_or_half_a_prior_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    checkpoint.save(path, {"x": torch.ones(1)}, {"kind": "adaptation"})
    with pytest.raises(CheckpointError, match="kind is 'adaptation', this run needs 'prior'"):
        load_prior(path)
    save_prior(prior(), path)
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, {n: t for n, t in tensors.items() if n != "statistics.mean"}, meta)
    with pytest.raises(CheckpointError, match=r"not a whole prior .*statistics\.mean"):
        load_prior(path)
    checkpoint.save(path, tensors, {**meta, "model": {**meta["model"], "width": 32}})
    with pytest.raises(CheckpointError, match=r"is \(16, 263\), its other sizes ask for \(32, 263\)"):
        load_prior(path)


def public(folder: Path, state: Any = None, args: dict[str, Any] | None = None) -> tuple[Path, Path, Path, str]:
    """Write a checkpoint as the public code does; returns the arguments of import_public."""
    if state is None:
        state = {
            **MDM(CONFIG, seed=3).state_dict(),
            "sequence_pos_encoder.pe": torch.zeros(5000, 1, 16),
            "embed_timestep.sequence_pos_encoder.pe": torch.zeros(5000, 1, 16),
            "clip_model.visual.proj": torch.zeros(2, 2),
        }
    torch.save(state, folder / "model.pt")
    (folder / "args.json").write_text(json.dumps(ARGS if args is None else args))
    np.save(folder / "Mean.npy", statistics().mean_F)
    np.save(folder / "Std.npy", statistics().std_F)
    return folder / "model.pt", folder / "args.json", folder, "clip"


def test_a_public_checkpoint_is_imported_without_its_clip_weights(tmp_path: Path) -> None:
    imported = import_public(*public(tmp_path))
    assert torch.equal(forward(imported.model), forward(MDM(CONFIG, seed=3)))
    assert (imported.config, imported.diffusion_steps, imported.encoder_id) == (CONFIG, 50, "clip")
    save_prior(imported, tmp_path / "out" / "prior.safetensors")
    assert torch.equal(forward(load_prior(tmp_path / "out" / "prior.safetensors").model), forward(imported.model))


def test_the_public_state_dict_loads_into_the_model_as_it_is(tmp_path: Path) -> None:
    file, *_ = public(tmp_path)
    state = torch.load(file, weights_only=True)
    MDM(CONFIG).load_state_dict(state)
    assert "clip_model.visual.proj" in state  # the caller's own dictionary is left alone


def test_nested_weights_prefer_the_running_average(tmp_path: Path) -> None:
    nested = {"model": MDM(CONFIG, seed=9).state_dict(), "model_avg": MDM(CONFIG, seed=3).state_dict()}
    assert torch.equal(forward(import_public(*public(tmp_path, nested)).model), forward(MDM(CONFIG, seed=3)))


def test_unexpected_and_missing_tensors_are_named(tmp_path: Path) -> None:
    state = MDM(CONFIG).state_dict()
    state["stray.weight"] = state.pop("embed_text.bias")
    with pytest.raises(CheckpointError, match=r"missing tensors embed_text\.bias; unexpected tensors stray\.weight"):
        import_public(*public(tmp_path, state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 512}, "latent_dim is 512, the checkpoint has 16"),
        ({"arch": "trans_dec"}, "arch is 'trans_dec', expected 'trans_enc': only"),
        ({"noise_schedule": "linear"}, "noise_schedule is 'linear'"),
        ({"diffusion_steps": None}, "diffusion_steps is None, expected a whole number"),
        ({"num_heads": 5}, "multiple of heads 5"),
    ],
)
def test_options_that_do_not_fit_show_both_values(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        import_public(*public(tmp_path, args=ARGS | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "KineMIC"}, "model_type is 'KineMIC', expected 'MDM': two streams of KineMIC are no prior"),
        ({"arch": "gru"}, "arch is 'gru'"),
        ({"dataset": "kit"}, "dataset is 'kit', expected 'humanml'"),
        ({"cond_mode": "action", "num_actions": 12}, "cond_mode is 'action'.*; num_actions is 12"),
        ({"unconstrained": True}, "unconstrained is True"),
        ({"text_encoder_type": "bert"}, "text_encoder_type is 'bert', expected 'clip'"),
        ({"context_len": 20, "pred_len": 40}, "context_len is 20, expected 0: it completes a prefix"),
        ({"multi_target_cond": True}, "multi_target_cond is True"),
        ({"predict_xstart": False}, "predict_xstart is False"),
        ({"peft": ["LoRA"]}, "peft is .*adapters"),
        ({"diffusion_steps": 5001}, "diffusion_steps is 5001, expected a whole number from 2 to 5000"),
        ({"diffusion_steps": True}, "diffusion_steps is True"),
        ({"layers": 8}, "layers is 8, the checkpoint has 2"),
        ({"ff_size": 1024}, "ff_size is 1024, the checkpoint has 24"),
        (
            {"arch": "trans_dec", "text_encoder_type": "bert", "context_len": 20},  # DiP: every reason, in one line
            "arch is 'trans_dec'.*; text_encoder_type is 'bert'.*; context_len is 20",
        ),
    ],
)
def test_a_checkpoint_trained_for_something_else_is_refused_with_each_reason(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(CheckpointError, match=why) as error:
        import_public(*public(tmp_path, args=ARGS | change))
    assert "\n" not in str(error.value)


def test_the_options_are_read_before_the_weights(tmp_path: Path) -> None:
    arguments = public(tmp_path, {"x": Evil()}, ARGS | {"arch": "trans_dec"})
    with pytest.raises(CheckpointError, match="arch is 'trans_dec'"):
        import_public(*arguments)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"streams.target.embed_action.action_embedding": torch.ones(2, 16)}, "KineMIC's own two streams"),
        ({"seqTransDecoder.layers.0.linear1.weight": torch.ones(24, 16)}, r"a transformer decoder \(trans_dec\)"),
        ({"gru.weight_ih_l0": torch.ones(48, 16)}, "got a GRU"),
        ({"embed_action.action_embedding": torch.ones(12, 16)}, "conditioned on actions"),
        ({"embed_text.weight": None}, "its layers or embed_text are missing"),
        ({"input_process.poseEmbedding.weight": torch.ones(16, 251)}, "251 features a frame, expected HumanML3D's 263"),
        ({"embed_text.bias": torch.full((16,), torch.nan)}, "embed_text.bias holds numbers that are not finite"),
        ({"embed_text.bias": torch.ones(16, dtype=torch.int64)}, "embed_text.bias holds torch.int64"),
        ({"embed_text.bias": torch.ones(1).expand(10**9)}, "says to hold 4,0.* bytes of weights, more than the file"),
    ],
)
def test_weights_of_another_kind_are_refused_without_their_options(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], why: str
) -> None:
    state = MDM(CONFIG, seed=3).state_dict() | changes
    arguments = public(tmp_path, {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(CheckpointError, match=why) as error:
        import_public(*arguments)
    assert "\n" not in str(error.value)


def test_names_of_data_parallel_training_are_taken(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in MDM(CONFIG, seed=3).state_dict().items()}
    assert torch.equal(forward(import_public(*public(tmp_path, state)).model), forward(MDM(CONFIG, seed=3)))


@pytest.mark.parametrize(
    ("change", "remark"),
    [({"mask_frames": False}, "trained without mask_frames"), ({"cond_mask_prob": 0.0}, "guidance")],
)
def test_what_is_used_otherwise_than_it_was_trained_is_a_warning(
    tmp_path: Path, change: dict[str, Any], remark: str
) -> None:
    with pytest.warns(UserWarning, match=remark):
        import_public(*public(tmp_path, args=ARGS | change))


def test_an_imported_prior_says_where_its_captions_are_cut_and_older_ones_do_not(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    imported = import_public(*public(tmp_path))
    save_prior(imported, path)
    assert load_prior(path).caption_tokens == read_caption_tokens(path) == imported.caption_tokens == 20
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, tensors, {key: value for key, value in meta.items() if key != "caption_tokens"})
    assert load_prior(path).caption_tokens is None
    save_prior(prior(), path)
    assert load_prior(path).caption_tokens is None


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    save_prior(prior(), path)
    assert load_prior(path, "tfidf-abc", 8).encoder_id == "tfidf-abc"
    with pytest.raises(CheckpointError, match=r"embeddings of 8 numbers, tfidf-abc gives 512"):
        load_prior(path, "tfidf-abc", 512)
    with pytest.raises(CheckpointError, match=r"embeddings of 8 numbers .*, the encoder gives 512"):
        import_public(*public(tmp_path), text_dim=512)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_code_inside_a_pt_file_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="not a file of plain weights") as error:
        import_public(*public(tmp_path, {"x": Evil()}))
    assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.pt", "args.json", "Mean.npy"])
@pytest.mark.parametrize("content", [None, b"", b"garbage " * 9])
def test_missing_and_damaged_files_are_one_line_errors(tmp_path: Path, name: str, content: bytes | None) -> None:
    arguments = public(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        import_public(*arguments)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_statistics_whose_header_is_damaged_are_one_line(tmp_path: Path) -> None:
    arguments = public(tmp_path)
    whole = (tmp_path / "Mean.npy").read_bytes()
    (tmp_path / "Mean.npy").write_bytes(whole.replace(b"'shape': (263,)", b"'shape': (263, "))  # an open bracket
    with pytest.raises(CheckpointError, match=r"Mean\.npy: not a readable") as error:
        import_public(*arguments)
    assert "\n" not in str(error.value)
