"""Earmark's kernels as torch ops, which ``torch.compile`` keeps as they are.

``torch.ops.earmark.pwl_softmax`` and ``torch.ops.earmark.network`` run on CPU and CUDA tensors and
have fake kernels. Both are for inference: no gradients. ``PiecewiseLinearSoftmax`` and quantized
networks call them; nobody else needs to.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from earmark import _C, devices

__all__ = ["Network", "network", "pwl_softmax", "register_network", "softmax_runs_on"]

_TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def softmax_runs_on(x: Tensor) -> bool:
    """Whether ``pwl_softmax`` takes the tensor."""
    if x.dtype not in _TYPES or x.ndim == 0:
        return False
    return x.device.type == "cpu" or (x.device.type == "cuda" and devices.has_cuda())


@torch.library.custom_op("earmark::pwl_softmax", mutates_args=(), device_types="cpu")
def pwl_softmax(
    x: Tensor, dim: int, breakpoints: Tensor, slopes: Tensor, intercepts: Tensor, bounds: Tensor
) -> Tensor:
    """``f(x) / sum of f(x)`` over ``dim``, f piecewise-linear between two bounds.

    x: float32, float16 or bfloat16, computed in float32; -inf weighs 0. breakpoints (n - 1,),
    rising, slopes and intercepts (n,), bounds (2,): on the device of ``x``.
    """
    rows = x.movedim(dim, -1).to(torch.float32, memory_format=torch.contiguous_format)
    rows = rows.contiguous()
    out = torch.empty_like(rows)
    if rows.numel() != 0:
        low, high = bounds.tolist()
        _C.pwl_softmax_f32(
            rows.numpy(),
            out.numpy(),
            breakpoints=breakpoints.numpy(),
            slopes=slopes.numpy(),
            intercepts=intercepts.numpy(),
            low=low,
            high=high,
        )
    return out.movedim(-1, dim).to(x.dtype).contiguous()


@pwl_softmax.register_kernel("cuda")
def _pwl_softmax_cuda(
    x: Tensor, dim: int, breakpoints: Tensor, slopes: Tensor, intercepts: Tensor, bounds: Tensor
) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    function = [t.float().contiguous() for t in (breakpoints, slopes, intercepts, bounds)]
    dim %= x.ndim
    devices.pwl_softmax(
        [t.data_ptr() for t in (x, out, *function)],
        dtype=_TYPES[x.dtype],
        sizes=(math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])),
        pieces=len(slopes),
        ordinal=x.device.index,
        stream=devices.stream_of(x),
    )
    return out


@pwl_softmax.register_fake
def _pwl_softmax_fake(x: Tensor, dim: int, *function: Tensor) -> Tensor:
    return x.new_empty(x.shape)


class Network(Protocol):
    """A quantized network, as the op sees it."""

    outputs: int

    def rows(self, features: Tensor, lengths: Tensor | None) -> Tensor: ...


_NETWORKS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def register_network(module: Network) -> int:
    """A number that ``network`` knows the module by, for as long as there is such a module."""
    number = next(_numbers)
    _NETWORKS[number] = module
    return number


# The engine lays out memory and launches graphs of its own: nothing for a graph around it.
_TAGS: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)


@torch.library.custom_op("earmark::network", mutates_args=(), **_TAGS)
def network(features: Tensor, lengths: Tensor | None, number: int) -> Tensor:
    """Outputs (batch, outputs) of features (batch, time, n_features), on the features' device.

    lengths: relative, (batch,), or None for whole items. number: of the network, from
    ``register_network``; ValueError for one that is no more.
    """
    module: Network | None = _NETWORKS.get(number)
    if module is None:
        raise ValueError(f"the network {number} is no more")
    return module.rows(features, lengths)


@network.register_fake
def _network_fake(features: Tensor, lengths: Tensor | None, number: int) -> Tensor:
    outputs: int = _NETWORKS[number].outputs
    return features.new_empty((features.shape[0], outputs), dtype=torch.float32)
