"""`python -m benchmarks model` of a whole frame: every way gives the faces, and is timed."""

from benchmarks.frames import frame_rows
from fhrt.hallucinator import Hallucinator


def test_a_frame_with_given_boxes() -> None:
    hallucinator = Hallucinator("lite", backend="onnxruntime", plan="whole")
    asked = []
    original = hallucinator.run
    hallucinator.run = lambda frame, boxes=None: asked.append(result := original(frame, boxes)) or result  # type: ignore[method-assign]
    (row,) = frame_rows(hallucinator, 3, 1)
    assert (row["frame"], row["faces"], row["size"], row["runs"]) == ("host", 16, [1920, 1080], 3)
    assert 0 < row["ms"]["p50"] <= row["ms"]["p95"] <= row["ms"]["p99"]
    assert len(asked) == 4 and all(len(result.faces) == 16 and result.frame.shape == (1080, 1920, 3) for result in asked)
