"""What a viewer of a video sees: the frame, the tracked boxes, and a strip with the faces as they came and as they were made."""

from __future__ import annotations

import cv2
import numpy as np

from fhrt.faces.inputs import Picture, swap_channels
from fhrt.results import ACCENT, BACKGROUND, PAD, TEXT, Face, Result, draw_box, draw_text, zoom_to_show

SIDE = 128  # of an SR face in the strip; its LR face is shown at half of that
TILE = SIDE // 2 + SIDE  # width of the two


class View:
    """Draws the results of one source, always in the same size as long as its frames keep theirs.

    A face keeps its place in the strip until its track ends; new ones take free places, the largest first.
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, Face]] = {}  # track → place in the strip, and the face as last seen

    def draw(self, result: Result) -> Picture:
        """BGR uint8 `[H, W, 3]`, a new array: the frame, a small one enlarged by a whole number, and below it the strip."""
        frame = result.frame if result.color == "bgr" else swap_channels(result.frame)
        zoom = zoom_to_show(frame)
        height, width = frame.shape[0] * zoom, frame.shape[1] * zoom
        canvas = np.empty((height + SIDE + 2 * PAD, width, 3), np.uint8)
        canvas[height:] = BACKGROUND
        cv2.resize(frame, (width, height), dst=canvas[:height], interpolation=cv2.INTER_LINEAR)
        for face in result.faces:
            draw_box(canvas[:height], face.box, zoom, "" if face.track_id is None else str(face.track_id))
        for place, face in self._placed(result, (width - PAD) // (TILE + PAD)):
            tile = canvas[height + PAD : height + PAD + SIDE, PAD + place * (TILE + PAD) :][:, :TILE]
            self._draw_pair(tile, face, result.color == "rgb")
        return canvas

    def _placed(self, result: Result, count: int) -> list[tuple[int, Face]]:
        """Which faces the strip's `count` places show."""
        untracked = [face for face in result.faces if face.track_id is None]
        self._places = {track: placed for track, placed in self._places.items() if track in result.track_ids and placed[0] < count}
        free = sorted(set(range(count)) - {place for place, _ in self._places.values()}, reverse=True)
        for face in sorted(result.faces, key=lambda face: -face.width):
            if face.track_id in self._places:
                self._places[face.track_id] = self._places[face.track_id][0], face
            elif face.track_id is not None and free:
                self._places[face.track_id] = free.pop(), face
        rest = zip(reversed(free), sorted(untracked, key=lambda face: -face.width), strict=False)
        return [*self._places.values(), *rest]

    def _draw_pair(self, tile: Picture, face: Face, rgb: bool) -> None:
        """Number and width above the LR face, whose pixels stay visible, and the SR face beside them."""
        lr, sr = (swap_channels(picture) if rgb else picture for picture in (face.lr, face.sr))
        half = SIDE // 2
        if face.track_id is not None:
            draw_text(tile, str(face.track_id), (0, 14), ACCENT, 0.5)
        draw_text(tile, f"{face.width:.0f} px", (0, half - 10), TEXT, 0.42)
        tile[half:, :half] = cv2.resize(lr, (half, half), interpolation=cv2.INTER_NEAREST)
        if sr.shape[:2] != (SIDE, SIDE):
            sr = cv2.resize(sr, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        tile[:, half:] = sr
