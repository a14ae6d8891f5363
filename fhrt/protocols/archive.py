"""Reads the face archive: tar shards of 192×192 upright faces, and the two crops that the systems are trained on."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError

LOOSE = 192  # the whole picture: the head crop of the 24 → 192 systems
TIGHT = 128  # its centre: the canonical tight face of the 16 → 128 systems
MARGIN = (LOOSE - TIGHT) // 2


def read_faces(data: Path, split: str, limit: int | None = None) -> NDArray[np.uint8]:
    """All faces of a split, ``[N, 192, 192, 3]`` uint8 RGB, in the order of the shards.

    ``data`` holds ``SPLIT.tar`` or ``SPLIT-00.tar …``. Raises BadInputError when no shard is there or one cannot be read.
    """
    return np.stack([face for _, face in walk_faces(data, split, limit)])


def walk_faces(data: Path, split: str, limit: int | None = None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Key (the file's name without its ending) and face ``[192, 192, 3]`` of `read_faces`, one after another."""
    shards = sorted(data.glob(f"{split}-[0-9]*.tar")) or sorted(data.glob(f"{split}.tar"))
    if not shards:
        raise BadInputError(f"no face shards {split}.tar or {split}-NN.tar in {data}; docs/evaluation.md says what they hold")
    count = 0
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    if stream is None:
                        continue
                    picture = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR)
                    if picture is None or picture.shape != (LOOSE, LOOSE, 3):
                        raise BadInputError(f"{shard.name}: {member.name} is not a {LOOSE}×{LOOSE} picture")
                    yield Path(member.name).stem, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
                    count += 1
                    if count == limit:
                        return
        except (tarfile.TarError, OSError) as error:
            raise BadInputError(f"cannot read {shard}: {tell(error)}") from error
    if count == 0:
        raise BadInputError(f"the {split} shards in {data} hold no face")


def tell(error: OSError | tarfile.TarError) -> str:
    """What is wrong with an archive, in one line: below it tarfile lists the compressions that it tried."""
    return str(getattr(error, "strerror", None) or error).partition("\n")[0].removesuffix(":")


def tight(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The central 128×128 of ``[..., 192, 192, 3]`` pictures, faces or what was made of them."""
    return faces[..., MARGIN : MARGIN + TIGHT, MARGIN : MARGIN + TIGHT, :]


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` indices, from all over: archives are sorted by source."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int)).tolist()
