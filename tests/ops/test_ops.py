"""Every native op against an independent reference, for NumPy and torch."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from crops import resampled
from skimage.metrics import structural_similarity
from torch import library

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.resample import resize

RNG = np.random.default_rng(0)


def turned(angle: float, scale: float) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[[cos, -sin, 0], [sin, cos, 0]]], np.float32)


def thetas(count: int) -> np.ndarray:
    return (np.array([[1, 0, 0], [0, 1, 0]]) + RNG.normal(0, 0.4, (count, 2, 3))).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.parametrize("shape", [(1, 3, 7, 9), (5, 67, 16, 16), (2, 1, 1, 5)])
def test_stn_sample_is_affine_grid_and_grid_sample(shape: tuple, align_corners: bool, padding: str, upsample: int) -> None:
    x, theta = RNG.standard_normal(shape).astype(np.float32), thetas(shape[0])
    ours = ops.stn_sample(x, theta, (11, 6), align_corners=align_corners, padding=padding, upsample=upsample)
    big = F.interpolate(torch.from_numpy(x), scale_factor=upsample, mode="nearest")
    grid = F.affine_grid(torch.from_numpy(theta), [*shape[:2], 11, 6], align_corners=align_corners)
    theirs = F.grid_sample(big, grid, padding_mode=padding, align_corners=align_corners).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    as_torch = ops.stn_sample(
        torch.from_numpy(x), torch.from_numpy(theta), (11, 6), align_corners=align_corners, padding=padding, upsample=upsample
    )
    np.testing.assert_array_equal(as_torch.numpy(), ours)


def test_pixel_shuffle_is_torchs() -> None:
    x = RNG.standard_normal((3, 18, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(ops.pixel_shuffle(x, 3), F.pixel_shuffle(torch.from_numpy(x), 3).numpy())
    np.testing.assert_array_equal(ops.pixel_shuffle(x[::2, :, ::-1], 3), ops.pixel_shuffle(np.ascontiguousarray(x[::2, :, ::-1]), 3))


@pytest.mark.parametrize(("factor", "slope"), [(2, None), (2, 0.2), (3, 0.0), (1, 1.0)])
def test_pixel_shuffle_with_bias_and_activation(factor: int, slope: float | None) -> None:
    x = RNG.standard_normal((2, 5 * factor**2, 3, 4)).astype(np.float32)
    bias = RNG.standard_normal(5 * factor**2).astype(np.float32)
    tensors = [torch.from_numpy(array).requires_grad_() for array in (x, bias)]
    theirs = F.pixel_shuffle(F.leaky_relu(tensors[0] + tensors[1][:, None, None], 1.0 if slope is None else slope), factor)
    ours = ops.pixel_shuffle(x, factor, bias=bias, negative_slope=slope)
    np.testing.assert_array_equal(ours, theirs.detach().numpy())
    as_torch = ops.pixel_shuffle(tensors[0], factor, bias=tensors[1], negative_slope=slope)
    np.testing.assert_array_equal(as_torch.detach().numpy(), ours)
    gradient = torch.randn_like(theirs)
    for mine, wanted in zip(*(torch.autograd.grad(out, tensors, gradient) for out in (as_torch, theirs)), strict=True):
        torch.testing.assert_close(mine, wanted)
    half = ops.pixel_shuffle(tensors[0].detach().half(), factor, bias=tensors[1].detach().half(), negative_slope=slope)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), theirs.detach(), atol=1e-2, rtol=1e-2)
    fused = torch.ops.fhrt.pixel_shuffle_fused
    library.opcheck(fused, (tensors[0], factor, tensors[1], 1.0 if slope is None else slope))


@pytest.mark.parametrize(("channels", "factor"), [(3, 1), (3, 4), (1, 2), (4, 3)])
def test_to_image(channels: int, factor: int) -> None:
    x = RNG.normal(0, 0.8, (2, channels * factor**2, 5, 3)).astype(np.float32)
    x[0, 0, 0] = [np.nan, np.inf, -np.inf]
    planes = F.pixel_shuffle(torch.from_numpy(x), factor).numpy()
    expected = (
        np.rint((np.nan_to_num(planes, nan=-1, posinf=1, neginf=-1) + np.float32(1)) * np.float32(127.5))
        .clip(0, 255)
        .astype(np.uint8)
        .transpose(0, 2, 3, 1)
    )
    np.testing.assert_array_equal(ops.to_image(x, factor), expected)
    np.testing.assert_array_equal(ops.to_image(torch.from_numpy(x), factor).numpy(), expected)
    np.testing.assert_array_equal(ops.to_image(torch.from_numpy(x).double(), factor).numpy(), expected)
    np.testing.assert_array_equal(
        ops.to_image(x[:, ::-1] * 5 + 2, factor, low=-3, high=7), ops.to_image(np.ascontiguousarray(x[:, ::-1]), factor)
    )
    library.opcheck(torch.ops.fhrt.to_image.default, (torch.from_numpy(x), factor, -1.0, 1.0))


@pytest.mark.parametrize("size", [(11, 11), (37, 52)])
def test_ssim_is_scikit_images(size: tuple[int, int]) -> None:
    a = RNG.uniform(0, 255, (2, 3, *size))
    b = np.clip(a + RNG.normal(0, 30, a.shape), 0, 255)
    ours = ops.ssim(a, b, reduction="map")
    for n in range(2):
        for c in range(3):
            settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
            theirs = structural_similarity(a[n, c], b[n, c], **settings)[1][5:-5, 5:-5]
            np.testing.assert_allclose(ours[n, c], theirs, atol=1e-6)
    np.testing.assert_allclose(ops.ssim(a, b, reduction="none"), ours.mean(axis=(1, 2, 3)), atol=1e-12)
    for padding in ("valid", "same"):
        native = ops.ssim(a, b, padding=padding, reduction="map")
        twin = ops.ssim(torch.from_numpy(a), torch.from_numpy(b), padding=padding, reduction="map")
        np.testing.assert_allclose(twin.numpy(), native, atol=1e-9)
    assert ops.ssim(a, a) == pytest.approx(1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [0.3, 1, 1.5, 3, 7.9, 8.1, 41])
def test_face_crop_is_the_antialiased_cubic(channels: int, scale: float) -> None:
    rng = np.random.default_rng(channels)
    frame = rng.integers(0, 256, (45, 61, channels), np.uint8)
    transforms = np.concatenate([turned(angle, scale) for angle in (0.0, 0.2, -2.5)] + [rng.normal(0, scale, (2, 2, 3))])
    transforms[:, :, 2] = rng.uniform(-9, 45, (5, 2)) - 3 * scale  # many of them partly outside
    transforms = transforms.astype(np.float32)
    ours = ops.face_crop(frame, transforms, (7, 18), 127.5, 127.5) * 127.5 + 127.5
    np.testing.assert_allclose(ours, np.clip(resampled(frame, transforms, (7, 18)), 0, 255), atol=5e-3)


@pytest.mark.parametrize("shrink", [2, 3, 8])
def test_face_crop_shrinks_as_the_training_faces_were(shrink: int) -> None:
    frame = RNG.integers(0, 256, (24 * shrink, 32 * shrink, 3), np.uint8)
    upright = np.array([[[shrink, 0, (shrink - 1) / 2], [0, shrink, (shrink - 1) / 2]]], np.float32)
    ours = ops.face_crop(frame, upright, (24, 32), 0, 1)[0]
    theirs = resize(frame.transpose(2, 0, 1).astype(np.float32), (24, 32))
    inner = np.s_[:, 2:-2, 2:-2]  # near the border resize leaves out what it has not, where the crop repeats the border
    assert np.abs(ours - theirs)[inner].max() < 0.01


def test_face_crop_keeps_what_lies_on_pixels() -> None:
    frame = RNG.integers(0, 256, (30, 41, 3), np.uint8)
    for x, y in ((0, 0), (5, 7), (-9, 3), (60, -40)):
        crop = ops.face_crop(frame, np.array([[[1, 0, x], [0, 1, y]]], np.float32), (30, 41), 0, 1)[0].transpose(1, 2, 0)
        rows, columns = np.clip(np.arange(30) + y, 0, 29), np.clip(np.arange(41) + x, 0, 40)
        np.testing.assert_array_equal(crop, frame[np.ix_(rows, columns)])


@pytest.mark.parametrize("scale", [0.6, 1, 1.7])
def test_face_crop_turns_with_the_frame(scale: float) -> None:
    frame = RNG.integers(0, 256, (40, 40, 3), np.uint8)
    upright = np.array([[[scale, 0, 3.3], [0, scale, 2.1]]], np.float32)
    quarter = np.array([[0, 1, 0], [-1, 0, 39], [0, 0, 1]])  # pixel of the frame turned by 90 degrees to the frame's
    ours = ops.face_crop(frame, (quarter[:2] @ np.vstack([upright[0], [0, 0, 1]]))[None].astype(np.float32), (16, 18), 0, 1)
    np.testing.assert_allclose(ours, ops.face_crop(np.ascontiguousarray(np.rot90(frame, -1)), upright, (16, 18), 0, 1), atol=2e-3)


def test_face_crop_refuses_means_that_are_no_numbers() -> None:
    frame, upright = np.zeros((8, 8, 3), np.uint8), np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    for mean in (np.nan, [1, np.nan, 2], [1, np.inf, 2], [1, 2], "x"):
        with pytest.raises(BadInputError, match="face_crop: mean and std must be"):
            ops.face_crop(frame, upright, (4, 4), mean, 1)


def test_face_crop_keeps_a_constant_frame_and_clamps_overshoot() -> None:
    transforms = np.concatenate([turned(angle, scale) for angle in (0.0, 0.3) for scale in (0.3, 1, 1.3, 7, 9, 300)])
    transforms[:, :, 2] = RNG.uniform(-5, 30, (len(transforms), 2))
    np.testing.assert_allclose(ops.face_crop(np.full((30, 40, 3), 200, np.uint8), transforms, (6, 6), 0, 1), 200, atol=1e-3)
    stripes = np.tile(np.uint8([0, 0, 0, 255, 255, 255]), (12, 4))[..., None]
    between = np.array([[[1, 0, 6.5], [0, 1, 3]]], np.float32)
    sharp = resampled(stripes, between, (4, 8))
    assert sharp.min() < -10 and sharp.max() > 265
    np.testing.assert_allclose(ops.face_crop(stripes, between, (4, 8), 0, 1), sharp.clip(0, 255), atol=1e-3)


def test_threads_do_not_change_a_bit() -> None:
    x, theta = RNG.standard_normal((9, 5, 32, 32)).astype(np.float32), thetas(9)
    results = []
    for count in (1, 2, 5):
        ops.set_num_threads(count)
        results.append(ops.stn_sample(x, theta))
    ops.set_num_threads(0)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    together: list[np.ndarray] = []
    callers = [threading.Thread(target=lambda: together.append(ops.stn_sample(x, theta))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(together) == 4 and all(np.array_equal(each, results[0]) for each in together)


def test_a_thread_that_stays_alone_wakes_nobody() -> None:
    code = (
        "import psutil, threading, numpy as np; from fhrt import ops; ops.set_num_threads(3)\n"
        "x, counts = np.zeros((8, 3, 256, 256), np.float32), []\n"
        "def work(alone):\n"
        "    counts.append(psutil.Process().num_threads()); alone and ops.stay_alone()\n"
        "    ops.to_image(x); counts.append(psutil.Process().num_threads())\n"
        "thread = threading.Thread(target=work, args=[True]); thread.start(); thread.join(); work(False)\n"
        "assert counts[1] == counts[0] and counts[3] >= counts[2] + 1, counts"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_a_forked_process_gets_threads_of_its_own() -> None:
    # In a process of its own: forking the test runner, which has torch's threads, would not be safe.
    code = (
        "import os, numpy as np; from fhrt import ops; ops.set_num_threads(3)\n"
        "x = np.random.default_rng(0).random((9, 5, 32, 32), np.float32); t = np.zeros((9, 2, 3), np.float32)\n"
        "before = ops.stn_sample(x, t); child = os.fork()\n"
        "if not child: os._exit(0 if np.array_equal(ops.stn_sample(x, t), before) else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_a_crop_far_larger_than_its_frame_ends() -> None:
    crop = ops.face_crop(np.full((4, 4, 1), 9, np.uint8), np.array([[[1e30, 0, 0], [0, 1e30, 0]]], np.float32), (2, 2), 0, 1)
    np.testing.assert_allclose(crop, 9, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-40, 5e3, 1e20, 3e38])
def test_no_transform_leads_out_of_the_frame(value: float) -> None:
    """Not one that collapses the crop, nor positions that overflow (to NaN, where infinities meet)."""
    frame = RNG.integers(50, 60, (9, 7, 3), np.uint8)
    signs = np.array([[[1, -1, 1], [-1, 1, -1]], [[1, 1, -1], [1, 1, -1]], [[0, 0, 1], [0, 1, 1]]], np.float32)
    crops = ops.face_crop(frame, signs * np.float32(value), (3, 19), 0, 1)
    assert crops.min() > 45 and crops.max() < 65  # what the cubic overshoots


def test_gradients() -> None:
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(thetas(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, t: ops.stn_sample(a, t, (4, 3)), (x, theta))
    b = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: ops.ssim(a, b, data_range=1.0), torch.rand_like(b).requires_grad_())
    library.opcheck(torch.ops.fhrt.pixel_shuffle.default, (torch.randn(1, 4, 3, 3, requires_grad=True), 2))
    library.opcheck(torch.ops.fhrt.stn_sample.default, (torch.randn(1, 4, 3, 3), torch.tensor(thetas(1)), 4, 4, False, "zeros", 1))


def test_bad_input() -> None:
    x, theta = np.zeros((2, 3, 4, 4), np.float32), thetas(2)
    for call in (
        lambda: ops.stn_sample(x[0], theta),
        lambda: ops.stn_sample(x, theta[:1]),
        lambda: ops.stn_sample(x.astype(np.float64), theta),
        lambda: ops.stn_sample(x, theta * np.nan),
        lambda: ops.stn_sample(x, theta, padding="wrap"),  # type: ignore[arg-type]
        lambda: ops.stn_sample(x, theta, (0, 4)),
        lambda: ops.pixel_shuffle(x, 2),
        lambda: ops.pixel_shuffle(np.zeros((1, 4, 2, 2), np.float32), 2, bias=np.zeros(3, np.float32)),
        lambda: ops.pixel_shuffle(np.zeros((1, 4, 2, 2), np.float32), 2, negative_slope=-0.1),
        lambda: ops.to_image(np.zeros((1, 5, 2, 2), np.float32)),
        lambda: ops.to_image(x, 2),
        lambda: ops.to_image(x, low=1, high=1),
        lambda: ops.to_image(x.astype(np.float64)),
        lambda: ops.ssim(x, x),
        lambda: ops.ssim(x, x[:1]),
        lambda: ops.face_crop(x[0], theta, (4, 4), 0, 1),  # type: ignore[arg-type]
        lambda: ops.face_crop(np.zeros((4, 4, 3), np.uint8), theta, (4, 4), 0, 0),
        lambda: ops.stn_sample(torch.from_numpy(x), theta),
        lambda: ops.stn_sample(x, torch.from_numpy(theta)),
        lambda: ops.ssim(torch.zeros(1, 1, 12, 12), np.zeros((1, 1, 12, 12), np.float32)),
        lambda: ops.ssim(np.zeros((1, 1, 12, 12), np.float32), torch.zeros(1, 1, 12, 12)),
        lambda: ops.pixel_shuffle(torch.zeros(1, 4, 2, 2), 2, bias=np.zeros(4, np.float32)),
        lambda: ops.pixel_shuffle(np.zeros((1, 4, 2, 2), np.float32), 2, bias=torch.zeros(4)),
        lambda: ops.face_crop(np.zeros((4, 4, 3), np.uint8), torch.from_numpy(theta), (4, 4), 0, 1),
        lambda: ops.face_crop(torch.zeros(4, 4, 3, dtype=torch.uint8), theta, (4, 4), 0, 1),
        lambda: ops.set_num_threads(-1),
    ):
        with pytest.raises(BadInputError):
            call()
