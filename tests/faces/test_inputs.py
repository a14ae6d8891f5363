import cv2
import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.faces.inputs import as_boxes, as_frame, decode_picture

FRAME = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("grey", [FRAME[:, :, 0], FRAME[:, :, :1]])
def test_grey_becomes_three_equal_channels(grey):
    frame = as_frame(grey)
    assert frame.shape == (20, 30, 3)
    assert (frame == FRAME[:, :, :1]).all()


def test_alpha_is_dropped():
    assert (as_frame(np.dstack([FRAME, FRAME[:, :, 0]])) == FRAME).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.zeros((2, 5, 5, 3), np.uint8), "shape"),
        (np.zeros((5, 5, 2), np.uint8), "channels"),
        (np.zeros((5, 5, 3), np.uint16), "uint16.*pass uint8"),
        (np.zeros((5, 5, 3), np.float32), "float32.*pass uint8"),
        (np.full((5, 5, 3), np.nan, np.float32), "NaN"),
        (None, "NoneType"),
        (b"x", "bytes"),
    ],
)
def test_unusable_frames_are_named(frame, message):
    with pytest.raises(BadInputError, match=message):
        as_frame(frame)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_files_are_read_and_truncated_ones_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    picture = cv2.resize(FRAME, (300, 200))
    cv2.imwrite(str(path), picture)
    frame = as_frame(path, "rgb")
    assert (frame[..., ::-1] == cv2.imread(str(path))).all()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInputError, match=rf"a\{ending}"):
        as_frame(str(path))


def test_what_follows_a_jpeg_is_not_looked_at(tmp_path):
    """Phones put a film behind the picture, cameras a picture of their own into its head."""
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    for options in ([], progressive):
        jpeg = cv2.imencode(".jpg", cv2.resize(FRAME, (300, 200)), options)[1].tobytes()
        for seed in range(10):
            film = np.random.default_rng(seed).bytes(200_000)
            assert decode_picture(jpeg + film, "a.jpg").shape == (200, 300, 3)
        inner = cv2.imencode(".jpg", FRAME[:16, :16])[1].tobytes()
        head = b"\xff\xd8\xff\xe1" + (2 + len(inner)).to_bytes(2, "big") + inner
        assert decode_picture(head + jpeg[2:], "a.jpg").shape == (200, 300, 3)
        with pytest.raises(BadInputError, match=r"b\.jpg is truncated"):
            decode_picture(head + jpeg[2 : len(jpeg) // 2], "b.jpg")


def test_a_pil_image_is_turned_as_its_file_is(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(cv2.resize(FRAME, (30, 20)))
    exif = image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90°
    picture.save(tmp_path / "turned.png", exif=exif)
    frame = as_frame(tmp_path / "turned.png")
    assert frame.shape == (30, 20, 3)
    assert (as_frame(image.open(tmp_path / "turned.png")) == frame).all()


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_pil_image_of_more_than_8_bits_is_refused_not_clipped(mode):
    image = pytest.importorskip("PIL.Image")
    with pytest.raises(BadInputError, match="8 bits"):
        as_frame(image.new(mode, (30, 20), 300))


@pytest.mark.parametrize("data", [b"", b"no picture at all"])
def test_files_that_are_no_pictures_are_named(tmp_path, data):
    path = tmp_path / "odd.png"
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=r"odd\.png"):
        as_frame(path)
    with pytest.raises(BadInputError, match=r"missing\.png"):
        as_frame(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, np.nan, 9, 9), "NaN"),
        ((9, 1, 1, 9), "inverted"),
        ((1, 1, 2.5, 9), "smaller than 2"),
        ((31, 1, 40, 9), "outside the 30x20 frame"),
    ],
)
def test_a_bad_box_is_named(box, message):
    with pytest.raises(BadInputError, match=f"box 1 .*{message}"):
        as_boxes([(1, 1, 9, 9), box], FRAME)


def test_boxes_of_torch_are_numbers_too():
    torch = pytest.importorskip("torch")
    assert as_boxes(torch.tensor([[1.0, 1, 9, 9]], requires_grad=True), FRAME).tolist() == [[1, 1, 9, 9]]
    assert as_boxes(torch.tensor([[1, 1, 9, 9]]), FRAME).tolist() == [[1, 1, 9, 9]]


def test_boxes_partly_outside_and_no_boxes_are_fine():
    assert as_boxes([(-5, -5, 5, 5)], FRAME).tolist() == [[-5, -5, 5, 5]]
    assert as_boxes([], FRAME).shape == (0, 4)
    for wrong in ([1, 2, 3, 4], [[1, 2, 3]], "abc", [[1, 2], [3]]):
        with pytest.raises(BadInputError, match=r"\[N, 4\]"):
            as_boxes(wrong, FRAME)
