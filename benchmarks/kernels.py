"""Each native op against what one would call instead, on the same input, after checking that both give the same.

On the CPU the ops get NumPy arrays, as the runtime calls them, and tensors where gradients are wanted; on a GPU tensors throughout.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import timing
from fhrt import ops

BATCHES = (1, 32)
WINDOW = (11, 1.5)


@dataclass(frozen=True)
class Case:
    """Two ways to do the same work.

    bytes: what any implementation must read and write once. tolerance: the largest absolute difference that still counts as the same.
    required: how many times faster than the peer the op has to be.
    """

    op: str
    peer: str
    shape: str
    bytes: int
    native: Callable[[], Any]
    usual: Callable[[], Any]
    tolerance: float
    required: float


def measure(device: str, threads: int, runs: int, warmup: int) -> tuple[list[dict[str, Any]], float]:
    """One row per case, and the copy bandwidth in GB/s that the shares refer to; `threads` applies to both sides."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    ops.set_num_threads(threads)
    on_gpu = device != "cpu"
    bandwidth = copy_bandwidth(device)
    rows: list[dict[str, Any]] = []
    for case in cases(device):
        _check(case)
        candidates = {"native": case.native, "usual": case.usual}
        if on_gpu:
            candidates["compiled"] = torch.compile(case.usual)
            candidates = {name: _finished(call) for name, call in candidates.items()}
        times = timing.interleave(candidates, runs=runs, warmup=warmup, warm=0.01)
        peers = [name for name in times if name != "native"]
        ratios = {name: timing.ratio(times[name], times["native"]) for name in peers}
        rate = case.bytes / np.median(times["native"]) / 1e6
        rows.append(
            {
                "op": case.op,
                "shape": case.shape,
                "peer": case.peer,
                **{f"{name}_ms": timing.summary(values) for name, values in times.items()},
                "bytes": case.bytes,
                "gb_per_s": rate,
                "share_of_copy": rate / bandwidth,
                "times_faster": ratios["usual"],
                **({"times_faster_than_compiled": ratios["compiled"]} if on_gpu else {}),
                "required": case.required,
                "reached": ratios["usual"] >= case.required,
            }
        )
    return rows, bandwidth


def copy_bandwidth(device: str, size: int = 1 << 26) -> float:
    """GB/s of copying 256 MB on this device, bytes read and written both counted; the best of ten."""
    source, target = torch.zeros(size, device=device), torch.zeros(size, device=device)
    copy = _finished(lambda: target.copy_(source)) if device != "cpu" else (lambda: target.copy_(source))
    times = timing.interleave({"copy": copy}, runs=10, warmup=2)["copy"]
    return float(2 * source.nbytes / times.min() / 1e6)


def _finished(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def _check(case: Case) -> None:
    ours, theirs = (_arrays(result()) for result in (case.native, case.usual))
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.astype(np.float64), wanted.astype(np.float64), rtol=0, atol=case.tolerance, err_msg=case.op)


def _arrays(result: Any) -> list[NDArray[Any]]:
    results = result if isinstance(result, tuple) else (result,)
    return [each.detach().cpu().numpy() if isinstance(each, Tensor) else np.asarray(each) for each in results]


def cases(device: str) -> Iterator[Case]:
    """The ops at the sizes of faces, and on a GPU also where only the memory counts."""
    rng = np.random.default_rng(0)
    for count in BATCHES:
        for channels, side, size in ((3, 16, 16), (28, 16, 32), (67, 64, 64)):
            yield _stn_sample(rng, device, count, channels, side, size)
        yield _stn_sample_backward(rng, device, count, 28, 16, 32)
        for channels, side, factor in ((48, 16, 2), (32, 64, 2)):
            yield _pixel_shuffle(rng, device, count, channels, side, factor)
        for side, factor in ((32, 4), (128, 1)):
            yield _to_image(rng, device, count, side, factor)
        yield _ssim(rng, device, count, 128)
        yield _ssim_backward(rng, device, count, 128)
    if device == "cpu":
        for shrink in (1.0, 1.6):
            yield _face_crop(rng, 32, shrink)
        yield _face_crop(rng, 32, 1.0, nv12=True)
    else:
        yield _stn_sample(rng, device, 256, 64, 128, 128)
        yield _pixel_shuffle(rng, device, 256, 64, 64, 2)
        yield _to_image(rng, device, 512, 64, 4)


