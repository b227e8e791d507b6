"""Impulse responses of simulated rooms, by the image-source method of pyroomacoustics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from earmark.training.checkpoint import atomic_file
from earmark.training.dataset import SAMPLE_RATE_HZ, Progress

__all__ = ["room_responses"]

_LOW_M, _HIGH_M = (3.0, 3.0, 2.3), (9.0, 7.0, 3.5)
_REVERBERATION_S = (0.15, 0.7)
_WALL_DISTANCE_M = 0.4
_MAX_ORDER = 30
_LONGEST_S = 0.5


def room_responses(
    count: int, seed: int, cache: Path, progress: Progress | None = None
) -> list[NDArray[np.float32]]:
    """``count`` impulse responses, float32 (n,) of at most 0.5 s at 16 kHz.

    Each has another rectangular room, reverberation time, speaker and microphone; the direct sound
    comes first, the energy is 1. They are read from the file ``cache``, which is written first when
    it is not there. Raises ModuleNotFoundError without pyroomacoustics.
    """
    if not cache.is_file():
        responses = _simulate(count, seed, progress)
        lengths = [len(response) for response in responses]
        with atomic_file(cache) as temporary, temporary.open("wb") as out:
            np.savez(out, samples=np.concatenate(responses), lengths=np.array(lengths))
    with np.load(cache) as file:
        samples, lengths = file["samples"], file["lengths"]
    return np.split(samples, np.cumsum(lengths)[:-1])


def _simulate(count: int, seed: int, progress: Progress | None) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng([seed, count])
    responses: list[NDArray[np.float32]] = []
    while len(responses) < count:
        response = _response(rng)
        if response is not None:
            responses.append(response)
        if progress is not None:
            progress(len(responses), count)
    return responses


def _response(rng: np.random.Generator) -> NDArray[np.float32] | None:
    """One response, or None for a room that cannot be as dry as was drawn."""
    import pyroomacoustics

    size = rng.uniform(_LOW_M, _HIGH_M)
    seconds = rng.uniform(*_REVERBERATION_S)
    speaker, microphone = rng.uniform(_WALL_DISTANCE_M, size - _WALL_DISTANCE_M, (2, 3))
    try:
        absorption, order = pyroomacoustics.inverse_sabine(seconds, size)
    except ValueError:
        return None
    room = pyroomacoustics.ShoeBox(
        size,
        fs=SAMPLE_RATE_HZ,
        materials=pyroomacoustics.Material(absorption),
        max_order=min(order, _MAX_ORDER),
    )
    room.add_source(speaker)
    room.add_microphone(microphone)
    room.compute_rir()
    response = np.asarray(room.rir[0][0])
    direct = int(np.argmax(np.abs(response)))
    response = response[direct : direct + int(_LONGEST_S * SAMPLE_RATE_HZ)]
    scaled: NDArray[np.float32] = (response / np.sqrt(np.sum(response**2))).astype(np.float32)
    return scaled
