from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import fhrt.runtime
from fhrt.errors import BadInputError
from fhrt.faces.detect import Detection
from fhrt.faces.fuse import Fusion
from fhrt.files import write_bytes
from fhrt.hallucinator import Hallucinator, crop_faces
from fhrt.ops import Nv12
from fhrt.protocols.pairs import gaussian_lr, make_pairs
from fhrt.results import write_picture
from fhrt.runtime import Output

BOX = (20.0, 10.0, 40.0, 35.0)


class NearestEngine:
    """Enlarges eight times; keeps what it was given."""

    def __init__(self, theta=None, side=16):
        self.card = SimpleNamespace(name="nearest", input_size=(side, side), output_size=(8 * side, 8 * side), outputs=("sr",))
        self.array_library = None
        self.theta = theta

    def run(self, lr):
        self.lr = lr
        theta = None if self.theta is None else np.repeat(self.theta[None], len(lr), 0)
        return Output(lr.repeat(8, 2).repeat(8, 3), theta)


class ListDetector:
    def __init__(self, *detections):
        self.detections = list(detections)

    def detect(self, frame_bgr):
        self.frame_bgr = frame_bgr
        return self.detections


@pytest.fixture
def frame():
    rough = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(rough, (80, 60), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def make(monkeypatch):
    def build(engine=None, **options):
        monkeypatch.setattr(fhrt.runtime, "load", lambda *args, **kwargs: engine or NearestEngine())
        return Hallucinator("nearest", **options)

    return build


def test_run_returns_each_face_with_its_place(make, frame):
    result = make(detector=ListDetector(Detection(BOX, 0.7))).run(frame)
    (face,) = result.faces
    assert (face.box, face.score, face.track_id, face.heatmaps) == (BOX, 0.7, None, None)
    assert (face.lr.shape, face.lr.dtype, face.sr.shape, face.sr.dtype) == (
        (16, 16, 3),
        np.uint8,
        (128, 128, 3),
        np.uint8,
    )
    assert (face.sr[::8, ::8] == face.lr).all()
    seen = cv2.warpAffine(frame, face.transform, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert np.abs(cv2.resize(seen, (16, 16), interpolation=cv2.INTER_AREA).astype(int) - face.lr).mean() < 4
    assert set(result.timings) == {"detect", "crop", "model", "assemble", "total"}
    assert result.timings["total"] >= result.timings["model"] > 0


def test_the_network_sees_rgb_whatever_the_colour_order(make, frame):
    bgr, rgb = make(), make(color="rgb")
    from_bgr = bgr.run(frame, [BOX])
    from_rgb = rgb.run(np.ascontiguousarray(frame[..., ::-1]), [BOX])
    np.testing.assert_array_equal(bgr.engine.lr, rgb.engine.lr)
    assert -1 <= bgr.engine.lr.min() < bgr.engine.lr.max() <= 1
    for name in ("lr", "sr"):
        assert (getattr(from_bgr.faces[0], name) == getattr(from_rgb.faces[0], name)[..., ::-1]).all()
    assert (from_bgr.paste(2) == from_rgb.paste(2)[..., ::-1]).all()
    assert np.abs(from_bgr.faces[0].lr.mean((0, 1)) - frame[10:35, 20:40].mean((0, 1))).max() < 25


def loose_box(side, left=0, top=0):
    """The tight box of a face whose head crop, `side` pixels wide, has its upper left corner there."""
    square = side / 1.5
    box = square / 1.1
    middle = (left + side / 2, top + side / 2 - 0.08 * square)
    return (middle[0] - box / 2, middle[1] - 0.38 * box, middle[0] + box / 2, middle[1] + 0.62 * box)


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_a_network_of_loose_faces_sees_them_as_its_protocol_makes_them(make, faces, color):
    """Blurred, decimated and in phase; and its SR faces lie where the HR face does."""
    lr = make_pairs(faces[:2], "loose", np.random.default_rng(0)).lr
    for left, top in ((0, 0), (37, 11)):
        frame = np.pad(faces[0], ((top, 20), (left, 30), (0, 0)), mode="reflect")
        hallucinator = make(NearestEngine(side=24), color=color, max_face=200)
        (face,) = hallucinator.run(frame if color == "rgb" else np.ascontiguousarray(frame[..., ::-1]), [loose_box(192, left, top)]).faces
        assert np.abs((hallucinator.engine.lr[0] + 1) * 127.5 - lr[0]).max() < 0.51
        np.testing.assert_allclose(face.transform, [[1, 0, left], [0, 1, top]], atol=1e-3)


def test_what_a_stream_fuses_of_a_loose_face_is_blurred_as_much(make, faces):
    lr = make_pairs(faces[:1], "loose", np.random.default_rng(0)).lr
    card = NearestEngine(side=24).card
    crops, transforms = crop_faces(faces[0], [Detection(loose_box(192))], card, "rgb", finer=2)
    assert crops.shape == (1, 3, 48, 48) and crops.flags.c_contiguous
    fused = Fusion(1).update([1], crops, transforms, np.ones(1))
    difference = np.abs((fused.lr + 1) * 127.5 - lr)
    assert np.percentile(difference, 99) < 2 and difference.mean() < 0.5
    np.testing.assert_allclose(fused.transforms[0], crop_faces(faces[0], [Detection(loose_box(192))], card, "rgb")[1][0], atol=1e-4)


@pytest.mark.parametrize("shrink", [0.5, 1.0, 3.0, 8.0, 20.0])
@pytest.mark.parametrize("finer", [1, 2])
def test_a_loose_face_of_any_size_is_in_phase(shrink, finer):
    """A ramp shows where pixels lie: those that a network sees, or that a stream makes of four, half an SR pixel from their middle."""
    side = int(24 * shrink)
    frame = np.broadcast_to(np.linspace(20, 230, side + 60)[:, None, None], (side + 60, side + 60, 3))
    frame = np.rint(frame).astype(np.uint8)
    box = loose_box(24 * shrink, 30, 30)
    crops, transforms = crop_faces(frame, [Detection(box)], NearestEngine(side=24).card, "rgb", finer)
    seen = (crops.reshape(1, 3, 24, finer, 24, finer).mean((3, 5))[0, 0, :, 12] + 1) * 127.5
    rows = 30 - 0.5 + shrink * (np.arange(24) + 0.5 + 1 / 16)
    expected = 20 + 210 * rows / (side + 59)
    assert abs((seen - expected)[3:-3].mean()) < 0.1 * 210 * shrink / (side + 59)
    assert transforms[0, 1, 1] == pytest.approx(shrink / finer)


def test_a_small_loose_face_is_not_blurred_but_for_its_camera(make):
    """Where the frame's pixels are those of the LR face they are shown, but for the 1/16 pixel that they lie off."""
    frame = np.random.default_rng(0).integers(100, 156, (24, 24, 3), np.uint8)
    hallucinator = make(NearestEngine(side=24), color="rgb")
    hallucinator.run(frame, [loose_box(24)])
    seen = ((hallucinator.engine.lr[0] + 1) * 127.5).transpose(1, 2, 0)
    assert seen.std() == pytest.approx(frame.std(), rel=0.05)
    assert np.abs(seen - frame).mean() < 0.15 * frame.std()


def test_a_loose_face_of_an_nv12_frame(make, faces):
    grey = faces[0].mean(axis=2).astype(np.uint8)
    frame = Nv12(grey, np.full((96, 96, 2), 128, np.uint8), full_range=True)
    hallucinator = make(NearestEngine(side=24), max_face=200)
    hallucinator.run(frame, [loose_box(192)])
    expected = gaussian_lr(np.repeat(grey[None, None].astype(np.float32), 3, 1))
    assert np.abs((hallucinator.engine.lr + 1) * 127.5 - expected).max() < 0.6


def test_the_detector_gets_bgr(make, frame):
    detector = ListDetector()
    make(detector=detector, color="rgb").run(frame)
    assert (detector.frame_bgr == frame[..., ::-1]).all()


def test_large_faces_are_left_alone_and_counted(make, frame):
    engine = NearestEngine()
    result = make(engine, detector=ListDetector(Detection((0, 0, 49, 60)), Detection(BOX))).run(frame)
    assert [face.box for face in result.faces] == [BOX]
    assert result.skipped == 1
    assert len(engine.lr) == 1


def test_a_frame_without_faces_is_no_error(make, frame, tmp_path):
    result = make(detector=ListDetector()).run(frame)
    assert result.faces == []
    assert (result.paste(1) == frame).all() and (result.paste(np.int64(1)) == frame).all()
    assert result.save(tmp_path / "plot.png").is_file()


def test_theta_turns_the_pasted_face(make, frame):
    half_turn = np.array([[-1, 0, 0], [0, -1, 0]], np.float32)
    plain = make().run(frame, [BOX]).faces[0].transform
    turned = make(NearestEngine(half_turn)).run(frame, [BOX]).faces[0].transform
    np.testing.assert_allclose(turned @ [0, 0, 1], plain @ [127, 127, 1], atol=1e-3)


def test_runs_are_deterministic(make, frame):
    hallucinator = make()
    first, second = (hallucinator.run(frame, [BOX]) for _ in range(2))
    assert (first.faces[0].sr == second.faces[0].sr).all()
    assert (first.paste() == second.paste()).all()


def test_paths_and_pil_images_give_the_same_faces(make, frame, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    cv2.imwrite(str(tmp_path / "a.png"), frame)
    hallucinator = make()
    expected = hallucinator.run(frame, [BOX]).faces[0].sr
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), pil.fromarray(frame[..., ::-1])):
        assert (hallucinator.run(source, [BOX]).faces[0].sr == expected).all()


def test_hallucinate_keeps_order_and_channels(make):
    lr = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    for color in ("bgr", "rgb"):
        assert (make(color=color).hallucinate(lr)[:, ::8, ::8] == lr).all()
    assert make().hallucinate(lr[:0]).shape == (0, 128, 128, 3)


@pytest.mark.parametrize("lr", [np.zeros((2, 16, 15, 3), np.uint8), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)])
def test_hallucinate_refuses_other_arrays(make, lr):
    with pytest.raises(BadInputError, match="LR faces must"):
        make().hallucinate(lr)


