"""Reads the frames archive: photographs of crowds, and the boxes of all faces in them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from fhrt.errors import BadInputError
from fhrt.faces.inputs import decode_picture
from fhrt.protocols.archive import tell

BOXES = "boxes.json"
HELD_BACK = 100
"""Photographs of the train split, the last ones, that no detector is trained with: they validate."""
Length = Annotated[FiniteFloat, Field(ge=0)]


class _Photograph(BaseModel):
    """An entry of ``boxes.json``. boxes: x, y, w, h of tight faces, pixels."""

    key: str
    width: int
    height: int
    boxes: list[tuple[FiniteFloat, FiniteFloat, Length, Length]]

    @property
    def corners(self) -> NDArray[np.float64]:
        boxes = np.array(self.boxes, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes


_SPLITS = TypeAdapter(dict[str, list[_Photograph]])


def walk_frames(data: Path, split: str) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.float64]]]:
    """Key, picture ``[H, W, 3]`` uint8 BGR, and boxes ``[N, 4]`` float64 (x1, y1, x2, y2 of tight faces, pixels; N may be 0, and a face
    a few pixels or none wide), photograph after photograph in the order of the archive.

    ``data`` holds ``SPLIT.tar`` with a picture ``KEY.ENDING`` each, and ``boxes.json``: ``{SPLIT: [{key, width, height, boxes: [[x, y, w,
    h], …]}, …]}``. Raises BadInputError: before the first photograph where one of the two is missing, unreadable or names other
    photographs than the other, or a box does not lie on its photograph; in its turn for a damaged picture, or one of another size.
    """
    photographs = _read_boxes(data / BOXES, split)
    archive = data / f"{split}.tar"
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar.getmembers() if member.isfile()]
            keys = [Path(member.name).stem for member in members]
            if len(set(keys)) < len(keys):
                raise BadInputError(f"{archive}: two pictures have one key")
            for missing, absent_from in (
                (photographs.keys() - set(keys), archive),
                (set(keys) - photographs.keys(), f'{BOXES}, split "{split}"'),
            ):
                if missing:
                    raise BadInputError(f"{len(missing)} photographs, such as {min(missing)}, are missing in {absent_from}")
            for key, member in zip(keys, members, strict=True):
                stream = tar.extractfile(member)
                assert stream is not None  # it is a file
                picture = decode_picture(stream.read(), f"{archive}: {member.name}")
                truth = photographs[key]
                if picture.shape[:2] != (truth.height, truth.width):
                    has, told = f"{picture.shape[1]}×{picture.shape[0]}", f"{truth.width}×{truth.height}"
                    raise BadInputError(f"{archive}: {member.name} is {has} pixels, {BOXES} says {told}")
                yield key, picture, truth.corners
    except (tarfile.TarError, OSError) as error:
        raise BadInputError(f"cannot read {archive}: {tell(error)}") from error


def _read_boxes(path: Path, split: str) -> dict[str, _Photograph]:
    """The split's photographs by key."""
    try:
        splits = _SPLITS.validate_json(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInputError(f"{path}{' at ' if where else ''}{where}: {first['msg']}") from error
    if not splits.get(split):
        raise BadInputError(f'{path} has no photographs of a split "{split}"; it has: {", ".join(splits) or "none"}')
    photographs = {one.key: one for one in splits[split]}
    if len(photographs) < len(splits[split]):
        raise BadInputError(f'{path}: two photographs of the split "{split}" have one key')
    for one in photographs.values():
        outside = ((one.corners[:, 2:] <= 0) | (one.corners[:, :2] >= [one.width, one.height])).any(axis=1)
        if outside.any():
            raise BadInputError(f"{path}: a box of {one.key} lies outside its {one.width}×{one.height} pixels")
    return photographs
