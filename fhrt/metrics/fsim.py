"""FSIM of pictures, one value per picture: L. Zhang, L. Zhang, X. Mou and D. Zhang, "FSIM", IEEE TIP 20(8), 2011.

Phase congruency is Kovesi's, with the parameters that the paper chose and that the tables of later papers rest on.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError

LUMA = np.array([0.299, 0.587, 0.114])  # Y of YIQ (BT.601, full range)
WORKING_SIDE = 256  # larger pictures are averaged down to a shorter side of about this

SCALES, ORIENTATIONS = 4, 4
MIN_WAVELENGTH, MULT = 6, 2  # pixels of the finest filter; each scale's wavelength over the one before
SIGMA_ON_F = 0.55  # bandwidth of a log-Gabor filter: its σ over its centre frequency
DELTA_THETA = 1.2  # angle between orientations over the σ of the angular Gaussian
LOW_PASS, LOW_PASS_ORDER = 0.45, 15  # Butterworth, cycles per pixel: takes the corners of the spectrum away
NOISE_K = 2.0  # standard deviations of the noise energy above its mean that still count as noise
NOISE_RESCALE = 1.7  # Kovesi's empirical correction of the noise threshold for this measure of congruency
EPSILON = 1e-4

T1, T2 = 0.85, 160.0  # of the similarity of phase congruency and of gradient magnitude, as the paper chose them

Planes = NDArray[np.float64]


def fsim(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Feature similarity index on luminance, in (0, 1], 1 for equal pictures; the grey FSIM, not FSIMc.

    a, b: uint8 or float on [0, 255], ``[H, W]``, ``[H, W, 3]`` RGB or ``[N, H, W, 3]`` RGB, at least 16×16. Returns float64 ``[N]``
    (``[1]`` for one picture). Colour becomes Y = 0.299 R + 0.587 G + 0.114 B, not rounded. Pictures whose shorter side is at least 384 are
    first averaged down in blocks of round(side / 256), what is left over at the right and bottom cut off (the authors' code shifts odd
    blocks by half their size). Where neither picture has any structure, all pixels weigh alike.
    Raises BadInputError for other shapes or dtypes, and for NaN or infinity.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise BadInputError(f"fsim compares pictures of equal shape, not {a.shape} with {b.shape}")
    # One pair at a time: the responses of its filters stay in the processor's cache, those of a batch do not (measured: half as fast).
    return np.array([_similarity(x, y) for x, y in zip(_luma(a, "a"), _luma(b, "b"), strict=True)])


def _luma(pictures: NDArray, name: str) -> Planes:
    """``[N, h, w]`` luminance at the working size."""
    if pictures.dtype != np.uint8 and pictures.dtype.kind != "f":
        raise BadInputError(f"{name} must be uint8 or float pictures on [0, 255], not {pictures.dtype}")
    colour = pictures.ndim in (3, 4) and pictures.shape[-1] == 3
    if not (colour or pictures.ndim == 2):
        raise BadInputError(f"{name} must be [H, W], [H, W, 3] or [N, H, W, 3], not {list(pictures.shape)}")
    planes = pictures @ LUMA if colour else pictures.astype(np.float64)
    h, w = planes.shape[-2:]
    if planes.size == 0 or min(h, w) < 16:
        raise BadInputError(f"{name} must hold pictures of at least 16×16 pixels, not {list(pictures.shape)}")
    planes = planes.reshape(-1, h, w)
    if not np.isfinite(planes).all():
        raise BadInputError(f"{name} holds NaN or infinity")
    block = max(1, int(min(h, w) / WORKING_SIDE + 0.5))
    if block == 1:
        return planes
    rows, columns = h // block, w // block
    return planes[:, : rows * block, : columns * block].reshape(-1, rows, block, columns, block).mean(axis=(2, 4))


def _similarity(x: Planes, y: Planes) -> float:
    """FSIM (the paper's section "The FSIM index") of two luminances ``[H, W]``."""
    congruency = _phase_congruency(x), _phase_congruency(y)
    gradient = _gradient_magnitude(x), _gradient_magnitude(y)
    weight = np.maximum(*congruency)
    alike = _ratio(*congruency, T1) * _ratio(*gradient, T2)
    return float(np.average(alike, weights=weight if weight.any() else None))


def _ratio(p: Planes, q: Planes, constant: float) -> Planes:
    """How alike two maps are, pixel by pixel: the paper's S_PC and S_G."""
    return (2 * p * q + constant) / (p * p + q * q + constant)


def _gradient_magnitude(luma: Planes) -> Planes:
    """The paper's G_M: Scharr's operator on ``[H, W]``, zeros beyond the border."""
    padded = np.pad(luma, 1)
    down, across = padded[2:] - padded[:-2], padded[:, 2:] - padded[:, :-2]
    dy = 3 * (down[:, :-2] + down[:, 2:]) + 10 * down[:, 1:-1]
    dx = 3 * (across[:-2] + across[2:]) + 10 * across[1:-1]
    return np.hypot(dx, dy) / 16


def _phase_congruency(luma: Planes) -> Planes:
    """Kovesi's phase congruency, the paper's PC_2D, of ``[H, W]``, in [0, 1]."""
    spectrum = np.fft.fft2(luma)
    energy, amplitude = np.zeros_like(luma), np.zeros_like(luma)
    for bank, gain in zip(*_filters(*luma.shape), strict=True):
        response = np.fft.ifft2(spectrum * bank)  # [scale, H, W]: even part + i · odd part
        total = response.sum(axis=0)
        along = response * (total / (np.abs(total) + EPSILON)).conj()
        coherent = (along.real - np.abs(along.imag)).sum(axis=0)
        # The finest scale's responses are mostly noise; for Rayleigh-distributed amplitudes the mean square is median / ln 2.
        finest = np.median(response[0].real ** 2 + response[0].imag ** 2) / np.log(2)
        threshold = np.sqrt(finest * gain) * (np.sqrt(np.pi / 2) + NOISE_K * np.sqrt(2 - np.pi / 2)) / NOISE_RESCALE
        energy += np.maximum(coherent - threshold, 0)
        amplitude += np.abs(response).sum(axis=0)
    return np.divide(energy, amplitude, out=np.zeros_like(energy), where=amplitude > EPSILON)


@lru_cache(maxsize=4)
def _filters(h: int, w: int) -> tuple[Planes, NDArray[np.float64]]:
    """Log-Gabor filters ``[orientation, scale, h, w]`` in the order of the FFT, and per orientation τ² over the finest mean square.

    A filter passes one side of the spectrum, so that its response is complex. τ is the Rayleigh parameter of the summed response of all
    scales to white noise: the sum over pixels of (Σ over scales of the filter's real part)², over the energy of the finest filter.
    """
    v, u = np.meshgrid(_frequencies(h), _frequencies(w), indexing="ij")
    radius, theta = np.hypot(u, v), np.arctan2(-v, u)
    radius[0, 0] = 1  # the mean has no wavelength; its weight becomes 0 below
    low_pass = 1 / (1 + (radius / LOW_PASS) ** (2 * LOW_PASS_ORDER))
    wavelengths = MIN_WAVELENGTH * MULT ** np.arange(SCALES)[:, None, None]
    radial = np.exp(-(np.log(radius * wavelengths) ** 2) / (2 * np.log(SIGMA_ON_F) ** 2)) * low_pass
    radial[:, 0, 0] = 0
    angles = np.pi / ORIENTATIONS * np.arange(ORIENTATIONS)[:, None, None]
    distance = np.angle(np.exp(1j * (theta - angles)))
    sigma = np.pi / ORIENTATIONS / DELTA_THETA
    filters = np.exp(-(distance**2) / (2 * sigma**2))[:, None] * radial
    kernels = np.fft.ifft2(filters).real.sum(axis=1) * np.sqrt(h * w)
    noise_gain = (kernels**2).sum(axis=(1, 2)) / (filters[:, 0] ** 2).sum(axis=(1, 2))
    for array in (filters, noise_gain):
        array.setflags(write=False)
    return filters, noise_gain


def _frequencies(n: int) -> NDArray[np.floating]:
    """Cycles per pixel of an FFT's lines; for odd n stretched to ±½, as in Kovesi's and the authors' code."""
    return np.fft.fftfreq(n) * (n / (n - 1) if n % 2 else 1)