def test_hallucinate_takes_lists_and_torch_and_names_ragged_ones(make):
    torch = pytest.importorskip("torch")
    lr = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    hallucinator = make()
    for given in (list(lr), torch.from_numpy(lr)):
        assert (hallucinator.hallucinate(given) == hallucinator.hallucinate(lr)).all()
    with pytest.raises(BadInputError, match="LR faces must"):
        hallucinator.hallucinate([lr[0], lr[1, 1:]])


def test_bad_options_are_refused(make):
    detectors = ({"detector": "retina"}, {"detector": None}, {"detector": object()})
    for options in ({"color": "gray"}, {"max_face": 0}, {"max_face": None}, *detectors):
        with pytest.raises(BadInputError):
            make(**options)


def test_plot_shows_frame_boxes_and_pairs(make, frame):
    result = make().run(frame, [BOX, (50, 20, 70, 45)])
    plot = result.plot()
    assert plot.dtype == np.uint8
    assert plot.shape[1] >= 960
    assert plot.shape[0] > result.plot(max_faces=0).shape[0] + 128
    side = 128
    found = cv2.matchTemplate(plot, result.faces[0].sr, cv2.TM_SQDIFF)
    assert found.min() == 0, "the SR face is shown pixel by pixel"
    assert plot.shape[0] - np.unravel_index(found.argmin(), found.shape)[0] < 2 * side


