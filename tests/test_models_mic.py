"""MIC: masking, and its own GRU scan against torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kinemic.models.mic import MIC, gru_scan

D = 6
LENGTHS_B = torch.tensor([5, 9, 1])


def latents() -> Tensor:
    return torch.randn(3, 9, D, generator=torch.Generator().manual_seed(1))


def test_attention_sums_to_1_over_valid_frames_and_is_0_beyond() -> None:
    z_BD, attention_BT = MIC(D)(latents(), LENGTHS_B)
    assert z_BD.shape == (3, D)
    torch.testing.assert_close(attention_BT.sum(1), torch.ones(3))
    beyond = torch.arange(9) >= LENGTHS_B[:, None]
    assert not attention_BT[beyond].any()
    assert (attention_BT[~beyond] > 0).all()


def test_padded_frames_influence_nothing_and_get_no_gradient() -> None:
    mic, clean = MIC(D), latents()
    beyond = torch.arange(9) >= LENGTHS_B[:, None]
    dirty = clean.masked_fill(beyond[..., None], 1e3).requires_grad_()
    for a, b in zip(mic(clean, LENGTHS_B), mic(dirty, LENGTHS_B), strict=True):
        torch.testing.assert_close(a, b)
    mic(dirty, LENGTHS_B)[0].sum().backward()
    assert dirty.grad is not None
    assert not dirty.grad[beyond].any()
    assert dirty.grad[~beyond].any()


def test_states_and_gradients_are_those_of_torch_on_packed_sequences() -> None:
    mic = MIC(D).double()
    parameters = {name: p for name, p in mic.named_parameters() if name.startswith("gru") or name == "hidden"}
    x_BTD = latents().double().requires_grad_()
    packed = pack_padded_sequence(x_BTD, LENGTHS_B, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(mic.gru(packed, mic.hidden.expand(2, 3, D).contiguous())[0])
    expected = expected.transpose(0, 1)
    valid = (torch.arange(9) < LENGTHS_B[:, None])[..., None]
    actual = mic._bigru(x_BTD, LENGTHS_B) * valid
    torch.testing.assert_close(actual, expected)
    wanted = [x_BTD, *parameters.values()]
    for a, e in zip(
        torch.autograd.grad(actual.sin().sum(), wanted), torch.autograd.grad(expected.sin().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(a, e)


def test_the_written_backward_of_the_scan_is_the_derivative() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 3, 6), (2, 6, 2), (2, 6), (2, 3, 2)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(gru_scan, inputs)


def test_initial_weights_come_from_the_seed() -> None:
    assert torch.equal(MIC(D, seed=3).hidden, MIC(D, seed=3).hidden)
    assert not torch.equal(MIC(D, seed=3).hidden, MIC(D, seed=4).hidden)
    assert not MIC(D).input_emb.bias.any()
