"""Weights from files, checked, and put into networks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from earmark.errors import FormatError, first_line

__all__ = ["StateDict", "fill", "read_state_dict", "state_dict_of"]

StateDict = dict[str, Tensor]

_COUNT = "num_batches_tracked"


def fill(
    net: nn.Module,
    state: StateDict,
    path: Path,
    kind: str,
    stored: Callable[[str], str] = lambda key: key,
) -> None:
    """Give a network, which may be on the meta device, these weights.

    stored: the key in ``state`` of one of the network's. Raises FormatError, naming file, key and
    value, for keys and shapes that are not the network's, and for weights that are not finite.
    Counts of training steps may be missing. kind: what the network is, such as "an ECAPA-TDNN".
    """
    wanted = {stored(key): tensor for key, tensor in net.state_dict().items()}
    counts = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith(_COUNT)}
    state = {**counts, **state}
    for key in wanted:
        if key not in state:
            raise FormatError(f"{path}: {key} is missing")
    for key, tensor in state.items():
        if key not in wanted:
            raise FormatError(f"{path}: {key} {tuple(tensor.shape)} is not part of {kind}")
        _check_tensor(key, tensor, wanted[key], path)
    own = {}
    for key, tensor in net.state_dict().items():
        own[key] = state[stored(key)].to(tensor.dtype, copy=True).contiguous()
    net.load_state_dict(own, strict=True, assign=True)


def _check_tensor(key: str, tensor: Tensor, wanted: Tensor, path: Path) -> None:
    if tensor.shape != wanted.shape:
        raise FormatError(f"{path}: {key} is {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex():
        raise FormatError(f"{path}: {key} is {tensor.dtype}, expected {wanted.dtype}")
    finite = torch.isfinite(tensor)
    if not finite.all():
        raise FormatError(f"{path}: {key} holds {tensor[~finite][0].item()}")
    if key.endswith("running_var") and tensor.min() < 0:
        raise FormatError(f"{path}: {key} holds {tensor.min().item():g}, a variance")


def read_state_dict(path: Path) -> StateDict:
    """Named tensors on the CPU, from a torch or safetensors file, told apart by their first bytes.

    Raises OSError when the file cannot be read, FormatError when it is neither.
    """
    with path.open("rb") as file:
        head = file.read(9)
    # Eight bytes of header length, then JSON.
    if head[8:] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise FormatError(f"{path}: broken safetensors file: {first_line(error)}") from error
    return state_dict_of(path, path)


def state_dict_of(source: Path | IO[bytes], path: Path) -> StateDict:
    """Likewise, from a torch file. path: what messages call it."""
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FormatError(f"{path}: not a plain state dict (weights_only)") from error
    # torch.load lets through whatever its parts raise for a damaged file.
    except Exception as error:
        raise FormatError(f"{path}: broken torch file: {first_line(error)}") from error
    if not isinstance(content, dict) or not content:
        raise FormatError(f"{path}: holds {type(content).__name__}, not a state dict")
    for key, tensor in content.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise FormatError(
                f"{path}: not a state dict: {key!r} is {type(tensor).__name__}, not a tensor"
            )
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise FormatError(f"{path}: {key} is not a plain tensor")
        # A stride of 0 makes any size out of nothing.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise FormatError(f"{path}: {key} {tuple(tensor.shape)} is larger than its data")
    return content
