"""Each native op against what one would call instead, on the same input, after checking that both give the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from benchmarks import timing
from fhrt import ops

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Two ways to do the same work; `tolerance` is the largest absolute difference that still counts as the same."""

    op: str
    alternative: str
    shape: str
    native: Callable[[], Array]
    usual: Callable[[], Array]
    tolerance: float


def measure(threads: int, runs: int, warmup: int) -> list[dict[str, Any]]:
    """One row per case: milliseconds (median, p95) of both and the median ratio; `threads` applies to both sides."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    ops.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for case in cases(np.random.default_rng(0)):
        np.testing.assert_allclose(case.native(), case.usual(), rtol=0, atol=case.tolerance, err_msg=case.op)
        times = timing.interleave({"native": case.native, "usual": case.usual}, runs=runs, warmup=warmup)
        rows.append(
            {
                "op": case.op,
                "alternative": case.alternative,
                "shape": case.shape,
                "native_ms": timing.summary(times["native"]),
                "alternative_ms": timing.summary(times["usual"]),
                "ratio": timing.ratio(times["native"], times["usual"]),
            }
        )
    return rows


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """The four ops at the sizes at which fhrt calls them."""
    yield from (_stn_sample(rng, *shape) for shape in ((1, 28, 16, 32), (16, 28, 16, 32), (16, 67, 64, 64)))
    yield from (_pixel_shuffle(rng, *shape) for shape in ((1, 48, 32, 4), (16, 48, 32, 4)))
    yield from (_ssim(rng, *shape) for shape in ((1, 128), (16, 128), (1, 1080)))
    yield from (_face_crop(rng, count) for count in (1, 16))


def _similarities(rng: np.random.Generator, count: int) -> Array:
    angle, scale = rng.uniform(-0.8, 0.8, count), rng.uniform(0.8, 1, count)
    cos, sin, shift = scale * np.cos(angle), scale * np.sin(angle), rng.uniform(-0.1, 0.1, (2, count))
    return np.stack([np.stack([cos, -sin, shift[0]], 1), np.stack([sin, cos, shift[1]], 1)], 1).astype(np.float32)


def _stn_sample(rng: np.random.Generator, count: int, channels: int, side: int, target: int) -> Case:
    x = rng.standard_normal((count, channels, side, side), np.float32)
    theta = _similarities(rng, count)
    tensor, tensor_theta = torch.from_numpy(x), torch.from_numpy(theta)

    def usual() -> Array:
        grid = F.affine_grid(tensor_theta, [count, channels, target, target], align_corners=False)
        return F.grid_sample(tensor, grid, align_corners=False).numpy()

    return Case(
        op="stn_sample",
        alternative="torch affine_grid + grid_sample",
        shape=f"{count}x{channels}x{side}x{side} -> {target}x{target}",
        native=lambda: ops.stn_sample(x, theta, (target, target)),
        usual=usual,
        tolerance=1e-4,
    )


def _pixel_shuffle(rng: np.random.Generator, count: int, channels: int, side: int, factor: int) -> Case:
    x = rng.standard_normal((count, channels, side, side), np.float32)
    tensor = torch.from_numpy(x)
    return Case(
        op="pixel_shuffle",
        alternative="torch pixel_shuffle",
        shape=f"{count}x{channels}x{side}x{side}, x{factor}",
        native=lambda: ops.pixel_shuffle(x, factor),
        usual=lambda: F.pixel_shuffle(tensor, factor).numpy(),
        tolerance=0,
    )


def _ssim(rng: np.random.Generator, count: int, side: int) -> Case:
    a = rng.uniform(0, 255, (count, 3, side, side)).astype(np.float32)
    b = (a + rng.normal(0, 20, a.shape)).clip(0, 255).astype(np.float32)

    def usual() -> Array:
        options = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return np.array([structural_similarity(x, y, data_range=255, **options) for x, y in zip(a, b, strict=True)])

    return Case(
        op="ssim",
        alternative="scikit-image structural_similarity",
        shape=f"{count}x3x{side}x{side}",
        native=lambda: ops.ssim(a, b, data_range=255, window=11, sigma=1.5, padding="valid", reduction="none"),
        usual=usual,
        tolerance=1e-4,
    )


def _face_crop(rng: np.random.Generator, count: int) -> Case:
    frame = cv2.resize(rng.integers(0, 256, (54, 96, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    # Faces about as large as the crop (one crop pixel is one to one and a half frame pixels), so that both sample alike.
    transforms = _similarities(rng, count) * 1.25
    transforms[:, :, 2] = rng.uniform(200, 800, (count, 2))

    def usual() -> Array:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crops = [cv2.warpAffine(frame, transform, (16, 16), flags=flags) for transform in transforms]
        return np.ascontiguousarray((np.stack(crops).astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))

    return Case(
        op="face_crop",
        alternative="cv2.warpAffine, scale, transpose",
        shape=f"1920x1080 -> {count}x3x16x16",
        native=lambda: ops.face_crop(frame, transforms, (16, 16), 127.5, 127.5),
        usual=usual,
        tolerance=0.05,
    )
