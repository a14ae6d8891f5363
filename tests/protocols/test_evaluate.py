from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.protocols import compare, evaluate
from fhrt.protocols.archive import read_faces
from fhrt.protocols.pairs import IN_PHASE, bicubic_hr
from fhrt.runtime import Output


class Bicubic:
    """An engine that is plain bicubic enlargement, so that on aligned faces its gain must be nought. phase: where it takes them to lie."""

    card = SimpleNamespace(name="bicubic", input_size=(16, 16))
    phase = 0.0

    def run(self, lr: NDArray[np.float32]) -> Output:
        pixels = np.rint((lr + 1) * 127.5).astype(np.uint8)
        return Output(bicubic_hr(pixels, self.phase) / 127.5 - 1)


def test_bicubic_gains_nothing_when_aligned_and_loses_when_turned(archive: Path) -> None:
    seen: list[tuple[int, int]] = []
    aligned, unaligned, noisy, camera = evaluate(Bicubic(), archive, progress=lambda *at: seen.append(at))
    assert aligned.psnr == pytest.approx(aligned.bicubic_psnr, abs=0.01)
    assert aligned.ssim == pytest.approx(aligned.bicubic_ssim, abs=0.001)
    assert unaligned.psnr < unaligned.bicubic_psnr - 1
    assert noisy.bicubic_psnr < unaligned.bicubic_psnr and camera.bicubic_psnr < unaligned.bicubic_psnr
    assert aligned.n == 12 and aligned.ms_per_face > 0 and 0 < aligned.ssim <= 1
    assert seen[-1] == (48, 48)


def test_a_model_of_larger_faces_is_scored_on_loose_ones(archive: Path) -> None:
    engine = Bicubic()
    engine.card = SimpleNamespace(name="bicubic", input_size=(24, 24))
    (loose,) = evaluate(engine, archive)
    assert loose.protocol == "loose" and loose.psnr < loose.bicubic_psnr - 0.05, "the baseline knows the faces' phase"
    engine.phase = IN_PHASE
    (loose,) = evaluate(engine, archive)
    assert loose.psnr == pytest.approx(loose.bicubic_psnr, abs=0.01)


def test_the_same_faces_every_time(archive: Path) -> None:
    first, again = (evaluate(Bicubic(), archive, ["camera"], limit=5)[0] for _ in range(2))
    assert (first.psnr, first.ssim, first.n) == (again.psnr, again.ssim, 5)


def test_bad_input(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="upside-down"):
        evaluate(Bicubic(), archive, ["upside-down"])
    with pytest.raises(BadInputError, match="24×24"):
        evaluate(Bicubic(), archive, ["loose"])
    with pytest.raises(BadInputError, match="no face shards"):
        evaluate(Bicubic(), tmp_path)
    (tmp_path / "test.tar").write_bytes((archive / "test.tar").read_bytes()[:700])
    with pytest.raises(BadInputError, match=r"test\.tar"):
        read_faces(tmp_path, "test")
    (tmp_path / "test.tar").write_text("no archive")
    with pytest.raises(BadInputError, match=r"cannot read .*test\.tar: .*") as told:
        read_faces(tmp_path, "test")
    assert "\n" not in str(told.value)


def test_shards_are_read_in_order(archive: Path, faces: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(read_faces(archive, "train"), faces)
    np.testing.assert_array_equal(read_faces(archive, "train", limit=7), faces[:7])


def test_systems_side_by_side(archive: Path) -> None:
    small, large = Bicubic(), Bicubic()
    large.phase = IN_PHASE
    for engine, side in ((small, 16), (large, 24)):
        engine.card = SimpleNamespace(name=f"bicubic{side}", input_size=(side, side), scales=(8,), gflops=0.1, parameters=7)
    seen: list[tuple[int, int]] = []
    aligned, loose = compare([small, large], archive, ["aligned", "loose"], progress=lambda *at: seen.append(at))
    assert seen[-1] == (24, 24)
    for result, side in ((aligned, 16), (loose, 24)):
        (system,) = result.systems
        assert system.name == f"bicubic{side}" and system.parameters == 7 and system.ms_per_face > 0
        np.testing.assert_allclose(system.scores.psnr, result.bicubic.scores.psnr, atol=0.05)
        assert result.lr.shape == (8, side, side, 3) and result.hr.shape == system.pictures.shape == (8, 8 * side, 8 * side, 3)
    (row,) = evaluate(small, archive, ["aligned"])
    assert row.psnr == pytest.approx(aligned.systems[0].scores.psnr.mean()) and row.ssim == pytest.approx(
        aligned.systems[0].scores.ssim.mean()
    )
    with pytest.raises(BadInputError, match="bicubic16 takes 16×16"):
        compare([small], archive, ["loose"])
