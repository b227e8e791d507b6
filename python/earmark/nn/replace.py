"""Puts other softmax layers into trained networks, fitted to the logits that these have."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from earmark.nn.ecapa import AttentivePooling, EcapaTdnn
from earmark.nn.piecewise import check_range
from earmark.nn.softmax import ApproximateSoftmax, PiecewiseLinearSoftmax

__all__ = ["replace_softmax"]

_SOFTMAX_FUNCTIONS = frozenset(
    {functional.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}
)
# Of the logits that are counted, and of the density that the functions are fitted to.
_COUNTS_PER_UNIT = 1024
_PARTS = 64
# Of a bias and the logits it is in, also in half precision.
_ROUNDING = 0.1


def replace_softmax(
    model: nn.Module, softmax: ApproximateSoftmax, calibration: Sequence[Any] | None = None
) -> nn.Module:
    """Put a copy of ``softmax``, for the same dimension, in the place of each one in ``model``.

    ``calibration`` are inputs to run the model on, in evaluation mode: tensors, tuples of
    arguments, or for an EcapaTdnn whatever its ``embed`` takes. Each copy is fitted to the logits
    that come up, unless its function was given. A logit counts by the inverse square of its row's
    sum of exp, so that least squares are about those of the weights; -inf does not count.

    Without calibration only ``nn.Softmax`` modules are found. With it, modules are too that call
    ``softmax`` of torch in their ``forward``, such as SpeechBrain's ``AttentiveStatisticsPooling``:
    that call goes to their new submodule ``softmax``, and they keep their class (as a subclass),
    their other names, and can be copied and pickled. A softmax inside a function of torch, such as
    ``scaled_dot_product_attention``, is out of reach.

    In the pooling of an ECAPA-TDNN, earmark's or SpeechBrain's, all logits of a channel may be
    shifted without a change to the exact softmax. Calibration takes the largest of each channel
    off the bias of the attention's last layer, so that all channels have one, narrower range; for a
    clip alone they are shifted on to where that fits best.

    Changes the model and returns it (of a model that is a softmax, the copy). Raises ValueError,
    leaving it with the softmax it has, when there is none or calibration does not reach one, and
    for logits that are NaN, Inf or too far apart, as finite numbers in the place of -inf are.
    """
    if calibration is None:
        sites = [site for site in model.modules() if isinstance(site, nn.Softmax)]
        if not sites:
            raise ValueError(
                "no nn.Softmax in the model; one that is called as a function is found by running: "
                "give calibration"
            )
        for module in sites:
            model = _install(model, module, _copy(softmax, _checked(module.dim), model))
        return model
    seen = _watch(model, calibration)
    _check_sites(model, seen)
    biases = {site: _attention_bias(model, site, logits.peaks) for site, logits in seen.items()}
    if softmax.fits and any(bias is not None for bias in biases.values()):
        for site, bias in biases.items():
            if bias is not None:
                _add(bias, -seen[site].peaks)
        before, seen = seen, _watch(model, calibration)
        for site, bias in biases.items():
            if bias is not None and seen[site].peaks.abs().max() > _ROUNDING:
                _add(bias, before[site].peaks)
                raise ValueError(f"{seen[site].name}: its logits do not move with conv.conv.bias")
    layers = {site: _copy(softmax, logits.dim, model) for site, logits in seen.items()}
    if softmax.fits:
        for site, layer in layers.items():
            _fit(layer, seen[site], biases[site])
    for site, layer in layers.items():
        model = _install(model, site, layer)
    left = [logits.name for logits in _watch(model, calibration[:1]).values()]
    if left:
        raise RuntimeError(f"{', '.join(left)}: still computes an exact softmax")
    return model


class _Logits:
    """What calibration saw of the logits of one softmax. ``peaks``: largest of each channel."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.dim = dim
        self.peaks = torch.empty(0)
        self._counts: dict[float, float] = {}
        self._scale: float | None = None

    def update(self, x: Tensor, dim: int) -> None:
        x = x.detach().double()
        there = x != -math.inf
        if not there.any():
            return
        if not x[there].isfinite().all():
            raise ValueError(f"{self.name}: not all logits are finite or -inf")
        total = x.logsumexp(dim, keepdim=True)
        if self._scale is None:
            self._scale = total.max().item()
        # Of any size: only the ratios matter.
        counts = (2 * (self._scale - total)).clamp(max=300).exp().expand_as(x)[there]
        places = np.floor(x[there].cpu().numpy() * _COUNTS_PER_UNIT)
        places, index = np.unique(places, return_inverse=True)
        sums = np.bincount(index, counts.cpu().numpy())
        for place, count in zip(places.tolist(), sums.tolist(), strict=True):
            self._counts[place] = self._counts.get(place, 0.0) + count
        if x.ndim == 3:
            peaks = x.amax(dim=(0, 2))
            same = peaks.shape == self.peaks.shape
            self.peaks = torch.maximum(self.peaks, peaks) if same else peaks

    def range(self) -> tuple[float, float]:
        """Of the logits, rounded outwards."""
        low = min(self._counts) / _COUNTS_PER_UNIT
        high = (max(self._counts) + 1) / _COUNTS_PER_UNIT
        try:
            return check_range((low, high))
        except ValueError as error:
            raise ValueError(
                f"{self.name}: the logits are from {low:g} to {high:g}, too far apart (those to "
                "be left out must be -inf)"
            ) from error

    def density(self) -> NDArray[np.float64]:
        """How much the logits in equal parts of the range count."""
        places = np.array(list(self._counts))
        counts = np.array(list(self._counts.values()))
        low, high = self.range()
        middles = (places + 0.5) / _COUNTS_PER_UNIT
        return np.histogram(middles, _PARTS, (low, high), weights=counts)[0]


