"""HEVC (ITU-T H.265): a layer's weights as a grey picture, as in P4; needs ``earmark[compress]``.

A picture is the matrix of a layer, a row for each output, one byte a pixel. Every layer is a plain
elementary stream (Annex B) of its own, which any FFmpeg decodes. What was tried and does not pay is
in docs/compression.md: tiles, sorted channels, several layers in one picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.storage.group import Group, Reader, in_parallel, sizes_as_bytes

__all__ = ["MAX_QP", "decode", "encode", "sizes"]

Array = NDArray[Any]

MAX_QP = 51
# What x265 takes, and what a picture of level 6.2 may have at most.
_SHORTEST, _LONGEST = 16, 8192
# No thread of its own and no line of text: the same weights give the same bytes. Weights are noise
# to a filter of block borders, and nobody looks at them: errors count by their squares alone.
_PARAMETERS = {
    "log-level": "none",
    "pools": "none",
    "frame-threads": "1",
    "wpp": "0",
    "info": "0",
    "keyint": "1",
    "no-deblock": "1",
    "no-sao": "1",
    "aq-mode": "0",
    "psy-rd": "0",
    "psy-rdoq": "0",
}
# x265's search for the best blocks finds nothing in noise: at the QPs that pay, the fastest preset
# with the best rounding of coefficients gives the size and error of the slow ones.
_LOSSY = "ultrafast", {"rdoq-level": "2", "signhide": "1"}
_LOSSLESS = "medium", {"lossless": "1"}


@dataclass(frozen=True)
class _Layout:
    """How an array's values lie: rows of ``width``, on one picture after another."""

    size: int
    width: int

    @staticmethod
    def of(rows: int, columns: int) -> _Layout:
        """A picture's rows are the matrix's, where neither is too short or too long."""
        size = rows * columns
        if all(_SHORTEST <= n <= _LONGEST for n in (rows, columns)):
            return _Layout(size, columns)
        side = -(-math.isqrt(size) // _SHORTEST) * _SHORTEST
        return _Layout(size, min(max(side, _SHORTEST), _LONGEST))

    @property
    def height(self) -> int:
        """Of one picture."""
        rows = -(-self.size // self.width)
        return max(-(-rows // self.pictures), _SHORTEST)

    @property
    def pictures(self) -> int:
        return -(-self.size // (self.width * _LONGEST))

    def cut(self, values: Array) -> Array:
        """(pictures, height, width) of bytes; the last one fills up the last picture."""
        missing = self.pictures * self.height * self.width - self.size
        filled = np.pad(values.reshape(-1), (0, missing), mode="edge")
        return filled.reshape(self.pictures, self.height, self.width)


def encode(arrays: dict[str, Array], qp: int | None = None) -> tuple[Array, dict[str, Any]]:
    """The stream (n,) uint8 of arrays of one byte a value, and its coding.

    qp: HEVC's quantization parameter, 0 to 51; an error doubles with every 6. Without one the
    arrays stay as they are. Raises ValueError for another QP, and for values of several bytes.
    """
    group = Group.of(arrays)
    if qp is not None and not 0 <= qp <= MAX_QP:
        raise ValueError(f"QP {qp} is not between 0 and {MAX_QP}")
    if group.dtype.itemsize != 1:
        raise ValueError(f"{group.dtype.name} values are no pixels")
    layouts = {name: _Layout.of(*group.rows(name)) for name in group.shapes}
    streams = dict.fromkeys(group.shapes, b"")
    ranges = []

    def write(name: str) -> None:
        streams[name] = _coded(layouts[name].cut(_pixels(arrays[name])), qp)

    in_parallel(write, [(name,) for name in group.shapes if arrays[name].size])
    for name in group.shapes:
        pixels = _pixels(arrays[name])
        ranges += [int(pixels.min(initial=255)), int(pixels.max(initial=0))]
    head = [layout.width for layout in layouts.values()] + [len(code) for code in streams.values()]
    stream = sizes_as_bytes(head) + bytes(ranges) + b"".join(streams.values())
    return group.filled_up(stream), {"coding": "hevc", **group.described()}


def decode(stream: Array, group: Group) -> dict[str, Array]:
    """The arrays. Raises ValueError for a stream that is not theirs."""
    arrays: dict[str, Array] = {}

    def read(name: str, layout: _Layout, low: int, high: int, code: Array) -> None:
        pixels = np.empty(0, np.uint8)
        if layout.size:
            pixels = _decoded(code.tobytes(), layout).reshape(-1)[: layout.size]
        # A lossy decoder may leave the range, and the engine takes no weight of -128.
        values = np.clip(pixels, low, max(low, high))
        if group.dtype == np.int8:
            values = (values ^ np.uint8(128)).view(np.int8)
        arrays[name] = values.reshape(group.shapes[name])

    in_parallel(read, _parts(stream, group))
    return arrays


def sizes(stream: Array, group: Group) -> dict[str, int]:
    """Bytes of the stream that are an array's, by name."""
    return {name: code.size for name, *_, code in _parts(stream, group)}


def _parts(stream: Array, group: Group) -> list[tuple[str, _Layout, int, int, Array]]:
    """Of each array its name, layout, least and largest pixel, and code."""
    if group.dtype.itemsize != 1:
        raise ValueError(f"holds pictures of {group.dtype.name}")
    reader = Reader(stream)
    n = len(group.shapes)
    widths, lengths = reader.sizes(n), reader.sizes(n)
    ranges = reader.bytes(2 * n).reshape(n, 2).tolist()
    parts = []
    for i, (name, shape) in enumerate(group.shapes.items()):
        if not _SHORTEST <= widths[i] <= _LONGEST:
            raise ValueError(f"has pictures {widths[i]} pixels wide")
        layout = _Layout(math.prod(shape), widths[i])
        parts.append((name, layout, *ranges[i], reader.bytes(lengths[i])))
    return parts


def _pixels(array: Array) -> Array:
    """Bytes in the order of the values: -128 is black."""
    values = np.ascontiguousarray(array)
    return values if array.dtype == np.uint8 else values.view(np.uint8) ^ np.uint8(128)


def _coded(pictures: Array, qp: int | None) -> bytes:
    """An elementary stream of pictures (n, height, width)."""
    import av

    preset, chosen = _LOSSLESS if qp is None else (_LOSSY[0], {**_LOSSY[1], "qp": str(qp)})
    text = ":".join(f"{key}={value}" for key, value in {**_PARAMETERS, **chosen}.items())
    encoder = av.VideoCodecContext.create("libx265", "w")
    encoder.height, encoder.width = pictures.shape[1:]
    encoder.pix_fmt = "gray"
    encoder.time_base = Fraction(1)
    encoder.framerate = Fraction(1)
    encoder.options = {"preset": preset, "x265-params": text}
    packets = []
    for i, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="gray")
        frame.pts = i
        packets += encoder.encode(frame)
    return b"".join(map(bytes, [*packets, *encoder.encode(None)]))


def _decoded(code: bytes, layout: _Layout) -> Array:
    """The pictures (n, height, width) of an elementary stream."""
    import av

    decoder = av.VideoCodecContext.create("hevc", "r")
    decoder.thread_count = 1
    # No more memory than the pictures take, whatever their stream says of them.
    limit = (layout.width + 64) * (layout.height + 64)
    decoder.options = {"max_pixels": str(limit), "err_detect": "explode"}
    shape = layout.pictures, layout.height, layout.width
    pictures: list[Array] = []
    try:
        for packet in [*decoder.parse(code), *decoder.parse(None), None]:
            for frame in decoder.decode(packet):
                if (frame.format.name, frame.height, frame.width) != ("gray", *shape[1:]):
                    raise ValueError(
                        f"has a picture of {frame.width} x {frame.height} pixels "
                        f"({frame.format.name}), expected {shape[2]} x {shape[1]}"
                    )
                if frame.is_corrupt or len(pictures) == shape[0]:
                    raise ValueError("is damaged: a picture is broken or too many")
                pictures.append(frame.to_ndarray())
    except av.FFmpegError as error:
        raise ValueError(f"is damaged: {error.strerror}") from error
    if len(pictures) != shape[0]:
        raise ValueError(f"has {len(pictures)} pictures, expected {shape[0]}")
    return np.stack(pictures)
