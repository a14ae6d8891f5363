"""Backends of ONNX Runtime: a bundle's graph on the CPU, whole or cut at its ``fhrt`` nodes, and on its CUDA and TensorRT providers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fhrt.errors import BackendError, WeightsError
from fhrt.files import cache_folder
from fhrt.machine import cores, usable_cores
from fhrt.runtime.batch import run_in_parts, whole_pieces
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from fhrt.runtime.cut import CutSession
from fhrt.runtime.engine import Options, Output

Session: TypeAlias = onnxruntime.InferenceSession | CutSession


class OrtEngine:
    """Runs a bundle with a dynamic batch: every number of faces is one call, up to `MAX_BATCH` of fhrt.runtime.engine.

    session: the whole graph's when left out.
    """

    array_library = None

    def __init__(self, bundle: Bundle, session: Session | None = None, backend: str = "onnxruntime", precision: str = "") -> None:
        self.session = _whole(bundle, None) if session is None else session
        self.card: Card = bundle.card
        self.backend, self.precision = backend, precision or bundle.precision

    def run(self, lr: NDArray[np.float32]) -> Output:
        """See `fhrt.runtime.engine.Engine.run`."""
        return run_in_parts(lambda part: self.session.run(list(self.card.outputs), {"lr": part}), lr, self.card)


def open_cpu(bundle: Bundle, options: Options) -> OrtEngine:
    """Backend ``onnxruntime``: see ``plan`` of `fhrt.runtime.load`; "auto" is "whole" here."""
    options.require("onnxruntime", devices=("cpu",), precisions=("fp32", "int8"), plans=("whole", "cut"))
    if options.plan == "cut":
        return OrtEngine(bundle, CutSession(bundle, _session_options(options.threads, spinning=False)))
    return OrtEngine(bundle, _whole(bundle, options.threads))


def open_cuda(bundle: Bundle, options: Options) -> OrtEngine:
    """Backend ``onnxruntime-cuda``, for comparison: ONNX Runtime's CUDA provider."""
    options.require("onnxruntime-cuda", devices=("cuda",), precisions=("fp32",))
    return OrtEngine(bundle, _on_device(bundle, options, "CUDAExecutionProvider", {}), "onnxruntime-cuda")


def open_tensorrt(bundle: Bundle, options: Options) -> OrtEngine:
    """Backend ``onnxruntime-tensorrt``, for comparison: ONNX Runtime's TensorRT provider, which keeps a cache of its own."""
    options.require("onnxruntime-tensorrt", devices=("cuda",), precisions=("fp32", "fp16"))
    folder = cache_folder() / "onnxruntime-tensorrt" / bundle.sha256
    precision = "fp32" if options.precision == "fp32" else "fp16"
    settings = {
        "trt_fp16_enable": precision == "fp16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }
    session = _on_device(bundle, options, "TensorrtExecutionProvider", settings)
    return OrtEngine(bundle, session, "onnxruntime-tensorrt", precision)


class OrtFrames:
    """Runs a bundle whose graph takes ``frame`` [H, W, 3] uint8."""

    def __init__(self, bundle: Bundle, session: onnxruntime.InferenceSession, backend: str) -> None:
        self.session, self.card, self.backend, self.precision = session, bundle.card, backend, bundle.precision

    def run(self, frame: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """See `fhrt.runtime.engine.FrameEngine.run`."""
        maps: list[NDArray[np.float32]] = self.session.run(list(self.card.outputs), {"frame": whole_pieces(frame, self.card)})
        return maps


def open_frames(bundle: Bundle, options: Options) -> OrtFrames:
    """Backend ``onnxruntime`` for networks that take frames."""
    options.require("onnxruntime", devices=("cpu",), precisions=("fp32", "int8"))
    return OrtFrames(bundle, _whole(bundle, options.threads, sizes=True), "onnxruntime")


def open_frames_cuda(bundle: Bundle, options: Options) -> OrtFrames:
    """Backend ``onnxruntime-cuda`` for networks that take frames."""
    options.require("onnxruntime-cuda", devices=("cuda",), precisions=("fp32",))
    return OrtFrames(bundle, _on_device(bundle, options, "CUDAExecutionProvider", {}), "onnxruntime-cuda")


def _session_options(threads: int | None, *, spinning: bool = True) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    limited = usable_cores() < cores()  # by a container's quota, which ONNX Runtime does not see
    options.intra_op_num_threads = threads or (usable_cores() if limited else 0)  # 0: one per core
    options.log_severity_level = 3
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _whole(bundle: Bundle, threads: int | None, providers: list[Any] | None = None, *, sizes: bool = False) -> onnxruntime.InferenceSession:
    """sizes: inputs of ever new sizes come, for which no memory is kept: a plan for each, and what the largest needed."""
    options = _session_options(threads)
    options.enable_mem_pattern = options.enable_cpu_mem_arena = not sizes
    if bundle.precision != "int8":  # else packed weights are unpacked in every run, which takes a sixth more time
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(bundle.graph, options, providers=providers or ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no public base class
        raise WeightsError(f"{bundle.graph} cannot be opened: {str(error).splitlines()[0]}") from error


def _on_device(bundle: Bundle, options: Options, provider: str, settings: dict[str, Any]) -> onnxruntime.InferenceSession:
    if provider not in onnxruntime.get_available_providers():
        there = ", ".join(onnxruntime.get_available_providers())
        raise BackendError(f"the installed ONNX Runtime has no {provider} (it has: {there}); it comes with: pip install onnxruntime-gpu")
    session = _whole(bundle, options.threads, [(provider, {"device_id": options.device_index, **settings})])
    if session.get_providers()[0] != provider:  # ONNX Runtime goes to the CPU without a word
        raise BackendError(f"ONNX Runtime's {provider} does not start here; onnxruntime.set_default_logger_severity(1) shows why")
    return session
