"""What a camera does to a small face on its way to the network: colour, optics, sampling, sensor noise, JPEG and H.264.

Every choice is drawn from the given generator, so a seed fixes the damage. Strengths follow the "real-world degradation" practice
of blind super-resolution (blur, resize kernel, noise and compression drawn independently), scaled down to 16-pixel faces.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.resample import KERNELS, resample_matrix, to_uint8

GAMMA = (0.87, 1.15)
WHITE_BALANCE = 0.06  # gain of each channel within 1 ± this
BLUR_STEPS = 9  # σ = 0, ½, … 4 pixels of the 128×128 face
SHOT_NOISE = 0.35  # variance per grey level, at most
READ_NOISE = 5.0  # grey levels, at most
JPEG_SHARE, JPEG_QUALITY = 0.5, (45, 95)
H264_SHARE, H264_CRF = 0.3, (20, 34)
_CELL = 32  # a compressed face sits at a random place of a cell, since faces do not sit on the codec's block grid


def camera(hr: NDArray[np.float32], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Damaged LR faces ``[N, 3, size, size]`` uint8 of HR faces ``[N, 3, H, W]`` float32, both RGB on [0, 255]."""
    count = len(hr)
    gamma = rng.uniform(np.log(GAMMA[0]), np.log(GAMMA[1]), (count, 1, 1, 1))
    gain = rng.uniform(1 - WHITE_BALANCE, 1 + WHITE_BALANCE, (count, 3, 1, 1)).astype(np.float32)

    rows, columns = (_sampling(hr.shape[axis], size, count, rng) for axis in (2, 3))
    lr = np.matmul(np.matmul(rows, hr), columns.transpose(0, 1, 3, 2))
    lr = 255 * np.power(np.clip(lr * gain, 0, 255) / 255, np.exp(gamma).astype(np.float32))

    shot, read = (rng.uniform(0, top, (count, 1, 1, 1)) for top in (SHOT_NOISE, READ_NOISE))
    deviation = np.sqrt(shot * lr + read**2).astype(np.float32)
    pictures = to_uint8(lr + deviation * rng.standard_normal(lr.shape, np.float32))

    codec = rng.random(count)
    for index in np.flatnonzero(codec < JPEG_SHARE):
        pictures[index] = _jpeg(pictures[index], rng)
    filmed = np.flatnonzero(codec > 1 - H264_SHARE)
    if len(filmed):
        pictures[filmed] = _h264(pictures[filmed], rng)
    return pictures


def _sampling(source: int, target: int, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One random resampling matrix per face, ``[N, 1, target, source]``: a kernel and a blur each."""
    kernels, blurs = rng.integers(len(KERNELS), size=count), rng.integers(BLUR_STEPS, size=count) / 2
    return np.stack([resample_matrix(source, target, KERNELS[k], float(b)) for k, b in zip(kernels, blurs, strict=True)])[:, None]


def _place(picture: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], int, int]:
    """A CHW face in an HWC cell at a random place, its border replicated around it."""
    slack = _CELL - picture.shape[-1]
    top, left = (int(v) for v in rng.integers(slack + 1, size=2))
    around = ((top, slack - top), (left, slack - left), (0, 0))
    return np.pad(picture.transpose(1, 2, 0), around, mode="edge"), top, left


def _jpeg(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    size = picture.shape[-1]
    cell, top, left = _place(picture, rng)
    quality = int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
    decoded = compress_jpeg(cell, quality)
    return decoded[top : top + size, left : left + size].transpose(2, 0, 1)


def _h264(pictures: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Encode the faces side by side as one key frame and decode it again."""
    size = pictures.shape[-1]
    cells = [_place(picture, rng) for picture in pictures]
    across = int(np.ceil(np.sqrt(len(cells))))
    down = -(-len(cells) // across)
    sheet = np.zeros((down * _CELL, across * _CELL, 3), np.uint8)
    for index, (cell, _, _) in enumerate(cells):
        y, x = (index // across) * _CELL, (index % across) * _CELL
        sheet[y : y + _CELL, x : x + _CELL] = cell

    decoded = compress_h264(sheet, int(rng.integers(H264_CRF[0], H264_CRF[1] + 1)))

    out = np.empty_like(pictures)
    for index, (_, top, left) in enumerate(cells):
        y, x = (index // across) * _CELL + top, (index % across) * _CELL + left
        out[index] = decoded[y : y + size, x : x + size].transpose(2, 0, 1)
    return out


def compress_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An RGB picture [H, W, 3] as JPEG leaves it."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def compress_h264(picture: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """An RGB picture [H, W, 3] of even height and width as a key frame of H.264 leaves it."""
    import av  # only here: training on a machine without PyAV is possible with H264_SHARE = 0

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
    encoder.time_base = Fraction(1, 25)
    # One thread: with several, the slices and so the picture would depend on the machine.
    encoder.options = {"preset": "veryfast", "crf": str(crf), "tune": "zerolatency", "threads": "1"}
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.asarray(frames[0].to_ndarray(format="rgb24"), np.uint8)
