"""Matching, average precision and recall: cases worked out by hand, and a slow reference that counts afresh at every threshold."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.metrics import Matches, average_precision, match, match_all, precision_recall, recall_at, resample
from fhrt.metrics.detection import iou


def square(x: float, y: float, side: float) -> tuple[float, float, float, float]:
    return x, y, x + side, y + side


def test_iou_of_boxes() -> None:
    # Half of one square beside half of the other: 50 of 150. Then the same one, a quarter of it, one apart, and two empty ones.
    boxes = np.array([square(0, 0, 10), square(3, 3, 0)])
    others = np.array([square(5, 0, 10), square(0, 0, 10), square(0, 0, 5), square(20, 20, 9), square(3, 3, 0)])
    np.testing.assert_allclose(iou(boxes, others), [[1 / 3, 1, 0.25, 0, 0], [0] * 5])


def test_the_best_score_chooses_first_and_a_face_is_found_once() -> None:
    faces = [square(0, 0, 10), square(4, 0, 10)]
    # The second lies exactly on face 0, but the best score is nearer to it than to face 1 and takes it; IoU with face 1 is 60 / 140.
    boxes = [square(0, 0, 10), square(1, 0, 10), square(5, 0, 10), square(100, 0, 10)]
    assert match(boxes, [0.8, 0.9, 0.7, 0.6], faces).tolist() == [-1, 0, 1, -1]
    assert match(boxes, [0.8, 0.9, 0.7, 0.6], faces, least=0.4).tolist() == [1, 0, -1, -1]
    # Exactly the least overlap is enough: 50 of 100.
    assert match([square(0, 0, 10)], [1], [(0, 0, 10, 5)]).tolist() == [0]
    assert match([], [], faces).tolist() == [] and match(boxes, [1] * 4, []).tolist() == [-1] * 4


@pytest.fixture
def two_photographs() -> Matches:
    """Three faces of 10 pixels and one of 40. By score: hit, false (10 px), hit, the large one, false (50 px); one face is missed."""
    first = [square(0, 0, 10), square(50, 0, 10)], [0.9, 0.8]
    second = [square(0, 0, 10), square(100, 100, 40), square(200, 0, 50)], [0.7, 0.6, 0.5]
    return match_all([first, second], [[square(0, 0, 10), square(0, 50, 10)], [square(0, 0, 10), square(100, 100, 40)]])


def test_average_precision_by_hand(two_photographs: Matches) -> None:
    curve = precision_recall(two_photographs)
    np.testing.assert_allclose(curve.score, [0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    # The best precision from each recall on: 1 for the first quarter, 3/4 for the next two.
    assert average_precision(two_photographs) == pytest.approx(1 / 4 + 2 / 4 * 3 / 4)


def test_other_sizes_are_ignored_not_errors(two_photographs: Matches) -> None:
    # Of 8 to 16 pixels: hit, false, hit of three faces; the large hit and the large false positive do not count.
    assert precision_recall(two_photographs, 8, 16).precision.tolist() == [1, 1 / 2, 2 / 3]
    assert average_precision(two_photographs, 8, 16) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert average_precision(two_photographs, 32, 64) == pytest.approx(1)
    assert np.isnan(average_precision(two_photographs, 16, 32)) and np.isnan(recall_at(two_photographs, 1, 16, 32)[0])
    # A range holds its lower edge and not its upper one.
    assert precision_recall(two_photographs, 10, 40).recall[-1] == pytest.approx(2 / 3)
    assert precision_recall(two_photographs, 40, 50).precision.tolist() == [1]


def test_faces_under_eight_pixels_do_not_count() -> None:
    faces = [[square(0, 0, 7), square(20, 0, 7), square(40, 0, 12)]]
    matches = match_all([([square(0, 0, 7), square(40, 0, 12)], [0.9, 0.8])], faces)
    assert average_precision(matches) == 1 and recall_at(matches, 0)[0] == 1


def test_recall_at_false_positives_of_all_sizes(two_photographs: Matches) -> None:
    assert recall_at(two_photographs, 0) == (1 / 4, 0.9)
    assert recall_at(two_photographs, 0.49) == (1 / 4, 0.9)
    assert recall_at(two_photographs, 0.5) == (3 / 4, 0.6)  # one in two photographs
    assert recall_at(two_photographs, 1) == (3 / 4, 0.5)
    assert recall_at(two_photographs, 0.5, 8, 16) == (pytest.approx(2 / 3), 0.6)
    assert recall_at(two_photographs, 0.4, 32, 64) == (0, 0.9)  # the small false positive counts against the large face
    assert two_photographs.false_positives().tolist() == [1, 1]
    wrong = match_all([([square(50, 0, 10)], [1.0])], [[square(0, 0, 10)]])
    assert recall_at(wrong, 0.5) == (0, np.inf) and average_precision(wrong) == 0


def test_nothing_found_is_nought_and_no_faces_are_no_number() -> None:
    nothing = match_all([([], [])], [[square(0, 0, 10)]])
    assert average_precision(nothing) == 0 and recall_at(nothing, 1) == (0, np.inf)
    assert np.isnan(average_precision(match_all([([square(0, 0, 10)], [1])], [[]])))


def test_equal_scores_are_one_threshold() -> None:
    right, wrong = ([square(0, 0, 10)], [1.0]), ([square(50, 0, 10)], [1.0])
    faces = [[square(0, 0, 10)]] * 2
    for order in ([right, wrong], [wrong, right]):
        matches = match_all(order, faces)
        assert average_precision(matches) == 0.25 and recall_at(matches, 0.4) == (0, np.inf)


def made_up(seed: int) -> tuple[list[tuple[NDArray, NDArray]], list[NDArray]]:
    """Photographs with crowded faces of 4 to 100 pixels, shaken boxes for most of them and some false ones; scores often equal."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(12):
        size = np.exp(rng.uniform(np.log(4), np.log(100), (rng.integers(0, 9), 1)))
        corner = rng.uniform(0, 150, (len(size), 2))
        faces = np.hstack([corner, corner + size * [0.9, 1.1]])
        shaken = np.repeat(faces, rng.integers(0, 3, len(faces)), axis=0)
        shaken += rng.normal(0, 0.12, shaken.shape) * (shaken[:, 2:3] - shaken[:, :1])
        false = rng.uniform(0, 150, (rng.integers(0, 5), 2))
        boxes = np.vstack([shaken, np.hstack([false, false + rng.uniform(5, 80, (len(false), 1))])])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        found.append((boxes, rng.integers(0, 15, len(boxes)) / 15))
        truth.append(faces)
    return found, truth


