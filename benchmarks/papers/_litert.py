"""Converts a sound ResNet to LiteRT and quantizes it with LiteRT's own tool, in five schemes.

Run by ``p3_table2.py --litert PYTHON`` with an interpreter that has litert-torch and
ai-edge-quantizer, which cannot share an environment with the other engines.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import qtyping, quantizer, recipe

from earmark.families import load_checkpoint

FLOAT16 = qtyping.OpQuantizationConfig(
    weight_tensor_config=qtyping.TensorQuantizationConfig(
        num_bits=16, dtype=qtyping.TensorDataType.FLOAT
    ),
    compute_precision=qtyping.ComputePrecision.FLOAT,
    explicit_dequantize=True,
)
SIGNATURE, INPUT = "serving_default", "args_0"


def main() -> None:
    """Write ``fp32.tflite`` and its quantized forms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help=".npy, (n, frames, n_mels)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    windows = np.load(args.calibration)
    source = args.output / "fp32.tflite"
    net = load_checkpoint(args.checkpoint)
    litert_torch.convert(net, (torch.from_numpy(windows[:1]),)).export(str(source))
    float16 = quantizer.Quantizer(str(source))
    float16.update_quantization_recipe(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        FLOAT16,
        recipe.AlgorithmName.FLOAT_CASTING,
    )
    write(float16, None, args.output / "float16.tflite")
    dynamic = quantizer.Quantizer(str(source), recipe.dynamic_wi8_afp32())
    write(dynamic, None, args.output / "dynamic.tflite")
    full = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    ranges = full.calibrate({SIGNATURE: [{INPUT: row[None]} for row in windows]}, num_threads=1)
    write(full, ranges, args.output / "int8-full.tflite")
    inner = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        inner.update_quantization_recipe(".*", end, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    write(inner, ranges, args.output / "int8.tflite")


def write(chosen: quantizer.Quantizer, ranges: Any, path: Path) -> None:
    chosen.quantize(ranges, serialize_to_path=str(path), enable_progress_report=False)


if __name__ == "__main__":
    main()
