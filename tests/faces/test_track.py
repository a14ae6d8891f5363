import threading
from collections import defaultdict
from dataclasses import replace

import numpy as np
import numpy_tracker
import pytest

from benchmarks.scenes import FPS, backdrop, film
from fhrt.errors import BadInputError
from fhrt.faces.detect import Detection
from fhrt.faces.track import Tracker


def face(x, y=50.0, width=16.0, score=0.9, eyes=None):
    """A detection whose box has its middle at x, y."""
    return Detection((x - width / 2, y - 10, x + width / 2, y + 10), score, eyes)


def centres(tracks):
    return {one.track_id: (one.detection.box[0] + one.detection.box[2]) / 2 for one in tracks}


@pytest.fixture(scope="module")
def scene(faces):
    rng = np.random.default_rng(3)
    return film(faces[:6], backdrop((320, 240), rng), 30, (18, 28), rng, noise=0.5)


def follow(tracker, scene, every, frames=True):
    """Per frame, face → (track id, distance from the truth in face widths); true boxes are detected at every `every`-th."""
    rows = []
    for at, frame in enumerate(scene.frames):
        found = [Detection(tuple(box)) for box in scene.boxes[at][scene.visible[at]].tolist()]
        row = {}
        for one in tracker.update(at / FPS, found if at % every == 0 else None, frame if frames else None):
            box = np.array(one.detection.box)
            off = np.linalg.norm((scene.boxes[at] - box).reshape(-1, 2, 2).mean(1), axis=1) / (
                scene.boxes[at, :, 2] - scene.boxes[at, :, 0]
            )
            row[int(off.argmin())] = (one.track_id, float(off.min()))
        rows.append(row)
    return rows


def test_pictures_keep_tracks_on_faces_between_detections(scene):
    errors = {}
    for frames in (False, True):
        rows = follow(Tracker(), scene, every=6, frames=frames)
        errors[frames] = np.array([off for at, row in enumerate(rows) if at % 6 for _, off in row.values()])
    assert len(errors[True]) > 60
    assert np.median(errors[True]) < 0.06
    assert np.median(errors[True]) < 0.5 * np.median(errors[False])


def test_each_face_keeps_its_identity(scene):
    identities = defaultdict(set)
    for row in follow(Tracker(), scene, every=5):
        for number, (track_id, off) in row.items():
            if off < 0.5:
                identities[number].add(track_id)
    assert len(identities) >= 5
    assert all(len(ids) == 1 for ids in identities.values())


def test_frames_of_any_layout_will_do(scene):
    laid_out = [np.ascontiguousarray(frame[:, ::-1])[:, ::-1] for frame in scene.frames]
    assert follow(Tracker(), replace(scene, frames=laid_out), 5) == follow(Tracker(), scene, 5)


def test_a_copy_goes_its_own_way(scene):
    tracker, alone = Tracker(), Tracker()
    for one in (tracker, alone):
        one.update(0, [Detection(tuple(box)) for box in scene.boxes[0].tolist()], scene.frames[0])
    twin = tracker.copy()
    expected = [alone.update(at / FPS, None, scene.frames[at]) for at in range(1, 4)]
    twin = tracker.copy()
    for at in range(1, 4):
        twin.update(at / FPS, [face(300)], scene.frames[at])
    assert [tracker.update(at / FPS, None, scene.frames[at]) for at in range(1, 4)] == expected
    assert len(twin.track_ids) > len(tracker.track_ids)


def test_same_calls_give_same_tracks(scene):
    assert follow(Tracker(), scene, 5) == follow(Tracker(), scene, 5)


def test_a_face_that_moves_further_than_its_width_between_detections_is_followed():
    tracker = Tracker()
    for step in range(8):  # two faces walk past each other, 1.5 widths a detection
        tracks = tracker.update(step / 5, [face(20 + 24 * step, 50), face(220 - 24 * step, 90)])
        assert [one.track_id for one in tracks] == [1, 2]


def test_dropped_and_late_frames_count_by_their_times():
    tracker = Tracker()
    times = [0, 0.1, 0.2, 0.3, 0.7, 0.75, 1.2]
    for time in times:
        tracks = tracker.update(time, [face(20 + 100 * time)])
        assert centres(tracks) == pytest.approx({1: 20 + 100 * time}, abs=2)
    assert centres(tracker.update(1.3, None)) == pytest.approx({1: 150}, abs=2)