def count(found: list, truth: list, score: float, low: float, high: float) -> tuple[int, int, int, int]:
    """Hits, faces, false positives of the range and of all sizes, with the detections from a score on: plain loops over everything."""
    hits = faces = of_range = of_all = 0

    def within(box: NDArray) -> bool:
        return low <= ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5 < high

    for (boxes, scores), here in zip(found, truth, strict=True):
        left = [tuple(face) for face in here]
        faces += sum(within(face) for face in here)
        for _, box in sorted(((-s, b) for b, s in zip(boxes.tolist(), scores, strict=True) if s >= score), key=lambda pair: pair[0]):
            shares = []
            for face in left:
                width = min(box[2], face[2]) - max(box[0], face[0])
                height = min(box[3], face[3]) - max(box[1], face[1])
                common = max(width, 0) * max(height, 0)
                areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, face)]
                shares.append(common / (sum(areas) - common))
            if shares and max(shares) >= 0.5:
                hits += within(left.pop(int(np.argmax(shares))))
            else:
                of_range, of_all = of_range + within(box), of_all + 1
    return hits, faces, of_range, of_all


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("low", "high"), [(8, np.inf), (8, 16), (32, 64)])
def test_against_the_slow_reference(seed: int, low: float, high: float) -> None:
    found, truth = made_up(seed)
    matches = match_all(found, truth)
    thresholds = sorted({score for _, scores in found for score in scores.tolist()}, reverse=True)
    counted = [count(found, truth, score, low, high) for score in thresholds]
    faces = counted[0][1]
    points = [(hits / faces, hits / max(hits + of_range, 1)) for hits, _, of_range, _ in counted]
    area, reached = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - reached) * max(precision for other, precision in points if other >= recall)
        reached = recall
    assert 0 < area < 1
    assert average_precision(matches, low, high) == pytest.approx(area)
    for per_image in (0.1, 0.5, 1):
        allowed = [hits / faces for hits, _, _, of_all in counted if of_all <= per_image * len(truth)]
        assert recall_at(matches, per_image, low, high)[0] == pytest.approx(max(allowed, default=0))


def test_weights_count_photographs_several_times() -> None:
    found, truth = made_up(7)
    weights = np.random.default_rng(0).integers(0, 3, len(truth))
    repeated = [index for index, times in enumerate(weights) for _ in range(times)]
    again = match_all([found[index] for index in repeated], [truth[index] for index in repeated])
    matches = match_all(found, truth)
    assert average_precision(matches, weights=weights) == pytest.approx(average_precision(again))
    assert recall_at(matches, 0.5, 8, 32, weights) == pytest.approx(recall_at(again, 0.5, 8, 32))
    both = np.stack([weights, np.ones(len(truth))])
    assert average_precision(matches, weights=both) == pytest.approx([average_precision(again), average_precision(matches)])
    assert recall_at(matches, 0.5, weights=both)[0] == pytest.approx([recall_at(again, 0.5)[0], recall_at(matches, 0.5)[0]])


def test_an_interval_of_average_precision_holds_it() -> None:
    matches = match_all(*made_up(1))
    low, high = resample(lambda times: average_precision(matches, weights=times), 12, samples=300)
    assert 0 < low < average_precision(matches) < high < 1
    assert all(np.isnan(resample(lambda times: np.full(len(times), np.nan), 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match([[0, 0, 1]], [1], []), r"boxes must be \[N, 4\]"),
        (lambda: match([[0, 0, np.nan, 1]], [1], []), "finite"),
        (lambda: match([], [], [[5, 0, 1, 1]]), "faces must be finite"),
        (lambda: match([[0, 0, 1, 1]], [1, 2], []), "one per box"),
        (lambda: match_all([], []), "at least one"),
        (lambda: match_all([([], [])], []), "the same photographs"),
        (lambda: recall_at(match_all([([], [])], [[]]), -1), "must not be negative"),
        (lambda: average_precision(match_all([([], [])], [[]]), weights=[1, 2]), "one per photograph"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        call()
