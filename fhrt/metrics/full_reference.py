"""PSNR and SSIM of uint8 pictures, one value per picture; a table's figure is the mean of these values."""

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BadInputError

Pictures = NDArray[np.uint8]


def psnr(a: Pictures, b: Pictures, data_range: float = 255) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB, from the squared error over all pixels and channels of each picture.

    a, b: uint8 `[H, W, 3]` or `[N, H, W, 3]`. Returns float64 `[N]` (`[1]` for one picture); inf where both are equal.
    Raises BadInputError for other shapes or dtypes.
    """
    a, b = _batches(a, b)
    difference = np.subtract(a, b, dtype=np.int32)
    error = np.mean(difference * difference, axis=(1, 2, 3), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / error)


def ssim(a: Pictures, b: Pictures, data_range: float = 255) -> NDArray[np.float64]:
    """Structural similarity (Wang et al., 2004): 11×11 Gaussian, sigma 1.5, mean over the valid region and R, G, B.

    a, b: uint8 `[H, W, 3]` or `[N, H, W, 3]`, at least 11×11. Returns float64 `[N]` (`[1]` for one picture).
    Raises BadInputError for other shapes or dtypes.
    """
    planes = [np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32) for x in _batches(a, b)]
    values = ops.ssim(*planes, data_range=data_range, window=11, sigma=1.5, padding="valid", reduction="none")
    return np.asarray(values, dtype=np.float64)


def _batches(a: Pictures, b: Pictures) -> tuple[Pictures, Pictures]:
    """Both as `[N, H, W, 3]`."""
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise BadInputError(f"metrics compare uint8 pictures, not {a.dtype} with {b.dtype}")
    if a.shape != b.shape or a.ndim not in (3, 4) or a.shape[-1] != 3 or a.size == 0:
        raise BadInputError(f"metrics compare [H, W, 3] or [N, H, W, 3] of equal shape, not {a.shape} with {b.shape}")
    return a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:])
