"""Tensors of a plan that are views of others, for whoever runs a plan with whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from earmark.plan import JSON, base_of

__all__ = ["Views"]

T = TypeVar("T")


class Views(Generic[T]):
    """What lies in each base tensor: parts side by side, as the last ops wrote them.

    plan: its tensors. cut: channels [begin, end) of values. join: values side by side.
    """

    def __init__(
        self, plan: JSON, cut: Callable[[T, int, int], T], join: Callable[[list[T]], T]
    ) -> None:
        self._plan = plan
        self._cut = cut
        self._join = join
        # By base and first channel: the number of channels, and the values.
        self._parts: dict[str, dict[int, tuple[int, T]]] = {}

    def write(self, name: str, values: T) -> None:
        """All channels of a tensor, over what was there."""
        begin, end = self._channels(name)
        kept: dict[int, tuple[int, T]] = {begin: (end - begin, values)}
        base = base_of(self._plan, name)
        for at, (count, part) in self._parts.get(base, {}).items():
            if at < begin:
                left = min(count, begin - at)
                kept[at] = left, self._within(part, count, 0, left)
            if at + count > end:
                first = max(end - at, 0)
                kept[at + first] = count - first, self._within(part, count, first, count)
        self._parts[base] = kept

    def read(self, name: str) -> T:
        """What the tensor's channels hold."""
        parts = [part for _, part in self.parts(name)]
        return parts[0] if len(parts) == 1 else self._join(parts)

    def parts(self, name: str) -> list[tuple[int, T]]:
        """The same in the parts that ops wrote, each with its number of channels."""
        begin, end = self._channels(name)
        found = []
        for at, (count, part) in sorted(self._parts[base_of(self._plan, name)].items()):
            first, last = max(begin - at, 0), min(end - at, count)
            if first < last:
                found.append((last - first, self._within(part, count, first, last)))
        return found

    def _channels(self, name: str) -> tuple[int, int]:
        tensor = self._plan["tensors"][name]
        begin = tensor.get("offset", 0)
        return begin, begin + tensor["channels"]

    def _within(self, part: T, count: int, begin: int, end: int) -> T:
        return part if (begin, end) == (0, count) else self._cut(part, begin, end)
