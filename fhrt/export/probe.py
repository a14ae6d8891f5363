"""Probes: what a backend's answer is compared with before it is believed (`fhrt.runtime.probe`)."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fhrt import ops
from fhrt.export.folder import checksums, write_card
from fhrt.faces.align import CROP_MARGIN, crop_transforms
from fhrt.runtime.bundle import PROBE, open_bundle
from fhrt.runtime.card import Card
from fhrt.runtime.probe import make_probe

CROWD = Path(__file__).parent.parent / "assets" / "crowd.png"
"""Of which probes are made: the demo's picture, so that they hold nothing of any data set."""

FACES = (
    ((240.7, 338.2, 258.9, 361.8), ((245.8, 347.0), (254.0, 347.4))),
    ((53.0, 331.9, 73.9, 357.9), ((59.5, 340.2), (68.3, 343.5))),  # turned by 20 degrees
    ((191.3, 237.7, 206.5, 256.9), ((195.2, 245.9), (201.4, 244.2))),
    ((647.2, 337.0, 668.9, 364.7), ((653.7, 347.1), (663.0, 348.1))),
)
"""Boxes and eyes, pixels of `CROWD`. The grey levels of every other face are stretched to the whole range: it is strong contrasts that
saturate."""

TILES = ((36, 145, 32), (250, 350, 32), (485, 146, 24), (63, 345, 64), (357, 243, 40), (658, 351, 80))
"""Centre and side of the squares of `CROWD` that make up a frame, `TILE` pixels each: faces of 9 to 18 pixels."""
TILE, ACROSS = 32, 3


def add_probe(folder: Path) -> Path:
    """Write a bundle's probe and its checksum in the card, in place of one that is there, and return its path.

    Four LR faces, or a frame of 96×64, and what ONNX Runtime makes of them in fp32, and how far the INT8 form is from that when it is
    computed exactly. Raises WeightsError.
    """
    bundle = open_bundle(folder)
    probe = make_probe(bundle, _frame() if "heat" in bundle.card.outputs else _faces(bundle.card))
    takes = "frame" if "heat" in bundle.card.outputs else "lr"
    tensors = {takes: probe.given, **{name: np.ascontiguousarray(answer) for name, answer in probe.answers.items()}}
    about = None if probe.int8 is None else {"int8": json.dumps({name: round(value, 4) for name, value in probe.int8.items()})}
    (folder / PROBE).write_bytes(save(tensors, about))
    write_card(bundle.card.model_copy(update={"sha256": bundle.card.sha256 | checksums(folder, PROBE)}), folder)
    return folder / PROBE


def _faces(card: Card) -> NDArray[np.uint8]:
    """LR faces [4, 3, h, w] RGB."""
    size = card.input_size
    boxes, eyes = (np.array(each) for each in zip(*FACES, strict=True))
    crops = ops.face_crop(_crowd(), crop_transforms(boxes, size, eyes=eyes, margin=CROP_MARGIN.get(size, 1.0)), size, 0, 1)
    for face in crops[1::2]:
        face -= face.min()
        face *= 255 / face.max()
    return np.ascontiguousarray(crops[:, ::-1].round().astype(np.uint8))


def _frame() -> NDArray[np.uint8]:
    """[64, 96, 3] BGR."""
    crowd = _crowd()
    tiles = []
    for x, y, side in TILES:
        square = crowd[y - side // 2 : y + side - side // 2, x - side // 2 : x + side - side // 2]
        tiles.append(cv2.resize(square, (TILE, TILE), interpolation=cv2.INTER_AREA if side > TILE else cv2.INTER_CUBIC))
    return np.ascontiguousarray(np.vstack([np.hstack(tiles[at : at + ACROSS]) for at in range(0, len(tiles), ACROSS)]), np.uint8)


def _crowd() -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(CROWD)), np.uint8)
