"""What face_crop computes, pixel by pixel in float64."""

import numpy as np
from numpy.typing import NDArray


def resampled(frame: NDArray[np.uint8], transforms: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Crops ``[N, C, h, w]`` of a frame ``[H, W, C]`` or NV12 plane, not clamped."""
    crops = np.empty((len(transforms), frame.shape[2], *size))
    for n, i, j in np.ndindex(len(transforms), *size):
        transform = transforms[n].astype(np.float64)
        x, y = transform @ [j, i, 1]
        columns, across = _taps(x, np.hypot(*transform[0, :2]), frame.shape[1])
        rows, down = _taps(y, np.hypot(*transform[1, :2]), frame.shape[0])
        crops[n, :, i, j] = np.einsum("y,x,yxc->c", down, across, frame[np.ix_(rows, columns)].astype(np.float64))
    return crops


def resampled_nv12(
    luma: NDArray[np.uint8], chroma: NDArray[np.uint8], to_rgb: tuple[float, ...], transforms: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Crops ``[N, 3, h, w]`` RGB of luma ``[H, W, 1]`` and chroma ``[⌈H/2⌉, ⌈W/2⌉, 2]``, not clamped."""
    halved = transforms.astype(np.float64) / 2
    halved[:, 1, 2] -= 0.25
    y, (u, v) = resampled(luma, transforms, size)[:, 0], (resampled(chroma, halved, size) - 128).swapaxes(0, 1)
    scale, black, red_v, green_u, green_v, blue_u = to_rgb
    grey = scale * (y - black)
    return np.stack([grey + red_v * v, grey + green_u * u + green_v * v, grey + blue_u * u], 1)


def _taps(centre: float, scale: float, size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pixels of an axis, the border's for those beyond, and their weights: Keys' cubic, as wide as the crop shrinks the frame."""
    shrink = max(1.0, float(scale))
    step = np.ceil(shrink / 8)
    taps = (np.floor((centre - 2 * shrink) / step) + 1 + np.arange(np.ceil(4 * shrink / step))) * step
    t = np.abs(taps - centre) / shrink
    cubic = np.where(t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0))
    return np.clip(taps, 0, size - 1).astype(np.int64), cubic / cubic.sum()