def _normal(rng: np.random.Generator, device: str, *shape: int) -> tuple[Any, Tensor]:
    """The op's input and the peer's: the same numbers."""
    x = rng.standard_normal(shape, np.float32)
    tensor = torch.from_numpy(x).to(device)
    return (x if device == "cpu" else tensor), tensor


def _similarities(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    angle, scale = rng.uniform(-0.8, 0.8, count), rng.uniform(0.8, 1, count)
    cos, sin, shift = scale * np.cos(angle), scale * np.sin(angle), rng.uniform(-0.1, 0.1, (2, count))
    return np.stack([np.stack([cos, -sin, shift[0]], 1), np.stack([sin, cos, shift[1]], 1)], 1).astype(np.float32)


def _grid_sample(x: Tensor, theta: Tensor, size: int) -> Tensor:
    grid = F.affine_grid(theta, [*x.shape[:2], size, size], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _stn_sample(rng: np.random.Generator, device: str, count: int, channels: int, side: int, size: int) -> Case:
    x, tensor = _normal(rng, device, count, channels, side, side)
    maps = _similarities(rng, count)
    tensor_maps = torch.from_numpy(maps).to(device)
    theta = maps if device == "cpu" else tensor_maps
    return Case(
        op="stn_sample",
        peer="torch affine_grid + grid_sample",
        shape=f"{count}×{channels}×{side}×{side} → {size}×{size}",
        bytes=4 * count * channels * (side * side + size * size),
        native=lambda: ops.stn_sample(x, theta, (size, size)),
        usual=lambda: _grid_sample(tensor, tensor_maps, size),
        tolerance=1e-4,
        required=3 if device == "cpu" else 5,
    )


def _stn_sample_backward(rng: np.random.Generator, device: str, count: int, channels: int, side: int, size: int) -> Case:
    leaves = [_normal(rng, device, count, channels, side, side)[1], torch.from_numpy(_similarities(rng, count)).to(device)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    gradient = _normal(rng, device, count, channels, size, size)[1]
    return Case(
        op="stn_sample, forward and backward",
        peer="torch affine_grid + grid_sample",
        shape=f"{count}×{channels}×{side}×{side} → {size}×{size}",
        bytes=4 * count * channels * (3 * side * side + 2 * size * size),
        native=lambda: torch.autograd.grad(ops.stn_sample(*leaves, (size, size)), leaves, gradient),
        usual=lambda: torch.autograd.grad(_grid_sample(*leaves, size), leaves, gradient),
        tolerance=2e-2,  # theta's gradient is a sum of some 10⁵ products
        required=1,
    )


def _pixel_shuffle(rng: np.random.Generator, device: str, count: int, channels: int, side: int, factor: int) -> Case:
    x, tensor = _normal(rng, device, count, channels * factor**2, side, side)
    bias, tensor_bias = _normal(rng, device, channels * factor**2)
    return Case(
        op="pixel_shuffle, bias and LeakyReLU",
        peer="torch add, leaky_relu, pixel_shuffle",
        shape=f"{count}×{channels * factor**2}×{side}×{side}, ×{factor}",
        bytes=8 * count * channels * (side * factor) ** 2,
        native=lambda: ops.pixel_shuffle(x, factor, bias=bias, negative_slope=0.2),
        usual=lambda: F.pixel_shuffle(F.leaky_relu(tensor + tensor_bias[:, None, None], 0.2), factor),
        tolerance=1e-6,
        required=3,
    )


def _to_image(rng: np.random.Generator, device: str, count: int, side: int, factor: int) -> Case:
    x, tensor = _normal(rng, device, count, 3 * factor**2, side, side)
    return Case(
        op="to_image",
        peer="torch pixel_shuffle, clamp, scale, round, uint8, permute",
        shape=f"{count}×{3 * factor**2}×{side}×{side}, ×{factor}",
        bytes=5 * count * 3 * (side * factor) ** 2,
        native=lambda: ops.to_image(x, factor),
        usual=lambda: (
            ((F.pixel_shuffle(tensor, factor) + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        ),
        tolerance=0,
        required=5,
    )


def conv_ssim(a: Tensor, b: Tensor, data_range: float = 255.0) -> Tensor:
    """SSIM by grouped 1-D convolutions, rows then columns, all five moments at once: how the usual torch packages compute it."""
    window, sigma = WINDOW
    offsets = torch.arange(window, device=a.device) - window // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).to(a.dtype)
    channels = 5 * a.shape[1]
    moments = torch.cat([a, b, a * a, b * b, a * b], 1)
    for shape in ((1, 1, window, 1), (1, 1, 1, window)):
        moments = F.conv2d(moments, weights.view(shape).expand(channels, *shape[1:]), groups=channels)
    mean_a, mean_b, aa, bb, ab = moments.chunk(5, 1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    return (((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean((1, 2, 3))


def _pictures(rng: np.random.Generator, count: int, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    a = rng.uniform(0, 255, (count, 3, side, side)).astype(np.float32)
    return a, (a + rng.normal(0, 20, a.shape)).clip(0, 255).astype(np.float32)


def _ssim(rng: np.random.Generator, device: str, count: int, side: int) -> Case:
    arrays = _pictures(rng, count, side)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    inputs: Sequence[Any] = arrays if device == "cpu" else tensors
    return Case(
        op="ssim",
        peer="torch grouped 1-D convolutions",
        shape=f"{count}×3×{side}×{side}",
        bytes=2 * arrays[0].nbytes,
        native=lambda: ops.ssim(*inputs, reduction="none"),
        usual=lambda: conv_ssim(*tensors),
        tolerance=1e-4,
        required=8,
    )


def _ssim_backward(rng: np.random.Generator, device: str, count: int, side: int) -> Case:
    a, b = (torch.from_numpy(array).to(device) for array in _pictures(rng, count, side))
    a.requires_grad_()
    return Case(
        op="ssim, forward and backward",
        peer="torch grouped 1-D convolutions",
        shape=f"{count}×3×{side}×{side}",
        bytes=5 * a.nbytes,
        native=lambda: torch.autograd.grad(ops.ssim(a, b), a),
        usual=lambda: torch.autograd.grad(conv_ssim(a, b).mean(), a),
        tolerance=1e-6,
        required=5 if device == "cpu" else 8,
    )


def _face_crop(rng: np.random.Generator, count: int, shrink: float, nv12: bool = False) -> Case:
    """Crops at the frame's own scale, or smaller: then OpenCV, which does not widen its cubic, warps to twice the size and averages.

    nv12: of the frame that a decoder gives, which OpenCV turns into RGB first; grey, since it takes the nearest chroma and we interpolate.
    """
    frame = cv2.resize(rng.integers(0, 256, (54, 96, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    stacked = np.concatenate([frame[..., 0], np.full((540, 1920), 128, np.uint8)])
    transforms = _similarities(rng, count)
    transforms[:, :, :2] *= shrink / np.linalg.norm(transforms[:, 0, :2], axis=1)[:, None, None]
    transforms[:, :, 2] = rng.uniform((100, 100), (1800, 980), (count, 2))
    finer = 1 if shrink <= 1 else 2
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP

    def usual() -> NDArray[np.float32]:
        rgb = cv2.cvtColor(stacked, cv2.COLOR_YUV2RGB_NV12) if nv12 else frame
        crops = np.empty((count, 16, 16, 3), np.uint8)
        for crop, transform in zip(crops, transforms, strict=True):
            if finer == 1:
                cv2.warpAffine(rgb, transform, (16, 16), crop, flags, cv2.BORDER_REPLICATE)
            else:
                small = transform / np.float32([[2, 2, 1], [2, 2, 1]])
                small[:, 2] -= 0.25 * transform[:, :2].sum(1)  # the pixel centres of the finer crop
                cv2.resize(
                    cv2.warpAffine(rgb, small, (32, 32), None, flags, cv2.BORDER_REPLICATE), (16, 16), crop, interpolation=cv2.INTER_AREA
                )
        return (crops.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)

    return Case(
        op="face_crop",
        peer=("cv2.cvtColor of the frame, " if nv12 else "")
        + "cv2.warpAffine (cubic) in a loop"
        + (", twice the size, then cv2.resize" if finer > 1 else "")
        + ", scale",
        shape=f"1920×1080{' NV12' if nv12 else ''} → {count}×3×16×16, shrunk {shrink:g}×",
        bytes=count * 16 * 16 * 3 * (int(shrink**2) + 4),
        native=lambda: ops.face_crop(ops.Nv12.stacked(stacked) if nv12 else frame, transforms, (16, 16), 127.5, 127.5),
        usual=usual,
        tolerance=0.05,
        required=3,
    )
