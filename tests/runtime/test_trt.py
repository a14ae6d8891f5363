"""TensorRT's own parser on what fhrt hands it. Needs TensorRT and, because a builder starts CUDA, a device."""

from pathlib import Path

import pytest
import torch

from fhrt.export.graph import named_outputs, to_onnx
from fhrt.export.rewrite import rewrite
from fhrt.models import create
from fhrt.models.registry import SYSTEMS
from fhrt.runtime.bundle import Bundle, open_bundle
from fhrt.runtime.half import halve
from fhrt.runtime.plan import Segment, cut_model

pytestmark = pytest.mark.trt


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_segment_parses(name: str, tmp_path: Path) -> None:
    tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    from fhrt.runtime import trt_build

    log = trt_build.Log()
    try:
        builder = tensorrt.Builder(log)
    except TypeError:
        pytest.skip("TensorRT makes no builder here: no CUDA device")
    side = SYSTEMS[name].lr_side
    model = rewrite(create(name, **({"width": 32} if name == "csrip" else {})))
    with torch.no_grad():
        given = named_outputs(model(torch.zeros(1, 3, side, side)))
    plan = cut_model(to_onnx(model, (side, side), tuple(output for output in SYSTEMS[name].outputs if output in given)))
    bundle = Bundle(tmp_path, open_bundle("lite").card)
    for each in (plan, halve(plan)):
        for step in each.steps:
            if isinstance(step, Segment):
                network = trt_build.parse(step.serialize(bundle, 4), builder, log)
                shapes = [tuple(network.get_output(index).shape) for index in range(network.num_outputs)]
                assert shapes == [tensor.at(4) for tensor in step.outputs]
