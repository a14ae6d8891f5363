"""Native operations; fhrt.ops documents and checks them. Outputs are the caller's; bfloat16 passes as uint16."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Map = NDArray[np.float32]
Doubles = NDArray[np.float64]

def stn_sample(x: Array, theta: Map, out: Array, align_corners: bool, border: bool, upsample: int, /) -> None: ...
def stn_sample_backward(
    grad: Array, x: Array, theta: Map, grad_x: Array | None, grad_theta: Map | None, align_corners: bool, border: bool, upsample: int, /
) -> None: ...
def pixel_shuffle(x: Array, out: Array, factor: int, bias: Map | None, negative_slope: float, /) -> None: ...
def pixel_shuffle_backward(grad: Array, x: Array, grad_x: Array, factor: int, bias: Map | None, negative_slope: float, /) -> None: ...
def to_image(x: Array, out: NDArray[np.uint8], factor: int, low: float, high: float, /) -> None: ...
def ssim(a: Array, b: Array, weights: Doubles, map: Doubles | None, mean: Doubles, same: bool, c1: float, c2: float, /) -> None: ...
def ssim_backward(
    a: Array,
    b: Array,
    weights: Doubles,
    upstream: Doubles,
    grad_a: Array | None,
    grad_b: Array | None,
    same: bool,
    c1: float,
    c2: float,
    /,
) -> None: ...
def face_crop(
    frame: NDArray[np.uint8],
    chroma: NDArray[np.uint8] | None,
    to_rgb: Sequence[float] | None,
    transforms: Map,
    mean: Map,
    std: Map,
    out: Map,
    /,
) -> None: ...
def yuv_to_bgr(
    luma: NDArray[np.uint8], cb: NDArray[np.uint8], cr: NDArray[np.uint8], to_rgb: tuple[float, ...], out: NDArray[np.uint8], /
) -> None: ...
def neighbour_embedding(
    query: Map,
    codes: NDArray[np.uint8],
    scale: Map,
    target_codes: NDArray[np.uint8],
    target_scale: Map,
    out: Map,
    neighbours: int,
    strength: float,
    threads: int,
    /,
) -> None: ...
def match_templates(frame: NDArray[np.uint8], squares: Doubles, templates: Map, reach: int, flat: float, out: Map, /) -> None: ...
def fuse_crops(
    before: list[Map | None],
    crops: list[Map | None],
    places: Doubles,
    weights: Doubles,
    transforms: Map,
    means: Map,
    halves: Map,
    placed: Map,
    back: Map,
    /,
) -> None: ...
def crop_looks(crops: list[Map], h: int, w: int, looks: Doubles, /) -> None: ...
def blend_moved(
    before: list[Map | None], now: Map, before_way: Doubles, now_way: Doubles, back: Map, weights: Map, out: Map, /
) -> None: ...

class Tracker:
    def __init__(self, start_score: float, patience: float, /) -> None: ...
    def copy(self) -> Tracker: ...
    def ids(self) -> list[int]: ...
    def update(
        self, time: float, detections: list[tuple[float, ...]] | None, frame: NDArray[np.uint8] | None, /
    ) -> list[tuple[int, tuple[float, float, float, float], float, NDArray[np.float64] | None, bool]]: ...

def empty(shape: Sequence[int], dtype: np.dtype[Any], /) -> Array: ...
def isa() -> str: ...
def set_num_threads(count: int, /) -> None: ...
def stay_alone() -> None: ...
def get_num_threads() -> int: ...
