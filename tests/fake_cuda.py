"""A pretended CUDA device for machines without one: torch's FakeTensorMode, with the CPU as it is.

Tensors on it have shape, type and device, but no values. Every operation on them is refused as CUDA would refuse it:
an operand, an index or a generator that lies elsewhere, a value that is read without ``to_host``.

What is replaced, and nothing else:

* ``kinemic.device.generator``: a generator of CUDA needs the driver. It is one of the CPU that is taken for it.
* ``kinemic.device.to_host``: there is no value to copy. It gives ones, and counts how often it is asked.
* ``Tensor.backward``: autograd's engine asks the driver for streams. The same nodes are called in the same order here.
* ``torch.utils.swap_tensors``, by which torch moves a fake parameter, and fails: one that is on CUDA stays as it is.
* two answers of torch for autocast, whether CUDA is there and whether it has bf16.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from kinemic import device as seam
from tests.conftest import NO_CUDA_BUILT

CUDA = torch.device("cuda:0")
aten = torch.ops.aten


class FakeCuda(FakeTensorMode):
    """FakeTensorMode for what touches CUDA; what lies on the CPU alone is worked out for real.

    ``host_copies`` counts what ``to_host`` was asked for, ``operations`` names what ran on CUDA.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.host_copies = 0
        self.operations: set[str] = set()
        self._generators: dict[int, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_cuda = any(isinstance(leaf, FakeTensor) or _names_cuda(leaf) for leaf in leaves)
        for generator in (leaf for leaf in leaves if isinstance(leaf, torch.Generator)):
            assert (generator._cdata in self._generators) == on_cuda, f"{func}: a generator of another device"
        if not on_cuda:
            return func(*args, **kwargs)
        _check(func, args, kwargs.get("device"))
        self.operations.add(func.overloadpacket.__name__)
        args, kwargs = tree_map(lambda leaf: self.from_tensor(leaf) if _is_real(leaf) else leaf, (args, kwargs))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def generator(self, device: torch.device | str, seed: int = 0) -> torch.Generator:
        """Return a generator that this mode takes for one of the device."""
        made = torch.Generator().manual_seed(seed)
        if torch.device(device).type == "cuda":
            self._generators[made._cdata] = made
        return made

    def to_host(self, tensor: Tensor) -> Tensor:
        """Return ones in the place of values that are not there; what lies on the CPU is given as it is."""
        if not isinstance(tensor, FakeTensor):
            return tensor.detach()
        self.host_copies += 1
        return torch.ones(tensor.shape, dtype=tensor.dtype)


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)


def _names_cuda(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) and leaf.type == "cuda"


def _check(func: Any, args: Any, to: torch.device | None) -> None:
    """Refuse what FakeTensorMode lets pass and CUDA does not."""
    name = func.overloadpacket.__name__
    if name == "_to_copy":
        assert to is None or to.type == "cuda" or not isinstance(args[0], FakeTensor), (
            "a copy to the host beside to_host"
        )
    elif name == "copy_":
        assert isinstance(args[0], FakeTensor), "a copy to the host beside to_host"
    elif name.startswith("index") and not isinstance(args[0], FakeTensor):
        raise AssertionError(f"{func}: a tensor on the CPU is indexed by one on CUDA")


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Let ``cuda:0`` be there inside the block."""
    if not torch.backends.cuda.is_built():
        pytest.skip(f"{NO_CUDA_BUILT}, and refuses to index even its fake tensors")
    mode = FakeCuda()
    replaced: dict[str, Callable[..., Any]] = {"generator": mode.generator, "to_host": mode.to_host}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Accessing the data pointer of FakeTensor"
        )  # torch's own deepcopy asks for it
        for name, stand_in in replaced.items():
            original = getattr(seam, name)
            for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == "kinemic"]:
                if vars(module).get(name) is original:
                    patch.setattr(module, name, stand_in)
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(torch.utils, "swap_tensors", _stay)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        with mode:
            yield mode


def _stay(there: Tensor, wanted: Tensor) -> None:
    assert there.device == wanted.device, "a module that is on CUDA moves away"


_engine = Tensor.backward


def _backward(loss: Tensor) -> None:
    (walk_back if isinstance(loss, FakeTensor) else _engine)(loss)


def walk_back(loss: Tensor) -> None:
    """Call the nodes of a graph, the youngest first, and add up the gradients of the leaves."""
    order = itertools.count()  # nodes can't be compared
    queue: list[tuple[int, int, Any]] = []
    gradients: dict[Any, list[Tensor | None]] = {}

    def give(node: Any, place: int, gradient: Tensor) -> None:
        gradient = _valid(gradient, node._input_metadata[place])
        if hasattr(node, "variable"):  # a leaf
            leaf = node.variable
            leaf.grad = gradient.detach().clone() if leaf.grad is None else leaf.grad + gradient
            return
        if node not in gradients:
            gradients[node] = [None] * len(node._input_metadata)
            heapq.heappush(queue, (-node._sequence_nr(), next(order), node))
        there = gradients[node][place]
        gradients[node][place] = gradient if there is None else there + gradient

    with torch.no_grad():
        give(loss.grad_fn, 0, torch.ones_like(loss))
        while queue:
            node = heapq.heappop(queue)[2]
            for (target, place), gradient in _called(node, gradients.pop(node)):
                if target is not None and gradient is not None:
                    give(target, place, gradient)


def _called(node: Any, gradients: list[Tensor | None]) -> Iterator[tuple[tuple[Any, int], Tensor | None]]:
    """Pair a node's targets with its gradients of them."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        found = node(*gradients)
        return zip(node.next_functions, found if isinstance(found, tuple) else (found,), strict=True)
    # A function in Python: its gradients are one an argument, its targets one a tensor among these.
    found = node.apply(*gradients)
    wanted = [gradient for gradient, needed in zip(found, node.needs_input_grad, strict=True) if needed]
    return zip([target for target in node.next_functions if target[0] is not None], wanted, strict=True)


def _valid(gradient: Tensor, wanted: Any) -> Tensor:
    """Check a gradient as the engine does: it lies where its tensor lies, in its shape and type."""
    assert gradient.device == wanted.device, f"a gradient on {gradient.device} of a tensor on {wanted.device}"
    return gradient.sum_to_size(tuple(wanted.shape)).to(wanted.dtype)
