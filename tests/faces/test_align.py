import numpy as np
import pytest

from fhrt.faces.align import compose, crop_transform, crop_transforms, face_transform


def frame_position(transform, x, y):
    """Edge coordinates of the frame of a point in the crop's edge coordinates."""
    return transform.astype(float) @ [x - 0.5, y - 0.5, 1] + 0.5


@pytest.mark.parametrize("degrees", [0, 30, -75, 180])
def test_eyes_land_on_their_canonical_places(degrees):
    angle = np.radians(degrees)
    offset = 10 * np.array([np.cos(angle), np.sin(angle)])
    eyes = np.array([100, 60]) + np.array([-offset, offset])
    side = 20 / 0.36 / 1.10  # of the square box whose canonical square has its eyes 20 pixels apart
    transform = crop_transform((80, 40, 80 + side, 40 + side), (16, 16), eyes=eyes)
    for eye, x in zip(eyes, (0.32, 0.68), strict=True):
        np.testing.assert_allclose(frame_position(transform, 16 * x, 16 * 0.42), eye, atol=1e-4)


def test_foreshortened_eyes_do_not_shrink_the_crop():
    eyes = np.array([[99.5, 60], [100.5, 60]])
    transform = crop_transform((85, 45, 110, 80), (16, 16), eyes=eyes)
    assert transform[0, 0] * 16 == pytest.approx(1.10 * np.sqrt(25 * 35), rel=1e-5)
    np.testing.assert_allclose(frame_position(transform, 8, 16 * 0.42), [100, 60], atol=1e-4)


def test_box_gives_an_upright_square_with_eyes_inside_the_upper_half():
    box = (40.0, 20.0, 60.0, 45.0)
    transform = crop_transform(box, (16, 16))
    side = 16 * transform[0, 0]
    assert transform[0, 1] == transform[1, 0] == 0
    assert side == pytest.approx(1.10 * np.sqrt(20 * 25), rel=1e-5)
    np.testing.assert_allclose(frame_position(transform, 8, 16 * 0.42), [50, 29.5], atol=1e-4)


def test_margin_keeps_the_centre():
    box = (40.0, 20.0, 60.0, 45.0)
    tight, loose = crop_transform(box, (16, 16)), crop_transform(box, (24, 24), margin=1.5)
    assert loose[0, 0] == pytest.approx(tight[0, 0])
    np.testing.assert_allclose(frame_position(tight, 8, 8), frame_position(loose, 12, 12), atol=1e-4)


def test_without_theta_sr_pixels_divide_lr_pixels():
    crop = np.array([[2, 0, 5], [0, 2, 7]], np.float32)
    transform = face_transform(crop, None, (16, 16), (128, 128))
    np.testing.assert_allclose(transform, [[0.25, 0, 5 - 7 / 8], [0, 0.25, 7 - 7 / 8]], atol=1e-5)


def test_theta_is_composed_before_the_crop():
    crop = np.array([[2, 0, 5], [0, 2, 7]], np.float32)
    quarter_turn = np.array([[0, -1, 0.25], [1, 0, 0]], np.float32)
    transform = face_transform(crop, quarter_turn, (16, 16), (128, 128))
    centre = frame_position(crop, 8 + 2, 8)  # a shift of 0.25 is an eighth of 16 pixels
    np.testing.assert_allclose(frame_position(transform, 64, 64), centre, atol=1e-4)
    np.testing.assert_allclose(frame_position(transform, 128, 64) - centre, [0, 16], atol=1e-4)


def test_faces_at_once_are_as_each_alone():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([low := rng.uniform(0, 100, (5, 2)), low + rng.uniform(10, 40, (5, 2))])
    eyes = boxes[:, None, :2] + rng.uniform(2, 8, (5, 2, 2))
    eyes[2] = np.nan
    eyes[4, 1] = eyes[4, 0]  # no direction: upright
    together = crop_transforms(boxes, (16, 24), eyes=eyes, margin=1.2)
    for n in range(5):
        alone = crop_transform(tuple(boxes[n]), (16, 24), eyes=None if n == 2 else eyes[n], margin=1.2)
        np.testing.assert_array_equal(together[n], alone)
    thetas = rng.normal(0, 1, (5, 2, 3)).astype(np.float32)
    placed = face_transform(together, thetas, (16, 24), (128, 192))
    for n in range(5):
        np.testing.assert_allclose(placed[n], face_transform(together[n], thetas[n], (16, 24), (128, 192)), atol=1e-5)
    back = np.stack([np.linalg.inv(np.vstack([one, [0, 0, 1]]))[:2] for one in together])
    np.testing.assert_allclose(compose(back, together), np.tile(np.eye(2, 3), (5, 1, 1)), atol=1e-4)


def test_no_faces_have_no_transforms():
    assert crop_transforms(np.empty((0, 4)), (16, 16), eyes=np.empty((0, 2, 2))).shape == (0, 2, 3)
