"""The reader of photographs with boxes: what comes out, and what it refuses before anything was scored."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from archives import write_frames, write_tar
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.protocols.frames import walk_frames

BOXES = [[[1, 2, 10.5, 12], [30, 20, 0, 3]], [], [[5, 5, 8, 9]]]


@pytest.fixture
def pictures() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + 4 * n, 60, 3)).astype(np.uint8) for n in range(3)]


@pytest.fixture
def frames(tmp_path: Path, pictures: list[NDArray[np.uint8]]) -> Path:
    write_frames(tmp_path, "test", list(zip(pictures, BOXES, strict=True)))
    return tmp_path


def test_pictures_and_corners_in_the_order_of_the_archive(frames: Path, pictures: list[NDArray[np.uint8]]) -> None:
    keys, read, boxes = zip(*walk_frames(frames, "test"), strict=True)
    assert keys == ("test_0", "test_1", "test_2")
    for one, expected in zip(read, pictures, strict=True):
        np.testing.assert_array_equal(one, expected)
        assert one.dtype == np.uint8
    assert [each.dtype for each in boxes] == [np.float64] * 3
    assert boxes[0].tolist() == [[1, 2, 11.5, 14], [30, 20, 30, 23]] and boxes[1].shape == (0, 4)


def test_any_picture_format(frames: Path, pictures: list[NDArray[np.uint8]]) -> None:
    names = ("test_2.png", "deep/test_0.png", "test_1.bmp")
    order = (2, 0, 1)
    write_tar(
        frames / "test.tar", {name: cv2.imencode(name[-4:], pictures[at])[1].tobytes() for name, at in zip(names, order, strict=True)}
    )
    for (key, picture, boxes), at in zip(walk_frames(frames, "test"), order, strict=True):
        assert key == f"test_{at}" and len(boxes) == len(BOXES[at])
        np.testing.assert_array_equal(picture, pictures[at])


def edit(change):
    """A change to what boxes.json says of the split."""

    def apply(folder: Path) -> None:
        splits = json.loads((folder / "boxes.json").read_text())
        change(splits["test"])
        (folder / "boxes.json").write_text(json.dumps(splits))

    return apply


def encoded(count: int) -> dict[str, bytes]:
    data = cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    return {f"test_{number}.png": data for number in range(count)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "test.tar").unlink(), r"cannot read .*test\.tar: No such file"),
        (lambda folder: (folder / "test.tar").write_bytes((folder / "test.tar").read_bytes()[:1500]), r"cannot read .*test\.tar"),
        (lambda folder: (folder / "test.tar").write_text("no archive"), r"cannot read .*test\.tar: [^\n]*$"),
        (lambda folder: (folder / "boxes.json").unlink(), r"cannot read .*boxes\.json: No such file"),
        (lambda folder: (folder / "boxes.json").write_text('{"test": ['), r"boxes\.json: .*JSON"),
        (lambda folder: (folder / "boxes.json").write_text('{"train": []}'), r'no photographs of a split "test"; it has: train'),
        (lambda folder: write_tar(folder / "test.tar", encoded(2)), r"1 photographs, such as test_2, are missing in .*test\.tar"),
        (lambda folder: write_tar(folder / "test.tar", encoded(5)), r"2 photographs, such as test_3, are missing in boxes\.json"),
        (lambda folder: write_tar(folder / "test.tar", {**encoded(3), "again/test_1.png": b""}), "two pictures have one key"),
        (edit(lambda entries: entries.append(entries[0])), "two photographs .* have one key"),
        (edit(lambda entries: entries[0].pop("width")), r"test\.0\.width: .*required"),
        (edit(lambda entries: entries[0]["boxes"].append([1, 2, 3])), r"test\.0\.boxes\.2"),
        (edit(lambda entries: entries[0]["boxes"].append([1, 2, -3, 4])), r"test\.0\.boxes\.2\.2: .*greater than or equal to 0"),
        (edit(lambda entries: entries[0]["boxes"].append([1, 2, float("nan"), 4])), r"test\.0\.boxes\.2\.2: .*finite"),
        (edit(lambda entries: entries[2]["boxes"].append([60, 0, 5, 5])), "a box of test_2 lies outside its 60×48 pixels"),
    ],
)
def test_an_archive_that_does_not_match_is_refused_before_its_first_photograph(frames: Path, spoil, message: str) -> None:
    spoil(frames)
    with pytest.raises(BadInputError, match=message) as raised:
        next(walk_frames(frames, "test"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("damage", "message"), [(lambda data: data[:-30], "truncated"), (lambda data: b"no picture", "not a picture")])
@pytest.mark.parametrize("ending", [".webp", ".png"])
def test_a_damaged_picture_is_named(frames: Path, pictures: list[NDArray[np.uint8]], damage, message: str, ending: str) -> None:
    files = {f"test_{number}{ending}": cv2.imencode(ending, picture)[1].tobytes() for number, picture in enumerate(pictures)}
    files[f"test_1{ending}"] = damage(files[f"test_1{ending}"])
    write_tar(frames / "test.tar", files)
    walk = walk_frames(frames, "test")
    assert next(walk)[0] == "test_0"
    with pytest.raises(BadInputError, match=rf"test_1{re.escape(ending)} is .*{message}"):
        next(walk)


def test_a_picture_of_another_size_is_refused(frames: Path) -> None:
    edit(lambda entries: entries[1].update(width=61))(frames)
    with pytest.raises(BadInputError, match=r"test_1\.webp is 60×44 pixels, boxes\.json says 61×44"):
        list(walk_frames(frames, "test"))
