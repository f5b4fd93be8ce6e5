"""Adaptation: what is trained, what each loss weight costs, and that it stops and goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinemic import checkpoint
from kinemic.adapt import Adaptation
from kinemic.clips import Batch, ClipSet
from kinemic.config import AdaptConfig, LoraConfig, LossConfig, ModelConfig
from kinemic.errors import CheckpointError, ConfigError, DataError, DivergedError, EmptyPoolError
from kinemic.losses import MAX_LOGIT_SCALE
from kinemic.models.mdm import MDM
from kinemic.prior import Prior

ToyClips = Callable[..., ClipSet]
MODEL = ModelConfig(width=32, layers=1, heads=2, ff=32, text_dim=8)
ADAPT = AdaptConfig(rungs=(4,), batch_size=6, learning_rate=1e-3, diffusion_steps=20, lora=LoraConfig(rank=4, alpha=8))
CLASSES, POOL = 3, 5
EVERY_TERM = LossConfig(window_distill=0.5, bank_size=10)
NOTHING = {"rec": 0, "contrastive": 0, "window_rec": 0, "window_distill": 0}


@pytest.fixture
def start(toy_clips: ToyClips) -> Callable[..., Adaptation]:
    """Return a maker of adaptations of one toy problem; source clips carry the class of the pool that names them."""

    def make(loss: LossConfig = EVERY_TERM, adapt: AdaptConfig = ADAPT, **changes: Any) -> Adaptation:
        model = changes.get("model", MODEL)
        few_shot = toy_clips(9, (16, 32), labels=torch.arange(9) % CLASSES, text_dim=8)
        source = toy_clips(CLASSES * POOL, (18, 40), labels=torch.arange(CLASSES * POOL) // POOL, text_dim=8, seed=1)
        prior = Prior(
            model=MDM(model, seed=changes.get("prior_seed", 7)),
            config=model,
            diffusion_steps=10,
            statistics=source.statistics,
            encoder_id=changes.get("encoder_id", "toy"),
            meta={},
        )
        pools = changes.get("pools", [np.arange(c * POOL, (c + 1) * POOL) for c in range(CLASSES)])
        return Adaptation(prior, changes.get("few_shot", few_shot), source, pools, loss, adapt, changes.get("seed", 3))

    return make


def state(adaptation: Adaptation) -> dict[str, torch.Tensor]:
    bank = {"bank": adaptation.bank.embeddings_ND, "labels": adaptation.bank.labels_N}
    return {k: v.clone() for k, v in (adaptation.streams.state_dict() | bank).items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_training_lowers_the_loss(start: Callable[..., Adaptation]) -> None:
    adaptation = start(adapt=ADAPT.model_copy(update={"learning_rate": 1e-2}))
    first = adaptation.run(5)
    adaptation.run(35)
    last = adaptation.run(40)
    assert last["rec"] < 0.7 * first["rec"]
    assert last["window_rec"] < 0.9 * first["window_rec"]


def test_a_restored_run_continues_bit_for_bit(start: Callable[..., Adaptation], tmp_path: Path) -> None:
    whole = start()
    whole.run(3)
    tail = whole.run(6)
    halted = start()
    halted.run(3)
    halted.save(tmp_path / "at3.safetensors")
    resumed = start()
    resumed.run(1)  # whatever it did before doesn't matter
    resumed.restore(tmp_path / "at3.safetensors")
    assert resumed.step == 3
    assert resumed.run(6) == tail
    assert_same(state(resumed), state(whole))


def test_the_running_mean_of_weights_generates_and_is_resumed(start: Callable[..., Adaptation], tmp_path: Path) -> None:
    averaging = ADAPT.model_copy(update={"average": 0.5})
    plain, whole, resumed = start(), start(adapt=averaging), start(adapt=averaging)
    by_hand = plain.streams.target.embed_action.action_embedding.detach().clone()
    for step in range(1, 4):
        plain.run(step)
        whole.run(step)
        decay = min(0.5, step / (step + 10))
        by_hand.lerp_(plain.streams.target.embed_action.action_embedding.detach(), 1 - decay)
        if step == 2:
            whole.save(tmp_path / "at2.safetensors")
    assert_same(state(whole), state(plain))  # training itself does not see the mean
    torch.testing.assert_close(whole.generator().embed_action.action_embedding, by_hand)
    assert not torch.equal(by_hand, plain.generator().embed_action.action_embedding)
    resumed.restore(tmp_path / "at2.safetensors")
    resumed.run(3)
    assert_same(resumed.generator().state_dict(), whole.generator().state_dict())


def test_another_seed_is_another_run(start: Callable[..., Adaptation]) -> None:
    losses = [start(seed=seed).run(1)["loss"] for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_a_checkpoint_holds_nothing_that_is_frozen(start: Callable[..., Adaptation], tmp_path: Path) -> None:
    adaptation = start()
    adaptation.run(1)
    adaptation.save(tmp_path / "one.safetensors")
    tensors, _ = checkpoint.load(tmp_path / "one.safetensors")
    trained = {name.removeprefix("trained.") for name in tensors if name.startswith("trained.")}
    assert trained == {name for name, p in adaptation.streams.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in tensors} == {"trained", "optimiser", "bank"}


def test_only_adapters_action_embedding_mic_and_temperature_change(start: Callable[..., Adaptation]) -> None:
    adaptation = start()
    before, given = state(adaptation), {k: v.clone() for k, v in adaptation.prior.model.state_dict().items()}
    adaptation.run(2)
    after = state(adaptation)
    changed = {name for name in before if not torch.equal(before[name], after[name])} - {"bank", "labels"}
    expected = {name for name in before if "lora_" in name or "action_embedding" in name or name.startswith("mic.")}
    assert changed == expected | {"logit_scale"}
    assert_same(dict(adaptation.prior.model.state_dict()), given)
    assert all(p.requires_grad for p in adaptation.prior.model.parameters())


@pytest.mark.parametrize(
    ("weights", "weighted", "prior_calls", "mic_calls", "target_clips"),
    [
        ({"rec": 1}, True, 0, 0, 1),
        ({"contrastive": 1}, True, 1, 2, 1),
        ({"rec": 1, "contrastive": 1}, True, 1, 2, 1),
        ({"window_rec": 1}, True, 0, 0, 1),
        ({"window_distill": 1}, True, 1, 0, 1),
        ({"contrastive": 1, "window_rec": 1}, False, 1, 2, 2),
        ({"contrastive": 1, "window_rec": 1}, True, 1, 3, 2),
        ({"rec": 1, "window_rec": 1}, True, 0, 0, 2),
        ({"rec": 1, "contrastive": 1, "window_rec": 1, "window_distill": 1}, True, 1, 3, 2),
    ],
)
def test_a_weight_of_zero_skips_its_work(
    start: Callable[..., Adaptation],
    weights: dict[str, float],
    weighted: bool,
    prior_calls: int,
    mic_calls: int,
    target_clips: int,
) -> None:
    adaptation = start(LossConfig(**{**NOTHING, **weights}, dynamic_window_weighting=weighted))
    rows: dict[str, list[int]] = {"prior": [], "mic": [], "target": []}
    for name, calls in rows.items():
        module = adaptation.streams.get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(len(args[0])))
    means = adaptation.run(1)
    assert (len(rows["prior"]), len(rows["mic"])) == (prior_calls, mic_calls)
    assert rows["target"] == [ADAPT.batch_size * target_clips]
    assert set(means) - {"loss", "gradient_norm", "window_weight"} == set(weights)
    if "contrastive" not in weights:  # nothing else trains MIC
        assert not any(p.requires_grad for p in adaptation.streams.mic.parameters())


def test_the_loss_is_the_weighted_sum_of_its_terms(start: Callable[..., Adaptation]) -> None:
    means = start(LossConfig(rec=2, contrastive=3, window_rec=0.5, dynamic_window_weighting=False)).run(1)
    total = 2 * means["rec"] + 3 * means["contrastive"] + 0.5 * means["window_rec"]
    assert means["loss"] == pytest.approx(total, rel=1e-5)


def test_each_clip_meets_a_source_clip_of_its_own_pool(start: Callable[..., Adaptation]) -> None:
    pairs: list[tuple[Batch, Batch]] = []
    adaptation = start()
    adaptation.streams.register_forward_pre_hook(lambda _, args: pairs.append(args[:2]))
    adaptation.run(4)
    assert all(target.labels_B.tolist() == source.labels_B.tolist() for target, source in pairs)
    assert len({float(x) for _, source in pairs for x in source.x_BTF[:, 0, 0]}) > 8  # of 15, so not always the same


def test_a_window_is_as_long_as_the_shorter_of_its_two_clips(start: Callable[..., Adaptation]) -> None:
    batches: list[tuple[Batch, Batch]] = []
    passed: dict[str, list[torch.Tensor]] = {"target": [], "mic": []}
    adaptation = start()
    adaptation.streams.register_forward_pre_hook(lambda _, args: batches.append(args[:2]))
    adaptation.streams.target.register_forward_pre_hook(lambda _, args: passed["target"].append(args[3]))
    adaptation.streams.mic.register_forward_pre_hook(lambda _, args: passed["mic"].append(args[1]))
    for _ in range(8):
        adaptation.run(adaptation.step + 1)
        target, source = batches[-1]
        expected = torch.minimum(target.lengths_B, source.lengths_B)
        assert torch.equal(passed["target"][-1], torch.cat([target.lengths_B, expected]))
        assert torch.equal(passed["mic"][-1], expected)
    assert any((target.lengths_B > source.lengths_B).any() for target, source in batches)


def test_without_a_trained_mic_windows_lie_anywhere_in_a_source_clip(start: Callable[..., Adaptation]) -> None:
    cuts: list[tuple[torch.Tensor, torch.Tensor]] = []
    adaptation = start(LossConfig(**{**NOTHING, "window_rec": 1}), ADAPT.model_copy(update={"batch_size": 200}))
    see = adaptation.streams.see_anywhere

    def seen(source: Batch, *rest: torch.Tensor) -> Any:
        context = see(source, *rest)
        cuts.append((context.starts_B, source.lengths_B - context.lengths_B))
        assert torch.equal(context.lengths_B, torch.minimum(source.lengths_B, rest[0]))
        return context

    adaptation.streams.see_anywhere = seen
    adaptation.run(1)
    starts, most = cuts[0]
    room = most >= 8
    assert ((starts >= 0) & (starts <= most)).all()
    share = starts[room] / most[room]
    assert share.min() == 0
    assert share.max() == 1
    assert share.mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warm_up": 0.5}, [0.5, 1, 1, 1]),
        ({"schedule": "cosine"}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ({"schedule": "cosine", "warm_up": 0.5}, [0.5, 1, 1, 0.5]),
    ],
    ids=str,
)
def test_the_rate_of_every_step(start: Callable[..., Adaptation], changes: dict[str, Any], rates: list[float]) -> None:
    adaptation, seen = start(adapt=ADAPT.model_copy(update={"learning_rate": 0.01, **changes})), []
    adaptation._optimiser.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    adaptation.run(4)
    assert seen == pytest.approx([0.01 * rate for rate in rates])


def test_runs_share_their_steps_unless_the_rate_follows_the_last_rung(
    start: Callable[..., Adaptation], tmp_path: Path
) -> None:
    cosine = ADAPT.model_copy(update={"schedule": "cosine"})
    for adapt, shared in ((ADAPT, True), (cosine, False)):
        shorter, longer = (start(adapt=adapt.model_copy(update={"rungs": rungs})) for rungs in ((4,), (4, 8)))
        shorter.save(tmp_path / "start.safetensors")
        if shared:
            longer.restore(tmp_path / "start.safetensors")
        else:
            with pytest.raises(CheckpointError, match="budget"):
                longer.restore(tmp_path / "start.safetensors")


def test_actions_start_drawn_or_at_zero_or_at_what_sets_their_captions_apart(start: Callable[..., Adaptation]) -> None:
    embeddings = {}
    for action_start in ("normal", "zero", "text"):
        adaptation = start(adapt=ADAPT.model_copy(update={"action_start": action_start}))
        embeddings[action_start] = adaptation.streams.target.embed_action.action_embedding.detach().clone()
        adaptation.run(1)
        assert not torch.equal(adaptation.streams.target.embed_action.action_embedding, embeddings[action_start])
    drawn, zero, text = embeddings.values()
    assert drawn.std() == pytest.approx(1, abs=0.2)
    assert not zero.any()
    few_shot, project = adaptation.few_shot, adaptation.prior.model.embed_text
    projected = torch.stack([project(few_shot.text_of(c)).mean(0) for c in range(CLASSES)]).detach()
    torch.testing.assert_close(text, projected - projected.mean(0))


def test_a_class_without_source_clips_is_left_as_it_starts(
    start: Callable[..., Adaptation], toy_clips: ToyClips
) -> None:
    few_shot = toy_clips(6, (16, 32), labels=torch.arange(6) % 2, text_dim=8)
    pools = [np.arange(POOL), np.arange(POOL, 2 * POOL), np.arange(0)]
    adaptation = start(few_shot=few_shot, pools=pools, adapt=ADAPT.model_copy(update={"action_start": "zero"}))
    adaptation.run(2)
    actions = adaptation.generator().embed_action.action_embedding
    assert [bool(row.any()) for row in actions] == [True, True, False]
    with pytest.raises(EmptyPoolError, match="no class has source clips"):
        start(few_shot=toy_clips(0, (16, 32), labels=torch.arange(0), text_dim=8), pools=[np.arange(0)] * CLASSES)


def test_conditions_are_dropped_apart_for_clips_and_windows(start: Callable[..., Adaptation]) -> None:
    drops: list[torch.Tensor] = []
    adaptation = start(adapt=ADAPT.model_copy(update={"condition_dropout": 0.5}))
    adaptation.streams.target.register_forward_pre_hook(lambda _, args: drops.append(args[5]))
    adaptation.run(4)
    clips, windows = torch.stack(drops).chunk(2, dim=1)
    assert 0 < clips.float().mean() < 1
    assert not torch.equal(clips, windows)


def test_a_batch_larger_than_the_few_shots_repeats_them(start: Callable[..., Adaptation]) -> None:
    seen: list[Batch] = []
    adaptation = start(adapt=ADAPT.model_copy(update={"batch_size": 20}))
    adaptation.streams.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    adaptation.run(1)
    counts = np.unique([float(x) for x in seen[0].x_BTF[:, 0, 0]], return_counts=True)[1]
    assert sorted(counts) == [2] * 7 + [3] * 2  # 9 clips, 20 places


def test_the_temperature_stays_clamped(start: Callable[..., Adaptation]) -> None:
    low = start(LossConfig(temperature=1e-4))
    assert low.streams.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)
    high = start(LossConfig(temperature=5.0), ADAPT.model_copy(update={"learning_rate": 0.1}))
    high.run(2)
    assert high.streams.logit_scale.item() >= 0


def test_the_generator_is_a_plain_model_with_the_adapters_merged(start: Callable[..., Adaptation]) -> None:
    adaptation = start()
    adaptation.run(2)
    generator = adaptation.generator()
    plain = MDM(MODEL, actions=CLASSES)
    plain.load_state_dict(generator.state_dict())
    plain.eval()
    x, t, text = torch.randn(2, 12, 263), torch.tensor([3, 9]), torch.randn(2, 8)
    arguments = (x, t, text, torch.tensor([12, 8]), torch.tensor([0, 2]))
    adaptation.streams.target.eval()
    torch.testing.assert_close(plain(*arguments)[0], adaptation.streams.target(*arguments)[0], atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_not_finite_names_its_term_and_step(
    start: Callable[..., Adaptation], toy_clips: ToyClips
) -> None:
    poisoned = toy_clips(9, (16, 32), labels=torch.arange(9) % CLASSES, text_dim=8)
    poisoned.features[:] = torch.inf
    with pytest.raises(DivergedError, match=r"rec became (nan|inf) at step 1"):
        start(few_shot=poisoned).run(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": MODEL.model_copy(update={"width": 16})}, "16"),
        ({"encoder_id": "other"}, "other"),
        ({"prior_seed": 8}, "prior"),
        ({"loss": LossConfig()}, "window_distill"),
        ({"seed": 4}, "seed"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    start: Callable[..., Adaptation], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    start().save(tmp_path / "start.safetensors")
    other = start(**changes)
    before = state(other)
    with pytest.raises(CheckpointError, match=message):
        other.restore(tmp_path / "start.safetensors")
    assert_same(state(other), before)


def test_pools_must_name_source_clips_for_every_class(start: Callable[..., Adaptation]) -> None:
    pools = [np.arange(3)] * CLASSES
    with pytest.raises(DataError, match="2 pools for 3 classes"):
        start(pools=pools[:2])
    with pytest.raises(EmptyPoolError, match="pool of class 1 is empty"):
        start(pools=[pools[0], np.arange(0), pools[2]])
    with pytest.raises(DataError, match="outside the 15"):
        start(pools=[*pools[:2], np.array([15])])


def test_without_mining_no_pools_are_needed(start: Callable[..., Adaptation]) -> None:
    assert start(LossConfig(**{**NOTHING, "rec": 1}), pools=[]).run(1)["rec"] > 0


def test_nothing_to_learn_is_an_error(start: Callable[..., Adaptation]) -> None:
    with pytest.raises(ConfigError, match="every loss weight is 0"):
        start(LossConfig(**NOTHING))


def test_bf16_gives_nearly_the_same_first_loss(start: Callable[..., Adaptation]) -> None:
    exact = start().run(1)
    rounded = start(adapt=ADAPT.model_copy(update={"precision": "bf16"})).run(1)
    assert rounded != exact
    assert rounded["rec"] == pytest.approx(exact["rec"], rel=0.02)
