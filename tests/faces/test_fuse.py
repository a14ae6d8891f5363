import cv2
import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.faces import fuse
from fhrt.faces.detect import Detection
from fhrt.faces.fuse import Fusion, crop_quality, register
from fhrt.ops import face_crop

HERE = np.eye(2, 3, dtype=np.float32)


def crops_of(picture, transforms):
    """Crops `[N, 32, 32, 3]` float32 on [0, 255]."""
    return np.ascontiguousarray(face_crop(picture, np.asarray(transforms, np.float32), (32, 32), 0, 1).transpose(0, 2, 3, 1))


def at(x, y, scale):
    """Transform of a 32×32 crop about frame pixel x, y."""
    return [[scale, 0, x - 15.5 * scale], [0, scale, y - 15.5 * scale]]


def halved(crop):
    return crop.reshape(crop.shape[0] // 2, 2, crop.shape[1] // 2, 2, 3).mean((1, 3))


def lr_at(picture, transform):
    """LR face `[16, 16, 3]` of a picture, `transform` from its own pixels."""
    finer = np.asarray(transform, float) @ [[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]
    return halved(crops_of(picture, [finer])[0])


@pytest.fixture(scope="module")
def picture(faces):
    """A face 24 pixels wide in a small frame, its middle at 31.5, 31.5."""
    return cv2.resize(faces[0], (64, 64), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def jittery(picture):
    """Transforms and noisy crops of 12 jittery boxes of the face, and the crops without noise."""
    rng = np.random.default_rng(0)
    transforms = [at(*(31.5 + rng.normal(0, 1.2, 2)), 0.75 * np.exp(rng.normal(0, 0.04))) for _ in range(12)]
    clean = crops_of(picture, transforms)
    return np.float32(transforms), (clean + rng.normal(0, 10, clean.shape)).astype(np.float32), clean


def test_register_finds_shift_and_scale_despite_brightness(picture):
    reference, crop = crops_of(picture, [at(31.5, 31.5, 0.75), at(32.4, 30.9, 0.78)])
    place = register(reference, 0.8 * crop + 20)
    np.testing.assert_allclose(place, [np.log(0.75 / 0.78), -0.9 / 0.78, 0.6 / 0.78], atol=0.06)


def test_register_refuses_what_does_not_match(faces, picture):
    (reference,) = crops_of(picture, [at(31.5, 31.5, 0.75)])
    other = np.random.default_rng(1).integers(0, 256, reference.shape).astype(np.float32)
    assert register(reference, other) is None
    assert register(reference, 255 - reference) is None
    assert register(np.full_like(reference, 9), reference) is None


def test_fused_crops_have_less_noise(picture, jittery):
    transforms, crops, _ = jittery
    fusion, errors, single = Fusion(k=8), [], []
    for transform, crop in zip(transforms, crops, strict=True):
        fused = fusion.update(1, crop, transform)
        single.append(np.square(halved(crop - crops_of(picture, [transform])[0])).mean())
        errors.append(np.square(fused.lr - lr_at(picture, fused.transform)).mean())
    assert np.mean(errors[8:]) < 0.4 * np.mean(single[8:])


def test_fused_transforms_jitter_less_than_the_boxes(jittery):
    transforms, crops, _ = jittery
    fusion = Fusion(k=8)
    steady = np.array([fusion.update(1, crop, transform).transform for transform, crop in zip(transforms, crops, strict=True)])
    centres, box_centres = steady[8:] @ [7.5, 7.5, 1], transforms[8:] @ [15.5, 15.5, 1]
    assert np.linalg.norm(centres.std(0)) < 0.4 * np.linalg.norm(box_centres.std(0))
    assert steady[8:, 0, 0].std() < 0.75 * 2 * transforms[8:, 0, 0].std()


def test_quality_is_the_weight(jittery):
    _, _, clean = jittery
    dark, bright = clean[0], clean[0] + 40
    fusion = Fusion(k=2)
    fusion.update(1, dark, HERE, quality=3)
    assert (fusion.update(1, bright, HERE, quality=1).lr - halved(dark)).mean() == pytest.approx(10, abs=0.5)


def test_another_face_or_size_starts_anew(jittery):
    _, crops, _ = jittery
    fusion = Fusion(k=4)
    other = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.float32)
    for crop in (crops[0], crops[1], other, other[:12, :12]):
        fused = fusion.update(1, crop, HERE)
    np.testing.assert_allclose(fused.lr, halved(other[:12, :12]), atol=1e-4)
    fusion.update(2, crops[0], HERE)
    np.testing.assert_allclose(fusion.update(2, other, HERE).lr, halved(other), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_crop_is_halved(jittery, picture, dtype):
    crop = np.rint(jittery[2][0]).astype(dtype)
    transform = jittery[0][0]
    twice = Fusion(k=1)
    twice.update(1, jittery[2][1].astype(dtype), transform)
    for fusion in (Fusion(k=4), twice):
        fused = fusion.update(1, crop, transform)
        assert fused.lr.dtype == dtype
        np.testing.assert_allclose(fused.lr, halved(crop.astype(float)), atol=0.51)
        np.testing.assert_allclose(fused.transform @ [7.5, 7.5, 1], transform @ [15.5, 15.5, 1], atol=1e-4)
        np.testing.assert_allclose(fused.lr, lr_at(picture, fused.transform), atol=1.1)


def test_what_was_given_out_is_not_written_to(jittery):
    _, crops, _ = jittery
    fusion = Fusion()
    first = fusion.update(1, crops[0], HERE)
    copy = first.lr.copy()
    first.lr[:] = 0
    fusion.update(1, crops[0], HERE)
    assert np.abs(fusion.update(1, crops[0], HERE).lr - copy).max() < 1


def test_best_shots_and_ended_tracks(jittery):
    _, crops, _ = jittery
    fusion = Fusion()
    for crop, quality in zip(crops, (0.2, 0.9, 0.5), strict=False):
        fusion.update(1, crop, HERE, quality)
    fusion.update(2, crops[0], HERE, 0.4)
    assert fusion.best(1).quality == 0.9
    assert fusion.best(3) is None
    ended = fusion.keep([2, 7])
    assert {track: shot.quality for track, shot in ended.items()} == {1: 0.9}
    assert fusion.best(1) is None
    assert fusion.keep([2]) == {}


def test_the_track_updated_longest_ago_is_forgotten_first(monkeypatch, jittery):
    monkeypatch.setattr(fuse, "TRACKS", 2)
    fusion = Fusion()
    for track in (1, 2, 1, 3):
        fusion.update(track, jittery[1][0], HERE)
    assert [fusion.best(track) is not None for track in (1, 2, 3)] == [True, False, True]


def test_quality_prefers_sharp_frontal_large_and_sure(picture):
    detection = Detection((20, 20, 44, 44), 0.8)
    (crop,) = crops_of(picture, [at(31.5, 31.5, 0.75)])
    crop = (crop + crop[:, ::-1]) / 2
    quality = crop_quality(crop, detection)
    assert crop_quality(cv2.GaussianBlur(crop, (0, 0), 3), detection) < 0.8 * quality
    lit_from_the_side = crop * np.linspace(0.3, 1.3, 32, dtype=np.float32)[:, None]
    assert crop_quality(lit_from_the_side, detection) < 0.9 * quality
    assert crop_quality(crop, Detection((20, 20, 44, 44), 0.4)) == pytest.approx(quality / 2)
    assert crop_quality(crop, Detection((20, 20, 28, 28), 0.8)) == pytest.approx(quality / 2)
    assert crop_quality(np.full((32, 32, 3), 7, np.uint8), detection) > 0


@pytest.mark.parametrize(
    ("crop", "transform", "quality", "message"),
    [
        (np.zeros((16, 16, 3)), HERE, 1.0, "uint8 or float32"),
        (np.zeros((16, 16), np.uint8), HERE, 1.0, "2h, 2w, 3"),
        (np.zeros((16, 15, 3), np.uint8), HERE, 1.0, "2h, 2w, 3"),
        (np.full((16, 16, 3), np.nan, np.float32), HERE, 1.0, "NaN"),
        (np.zeros((16, 16, 3), np.uint8), np.eye(3), 1.0, "transform"),
        (np.zeros((16, 16, 3), np.uint8), HERE, 0.0, "quality"),
        (np.zeros((16, 16, 3), np.uint8), HERE, np.nan, "quality"),
    ],
)
def test_bad_input(crop, transform, quality, message):
    with pytest.raises(BadInputError, match=message):
        Fusion().update(1, crop, transform, quality)


@pytest.mark.parametrize("k", [0, 1.5])
def test_bad_length(k):
    with pytest.raises(BadInputError, match="k must be"):
        Fusion(k)


def test_each_fused_face_says_where_it_was_in_the_one_before() -> None:
    rough = np.random.default_rng(3).integers(40, 220, (9, 9, 3), np.uint8)
    scene = cv2.GaussianBlur(cv2.resize(rough, (96, 96), interpolation=cv2.INTER_CUBIC), (0, 0), 2)
    fusion = Fusion(4)
    before = None
    for number, (x, y) in enumerate(((0, 0), (2, 0), (-1, 1), (1.5, -1), (0, 2))):
        transform = np.float32([[1, 0, 32 + x], [0, 1, 32 + y]])
        crop = cv2.warpAffine(scene, transform, (32, 32), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        fused = fusion.update(7, crop, transform)
        if before is None:
            assert fused.moved is None
        else:
            # Both lead from the LR face before to the frame, in which nothing moved.
            direct = np.vstack([before.transform, [0, 0, 1]])
            around = np.vstack([fused.transform, [0, 0, 1]]) @ np.vstack([fused.moved, [0, 0, 1]])
            middle = np.array([7.5, 7.5, 1])
            assert np.abs((direct - around) @ middle).max() < 0.25, number
        before = fused
    assert fusion.update(7, 255 - crop, transform).moved is None
