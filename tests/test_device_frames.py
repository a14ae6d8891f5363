"""Frames that are not BGR arrays of the host: NV12, here for real, and arrays of a device, whose part NumPy's play.

The same on a real device is in tests/runtime/test_gpu_frames.py.
"""

from collections.abc import Iterator
from importlib import resources
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fhrt.hallucinator
from fhrt.errors import BadInputError
from fhrt.hallucinator import Hallucinator
from fhrt.ops import Nv12
from fhrt.runtime import Output, device, load

BOXES = [(100.0, 60.0, 124.0, 92.0), (300.5, 200.0, 318.0, 224.0), (10.0, 400.0, 40.0, 438.0)]


@pytest.fixture(scope="module")
def crowd() -> NDArray[np.uint8]:
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as path:
        picture = cv2.imread(str(path))
    assert picture is not None
    return picture.astype(np.uint8, copy=False)


@pytest.fixture(scope="module")
def hallucinator() -> Hallucinator:
    return Hallucinator("lite", backend="onnxruntime", plan="whole", threads=1)


def nv12_of(picture: NDArray[np.uint8], matrix: str) -> Nv12:
    """The picture as FFmpeg turns it into NV12."""
    frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
    colours = {"bt709": "ITU709", "bt601": "ITU601"}[matrix]
    return Nv12.stacked(frame.reformat(format="nv12", dst_colorspace=colours).to_ndarray(), matrix)


@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
def test_nv12_gives_the_faces_of_the_picture_that_it_was(matrix: str, crowd: NDArray[np.uint8], hallucinator: Hallucinator) -> None:
    nv12 = nv12_of(crowd, matrix)
    found, expected = hallucinator.run(nv12), hallucinator.run(crowd)
    assert abs(len(found.faces) - len(expected.faces)) <= 2
    centres = [np.array([face.box for face in result.faces]).reshape(-1, 2, 2).mean(1) for result in (found, expected)]
    nearest = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2).min(1)
    assert np.median(nearest) < 0.5
    difference = np.abs(found.frame.astype(int) - crowd)
    assert found.frame.dtype == np.uint8 and difference.mean() < 1.5  # chroma at half the resolution
    boxes = [face.box for face in expected.faces]
    given, wanted = hallucinator.run(nv12, boxes).faces, hallucinator.run(crowd, boxes).faces
    errors = [np.mean((one.sr.astype(float) - other.sr) ** 2) for one, other in zip(given, wanted, strict=True)]
    assert 10 * np.log10(255**2 / np.mean(errors)) > 35
    assert found.paste(1).shape == crowd.shape


def test_nv12_in_the_other_colour_order_and_of_odd_size(crowd: NDArray[np.uint8], hallucinator: Hallucinator) -> None:
    nv12 = nv12_of(crowd, "bt709")
    bgr = hallucinator.run(nv12, BOXES)
    hallucinator.color = "rgb"
    try:
        rgb = hallucinator.run(nv12, BOXES)
    finally:
        hallucinator.color = "bgr"
    for one, other in ((bgr.frame, rgb.frame), *((a.sr, b.sr) for a, b in zip(bgr.faces, rgb.faces, strict=True))):
        np.testing.assert_array_equal(one, other[..., ::-1])
    odd = Nv12(nv12.luma[:439, :719], nv12.chroma)
    np.testing.assert_array_equal(hallucinator.run(odd).frame[:400, :600], bgr.frame[:400, :600])
    of_torch = Nv12(torch.from_numpy(nv12.luma.copy()), torch.from_numpy(nv12.chroma.copy()))
    np.testing.assert_array_equal(hallucinator.run(of_torch, BOXES).faces[1].sr, bgr.faces[1].sr)
    np.testing.assert_array_equal(hallucinator.run(torch.from_numpy(crowd), BOXES).faces[1].sr, hallucinator.run(crowd, BOXES).faces[1].sr)


class There(np.ndarray):
    """An array of the device that is none."""

    device = SimpleNamespace(id=3)


class StandIn:
    """`fhrt.runtime.device.Library` over NumPy; counts what would cross the bus."""

    place = "cuda:3"

    def __init__(self, index: int = 3) -> None:
        self.index = index

    ups: list[Any] = []  # noqa: RUF012 - of all
    downs: list[Any] = []  # noqa: RUF012

    def up(self, array: NDArray[Any]) -> Any:
        assert not isinstance(array, There)
        self.ups.append(array)
        return array.copy().view(There)

    def down(self, arrays: Any) -> list[NDArray[Any]]:
        assert all(isinstance(array, There) and array.flags.c_contiguous for array in arrays)
        self.downs.append(arrays)
        return [np.array(array) for array in arrays]

    def mark(self) -> Any:
        return SimpleNamespace(synchronize=lambda: None)

    def flip(self, array: Any, axis: int) -> Any:
        return np.ascontiguousarray(np.flip(array, axis)).view(There)

    def join(self, arrays: Any) -> Any:
        return np.concatenate(arrays).view(There)


