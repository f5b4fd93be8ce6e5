"""The motion diffusion model and its adapters, by invariants that need no golden numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kinemic.config import LoraConfig, ModelConfig
from kinemic.models.dropout import Dropout, DropoutSource, dropout_source
from kinemic.models.lora import LoraLinear, LoraSelfAttention, add_lora, lora_parameters, merge
from kinemic.models.mdm import MDM
from kinemic.skeleton import NUM_FEATURES

SMALL = ModelConfig(width=16, layers=2, heads=2, ff=24, dropout=0.1, text_dim=8)
T, B = 7, 3


def batch(actions: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    given = {
        "x_BTF": torch.randn(B, T, NUM_FEATURES, generator=generator),
        "t_B": torch.tensor([0, 4, 49]),
        "text_BE": torch.randn(B, SMALL.text_dim, generator=generator),
        "lengths_B": torch.tensor([7, 4, 1]),
    }
    return given | ({"action_B": torch.tensor([1, 0, 1])} if actions else {})


def with_adapters(rank: int = 2, dropout: float = 0.0, zero: bool = False) -> MDM:
    model = add_lora(MDM(SMALL, 2).eval(), LoraConfig(rank=rank, dropout=dropout), torch.Generator().manual_seed(1))
    if not zero:
        generator = torch.Generator().manual_seed(2)
        for name, parameter in lora_parameters(model).items():
            if name.endswith("_B"):
                nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def linear() -> nn.Linear:
    layer = nn.Linear(6, 5)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    return layer


def test_padded_frames_do_not_influence_valid_ones() -> None:
    model, given = MDM(SMALL).eval(), batch()
    other = {**given, "x_BTF": given["x_BTF"].clone()}
    for row, length in enumerate(given["lengths_B"].tolist()):
        other["x_BTF"][row, length:] = 1e3
    (a, latent_a), (b, latent_b) = model(**given), model(**other)
    for row, length in enumerate(given["lengths_B"].tolist()):
        torch.testing.assert_close(a[row, :length], b[row, :length])
        torch.testing.assert_close(latent_a[row, :length], latent_b[row, :length])


def test_a_clip_means_the_same_alone_and_in_a_padded_batch() -> None:
    model, given = MDM(SMALL).eval(), batch()
    together, _ = model(**given)
    length = int(given["lengths_B"][1])
    alone, _ = model(given["x_BTF"][1:2, :length], given["t_B"][1:2], given["text_BE"][1:2])
    torch.testing.assert_close(together[1:2, :length], alone)


def test_a_dropped_condition_hides_text_and_action_but_not_the_time() -> None:
    model, given = MDM(SMALL, 2).eval(), batch(actions=True)
    other = {**given, "text_BE": given["text_BE"] + 1, "action_B": 1 - given["action_B"]}
    drop_B = torch.tensor([True, False, True])
    a, b = model(**given, drop_B=drop_B)[0], model(**other, drop_B=drop_B)[0]
    assert [torch.equal(x, y) for x, y in zip(a, b, strict=True)] == [True, False, True]
    later = model(**{**given, "t_B": given["t_B"] + 1}, drop_B=drop_B)[0]
    assert not torch.allclose(a[0], later[0])


def test_an_action_is_required_exactly_where_the_model_has_actions() -> None:
    with pytest.raises(ValueError, match="takes an action a clip"):
        MDM(SMALL, 2)(**batch())
    with pytest.raises(ValueError, match="takes no action"):
        MDM(SMALL)(**batch(actions=True))


def test_with_actions_adds_embeddings_and_leaves_the_weights_alone() -> None:
    prior = MDM(SMALL)
    target = prior.with_actions(3, seed=4)
    extra = target.state_dict().keys() - prior.state_dict().keys()
    assert extra == {"embed_action.action_embedding"}
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in prior.state_dict().items())
    assert target.input_process.poseEmbedding.weight is not prior.input_process.poseEmbedding.weight
    assert prior.embed_action is None


def test_building_a_model_uses_its_seed_and_not_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    a, b, c = MDM(SMALL, seed=1), MDM(SMALL, seed=1), MDM(SMALL, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed_text.weight, c.embed_text.weight)


def test_training_and_evaluation_agree_where_nothing_is_dropped() -> None:
    model, given = MDM(SMALL.model_copy(update={"dropout": 0.0})), batch()
    torch.testing.assert_close(model.train()(**given)[0], model.eval()(**given)[0])


def test_attention_with_dropout_has_the_plain_attention_as_its_mean() -> None:
    model = MDM(SMALL.model_copy(update={"dropout": 0.2}))
    attention = model.layers[0].self_attn
    x_BSD = torch.randn(2, 5, SMALL.width, generator=torch.Generator().manual_seed(0))
    bias_B11S = torch.zeros(2, 1, 1, 5)
    bias_B11S[1, ..., 3:] = -torch.inf
    with torch.no_grad():
        mean = torch.stack([attention.train()(x_BSD, bias_B11S) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(mean, attention.eval()(x_BSD, bias_B11S), atol=0.03, rtol=0)


# --- LoRA ---------------------------------------------------------------------------------------------------------


def test_fresh_adapters_change_nothing() -> None:
    plain, given = MDM(SMALL, 2).eval(), batch(actions=True)
    torch.testing.assert_close(with_adapters(zero=True)(**given)[0], plain(**given)[0])


@pytest.mark.parametrize("rank", [1, 16])  # either order of products in the backward pass
def test_adapter_gradients_are_those_of_the_merged_weights(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = linear()
    layer = LoraLinear(base, LoraConfig(rank=rank, dropout=0), DropoutSource(), generator)
    nn.init.normal_(layer.lora_B, generator=generator)
    x = torch.randn(4, 3, 6, generator=generator, requires_grad=True)
    wanted = [x, layer.lora_A, layer.lora_B]
    written = (x @ (base.weight + layer.scale * layer.lora_B @ layer.lora_A).t() + base.bias).sin().sum()
    expected = torch.autograd.grad(written, wanted)
    actual = torch.autograd.grad(layer(x).sin().sum(), wanted)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [2, 16])
def test_stacked_projections_have_the_gradients_of_their_merged_weights(rank: int) -> None:
    attention = with_adapters(rank).layers[0].self_attn
    assert isinstance(attention, LoraSelfAttention)
    a, b = attention.lora_pairs()
    x_BSD = torch.randn(2, 5, SMALL.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = [x_BSD, *(getattr(attention, f"{name}_lora_{side}") for name in "qkv" for side in "AB")]
    merged = attention.in_proj_weight + attention.scale * (b @ a).flatten(0, 1)
    expected = torch.autograd.grad((x_BSD @ merged.t() + attention.in_proj_bias).sin().sum(), wanted)
    actual = torch.autograd.grad(attention.project_in(x_BSD).sin().sum(), wanted)
    for got, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)


def test_lora_dropout_touches_the_adapter_only_and_has_the_right_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = LoraLinear(linear(), LoraConfig(rank=2, alpha=2, dropout=0.5), DropoutSource(), generator)
    x = torch.randn(3, 6, generator=generator)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer.train()(x), plain)  # B is still 0
    nn.init.normal_(layer.lora_B, generator=generator)
    with torch.no_grad():
        samples = torch.stack([layer.train()(x) for _ in range(6000)])
        assert not torch.equal(samples[0], samples[1])
        torch.testing.assert_close(samples.mean(0), layer.eval()(x), atol=0.05, rtol=0)


def test_merged_model_is_plain_and_equal_and_merging_never_drifts() -> None:
    model, given = with_adapters(), batch(actions=True)
    before = copy.deepcopy(model.state_dict())
    merged = merge(model)
    assert set(merged.state_dict()) == set(MDM(SMALL, 2).state_dict())
    torch.testing.assert_close(merged(**given)[0], model(**given)[0])
    for _ in range(3):
        model.train()(**given)
        model.eval()(**given)
        merge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_training_step_moves_adapters_and_action_embedding_and_nothing_else() -> None:
    model, given = with_adapters(dropout=0.1).train(), batch(actions=True)
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW(lora_parameters(model).values(), lr=0.01)
    model(**given)[0].square().mean().backward()
    optimiser.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(lora_parameters(model))


def test_adapters_cannot_be_added_twice() -> None:
    with pytest.raises(ValueError, match="already has adapters"):
        add_lora(with_adapters(), LoraConfig(), torch.Generator())


def test_adapters_are_drawn_from_the_generator_within_the_kaiming_bound() -> None:
    a, b = with_adapters(zero=True), with_adapters(zero=True)
    for (name, x), y in zip(lora_parameters(a).items(), lora_parameters(b).values(), strict=True):
        assert torch.equal(x, y)
        if name.endswith("_A"):
            bound = x.shape[1] ** -0.5
            assert 0.7 * bound < x.abs().max() <= bound


# --- dropout ------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_expected_share_and_the_mean() -> None:
    dropout = Dropout(0.1, DropoutSource(3)).train()
    out = dropout(torch.ones(400, 500))
    kept = out > 0
    assert abs(kept.float().mean().item() - 230 / 256) < 0.003
    torch.testing.assert_close(out[kept], torch.full((int(kept.sum()),), 256 / 230))


def test_dropout_backward_uses_the_forward_mask_and_passes_the_residual_through() -> None:
    dropout = Dropout(0.3, DropoutSource(3)).train()
    x, residual = torch.ones(50, 7, requires_grad=True), torch.full((50, 7), 0.5, requires_grad=True)
    out = dropout(x, residual)
    out.backward(torch.full_like(out, 2.0))
    assert x.grad is not None
    assert residual.grad is not None
    torch.testing.assert_close(x.grad, 2 * (out - residual).detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(residual.grad, torch.full_like(residual, 2.0))


def test_dropout_is_off_in_evaluation_and_at_probability_0() -> None:
    x = torch.arange(16.0).view(4, 4)
    assert Dropout(0.5, DropoutSource()).eval()(x) is x
    assert Dropout(0.0, DropoutSource()).train()(x) is x
    assert torch.equal(Dropout(0.5, DropoutSource()).eval()(x, x), x + x)


def test_a_run_that_seeks_its_step_repeats_the_unbroken_run() -> None:
    def run(model: MDM, steps: range) -> list[Tensor]:
        outputs = []
        for step in steps:
            dropout_source(model).seek(9, step)
            outputs.append(model.train()(**batch())[0].detach())
        return outputs

    whole, resumed = run(MDM(SMALL), range(4)), run(MDM(SMALL), range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    assert not torch.equal(whole[2], whole[3])


def test_a_copied_model_draws_from_its_own_source() -> None:
    model = MDM(SMALL)
    twin = copy.deepcopy(model)
    assert dropout_source(twin) is twin.dropout_source
    assert dropout_source(twin) is not dropout_source(model)
    assert twin.layers[1].dropout.source is twin.dropout_source


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapted_model_trains_in_bf16_under_autocast(dropout: float) -> None:
    model, given = with_adapters(rank=16, dropout=dropout), batch(actions=True)  # s = 2, as published
    reference = model.eval()(**given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.eval()(**given)[0].float()
        assert 0 < (rough - reference).norm() / reference.norm() < 0.03
        loss = model.train()(**given)[0].float().square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in lora_parameters(model).items()}
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in gradients.values())