def test_rare_detections_end_no_track_and_a_long_gap_ends_all():
    tracker = Tracker(patience=1)
    for step in range(41):
        tracks = tracker.update(step / 10, [face(50)] if step % 20 == 0 else None)
        assert list(centres(tracks)) == [1]
    assert list(centres(tracker.update(5.2, [face(50)]))) == [2]
    assert tracker.update(1e300, None) == []


def test_a_clock_that_is_set_back_ends_no_track():
    tracker = Tracker()
    for step in range(5):
        tracker.update(100 + step / 10, [face(20 + 10 * step)])
    assert centres(tracker.update(3, None)) == pytest.approx({1: 70}, abs=2)
    assert centres(tracker.update(3.1, [face(80)])) == pytest.approx({1: 80}, abs=2)


def test_low_scores_continue_tracks_and_start_none():
    tracker = Tracker(start_score=0.5)
    assert tracker.update(0, [face(20, score=0.4)]) == []
    tracker.update(0.1, [face(20)])
    (track,) = tracker.update(0.2, [face(21, score=0.1)])
    assert (track.track_id, track.detected, track.detection.score) == (1, True, 0.1)


def test_an_occluded_face_is_not_reported_and_comes_back_as_itself():
    tracker = Tracker(patience=1.0)
    for step in range(5):
        tracker.update(step / 10, [face(20 + 5 * step)])
    for step in range(5, 11):
        assert tracker.update(step / 10, []) == []
    assert tracker.track_ids == [1]
    assert list(centres(tracker.update(1.1, [face(75)]))) == [1]
    for step in range(12, 23):
        tracker.update(step / 10, [])
    assert tracker.track_ids == []
    assert list(centres(tracker.update(2.4, [face(75)]))) == [2]


def test_a_face_that_the_detector_misses_is_reported_while_its_picture_is_there(scene):
    tracker = Tracker()
    box = scene.boxes[:, 0]
    for at in range(3):
        tracker.update(at / FPS, [Detection(tuple(box[at].tolist()))], scene.frames[at])
    (track,) = tracker.update(3 / FPS, [], scene.frames[3])
    assert not track.detected
    np.testing.assert_allclose(track.detection.box, box[3], atol=0.15 * (box[3, 2] - box[3, 0]))
    covered = scene.frames[4].copy()
    x1, y1, x2, y2 = box[4].astype(int).tolist()
    covered[y1 - 20 : y2 + 20, x1 - 20 : x2 + 20] = 90
    assert tracker.update(4 / FPS, [], covered) == []
    assert tracker.track_ids == [1]


def test_a_face_that_leaves_the_frame_ends_its_track():
    frame = np.full((100, 100, 3), 90, np.uint8)
    tracker = Tracker()
    for step in range(5):
        tracker.update(step / 25, [face(70 + 5 * step)], frame)
    for step in range(5, 12):
        tracker.update(step / 25, [], frame)
    assert tracker.track_ids == []


@pytest.mark.parametrize("change", ["scene", "size"])
def test_a_new_scene_or_size_ends_all_tracks(change):
    rng = np.random.default_rng(0)
    frame, other = backdrop((160, 120), rng), backdrop((160, 120), rng)
    tracker = Tracker()
    tracker.update(0, [face(50)], frame)
    assert list(centres(tracker.update(0.04, [face(50)], frame[:, ::1]))) == [1]
    changed = other if change == "scene" else frame[:110]
    assert list(centres(tracker.update(0.08, [face(50)], changed))) == [2]
    assert tracker.track_ids == [2]


def test_a_dark_frame_is_no_new_scene():
    frame = backdrop((160, 120), np.random.default_rng(0))
    tracker = Tracker()
    for time, picture in ((0, frame), (0.04, np.zeros_like(frame)), (0.08, frame)):
        tracks = tracker.update(time, [face(50)], picture)
    assert list(centres(tracks)) == [1]


def test_two_boxes_on_one_face_make_one_track():
    tracker = Tracker()
    assert list(centres(tracker.update(0, [face(50), face(52)]))) == [1]
    assert list(centres(tracker.update(0.1, [face(50), face(53, score=0.8)]))) == [1]
    assert tracker.track_ids == [1]