class EngineThere:
    """ONNX Runtime's engine, for arrays that are there."""

    array_library = StandIn()
    backend, precision = "stand-in", "fp32"

    def __init__(self) -> None:
        self.engine = load("lite", backend="onnxruntime", plan="whole", threads=1)
        self.card = self.engine.card

    def run(self, lr: Any) -> Output:
        assert isinstance(lr, There)
        given = self.engine.run(np.array(lr))
        assert given.theta is not None
        return Output(given.sr.view(There), given.theta.view(There))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hallucinator]:
    """A Hallucinator whose engine computes on the stand-in."""
    monkeypatch.setattr(device, "is_cupy", lambda array: isinstance(array, There))
    monkeypatch.setattr(device, "Cupy", StandIn)

    def stays(op: Any) -> Any:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            made = op(first, *rest, **named)
            return made.view(There) if isinstance(getattr(first, "luma", first), There) else made

        return call

    for name in ("face_crop", "to_image"):
        monkeypatch.setattr(fhrt.hallucinator, name, stays(getattr(fhrt.hallucinator, name)))
    monkeypatch.setattr("fhrt.runtime.load", lambda *args, **options: EngineThere())
    StandIn.ups.clear()
    StandIn.downs.clear()
    return Hallucinator("lite", threads=1)  # as the other has, so that their detectors are one and the same


def test_a_frame_goes_up_once_and_all_faces_come_down_together(
    there: Hallucinator, hallucinator: Hallucinator, crowd: NDArray[np.uint8]
) -> None:
    expected = hallucinator.run(crowd, BOXES)
    result = there.run(crowd, BOXES)
    assert [array.shape for array in StandIn.ups] == [crowd.shape, (3, 2, 3)] and not StandIn.downs
    assert [face.box for face in result.faces] == BOXES and np.shares_memory(result.frame, crowd) and not StandIn.downs
    for face, wanted in zip(result.faces, expected.faces, strict=True):
        for name in ("lr", "sr", "transform"):
            array = getattr(face, name)
            np.testing.assert_array_equal(array, getattr(wanted, name))
            assert type(array) is np.ndarray and array is getattr(face, name)
        assert face.heatmaps is None
    (down,) = StandIn.downs
    assert [array.shape for array in down] == [(3, 16, 16, 3), (3, 128, 128, 3), (3, 2, 3)]
    np.testing.assert_array_equal(result.paste(2), expected.paste(2))


def test_a_frame_there_stays_there(there: Hallucinator, hallucinator: Hallucinator, crowd: NDArray[np.uint8]) -> None:
    nv12 = nv12_of(crowd, "bt709")
    for frame, original in (
        (crowd.copy().view(There), crowd),
        (Nv12(nv12.luma.copy().view(There), nv12.chroma.copy().view(There)), nv12),
    ):
        StandIn.ups.clear()
        StandIn.downs.clear()
        result, expected = there.run(frame, BOXES), hallucinator.run(original, BOXES)
        assert [array.shape for array in StandIn.ups] == [(3, 2, 3)] and not StandIn.downs
        np.testing.assert_array_equal(result.faces[2].sr, expected.faces[2].sr)
        assert len(StandIn.downs) == 1
        np.testing.assert_array_equal(result.frame, expected.frame)
    with_detector, expected = there.run(frame), hallucinator.run(nv12)  # the detector gets it on the host
    assert [face.box for face in with_detector.faces] == [face.box for face in expected.faces]


def test_what_was_assigned_is_what_is_read(there: Hallucinator, crowd: NDArray[np.uint8]) -> None:
    face = there.run(crowd, BOXES).faces[0]
    face.sr = np.zeros((2, 2, 3), np.uint8)
    assert face.sr.shape == (2, 2, 3) and not StandIn.downs


class Cupys:
    """As much of a CuPy array as an error asks for; no machine without a device has a real one."""

    class ndarray:
        __module__ = "cupy"
        device, ndim = SimpleNamespace(id=0), 3

        def __init__(self, shape: tuple[int, ...], dtype: str = "uint8") -> None:
            self.shape, self.dtype = shape, dtype


def test_a_frame_where_no_engine_is_says_what_to_do(
    hallucinator: Hallucinator, there: Hallucinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    frame: Any = Cupys.ndarray((40, 60, 3))
    with pytest.raises(BadInputError, match=r"frame on cuda:0 cannot go into a model that runs on the CPU: load it with device='cuda'"):
        hallucinator.run(frame, BOXES)
    with pytest.raises(BadInputError, match="frame on cuda:0 cannot go into a model that runs on cuda:3"):
        there.run(frame, BOXES)
    for wrong in (Cupys.ndarray((40, 60, 4)), Cupys.ndarray((40, 60, 3), "float32"), Cupys.ndarray((0, 60, 3))):
        with pytest.raises(BadInputError, match=r"must be uint8 \[H, W, 3\], not"):
            hallucinator.run(wrong, BOXES)
    with pytest.raises(BadInputError, match="an ndarray, a path or a PIL image, not dict"):
        hallucinator.run({})
    lr: Any = Cupys.ndarray((2, 3, 16, 16), "float32")
    lr.ndim = 4
    with pytest.raises(BadInputError, match="LR faces on cuda:0 cannot go into a model that runs on the CPU"):
        hallucinator.engine.run(lr)
