"""The whole network on a GPU against torch, features to embedding, interleaved in one run.

    python benchmarks/gpu_network.py [--json FILE] [--quick]

SpeechBrain's shape (C = 1024), batch 1, 8, 64, 256 x 2, 3, 10 s, features on the device, embeddings
left there. Against torch FP32, FP16 and BF16 autocast, torch.compile (CUDA graphs; max-autotune at
three shapes) and ONNX Runtime where that is installed with CUDA. Before anything is timed, the int8
embeddings are compared with the CPU engine's, bit for bit, and the variants' with torch FP32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import _gpu
import earmark

_SHAPES = [(batch, seconds) for seconds in (2, 3, 10) for batch in (1, 8, 64, 256)]
_AUTOTUNED = [(1, 3), (64, 3), (256, 3)]
_QUICK = [(1, 3), (64, 3)]
_ROUNDS = 15


def main() -> None:
    parser = _gpu.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="two shapes, no autotuning")
    args = parser.parse_args()
    torch = _gpu.torch_on(args.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = _gpu.network_files(folder, ("int8", "fp32"))
        models = {
            scheme: earmark.load(folder / f"{scheme}.earmark", device=f"cuda:{args.device}")
            for scheme in ("int8", "fp32")
        }
        on_cpu = earmark.load(folder / "int8.earmark")
        network = network.cuda().eval().requires_grad_(False)
        result: dict[str, Any] = {"machine": _gpu.machine(args.device), "shapes": []}
        onnx = export(torch, network, folder)
        for batch, seconds in _QUICK if args.quick else _SHAPES:
            tune = not args.quick and (batch, seconds) in _AUTOTUNED
            row = measure(torch, network, models, on_cpu, onnx, (batch, seconds), tune)
            result["shapes"].append(row)
    _gpu.write(args.json, result)


def measure(
    torch: Any,
    network: Any,
    models: dict[str, Any],
    on_cpu: Any,
    onnx: Path | None,
    shape: tuple[int, float],
    tune: bool,
) -> dict[str, Any]:
    """One shape: what all variants take, their memory, and how near their embeddings are."""
    batch, seconds = shape
    array = _gpu.synthetic_features(batch, round(seconds * _gpu.FRAMES_PER_S))
    features = torch.from_numpy(array).cuda()
    out = torch.empty(batch, models["int8"].embedding_size, device="cuda")
    calls: dict[str, Callable[[], Any]] = {
        f"earmark-{scheme}": lambda model=model: model.embed_features(features, out=out)
        for scheme, model in models.items()
    }
    calls |= torch_calls(torch, network, features, tune)
    if onnx is not None:
        calls["onnxruntime-cuda"] = onnx_call(onnx, features)
    few = list(array[:2])
    if not np.array_equal(models["int8"].embed_features(few), on_cpu.embed_features(few)):
        raise SystemExit("the int8 embeddings are not the CPU engine's")
    cosines, memory = {}, {}
    reference = as_numpy(calls["torch-fp32"]())
    for name, call in calls.items():
        free = torch.cuda.mem_get_info()[0]
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        cosines[name] = cosine(as_numpy(call()), reference)
        by_torch = torch.cuda.max_memory_allocated() - held
        memory[name] = max(free - torch.cuda.mem_get_info()[0], by_torch)
    inner = 50 if batch * seconds < 30 else 5
    timed = _gpu.interleaved(torch, calls, _ROUNDS, inner)
    for name, figures in timed.items():
        figures["utterances_per_s"] = 1e6 * batch / figures["median_us"]
        figures["cosine_to_torch_fp32"] = cosines[name]
        figures["memory_bytes"] = memory[name]
    return {"batch": batch, "seconds": seconds, "variants": timed}


def torch_calls(torch: Any, network: Any, features: Any, tune: bool) -> dict[str, Any]:
    """torch's ways to run the float network."""

    def plain() -> Any:
        with torch.inference_mode():
            return network(features)

    def autocast(dtype: Any, module: Any = network) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode(), torch.autocast("cuda", dtype):
                return module(features)

        return call

    torch._dynamo.reset()
    graphs = torch.compile(network, mode="reduce-overhead", dynamic=False)
    calls = {
        "torch-fp32": plain,
        "torch-fp16": autocast(torch.float16),
        "torch-bf16": autocast(torch.bfloat16),
        "torch-compile-fp16": autocast(torch.float16, graphs),
    }
    if tune:
        tuned = torch.compile(network, mode="max-autotune", dynamic=False)
        calls["torch-autotuned-fp16"] = autocast(torch.float16, tuned)
    return calls


def export(torch: Any, network: Any, folder: Path) -> Path | None:
    """The network for ONNX Runtime; None where that has no CUDA."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return None
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    path = folder / "network.onnx"
    example = (torch.from_numpy(_gpu.synthetic_features(2, 300)).cuda(),)
    axes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    torch.onnx.export(
        network, example, path, dynamo=True, input_names=["features"], dynamic_shapes=axes
    )
    return path


def onnx_call(path: Path, features: Any) -> Callable[[], Any]:
    """On device memory, without copies; with the algorithm search that is quick for new lengths."""
    import onnxruntime

    options = {"cudnn_conv_algo_search": "HEURISTIC"}
    session = onnxruntime.InferenceSession(path, providers=[("CUDAExecutionProvider", options)])
    binding = session.io_binding()
    binding.bind_input(
        "features", "cuda", features.device.index, np.float32, features.shape, features.data_ptr()
    )
    binding.bind_output(session.get_outputs()[0].name, "cuda")

    def call() -> Any:
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    return call


def as_numpy(result: Any) -> Any:
    """(batch, embedding) of whatever library."""
    array = result.float().cpu().numpy() if hasattr(result, "float") else result.numpy()
    return array.reshape(len(array), -1)


def cosine(a: Any, b: Any) -> float:
    """The smallest of the recordings'."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


if __name__ == "__main__":
    main()