def test_eyes_move_along_with_the_box():
    tracker = Tracker()
    for step in range(5):
        x = 50 + 4 * step
        tracker.update(step / 10, [face(x, eyes=np.array([[x - 4, 48.0], [x + 4, 48.0]]))])
    (track,) = tracker.update(0.5, None)
    np.testing.assert_allclose(track.detection.eyes, [[66, 48], [74, 48]], atol=1)
    (track,) = tracker.update(0.6, [face(74)])
    assert track.detection.eyes is None


def test_nothing_in_nothing_out():
    tracker = Tracker()
    frame = np.zeros((1, 1, 3), np.uint8)
    assert tracker.update(0, None, frame) == tracker.update(1, [], frame) == tracker.update(2, []) == []


@pytest.mark.parametrize("box", [(0, 0, np.nan, 5), (5, 0, 1, 5), (0, 0, np.inf, 5)])
def test_bad_input_is_named_and_changes_nothing(box):
    tracker = Tracker()
    tracker.update(0, [face(50)])
    with pytest.raises(BadInputError, match="x1 < x2"):
        tracker.update(0.1, [Detection(box)])
    with pytest.raises(BadInputError, match="finite seconds"):
        tracker.update(np.nan, [])
    with pytest.raises(BadInputError, match="uint8"):
        tracker.update(0.1, [], np.zeros((4, 4, 3)))
    assert list(centres(tracker.update(0.1, [face(50)]))) == [1]


@pytest.mark.parametrize("options", [{"start_score": 1.5}, {"patience": 0}, {"patience": np.inf}])
def test_bad_options(options):
    with pytest.raises(BadInputError, match=next(iter(options))):
        Tracker(**options)


@pytest.mark.parametrize("every", [1, 5])
def test_tracks_are_those_of_the_filter_in_numpy(faces, every):
    """Detections that miss, err, double and come out of nothing; new scenes, frames that are not there, a clock set back."""
    rng = np.random.default_rng(every)
    scene = film(faces, backdrop((320, 240), rng), 60, (14, 40), rng, noise=2)
    tracker, reference, compared = Tracker(), numpy_tracker.Tracker(), 0
    for at, frame in enumerate(scene.frames):
        found = []
        for box in scene.boxes[at][scene.visible[at] & (rng.random(len(scene.visible[at])) > 0.15)]:
            width = box[2] - box[0]
            x1, y1, x2, y2 = (box + rng.normal(0, 0.05 * width, 4)).tolist()
            eyes = np.array([[x1 + width * 0.3, y1 + width * 0.3], [x1 + width * 0.7, y1 + width * 0.35]])
            found.append(Detection((x1, y1, x2, y2), rng.uniform(0.2, 1), None if rng.random() < 0.3 else eyes))
        found += [face(rng.uniform(0, 300), score=0.6) for _ in range(rng.integers(0, 3))] + found[:1]
        frame = None if at // 15 == 2 else frame[::-1].copy() if at == 50 else frame
        given = (at / FPS - (3 if at == 30 else 0), found if at % every == 0 else None, frame)
        tracks, expected = tracker.update(*given), reference.update(*given)
        assert tracker.track_ids == reference.track_ids
        assert [(one.track_id, one.detected, one.detection.score) for one in tracks] == [
            (one.track_id, one.detected, one.detection.score) for one in expected
        ]
        for one, other in zip(tracks, expected, strict=True):
            np.testing.assert_allclose(one.detection.box, other.detection.box, atol=1e-6)
            assert (one.detection.eyes is None) == (other.detection.eyes is None)
            if one.detection.eyes is not None:
                np.testing.assert_allclose(one.detection.eyes, other.detection.eyes, atol=1e-6)
        compared += len(tracks)
    assert compared > 200 and tracker.track_ids[-1] > 30


def test_a_tracker_that_threads_share_stays_whole(scene):
    tracker, errors = Tracker(), []

    def work(offset):
        try:
            for at in range(200):
                tracker.update(offset + at / FPS, [face(20 * n, score=0.9) for n in range(at % 7)], scene.frames[at % len(scene.frames)])
                tracker.copy().update(offset + at / FPS, [], None)
                ids = tracker.track_ids  # once: another thread goes on meanwhile
                assert len(set(ids)) == len(ids)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number / 100,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