def test_plot_of_a_thin_frame_stays_small(make):
    assert make().run(np.zeros((500, 1, 3), np.uint8), []).plot().shape[0] < 5000


def test_a_picture_that_cannot_be_made_is_said(make, tmp_path):
    result = make().run(np.zeros((17000, 8, 3), np.uint8), [])
    with pytest.raises(BadInputError, match="425000000x200000 pixels cannot be made"):
        make().run(np.zeros((8, 17000, 3), np.uint8), []).paste(25000)
    with pytest.raises(BadInputError, match=r"17000 pixels are more than \.webp takes"):
        write_picture(tmp_path / "a.webp", result.frame)
    with pytest.raises(BadInputError, match='"\\.xyz" is not a picture format'):
        write_picture(tmp_path / "a.xyz", result.frame)
    with pytest.raises(BadInputError, match="max_faces must be a whole number"):
        result.plot("x")
    assert not list(tmp_path.iterdir())


def test_save_is_whole_or_nothing(make, frame, tmp_path):
    result = make().run(frame, [BOX])
    path = result.save(tmp_path / "plot.png")
    assert (cv2.imread(str(path)) == result.plot()).all()
    for wrong in ("plot.xyz", "plot", "missing/plot.png"):
        with pytest.raises(BadInputError, match="cannot write"):
            result.save(tmp_path / wrong)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadInputError, match="cannot write"):
        result.save(tmp_path / "folder.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.png", "plot.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "a.json", b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(BadInputError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
