"""Made-up 192×192 "faces", and writers of the archives that hold faces or photographs.

The faces are smooth colour fields with two dark eyes, so that turning them is visible.
"""

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def made_up_faces(count: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    faces = []
    for _ in range(count):
        coarse = rng.integers(60, 220, (6, 6, 3)).astype(np.uint8)
        face = cv2.resize(coarse, (192, 192), interpolation=cv2.INTER_CUBIC)
        for x in (73, 119):
            cv2.circle(face, (x, 86), 8, (20, 20, 20), -1)
        faces.append(cv2.GaussianBlur(face, (0, 0), 2))
    return np.stack(faces)


def write_shard(path: Path, faces: NDArray[np.uint8]) -> None:
    names = (f"{path.stem}_{number:05d}.png" for number in range(len(faces)))
    write_tar(path, {name: cv2.imencode(".png", face[..., ::-1])[1].tobytes() for name, face in zip(names, faces, strict=True)})


def write_frames(folder: Path, split: str, photographs: list[tuple[NDArray[np.uint8], list]]) -> None:
    """A frames archive of BGR pictures and the x, y, w, h of their faces; the keys are split_0, split_1, …"""
    pictures = {f"{split}_{number}.webp": cv2.imencode(".webp", picture)[1].tobytes() for number, (picture, _) in enumerate(photographs)}
    write_tar(folder / f"{split}.tar", pictures)
    entries = [
        {"key": f"{split}_{number}", "width": picture.shape[1], "height": picture.shape[0], "boxes": boxes}
        for number, (picture, boxes) in enumerate(photographs)
    ]
    (folder / "boxes.json").write_text(json.dumps({split: entries}))


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
