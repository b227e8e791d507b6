"""NNCodec (ISO/IEC 15938-17), in an interpreter of its own environment.

    PYTHON _nncodec.py arrays.npz                      integers, without loss
    PYTHON _nncodec.py arrays.npz --qp N -o out.npz    float32: matrices by QP, vectors finely

Prints JSON: bytes, seconds to code and to decode, and of integers whether they came back. Arrays
are coded in the layout of torch's layers (out, in, ...), which it is made for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time

import numpy as np


def main() -> None:
    """Code, decode, compare or write."""
    from nncodec import nnc

    parser = argparse.ArgumentParser()
    parser.add_argument("arrays")
    parser.add_argument("--qp", type=int)
    parser.add_argument("-o", "--output")
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), np.load(args.arrays) as stored:
        dtype = np.int32 if args.qp is None else np.float32
        arrays = {
            name: np.ascontiguousarray(np.moveaxis(array, -1, min(1, array.ndim - 1))).astype(dtype)
            for name, array in stored.items()
        }
        # Without loss the best of scan orders 0, 1 and 3, row skipping, unary lengths 10 to 50;
        # else dependent quantization, its trellis choosing by rate and error.
        how = {"use_dq": False} if args.qp is None else {"use_dq": True, "qp": args.qp}
        began = time.perf_counter()
        code = nnc.compress(
            arrays, bitstream_path=None, param_opt=True, return_bitstream=True, **how
        )
        coded = time.perf_counter()
        decoded = nnc.decompress(code)
        done = time.perf_counter()
    result = {"bytes": len(code), "encode_s": coded - began, "decode_s": done - coded}
    restored = {name: decoded[name].reshape(array.shape) for name, array in arrays.items()}
    if args.qp is None:
        result["equal"] = all(np.array_equal(restored[name], arrays[name]) for name in arrays)
    else:
        moved = {name: np.moveaxis(a, min(1, a.ndim - 1), -1) for name, a in restored.items()}
        np.savez(args.output, **moved)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
