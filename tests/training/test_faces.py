"""Faces are decoded once, and again only when the shards change."""

import os
from pathlib import Path

import numpy as np
import pytest
from archives import write_shard
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from training.faces import load_faces


def test_decoded_once(tmp_path: Path, faces: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "train-00.tar", faces[:5])
    first = load_faces(tmp_path, "train", tmp_path / "cache")
    assert isinstance(first.pictures, np.memmap)
    np.testing.assert_array_equal(first.pictures, faces[:5])
    with monkeypatch.context() as patch:
        patch.setattr("training.faces.walk_faces", None)
        np.testing.assert_array_equal(load_faces(tmp_path, "train", tmp_path / "cache", limit=2).pictures, faces[:2])
    write_shard(tmp_path / "train-00.tar", faces[2:9])
    os.utime(tmp_path / "train-00.tar", ns=(1, 1))
    np.testing.assert_array_equal(load_faces(tmp_path, "train", tmp_path / "cache").pictures, faces[2:9])


def test_a_damaged_shard_leaves_nothing_behind(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    with pytest.raises(BadInputError, match="no face shards"):
        load_faces(tmp_path, "train", tmp_path / "cache")
    write_shard(tmp_path / "train-00.tar", faces[:3])
    whole = (tmp_path / "train-00.tar").read_bytes()
    (tmp_path / "train-00.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match="train-00"):
        load_faces(tmp_path, "train", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_two_faces_of_one_name(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    write_shard(tmp_path / "train-00.tar", faces[:2])
    (tmp_path / "train-01.tar").write_bytes((tmp_path / "train-00.tar").read_bytes())
    with pytest.raises(BadInputError, match="same name"):
        load_faces(tmp_path, "train", tmp_path / "cache")
