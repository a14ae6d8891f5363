"""The bindings under whatever comes in: the right answer or a BadInputError, never a crash, never silence."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fhrt import _C, ops
from fhrt.errors import BadInputError

DTYPES = [np.float32, np.float16, np.float64, np.uint8, np.int64, np.complex64, np.bool_]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arrays(draw: st.DrawFn, ranks: tuple[int, int] = (0, 5), dtypes: Any = None) -> np.ndarray:
    """Arrays of any rank, small and empty sizes, odd strides, with NaN and infinities."""
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=ranks[0], max_size=ranks[1])))
    dtype = draw(st.sampled_from(dtypes or DTYPES))
    array = draw(hnp.arrays(dtype, shape))
    for axis in range(array.ndim):
        step = draw(st.sampled_from([1, 1, 1, -1, 2]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    return array.T if draw(st.booleans()) else array


anything = st.one_of(arrays(), arrays((4, 4), [np.float32]), arrays((3, 3), [np.float32]), st.none(), st.integers(), st.text(max_size=3))
numbers = st.one_of(st.integers(-3, 20), st.floats(allow_nan=True, allow_infinity=True), st.none())


def attempt(call: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    except BadInputError as error:
        assert str(error).startswith(("stn_sample: ", "pixel_shuffle: ", "to_image: ", "ssim: ", "face_crop: ", "Nv12: ")), error
        assert "\n" not in str(error)
        return None


@FUZZ
@given(anything, anything, st.integers(-1, 4), st.sampled_from(["zeros", "border", "mirror"]), st.booleans())
def test_stn_sample(x: Any, theta: Any, upsample: int, padding: str, align_corners: bool) -> None:
    result = attempt(ops.stn_sample, x, theta, upsample=upsample, padding=padding, align_corners=align_corners)
    assert result is None or result.shape[:2] == x.shape[:2]
    attempt(ops.stn_sample_out, x, theta, x, upsample=upsample, padding=padding)


@FUZZ
@given(arrays((4, 4), [np.float32, np.float16]), st.integers(0, 9), st.integers(0, 9))
def test_stn_sample_is_right_whatever_the_strides(x: np.ndarray, h: int, w: int) -> None:
    theta = np.tile(np.float32([[0.7, 0.2, 0.1], [-0.2, 0.7, 0]]), (x.shape[0], 1, 1))
    result = attempt(ops.stn_sample, x, theta, (h, w))
    if result is not None:
        np.testing.assert_array_equal(result, ops.stn_sample(np.ascontiguousarray(x), theta, (h, w)))


@FUZZ
@given(anything, numbers, anything, numbers)
def test_pixel_shuffle(x: Any, factor: Any, bias: Any, slope: Any) -> None:
    attempt(ops.pixel_shuffle, x, factor, bias=bias, negative_slope=slope)
    attempt(ops.pixel_shuffle_out, x, bias, factor)


@FUZZ
@given(anything, numbers, numbers, numbers)
def test_to_image(x: Any, factor: Any, low: Any, high: Any) -> None:
    attempt(ops.to_image, x, factor, low=low, high=high)
    attempt(ops.to_image_out, x, x, factor)


@FUZZ
@given(anything, anything, numbers, numbers, numbers, st.sampled_from(["mean", "none", "map", "sum"]))
def test_ssim(a: Any, b: Any, data_range: Any, window: Any, sigma: Any, reduction: str) -> None:
    attempt(ops.ssim, a, a, window=3, reduction=reduction)
    attempt(ops.ssim, a, b, data_range=data_range, window=window, sigma=sigma, reduction=reduction)
    attempt(ops.ssim_out, a, b, a, window=3)


@FUZZ
@given(
    st.one_of(arrays((3, 3), [np.uint8]), anything),
    st.one_of(arrays((3, 3), [np.float32]), anything),
    st.tuples(numbers, numbers),
    st.one_of(numbers, st.lists(numbers, max_size=4)),
)
def test_face_crop(frame: Any, transforms: Any, size: Any, mean: Any) -> None:
    attempt(ops.face_crop, frame, transforms, size, mean, 1.0)
    attempt(ops.face_crop, frame, np.zeros((2, 2, 3), np.float32), (3, 2), mean, mean)
    attempt(ops.face_crop_out, frame, transforms, frame, 0.0, 1.0)


@FUZZ
@given(
    st.one_of(arrays((2, 2), [np.uint8]), anything),
    st.one_of(arrays((3, 3), [np.uint8]), anything),
    st.one_of(st.sampled_from(["bt709", "bt601"]), anything),
    anything,
)
def test_nv12(luma: Any, chroma: Any, matrix: Any, full_range: Any) -> None:
    def crop(luma: Any, chroma: Any) -> Any:
        return ops.face_crop(ops.Nv12(luma, chroma, matrix, full_range), np.zeros((2, 2, 3), np.float32), (3, 2), 0.0, 1.0)

    attempt(crop, luma, chroma)
    attempt(crop, np.zeros((5, 4), np.uint8), chroma)
    attempt(ops.Nv12.stacked, luma, matrix)


X = np.linspace(-2, 2, 2 * 4 * 12 * 13, dtype=np.float32).reshape(2, 4, 12, 13)
THETA = np.tile(np.float32([[0.7, 0.2, 0.1], [-0.2, 0.7, 0]]), (2, 1, 1))
FRAME = np.arange(9 * 8 * 3, dtype=np.uint8).reshape(9, 8, 3)
wild = st.one_of(numbers, st.text(max_size=2), st.just([]), st.just(np.float32(2)), st.integers(-(2**70), 2**70))
# Sides in between are right, and pictures of gigabytes.
wild = wild.filter(lambda value: not (isinstance(value, int | float) and 100 < value <= 1 << 20))


@FUZZ
@given(wild, wild, wild, wild, wild)
def test_good_arrays_and_wild_numbers(a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
    attempt(ops.stn_sample, X, THETA, (a, b))
    attempt(ops.stn_sample, X, THETA, a)
    attempt(ops.stn_sample, X, THETA, upsample=a, padding=b)
    attempt(ops.pixel_shuffle, X, a, negative_slope=b)
    attempt(ops.pixel_shuffle, X, 2, negative_slope=b)
    attempt(ops.to_image, X, a, low=b, high=c)
    attempt(ops.to_image, X, 2, low=b, high=c)
    attempt(ops.ssim, X, X, data_range=a, window=b, sigma=c)
    attempt(ops.ssim, X, X, data_range=a, window=3, sigma=c)
    attempt(ops.ssim, X, X, padding=a, reduction=b)
    attempt(ops.face_crop, FRAME, THETA, (a, b), c, d)
    attempt(ops.face_crop, FRAME, THETA, e, c, d)
    attempt(ops.face_crop, FRAME, THETA, (3, 3), c, d)


@pytest.mark.parametrize("name", ["stn_sample", "pixel_shuffle", "to_image", "ssim", "face_crop", "stn_sample_backward", "ssim_backward"])
def test_the_bindings_themselves_refuse_nonsense(name: str) -> None:
    function = getattr(_C, name)
    empty, flat = np.zeros((0, 0), np.float32), np.zeros(7, np.float32)
    for array in (empty, flat, np.zeros((2, 3, 4, 5, 6)), np.array(None, object)):
        for count in range(1, 10):
            with pytest.raises((TypeError, ValueError)):
                function(*[array] * count)


def test_torch_tensors_of_other_kinds_are_refused_or_right() -> None:
    theta = torch.eye(2, 3).expand(1, 2, 3)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ops.stn_sample(x, theta.double()), x)
    for wrong in (torch.zeros(1, 3, 8, 8, dtype=torch.int32), torch.zeros(1, 3, 8, 8, dtype=torch.bool)):
        with pytest.raises((BadInputError, RuntimeError)):
            ops.stn_sample(wrong, theta)
    with pytest.raises(BadInputError, match="theta"):
        ops.stn_sample(torch.rand(2, 3, 8, 8), theta)
