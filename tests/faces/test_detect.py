import cv2
import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.faces.align import crop_transform
from fhrt.faces.detect import HaarDetector, YuNetDetector, create_detector


@pytest.fixture(scope="module")
def portrait():
    """A 103-pixel photograph with one face 18 pixels wide; its eyes lie near (40.4, 20.5) and (50.2, 20.5)."""
    data = pytest.importorskip("skimage.data")
    return cv2.resize(data.astronaut()[..., ::-1], None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)


def test_haar_finds_a_small_face_and_its_crop_holds_the_eyes(portrait):
    (face,) = HaarDetector().detect(portrait)
    assert 15 < face.width < 21
    assert 0.3 < face.score <= 1
    to_crop = cv2.invertAffineTransform(crop_transform(face.box, (100, 100)).astype(float))
    eyes = to_crop @ [[40.4, 50.2], [20.5, 20.5], [1, 1]]
    np.testing.assert_allclose(eyes, [[32, 68], [42, 42]], atol=7)


def test_haar_finds_nothing_in_a_flat_frame():
    assert HaarDetector().detect(np.full((50, 60, 3), 90, np.uint8)) == []
    assert HaarDetector().detect(np.zeros((1, 1, 3), np.uint8)) == []


def test_yunet_rows_become_boxes_eyes_and_scores(monkeypatch):
    row = [10, 20, 30, 40, 17, 33, 31, 34, 0, 0, 0, 0, 0, 0, 0.75]

    class Net:
        def setInputSize(self, size):
            assert size == (80, 60)

        def detect(self, frame):
            return 1, np.array([row, [*row[:14], 0.9]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args: Net())
    best, second = YuNetDetector("net.onnx").detect(np.zeros((60, 80, 3), np.uint8))
    assert best.score == pytest.approx(0.9)
    assert second.box == (10, 20, 40, 60)
    assert second.eyes.tolist() == [[17, 33], [31, 34]]


def test_create_detector(tmp_path):
    assert isinstance(create_detector("haar"), HaarDetector)
    with pytest.raises(BadInputError, match="unknown detector"):
        create_detector("retina")
    broken = tmp_path / "net.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(BadInputError, match="YuNet"):
        create_detector(broken)