class _Watch(TorchFunctionMode):
    """Notes the logits of every softmax, by the module whose forward is running."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.seen: dict[nn.Module, _Logits] = {}
        self._names = {module: name or "the model" for name, module in model.named_modules()}
        self._running: list[nn.Module] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _SOFTMAX_FUNCTIONS and self._running:
            x, dim, _ = _arguments(*args, **(kwargs or {}))
            module = self._running[-1]
            logits = self.seen.setdefault(module, _Logits(self._names[module], dim))
            logits.update(x, dim)
        return func(*args, **(kwargs or {}))

    def enter(self, module: nn.Module, args: Any) -> None:
        self._running.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._running.pop()


def _watch(model: nn.Module, calibration: Sequence[Any]) -> dict[nn.Module, _Logits]:
    """The modules that compute a softmax, in the order in which they do, and its logits."""
    watch = _Watch(model)
    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(watch.enter))
        hooks.append(module.register_forward_hook(watch.leave))
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), watch:
            for item in calibration:
                _run(model, item)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return watch.seen


def _run(model: nn.Module, item: Any) -> None:
    if isinstance(item, tuple):
        model(*item)
    elif isinstance(model, EcapaTdnn) and not (isinstance(item, Tensor) and item.ndim == 3):
        model.embed(item)
    else:
        model(item)


def _arguments(
    input: Tensor, dim: int | None = None, *more: Any, dtype: torch.dtype | None = None, **_: Any
) -> tuple[Tensor, int, torch.dtype | None]:
    """Logits, dimension and dtype of a call of any function of ``_SOFTMAX_FUNCTIONS``."""
    return input, _checked(dim), next((v for v in more if isinstance(v, torch.dtype)), dtype)


def _checked(dim: int | None) -> int:
    if dim is None:
        raise ValueError("a softmax without a dimension cannot be replaced")
    return dim


def _check_sites(model: nn.Module, seen: Mapping[nn.Module, _Logits]) -> None:
    if not seen:
        raise ValueError("calibration came by no softmax")
    for name, module in model.named_modules():
        if isinstance(module, nn.Softmax) and module not in seen:
            raise ValueError(f"{name}: calibration does not reach this softmax")
    for module, logits in seen.items():
        if not isinstance(module, nn.Softmax) and hasattr(module, "softmax"):
            raise ValueError(f"{logits.name}: calls softmax and has an attribute of that name")


def _attention_bias(model: nn.Module, site: nn.Module, peaks: Tensor) -> Tensor | None:
    """What each channel's logits have in common, in the attentive pooling of an ECAPA-TDNN."""
    pooling = site
    for module in model.modules():
        if isinstance(module, AttentivePooling) and module.softmax is site:
            pooling = module
    # By name: SpeechBrain need not be installed, and other toolkits have copies of its class.
    if type(pooling).__name__ not in ("AttentivePooling", "AttentiveStatisticsPooling"):
        return None
    bias = dict(pooling.named_parameters()).get("conv.conv.bias")
    return bias if bias is not None and bias.shape == peaks.shape else None


