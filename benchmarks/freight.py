"""What goes along to a machine that is lent, and what comes back: its limits, kept by counting. Standard library only."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fhrt.errors import BadInputError

ALONG = 64 * 2**20  # bytes of a checkout and what is carried beside it
SPARE = 2**20  # of these, for what an archive of many files takes
BACK, BACK_FILE, BACK_FILES = 64 * 2**20, 16 * 2**20, 8  # bytes of all that comes back from a job, of each file, and how many files
ABOUT = ("val.tar", "index.csv", "landmarks.npz")  # of the face archive, beside the training faces: what a bare machine needs once
ENTRY, END = 512, 10240  # of a tar file, bytes: a member's head and the unit of its length, and the unit of the file's


def pack(root: Path, data: Path, wheels: Path | None, out: Path, jobs: Sequence[int], faces: int | None = None) -> dict[int, str]:
    """A folder ``out/N`` for each job: ``wheels``, and ``faces`` with the part of the face archive that the machine does not have yet.

    The first of the jobs gets what a bare machine needs, and each as many training faces as there is room for, a shard cut where the room
    ends. faces: at most so many of each split and job. Returns what each weighs; what was in these folders is gone. Raises BadInputError
    where that is too much, and OSError.
    """
    shards = sorted(data.glob("train-[0-9]*.tar"))
    if not shards:
        raise BadInputError(f"no face shards train-NN.tar in {data}")
    checkout = sum(_bytes(root / name) for name in travelling(root))
    rest = _Members(shards)
    told = {}
    for job in jobs:
        folder = out / str(job) / "faces"
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        if wheels is not None:
            shutil.copytree(wheels, folder.parent / "wheels")
        if job == jobs[0]:
            for name in ABOUT:
                if name.endswith(".tar"):
                    _write(_Members([data / name]), folder / name, ALONG, faces)
                else:
                    shutil.copyfile(data / name, folder / name)
        room = ALONG - SPARE - checkout - _size(folder.parent)
        if room < 0:
            large = sorted(travelling(root), key=lambda name: -(root / name).stat().st_size)[:3]
            text = f"job {job} would carry {-room / 2**20:.1f} MiB too much, beside a checkout of {checkout / 2**20:.1f} MiB"
            raise BadInputError(f"{text}; its largest files are {', '.join(large)}: move away for the while what no job needs")
        count = _write(rest, folder / f"train-{job:02d}.tar", room, faces)
        total = (checkout + _size(folder.parent)) / 2**20
        told[job] = f"{total:.1f} MiB with the checkout, {count} more training faces"
    return told


def travelling(root: Path) -> list[str]:
    """The files of a checkout that go along by themselves: tracked ones, and new ones that git does not ignore."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in dict.fromkeys(names) if name and (root / name).is_file()]


class _Members:
    """The members of shards one after another, of which the next can be looked at before it is taken."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._all = self._walk(shards)
        self.next = next(self._all, None)

    def _walk(self, shards: Sequence[Path]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        for shard in shards:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if (file := tar.extractfile(member)) is not None:
                        yield member, file.read()

    def take(self) -> tuple[tarfile.TarInfo, bytes]:
        assert self.next is not None
        taken, self.next = self.next, next(self._all, None)
        return taken


def _write(members: _Members, path: Path, room: int, count: int | None) -> int:
    """As many members as fit, and at most ``count``; how many. No file where none fits."""
    taken, used = 0, END
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        while members.next is not None and taken != count:
            size = ENTRY + -(-members.next[0].size // ENTRY) * ENTRY
            if used + size > room - END:
                break
            member, data = members.take()
            tar.addfile(member, io.BytesIO(data))
            taken, used = taken + 1, used + size
    if taken == 0:
        path.unlink()
    return taken


def _size(folder: Path) -> int:
    return sum(_bytes(path) for path in folder.rglob("*") if path.is_file())


def take_in(carried: Path, faces: Path) -> None:
    """Put the faces that came along beside those of the jobs before, each file whole or not at all."""
    faces.mkdir(parents=True, exist_ok=True)
    for path in sorted((carried / "faces").glob("*")):
        if not (faces / path.name).exists():
            temporary = faces / f".{path.name}.partial"
            shutil.copyfile(path, temporary)
            os.replace(temporary, faces / path.name)


def bring(job: int, files: Mapping[str, Path], out: Path, sent: Path) -> tuple[list[str], dict[str, str]]:
    """Copy into ``out`` as many of the files (name there → file) as may come back beside what is in it, and remember them in ``sent``.

    In their order, but a smaller one goes before one that does not fit any more. What another job brought is left out, unless it has
    changed. Returns what was copied, and of what is left, in ``out`` too, why.
    """
    known: dict[str, list[float]] = json.loads(sent.read_text()) if sent.is_file() else {}
    mine = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    waiting = {name: path for name, path in files.items() if path.is_file() and not _gone(known.get(name), job, path)}
    left = {
        name: f"larger than the {BACK_FILE // 2**20} MiB of a file" for name, path in (mine | waiting).items() if _bytes(path) > BACK_FILE
    }
    count, size = len(mine), sum(map(_bytes, mine.values()))
    copied = []
    for name, path in waiting.items():
        if name in left:
            continue
        if count + 1 > BACK_FILES or size + _bytes(path) > BACK:
            left[name] = "waits for the next job"
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
        known[name] = [job, path.stat().st_mtime]
        count, size = count + 1, size + _bytes(path)
        copied.append(name)
    sent.parent.mkdir(parents=True, exist_ok=True)
    temporary = sent.with_suffix(".partial")
    temporary.write_text(json.dumps(known))
    os.replace(temporary, sent)
    return copied, left


def keep(came: Path, folder: Path) -> list[Path]:
    """The reports in a job's or a check's ``results.json`` as files ``STEP-cuda.json`` in ``folder``, each with the device it holds for.

    Raises BadInputError where that was a rehearsal, or is no such file.
    """
    from fhrt.files import write_bytes  # at home alone: a bare machine lacks what this needs

    try:
        results = json.loads(came.read_text(encoding="utf-8"))
        title, facts, reports = results["title"], results["facts"], results["reports"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{came} holds no results of a check: {error}") from error
    if facts["device"] == "none":
        raise BadInputError(f"{came} is of a machine without a device ({title}); its figures are not kept")
    return [
        write_bytes(folder / f"{name}-cuda.json", (json.dumps({**report, "facts": facts}, indent=2) + "\n").encode())
        for name, report in reports.items()
    ]


def _gone(known: list[float] | None, job: int, path: Path) -> bool:
    return known is not None and known[0] != job and known[1] == path.stat().st_mtime


def _bytes(path: Path) -> int:
    return path.stat().st_size
