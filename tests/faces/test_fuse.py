import cv2
import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.faces import fuse
from fhrt.faces.detect import Detection
from fhrt.faces.fuse import Fusion, crop_quality
from fhrt.ops import face_crop

HERE = np.eye(2, 3, dtype=np.float32)


def crops_of(picture, transforms):
    """Crops `[N, 3, 32, 32]` float32 on [0, 255]."""
    return face_crop(picture, np.asarray(transforms, np.float32), (32, 32), 0, 1)


def add(fusion, track_id, crop, transform=HERE, quality=1.0):
    """One track's next crop `[3, 2h, 2w]`: LR face, transform and `back` of this one."""
    fused = fusion.update([track_id], crop[None].copy(), np.asarray(transform)[None], np.array([quality]))
    return fused.lr[0], fused.transforms[0], fused.back[0]


def at(x, y, scale):
    """Transform of a 32×32 crop about frame pixel x, y."""
    return [[scale, 0, x - 15.5 * scale], [0, scale, y - 15.5 * scale]]


def halved(crop):
    return crop.reshape(3, crop.shape[1] // 2, 2, crop.shape[2] // 2, 2).mean((2, 4))


def lr_at(picture, transform):
    """LR face `[3, 16, 16]` of a picture, `transform` from its own pixels."""
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


def test_several_tracks_at_once_are_as_each_alone(jittery):
    transforms, crops, _ = jittery
    together, alone = Fusion(4), Fusion(4)
    for at in range(0, 12, 2):
        ids = [7, 3] if at % 4 else [3, 7]
        qualities = np.array([0.3, 0.8])
        fused = together.update(ids, crops[at : at + 2].copy(), transforms[at : at + 2], qualities)
        for n, track_id in enumerate(ids):
            lr, transform, back = add(alone, track_id, crops[at + n], transforms[at + n], qualities[n])
            np.testing.assert_array_equal(fused.lr[n], lr)
            np.testing.assert_array_equal(fused.transforms[n], transform)
            np.testing.assert_array_equal(fused.back[n], back)


def test_fused_crops_have_less_noise(picture, jittery):
    transforms, crops, _ = jittery
    fusion, errors, single = Fusion(k=8), [], []
    for transform, crop in zip(transforms, crops, strict=True):
        lr, placed, _ = add(fusion, 1, crop, transform)
        single.append(np.square(halved(crop - crops_of(picture, [transform])[0])).mean())
        errors.append(np.square(lr - lr_at(picture, placed)).mean())
    assert np.mean(errors[8:]) < 0.4 * np.mean(single[8:])


def test_fused_transforms_jitter_less_than_the_boxes(jittery):
    transforms, crops, _ = jittery
    fusion = Fusion(k=8)
    steady = np.array([add(fusion, 1, crop, transform)[1] for transform, crop in zip(transforms, crops, strict=True)])
    centres, box_centres = steady[8:] @ [7.5, 7.5, 1], transforms[8:] @ [15.5, 15.5, 1]
    assert np.linalg.norm(centres.std(0)) < 0.4 * np.linalg.norm(box_centres.std(0))
    assert steady[8:, 0, 0].std() < 0.75 * 2 * transforms[8:, 0, 0].std()


def test_brightness_and_contrast_do_not_matter(picture):
    reference, crop = crops_of(picture, [at(31.5, 31.5, 0.75), at(32.4, 30.9, 0.78)])
    fusion = Fusion(2)
    add(fusion, 1, reference)
    _, _, back = add(fusion, 1, 0.8 * crop + 20)
    assert not np.isnan(back).any()
    # Half of the way from one crop to the other, in pixels of the LR face.
    np.testing.assert_allclose(back @ [7.5, 7.5, 1] - 7.5, np.array([0.9, -0.6]) / 0.765 / 2 / 2, atol=0.05)


def test_quality_is_the_weight(jittery):
    _, _, clean = jittery
    dark, bright = clean[0], clean[0] + 40
    fusion = Fusion(k=2)
    add(fusion, 1, dark, quality=3)
    assert (add(fusion, 1, bright, quality=1)[0] - halved(dark)).mean() == pytest.approx(10, abs=0.5)


def test_another_face_or_size_starts_anew(jittery):
    _, crops, _ = jittery
    fusion = Fusion(k=4)
    other = np.random.default_rng(1).integers(0, 256, (3, 32, 32)).astype(np.float32)
    for crop in (crops[0], crops[1], other, other[:, :12, :12]):
        lr, _, back = add(fusion, 1, crop)
    np.testing.assert_allclose(lr, halved(other[:, :12, :12]), atol=1e-4)
    assert np.isnan(back).all()
    for crop, last in ((crops[0], other), (crops[0], 255 - crops[0]), (np.full_like(other, 9), other)):
        add(fusion, 2, crop)
        lr, _, back = add(fusion, 2, last)
        np.testing.assert_allclose(lr, halved(last), atol=1e-4)
        assert np.isnan(back).all()


def test_one_crop_is_halved(jittery, picture):
    transforms, _, clean = jittery
    twice = Fusion(k=1)
    add(twice, 1, clean[1], transforms[0])
    for fusion in (Fusion(k=4), twice):
        lr, transform, back = add(fusion, 1, clean[0], transforms[0])
        assert lr.dtype == np.float32 and np.isnan(back).all()
        np.testing.assert_allclose(lr, halved(clean[0]), atol=1e-3)
        np.testing.assert_allclose(transform @ [7.5, 7.5, 1], transforms[0] @ [15.5, 15.5, 1], atol=1e-4)
        np.testing.assert_allclose(lr, lr_at(picture, transform), atol=1.1)


def test_what_was_given_out_is_not_written_to(jittery):
    _, crops, _ = jittery
    fusion = Fusion()
    first, _, _ = add(fusion, 1, crops[0])
    copy = first.copy()
    add(fusion, 1, crops[0])
    np.testing.assert_array_equal(first, copy)
    first[:] = 0
    assert np.abs(add(fusion, 1, crops[0])[0] - copy).max() < 1


def test_ended_tracks_are_forgotten(jittery):
    _, crops, _ = jittery
    fusion = Fusion()
    for track_id in (1, 2):
        add(fusion, track_id, crops[0])
    fusion.keep([2, 7])
    assert [np.isnan(add(fusion, track_id, crops[0])[2]).all() for track_id in (1, 2)] == [True, False]


def test_the_track_updated_longest_ago_is_forgotten_first(monkeypatch, jittery):
    monkeypatch.setattr(fuse, "TRACKS", 2)
    fusion = Fusion()
    for track_id in (1, 2, 1, 3):
        add(fusion, track_id, jittery[1][0])
    assert np.isnan(add(fusion, 2, jittery[1][0])[2]).all()
    assert not np.isnan(add(fusion, 3, jittery[1][0])[2]).any()


def test_quality_prefers_sharp_frontal_large_and_sure(picture):
    def quality_of(crop, width=24, score=0.8):
        return crop_quality(crop[None].astype(np.float32), [Detection((20, 20, 20 + width, 44), score)])[0]

    (crop,) = crops_of(picture, [at(31.5, 31.5, 0.75)])
    crop = (crop + crop[:, :, ::-1]) / 2
    quality = quality_of(crop)
    blurred = cv2.GaussianBlur(crop.transpose(1, 2, 0), (0, 0), 3).transpose(2, 0, 1)
    assert quality_of(np.ascontiguousarray(blurred)) < 0.8 * quality
    assert quality_of(crop * np.linspace(0.3, 1.3, 32, dtype=np.float32)) < 0.9 * quality, "lit from the side"
    assert quality_of(crop, score=0.4) == pytest.approx(quality / 2)
    assert quality_of(crop, width=8) == pytest.approx(quality / 2)
    assert quality_of(np.full((3, 32, 32), 7)) > 0


CROP = np.zeros((1, 3, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("ids", "crops", "transforms", "qualities", "message"),
    [
        ([1], CROP.astype(float), HERE[None], [1.0], "float32"),
        ([1], CROP[0], HERE[None], [1.0], "3, 2h, 2w"),
        ([1], CROP[:, :, :, :15].copy(), HERE[None], [1.0], "3, 2h, 2w"),
        ([1], np.full_like(CROP, np.nan), HERE[None], [1.0], "NaN"),
        ([1], CROP, np.eye(3)[None], [1.0], "transform"),
        ([1], CROP, HERE[None], [0.0], "qualities"),
        ([1], CROP, HERE[None], [np.nan], "qualities"),
        ([1], CROP, HERE[None], [1.0, 1.0], "qualities"),
        ([1, 1], np.tile(CROP, (2, 1, 1, 1)), np.tile(HERE, (2, 1, 1)), [1.0, 1.0], "track of its own"),
    ],
)
def test_bad_input(ids, crops, transforms, qualities, message):
    with pytest.raises(BadInputError, match=message):
        Fusion().update(ids, crops, transforms, np.array(qualities))


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
        (crop,) = crops_of(scene, [transform])
        _, now, back = add(fusion, 7, crop, transform)
        if before is None:
            assert np.isnan(back).all()
        else:
            # Both lead from the LR face to the frame, in which nothing moved.
            around = np.vstack([before, [0, 0, 1]]) @ np.vstack([back, [0, 0, 1]])
            direct = np.vstack([now, [0, 0, 1]])
            assert np.abs((direct - around) @ [7.5, 7.5, 1]).max() < 0.25, number
        before = now
    assert np.isnan(add(fusion, 7, 255 - crop, transform)[2]).all()
