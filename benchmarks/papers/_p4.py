"""What the studies of P4 share: models as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import modelfile
from earmark.modelfile import ModelFile
from earmark.storage import stored_sizes

Array = NDArray[Any]

DOCS = Path(__file__).parents[2] / "docs" / "results"
CHANNEL, SYMMETRIC, ASYMMETRIC = "per channel", "symmetric", "asymmetric"
# As ``compress`` names the levels; the plan itself has a scale for each channel.
LEVELS = {CHANNEL: None, SYMMETRIC: SYMMETRIC, ASYMMETRIC: ASYMMETRIC}


def integer_weights(model: ModelFile) -> dict[str, Array]:
    """The int8 weights of the plan, by name."""
    arrays = model.decoded_arrays().items()
    return {
        name: array for name, array in arrays if name.endswith(".weight") and array.dtype == np.int8
    }


def stored_bytes(model: ModelFile) -> dict[str, int]:
    """Of the file, and of its weights with the steps of their levels."""
    sizes = stored_sizes(model.arrays, model.metadata.get("storage", {}))
    weights = sum(n for name, n in sizes.items() if name.endswith((".weight", ".step")))
    return {"file_bytes": len(modelfile.to_bytes(model)), "weight_bytes": weights}
