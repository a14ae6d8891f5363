"""The training faces, decoded once: a memory-mapped uint8 array beside the runs, with the faces' keys and landmarks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from fhrt.errors import BadInputError
from fhrt.protocols.archive import LOOSE, walk_faces
from training.landmarks import Landmarks, read_landmarks


@dataclass(frozen=True)
class People:
    """identity: ``[N]`` int64, a number from 0 to ``count`` - 1 for each person of the whole split, -1 where nobody knows."""

    identity: NDArray[np.int64]
    count: int


@dataclass(frozen=True)
class FaceSet:
    """pictures: ``[N, 192, 192, 3]`` uint8 RGB. landmarks, people: of the same faces, where a loss needs them."""

    pictures: NDArray[np.uint8]
    landmarks: Landmarks | None = None
    people: People | None = None

    def __len__(self) -> int:
        return len(self.pictures)


def load_faces(data: Path, split: str, cache: Path, limit: int | None = None, landmarks: bool = False, people: bool = False) -> FaceSet:
    """The faces of a split. They are decoded into ``cache`` when they are asked for the first time or when the shards have changed.

    Raises BadInputError for what `walk_faces` and `read_landmarks` refuse: a missing shard, a damaged picture, landmarks of other faces.
    """
    shards = sorted(data.glob(f"{split}*.tar"))
    stamp = json.dumps([(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards])
    path = cache / f"{split}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        _decode(data, split, path)
    pictures = np.load(path, mmap_mode="r")[:limit]
    keys = json.loads(path.with_suffix(".json").read_text())[:limit]
    return FaceSet(pictures, read_landmarks(data, keys) if landmarks else None, read_people(data, split, keys) if people else None)


def read_people(data: Path, split: str, keys: list[str]) -> People:
    """Who the faces with these keys are, from ``index.csv``. Raises BadInputError where that is missing, malformed or lacks a face."""
    path = data / "index.csv"
    try:
        with path.open(newline="") as file:
            known = {row["key"]: int(row["identity"]) for row in csv.DictReader(file) if row["split"] == split}
    except (OSError, KeyError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    missing = [key for key in keys if key not in known]
    if missing:
        raise BadInputError(f"{path} does not match the shards: it lacks {len(missing)} of {len(keys)} faces, first {missing[0]}")
    numbers = {person: number for number, person in enumerate(sorted(person for person in set(known.values()) if person >= 0))}
    return People(np.array([numbers.get(known[key], -1) for key in keys], np.int64), len(numbers))


def describe(data: Path, split: str, count: int) -> str:
    """What a model's card says of its training data: how many faces, and the sources that ``index.csv`` names, if it is there."""
    try:
        with (data / "index.csv").open(newline="") as file:
            sources = sorted({row["source"] for row in csv.DictReader(file) if row["split"] == split})
    except (OSError, KeyError):
        sources = []
    return f"{count:,} faces" + (f" ({', '.join(sources)})" if sources else "")


def _decode(data: Path, split: str, path: Path) -> None:
    """Into a file of its own first: a run that is stopped meanwhile leaves no half array behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    keys: list[str] = []
    try:
        with partial.open("wb") as file:
            file.write(_header(0))
            for key, face in track(walk_faces(data, split), f"decoding {split}", transient=True):
                file.write(face.tobytes())
                keys.append(key)
            if len(set(keys)) != len(keys):
                raise BadInputError(f"the {split} shards in {data} hold two faces of the same name")
            file.seek(0)
            file.write(_header(len(keys)))  # of the same length, whatever the count
        path.with_suffix(".json").write_text(json.dumps(keys))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _header(count: int) -> bytes:
    """A .npy file's header; NumPy leaves room in it for the first axis to grow."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, LOOSE, LOOSE, 3)})
    return file.getvalue()
