"""Approximate softmaxes in models that were written, and trained, with exact ones."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from earmark.nn.ecapa import EcapaTdnn
from earmark.nn.softmax import ApproximateSoftmax, PiecewiseLinearSoftmax

__all__ = ["replace_softmax"]

Model = TypeVar("Model", bound=nn.Module)

_SOFTMAXES = (torch.softmax, functional.softmax, Tensor.softmax)
# A submodule of this name joins a module whose forward calls the function.
_NAME = "approximate_softmax"
# Of a range of logits, for their density.
_PARTS = 64


def replace_softmax(
    model: Model, layer: ApproximateSoftmax, calibration: Iterable[Any] | None = None
) -> Model:
    """Put a copy of ``layer`` in the place of every softmax of ``model``; returns the model.

    Replaced, each with its own axis, are ``nn.Softmax`` modules, the pooling's of an
    ``EcapaTdnn`` among them, and calls of ``torch.softmax`` or ``functional.softmax`` in the
    forward of a module, such as SpeechBrain's pooling. Such calls are found while the model runs on
    ``calibration``; the module's forward then goes through a wrapper, which ``torch.compile`` does
    not look into, and the layer is its submodule ``approximate_softmax``.

    calibration: recordings as ``EcapaTdnn.embed`` takes them, for other models tuples of arguments
    or single tensors. The layer is fitted to the logits that they bring, unless its function was
    given; a logit counts by the inverse square of its row's sum of exp, so that the squares are
    those of the weights. A softmax is the same for logits that are shifted together and a
    piecewise-linear function is not: in the attentive pooling of an ECAPA-TDNN, earmark's or
    SpeechBrain's, the bias of each channel is set so that its largest logit is 0; but for the clip
    alone, whose place is fixed.

    Raises ValueError for a model in which no softmax is found or, in calibration, is reached.

    >>> from earmark.nn import PiecewiseLinearSoftmax
    >>> replace_softmax(torch.nn.Sequential(torch.nn.Softmax(dim=-1)), PiecewiseLinearSoftmax())[0]
    PiecewiseLinearSoftmax(dim=-1, segments=2, learnable=False)
    """
    items = list(calibration or [])
    recorded = _record(model, items)
    places = [name for name, module in model.named_modules() if isinstance(module, nn.Softmax)]
    if not {*places, *recorded}:
        missing = "" if calibration is not None else "; calls in a forward need calibration"
        raise ValueError(f"{type(model).__name__} has no softmax to replace{missing}")
    if "" in places:
        raise ValueError("the model is a softmax itself: use the layer in its place")
    for name in places:
        if calibration is not None and name not in recorded:
            raise ValueError(f"no recording of the calibration reaches the softmax {name!r}")
    for name, logits in recorded.items():
        bias = _attention_bias(model, name)
        if bias is not None and logits.channels == len(bias) and _can_be_shifted(layer):
            with torch.no_grad():
                bias -= logits.centre().to(bias)
    _record(model, items, recorded)
    for name in places:
        softmax = model.get_submodule(name)
        assert isinstance(softmax, nn.Softmax)
        dim = -1 if softmax.dim is None else softmax.dim
        replacement = _fitted(layer, dim, recorded.pop(name, None))
        replacement.train(softmax.training)
        for parent in list(model.modules()):
            for child, module in list(parent._modules.items()):  # also where it stands again
                if module is softmax:
                    setattr(parent, child, replacement)
    for name, logits in recorded.items():
        module = model.get_submodule(name)
        module.add_module(_NAME, _fitted(layer, logits.dim, logits).train(module.training))
        module.forward = functools.partial(_forward, module)
    return model


def _can_be_shifted(layer: ApproximateSoftmax) -> bool:
    return layer.fits and not (isinstance(layer, PiecewiseLinearSoftmax) and layer.segments == 0)


def _attention_bias(model: nn.Module, name: str) -> Tensor | None:
    """What each channel's logits have in common, in the attentive pooling of an ECAPA-TDNN."""
    site = model.get_submodule(name)
    pooling = model.get_submodule(name.rpartition(".")[0]) if type(site) is nn.Softmax else site
    # By name: SpeechBrain need not be installed, and other toolkits have copies of its class.
    if type(pooling).__name__ not in ("AttentivePooling", "AttentiveStatisticsPooling"):
        return None
    return dict(pooling.named_parameters()).get("conv.conv.bias")


