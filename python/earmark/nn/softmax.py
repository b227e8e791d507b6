"""Softmax layers without an exponential: piecewise-linear, and a table with interpolation.

Both are compared in "On-device speaker recognition through piecewise-linear approximation" (P2);
coefficients that are learnt with the network are its future work.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from earmark import _C
from earmark.nn.ops import pwl_softmax, softmax_runs_on
from earmark.nn.piecewise import PiecewiseLinear, check_range, fit_exp

__all__ = [
    "ApproximateSoftmax",
    "LookupTableSoftmax",
    "PiecewiseLinearSoftmax",
    "softmax_of_shape",
]


class ApproximateSoftmax(nn.Module, ABC):
    """``f(x) / sum of f(x)`` over ``dim`` for a positive function f near to a multiple of exp.

    No maximum is taken off first, so that, unlike a softmax, it is not the same for logits that are
    shifted together. ``fits`` says whether ``fit`` may change f.
    """

    fits = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of the logits ``x``, in their shape and dtype; float16 is computed in float32.

        Logits of -inf, and those where ``mask`` (broadcast to ``x``) is 0 or False, have weight 0;
        where no others are, all weights are 0. A large negative number is no mask: its weight is
        that of the smallest logits. Raises ValueError for integers.
        """
        if not x.is_floating_point():
            raise ValueError(f"logits must be floating point, got {x.dtype}")
        if mask is None and self._suits_kernel(x):
            out = torch.empty_like(x)
            self.run_kernel(x.numpy(), out.numpy())
            return out
        if mask is None and self._suits_op(x):
            return self.run_op(x)
        left_out = x == -math.inf
        if mask is not None:
            left_out = left_out | (mask == 0)
        # Filled first as well: 0 times Inf would make the gradients NaN.
        logits = x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(left_out, 0.0)
        numerators = self.numerators(logits).masked_fill(left_out, 0.0)
        total = numerators.sum(self.dim, keepdim=True)
        weights = numerators / total.masked_fill(total == 0, 1.0)
        # As torch's softmax does under autocast on GPUs.
        return weights if torch.is_autocast_enabled(x.device.type) else weights.to(x.dtype)

    @abstractmethod
    def numerators(self, x: Tensor) -> Tensor:
        """f of finite logits, float32 or float64, of the shape of ``x``."""

    @abstractmethod
    def run_kernel(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write the weights over the last axis of ``x`` to ``out``, on the calling thread."""

    def run_op(self, x: Tensor) -> Tensor:
        """The weights by the torch op, for layers that ``_suits_op`` says have one."""
        raise NotImplementedError

    def _suits_op(self, x: Tensor) -> bool:
        """Whether a torch op may do it: inference that is compiled, or on a GPU."""
        return False

    def _suits_kernel(self, x: Tensor) -> bool:
        """Whether the compiled kernel may do it: inference over contiguous float32 on the CPU."""
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            # A trace would keep the result as a constant.
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and type(x) is Tensor
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.ndim > 0
            and self.dim in (-1, x.ndim - 1)
            and x.is_contiguous()
        )

    @abstractmethod
    def fit(self, range: tuple[float, float], density: ArrayLike | None = None) -> None:
        """Make f near to exp on another range, in place.

        ``density`` (k,) is how much the logits in each of k equal parts of it count, where the
        method asks. Raises ValueError as the constructor does.
        """

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError for numbers, loaded from somewhere, that make no positive function."""


class PiecewiseLinearSoftmax(ApproximateSoftmax):
    """Softmax with ``max(pwl(x), low)`` in the place of exp, pwl continuous and of ``segments``
    linear pieces: the variants 1, 2 and 3 of P2 have 0 (``max(x, low)``), 1 and 2.

    The function is fitted to exp over logits in ``range``, by default of a variance near 1
    (``fit_exp`` knows the methods), or it is ``function``, with as many segments as that has, and
    stays as given. If ``learnable``, its numbers are parameters, else buffers, of the same names:
    ``slopes`` (n,), ``breakpoints`` (n - 1,), ``intercept`` of the first piece and ``log_low``,
    and ``log_high`` with an upper bound; of 0 segments only ``log_low``.

    For all values of these the function is continuous and its bounds are positive: it is computed
    as ``intercept + slopes[0] * x + sum of (slopes[i] - slopes[i - 1]) * relu(x - breakpoints[i -
    1])``, between bounds. That holds for breakpoints that pass each other in training too;
    ``function()`` sorts them. Raises ValueError as ``fit_exp`` does, and for a lower bound that
    float32 cannot hold.

    >>> layer = PiecewiseLinearSoftmax(dim=-1, segments=2)
    >>> weights = layer(torch.tensor([0.0, 1.0, 2.0]))
    >>> bool(weights.argmax() == 2), round(float(weights.sum()), 4)
    (True, 1.0)
    """

    slopes: Tensor | None
    breakpoints: Tensor | None
    intercept: Tensor | None
    log_low: Tensor
    log_high: Tensor | None

    def __init__(
        self,
        dim: int = -1,
        segments: int = 2,
        *,
        function: PiecewiseLinear | None = None,
        range: tuple[float, float] = (-2.0, 2.0),
        method: str = "least_squares",
        learnable: bool = False,
    ) -> None:
        super().__init__(dim)
        self.method = method
        self.learnable = learnable
        self.fits = function is None
        clip_only = function is None and segments == 0
        if function is None:
            function = fit_exp(range, segments, method)
        for name, tensor in _tensors(function, clip_only).items():
            if learnable:
                self.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @property
    def segments(self) -> int:
        """Linear pieces above the lower bound; 0 of the clip alone."""
        return 0 if self.slopes is None else len(self.slopes)

    def fit(self, range: tuple[float, float], density: ArrayLike | None = None) -> None:
        if not self.fits:
            raise ValueError("the function was given, not fitted")
        density = density if self.method == "least_squares" else None
        function = fit_exp(range, self.segments, self.method, density)
        with torch.no_grad():
            for name, tensor in _tensors(function, self.segments == 0).items():
                if tensor is not None:
                    getattr(self, name).copy_(tensor)

    def check(self) -> None:
        _tensors(self.function(), self.segments == 0)

    def function(self) -> PiecewiseLinear:
        """The function as it is now."""
        breakpoints, slopes, intercept, low, high = self._numbers()
        return PiecewiseLinear.continuous(
            breakpoints.tolist(), slopes.tolist(), intercept, low, high
        )

    def _numbers(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float, float]:
        """Sorted breakpoints, slopes, first intercept, bounds."""
        points, slopes, intercept, bounds = (t.cpu() for t in self._pieces())
        low, high = bounds.tolist()
        return points.numpy(), slopes.numpy(), intercept.item(), low, high

    def _pieces(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same as tensors, the bounds as one: float64, where the parameters are."""
        log_low = self.log_low.detach().double()
        log_high = log_low.new_full((), math.inf) if self.log_high is None else self.log_high
        bounds = torch.stack([log_low, log_high.detach().double()]).exp()
        if self.slopes is None or self.breakpoints is None or self.intercept is None:
            return bounds.new_empty(0), bounds.new_ones(1), bounds.new_zeros(()), bounds
        slopes = self.slopes.detach().double()
        points, order = self.breakpoints.detach().double().sort()
        slopes = slopes[0] + torch.cat([slopes.new_zeros(1), slopes.diff()[order].cumsum(0)])
        return points, slopes, self.intercept.detach().double(), bounds

    def _suits_op(self, x: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and (torch.compiler.is_compiling() or x.device.type == "cuda")
            and softmax_runs_on(x)
            and self.log_low.device == x.device
            and not torch.is_autocast_enabled(x.device.type)
        )

    def run_op(self, x: Tensor) -> Tensor:
        points, slopes, intercept, bounds = self._pieces()
        bends = slopes.diff() * points
        intercepts = intercept - torch.cat([bends.new_zeros(1), bends.cumsum(0)])
        weights: Tensor = pwl_softmax(
            x, self.dim, points.float(), slopes.float(), intercepts.float(), bounds.float()
        )
        return weights

    def numerators(self, x: Tensor) -> Tensor:
        values = x
        if self.slopes is not None and self.breakpoints is not None and self.intercept is not None:
            slopes, breakpoints = self.slopes.to(x.dtype), self.breakpoints.to(x.dtype)
            values = slopes[0] * x + self.intercept.to(x.dtype)
            for bend, point in zip(slopes.diff(), breakpoints, strict=True):
                values = values + bend * functional.relu(x - point)
        values = torch.maximum(values, self.log_low.to(x.dtype).exp())
        if self.log_high is not None:
            values = torch.minimum(values, self.log_high.to(x.dtype).exp())
        return values

    def run_kernel(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        breakpoints, slopes, intercept, low, high = self._numbers()
        bends = np.diff(slopes) * breakpoints
        intercepts = intercept - np.concatenate([[0.0], np.cumsum(bends)])
        _C.pwl_softmax_f32(
            x,
            out,
            breakpoints=breakpoints,
            slopes=slopes,
            intercepts=intercepts,
            low=low,
            high=high,
        )

    def extra_repr(self) -> str:
        return f"dim={self.dim}, segments={self.segments}, learnable={self.learnable}"


class LookupTableSoftmax(ApproximateSoftmax):
    """Softmax with a table of exp in its place: ``entries`` values at equal distances over logits
    in ``range``, linear interpolation between them, the first and last value outside.

    The rival of P2. Raises ValueError for fewer than 2 entries or a range that ``check_range``
    refuses.

    >>> layer = LookupTableSoftmax(dim=-1, entries=64)
    >>> round(float(layer(torch.tensor([0.0, 1.0]))[1]), 2)
    0.73
    """

    table: Tensor
    limits: Tensor

    def __init__(
        self, dim: int = -1, entries: int = 256, range: tuple[float, float] = (-10.0, 10.0)
    ) -> None:
        super().__init__(dim)
        if entries < 2:
            raise ValueError(f"a table needs at least 2 entries, got {entries}")
        self.register_buffer("table", torch.empty(entries))
        self.register_buffer("limits", torch.empty(2))
        self.fit(range)

    def fit(self, range: tuple[float, float], density: ArrayLike | None = None) -> None:
        """As the base class; a table has no use for ``density``."""
        a, b = check_range(range)
        self.limits.copy_(torch.tensor([a, b]))
        points = torch.linspace(a - b, 0.0, len(self.table), dtype=torch.float64)
        self.table.copy_(points.exp())

    def check(self) -> None:
        if not (self.limits[0] < self.limits[1] and self.table.min() > 0):
            raise ValueError("a table needs rising limits and positive entries")

    def numerators(self, x: Tensor) -> Tensor:
        a, b = self.limits.to(x.dtype)
        table = self.table.to(x.dtype)
        position = (x.clamp(a, b) - a) / (b - a) * (len(table) - 1)
        # A NaN has a place too: the weights become NaN, as a softmax's would.
        index = position.detach().nan_to_num(0.0).long().clamp(max=len(table) - 2)
        before, after = table[index], table[index + 1]
        values: Tensor = before + (position - index) * (after - before)
        return values

    def run_kernel(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        low, high = self.limits.tolist()
        _C.table_softmax_f32(x, out, table=self.table.cpu().numpy(), low=low, high=high)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, entries={len(self.table)}"


def softmax_of_shape(state: Mapping[str, Tensor], dim: int) -> ApproximateSoftmax:
    """A layer, not learnable, that can load ``state`` if that is the state of such a layer.

    Which one is told by the names and the lengths of ``table`` or ``slopes``. Values are not looked
    at: ``check`` does when they are loaded.
    """
    if "table" in state:
        return LookupTableSoftmax(dim, max(2, state["table"].numel()))
    if "slopes" not in state:
        return PiecewiseLinearSoftmax(dim, segments=0, range=(0.0, 1.0))
    # More are no softmax but a trap.
    pieces = min(max(1, state["slopes"].numel()), 1024)
    high = 2.0 if "log_high" in state else math.inf
    line = PiecewiseLinear.continuous([0.0] * (pieces - 1), [1.0] * pieces, 0.0, 1.0, high)
    return PiecewiseLinearSoftmax(dim, function=line)


def _tensors(function: PiecewiseLinear, clip_only: bool) -> dict[str, Tensor | None]:
    """The state of a PiecewiseLinearSoftmax; None for what it does not have."""
    log_low = torch.tensor(math.log(function.low))
    if log_low.exp().item() in (0.0, math.inf):
        raise ValueError(f"the lower bound {function.low:g} does not fit float32")
    return {
        "slopes": None if clip_only else torch.tensor(function.slopes),
        "breakpoints": None if clip_only else torch.tensor(function.breakpoints),
        "intercept": None if clip_only else torch.tensor(function.intercepts[0]),
        "log_low": log_low,
        "log_high": None if math.isinf(function.high) else torch.tensor(math.log(function.high)),
    }
