"""Frames on a real device: faces as the CPU makes them, whatever holds the frame, on one stream, down in one go."""

import os
from collections.abc import Callable
from importlib import resources
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from devices import DEVICE, need_device

from fhrt import _C
from fhrt.errors import BadInputError, FhrtError
from fhrt.faces.detect import Detection
from fhrt.hallucinator import Hallucinator, crop_faces
from fhrt.ops import Nv12
from fhrt.runtime import device
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.engine import Options

pytestmark = pytest.mark.gpu
LEAST_DB = 40  # fp16 engines, pictures of 8 bits
LITE = open_bundle("lite")
BOXES = [(100.0 + 25 * (i % 8), 60.0 + 40 * (i // 8), 122.0 + 25 * (i % 8), 88.0 + 40 * (i // 8)) for i in range(40)]


def picture() -> np.ndarray:
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as path:
        return np.asarray(cv2.imread(str(path)), np.uint8)


FRAME = picture()
NV12 = Nv12(FRAME[..., 0].copy(), FRAME[::2, ::2, 1:].copy())  # not these colours, but bytes like any


def of_cupy(array: np.ndarray) -> Any:
    return pytest.importorskip("cupy", reason="CuPy is not installed").asarray(array)


def of_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).cuda()


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {"numpy": np.copy, "torch": of_torch, "cupy": of_cupy}


@pytest.fixture(scope="module")
def on_cpu() -> Hallucinator:
    return Hallucinator("lite", backend="onnxruntime", plan="whole", device="cpu")


@pytest.fixture(scope="module", params=["torch", "tensorrt"])
def on_gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hallucinator:
    """lite in fp16; TensorRT with two batch sizes, which build sooner than six."""
    os.environ["FHRT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    try:
        if request.param == "tensorrt":
            from fhrt.runtime.trt import TensorRTEngine

            TensorRTEngine(LITE, Options(device="cuda", precision="fp16"), batches=(1, 16))
        return Hallucinator("lite", backend=request.param, device="cuda", precision="fp16")
    except FhrtError as error:
        if os.environ.get("FHRT_REQUIRE_GPU") == "1" and hasattr(_C, "cuda"):
            raise
        pytest.skip(str(error))


def decibels(given: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((given.astype(float) - expected) ** 2), 1e-9)))


def alike(given: Any, expected: Any) -> None:
    assert len(given.faces) == len(expected.faces)
    for ours, wanted in zip(given.faces, expected.faces, strict=True):
        assert type(ours.sr) is type(ours.lr) is np.ndarray and ours.box == wanted.box
        assert np.abs(ours.lr.astype(int) - wanted.lr).max() <= 1
        assert decibels(ours.sr, wanted.sr) > LEAST_DB
        np.testing.assert_allclose(ours.transform, wanted.transform, atol=0.05)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("count", [1, 16, 40])
def test_faces_are_those_of_the_cpu(holder: str, count: int, on_gpu: Hallucinator, on_cpu: Hallucinator) -> None:
    hold = HOLDERS[holder]
    alike(on_gpu.run(hold(FRAME), BOXES[:count]), on_cpu.run(FRAME, BOXES[:count]))
    alike(on_gpu.run(Nv12(hold(NV12.luma), hold(NV12.chroma)), BOXES[:count]), on_cpu.run(NV12, BOXES[:count]))


@pytest.mark.parametrize("holder", HOLDERS)
def test_with_a_detector_and_pasted(holder: str, on_gpu: Hallucinator, on_cpu: Hallucinator) -> None:
    given, expected = on_gpu.run(HOLDERS[holder](FRAME)), on_cpu.run(FRAME)
    alike(given, expected)
    assert np.array_equal(given.frame, FRAME) and decibels(given.paste(2), expected.paste(2)) > LEAST_DB


@pytest.mark.parametrize("holder", HOLDERS)
def test_boxes_may_lie_there_too(holder: str, on_gpu: Hallucinator, on_cpu: Hallucinator) -> None:
    for hallucinator in (on_gpu, on_cpu):
        boxes = [face.box for face in hallucinator.run(FRAME, HOLDERS[holder](np.array(BOXES))).faces]
        assert boxes == [tuple(box) for box in BOXES]


@pytest.mark.parametrize("holder", ["torch", "cupy"])
@pytest.mark.parametrize("finer", [1, 2])
def test_crops_of_a_network_of_loose_faces_are_those_of_the_cpu(holder: str, finer: int) -> None:
    need_device()
    if DEVICE == "cpu":
        pytest.skip("a rehearsal has no frames on a device")
    card: Any = SimpleNamespace(input_size=(24, 24), outputs=("sr",))
    detections = [Detection(box) for box in BOXES[:16]]
    crops, _ = crop_faces(HOLDERS[holder](FRAME), detections, card, "bgr", finer)
    expected, _ = crop_faces(FRAME, detections, card, "bgr", finer)
    library = device.library_of(crops)
    assert library is not None
    np.testing.assert_allclose(library.down([crops])[0], expected, atol=2e-3)


def test_one_download_for_all_faces(on_gpu: Hallucinator, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(on_gpu.engine.array_library)
    downs: list[int] = []
    original = kind.down
    monkeypatch.setattr(kind, "down", lambda self, arrays: downs.append(len(arrays)) or original(self, arrays))
    result = on_gpu.run(FRAME, BOXES[:16])
    assert not downs
    for face in result.faces:
        assert face.sr.any() and face.lr.any() and face.transform.any()
    assert downs == [3]  # LR and SR pictures, theta


@pytest.mark.parametrize("holder", ["torch", "cupy"])
def test_a_frame_may_be_overwritten_behind_the_run_on_its_stream(holder: str, on_gpu: Hallucinator, on_cpu: Hallucinator) -> None:
    """On a stream of its own, with results of several runs read late and from the default stream."""
    expected = [on_cpu.run(frame, BOXES[:16]) for frame in (FRAME, FRAME[::-1].copy(), 255 - FRAME)]
    if holder == "torch":
        stream: Any = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            frame: Any = torch.from_numpy(FRAME).to("cuda", non_blocking=True)
            results = [on_gpu.run(frame, BOXES[:16])]
            frame.copy_(torch.from_numpy(FRAME[::-1].copy()).pin_memory(), non_blocking=True)
            results.append(on_gpu.run(frame, BOXES[:16]))
            frame.copy_(255 - torch.from_numpy(FRAME).cuda())
            results.append(on_gpu.run(frame, BOXES[:16]))
            frame.zero_()
    else:
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            frame = cupy.asarray(FRAME)
            results = [on_gpu.run(frame, BOXES[:16])]
            frame[...] = cupy.asarray(FRAME[::-1].copy())
            results.append(on_gpu.run(frame, BOXES[:16]))
            frame[...] = 255 - cupy.asarray(FRAME)
            results.append(on_gpu.run(frame, BOXES[:16]))
            frame[...] = 0
    for given, wanted in zip(results, expected, strict=True):
        alike(given, wanted)


def test_host_batches_and_batches_there_take_turns(on_gpu: Hallucinator) -> None:
    """Both use the same memory on the device, from different streams."""
    engine = on_gpu.engine
    lrs = [np.random.default_rng(seed).uniform(-1, 1, (9, 3, 16, 16)).astype(np.float32) for seed in range(6)]
    expected = [engine.run(lr).sr for lr in lrs]
    side = torch.cuda.Stream()
    given = []
    for number, lr in enumerate(lrs):
        with torch.cuda.stream(side if number % 3 else torch.cuda.default_stream()):
            given.append(device.Download(engine.run(of_torch(lr) if number % 2 else lr).sr))
    for download, wanted in zip(given, expected, strict=True):
        np.testing.assert_array_equal(download()[0], wanted)
    assert engine.run(of_torch(lrs[0])[:0]).sr.shape == (0, 3, 128, 128)


def test_refusals(on_gpu: Hallucinator, on_cpu: Hallucinator) -> None:
    with pytest.raises(BadInputError, match="frame on cuda:0 cannot go into a model that runs on the CPU: load it with device='cuda'"):
        on_cpu.run(of_torch(FRAME), BOXES)
    for wrong in (of_torch(FRAME).float(), of_torch(FRAME)[..., :1], of_torch(FRAME)[None]):
        with pytest.raises(BadInputError, match=r"a frame on a device must be uint8 \[H, W, 3\]"):
            on_gpu.run(wrong, BOXES)


def test_the_benchmark_of_a_frame(on_gpu: Hallucinator) -> None:
    from benchmarks.models import frame_rows

    rows = frame_rows(on_gpu, 20, 5)
    assert [row["frame"] for row in rows] == ["host", "device", "host, cropped there"] and all(row["faces"] == 16 for row in rows)
    assert all(0 < row["ms"]["p50"] <= row["ms"]["p99"] for row in rows)