def _fitted(layer: ApproximateSoftmax, dim: int, logits: _Logits | None) -> ApproximateSoftmax:
    fresh = copy.deepcopy(layer)
    fresh.dim = dim
    if logits is not None:
        fresh.to(logits.device)
        if fresh.fits:
            fresh.fit(logits.range(), logits.density)
    return fresh


class _Logits:
    """The finite logits that reached one softmax: first their range, of each channel (axis 1 of 3),
    then how much those in equal parts of it count."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.density = torch.zeros(_PARTS, dtype=torch.float64)
        self._scale: float | None = None
        self.device = torch.device("cpu")
        self._low, self._high = torch.tensor([math.inf]), torch.tensor([-math.inf])

    @property
    def channels(self) -> int:
        return len(self._high)

    def add(self, x: Tensor) -> None:
        self.device = x.device
        axes = (0, 2) if x.ndim == 3 else tuple(range(x.ndim))
        finite = x.isfinite()
        low = x.masked_fill(~finite, math.inf).amin(axes).reshape(-1).float().cpu()
        high = x.masked_fill(~finite, -math.inf).amax(axes).reshape(-1).float().cpu()
        if len(high) != self.channels and self.channels > 1:
            low, high = low.amin().reshape(1), high.amax().reshape(1)
            self._low, self._high = self._low.amin().reshape(1), self._high.amax().reshape(1)
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)

    def count(self, x: Tensor) -> None:
        x = x.detach().double().cpu()
        total = x.logsumexp(self.dim, keepdim=True)
        there = x.isfinite() & total.isfinite()
        if not there.any():
            return
        if self._scale is None:  # of any size: only the ratios matter
            self._scale = total[total.isfinite()].amin().item()
        counts = (2 * (self._scale - total)).clamp(max=300).exp().expand_as(x)[there]
        low, high = self.range()
        place = ((x[there] - low) / (high - low) * _PARTS).long().clamp(0, _PARTS - 1)
        self.density += torch.bincount(place, counts, minlength=_PARTS)

    def centre(self) -> Tensor:
        """Take the largest logit of each channel off all of them; returns what was taken."""
        if not bool(self._high.isfinite().all()):
            raise ValueError("no finite logit reaches a softmax")
        taken = self._high
        self._low, self._high = self._low - taken, torch.zeros_like(taken)
        return taken

    def range(self) -> tuple[float, float]:
        low, high = self._low.amin().item(), self._high.amax().item()
        if low > high:
            raise ValueError("no finite logit reaches a softmax")
        if high - low < 1e-3:  # constant logits still need a range
            return low - 0.5, high + 0.5
        return low, high


class _Watching(TorchFunctionMode):
    """Tells ``seen`` of every softmax that is called as a function."""

    def __init__(self, seen: Any) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SOFTMAXES:
            return self._seen(func, *args, **kwargs)
        return func(*args, **kwargs)


def _record(
    model: nn.Module, items: list[Any], ranges: dict[str, _Logits] | None = None
) -> dict[str, _Logits]:
    """Logits by the name of the ``nn.Softmax``, or of the innermost module that called one; their
    ranges, or with these how much they count."""
    recorded: dict[str, _Logits] = {} if ranges is None else ranges
    running: list[str] = []

    def enter(name: str, module: nn.Module, args: Any) -> None:
        running.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    def seen(func: Any, input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if dim is None:
            raise ValueError(f"the softmax in {running[-1]!r} does not say its axis")
        logits = recorded.setdefault(running[-1], _Logits(dim))
        logits.add(input) if ranges is None else logits.count(input)
        result: Tensor = func(input, dim, *args, **kwargs)
        return result

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(enter, name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        with _evaluating(model), torch.no_grad(), _Watching(seen):
            for item in items:
                _run(model, item)
    finally:
        for hook in hooks:
            hook.remove()
    return recorded


def _run(model: nn.Module, item: Any) -> None:
    if isinstance(model, EcapaTdnn):
        model.embed(item)
    elif isinstance(item, tuple):
        model(*item)
    else:
        model(item)


def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward, its softmax replaced."""
    layer = module.get_submodule(_NAME)

    def replaced(
        func: Any, input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        weights: Tensor = layer(input)
        return weights if kwargs.get("dtype") is None else weights.to(kwargs["dtype"])

    with _Watching(replaced):
        return type(module).forward(module, *args, **kwargs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, before in training.items():
            module.training = before