def _add(bias: Tensor, value: Tensor | float) -> None:
    with torch.no_grad():
        bias.add_(torch.as_tensor(value).to(bias))


def _copy(softmax: ApproximateSoftmax, dim: int, model: nn.Module) -> ApproximateSoftmax:
    layer = copy.deepcopy(softmax)
    layer.dim = dim
    parameter = next(model.parameters(), None)
    return layer if parameter is None else layer.to(parameter.device)


def _fit(layer: ApproximateSoftmax, logits: _Logits, bias: Tensor | None) -> None:
    a, b = logits.range()
    density = logits.density()
    if bias is not None and isinstance(layer, PiecewiseLinearSoftmax) and layer.segments == 0:
        # Up to a factor, one segment is a clip of shifted logits.
        line = PiecewiseLinearSoftmax(segments=1, method=layer.method)
        line.fit((a, b), density)
        function = line.function()
        shift = function.intercepts[0] / function.slopes[0]
        _add(bias, shift)
        a, b = a + shift, b + shift
    try:
        layer.fit((a, b), density)
    except ValueError as error:
        raise ValueError(f"{logits.name}: {error}") from error


def _install(model: nn.Module, site: nn.Module, layer: ApproximateSoftmax) -> nn.Module:
    """The model with ``layer`` in the place of a softmax, or inside a module that calls one."""
    layer.train(site.training)
    if site is model and isinstance(site, nn.Softmax):
        return layer
    if not isinstance(site, nn.Softmax):
        site.add_module("softmax", layer)
        site.__class__ = _redirecting(type(site))
        return model
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is site:
                setattr(parent, name, layer)
    return model


class _Redirect(TorchFunctionMode):
    """Passes calls of a softmax of torch to a layer."""

    def __init__(self, softmax: ApproximateSoftmax) -> None:
        super().__init__()
        self.softmax = softmax

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _SOFTMAX_FUNCTIONS:
            return func(*args, **(kwargs or {}))
        x, dim, dtype = _arguments(*args, **(kwargs or {}))
        x = x if dtype is None else x.to(dtype)
        own = self.softmax.dim
        return self.softmax(x.transpose(dim, own)).transpose(dim, own)


class _Redirecting(nn.Module):
    """Before a module's own class: the softmax in its forward is that of its ``softmax``."""

    softmax: ApproximateSoftmax

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Redirect(self.softmax):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so that pickle does not find it by its name.
        reduced = super().__reduce_ex__(protocol)
        assert isinstance(reduced, tuple)
        return (_blank, (type(self).__bases__[1],), *reduced[2:])


_redirecting_classes: dict[type[nn.Module], type[nn.Module]] = {}


def _redirecting(base: type[nn.Module]) -> type[nn.Module]:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    made = type(base.__name__, (_Redirecting, base), names)
    return _redirecting_classes.setdefault(base, made)


def _blank(base: type[nn.Module]) -> nn.Module:
    made = _redirecting(base)
    return made.__new__(made)
