"""The kernels on a real device, against their twins in plain torch: dtypes, layouts, side streams and graph capture.

FHRT_TEST_DEVICE=cpu runs the tests that ask for nothing of CUDA's own with the CPU's kernels: a rehearsal of these lines.
"""

import pytest
import torch
from devices import DEVICE, need_device

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.ops import device
from fhrt.ops import torch as torch_ops
from fhrt.ops.ssim import gaussian_window

pytestmark = pytest.mark.gpu
DTYPES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
SHAPES = [(1, 3, 16, 16), (33, 67, 9, 13), (3, 512, 4, 4), (2, 64, 128, 128)]


@pytest.fixture(autouse=True)
def gpu() -> None:
    need_device()
    torch.manual_seed(0)


def cuda_only() -> None:
    if DEVICE == "cpu":
        pytest.skip("a rehearsal: CUDA's own")


def thetas(count: int) -> torch.Tensor:
    return (torch.eye(2, 3).repeat(count, 1, 1) + torch.randn(count, 2, 3) * 0.3).to(DEVICE)


def close(ours: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours.double(), wanted.double(), atol=tolerance * (1 + float(wanted.abs().max())), rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("padding", "upsample"), [("zeros", 1), ("border", 2)])
def test_stn_sample(dtype: torch.dtype, shape: tuple, memory_format: torch.memory_format, padding: str, upsample: int) -> None:
    x = torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    theta = thetas(shape[0]).requires_grad_()
    out = ops.stn_sample(x, theta, (24, 19), padding=padding, upsample=upsample)
    x64, theta64 = x.detach().double().requires_grad_(), theta.detach().double().requires_grad_()
    wanted = torch_ops.stn_sample_twin(x64, theta64, 24, 19, False, padding, upsample)
    close(out, wanted, DTYPES[dtype])
    gradient = torch.randn_like(out)
    ours = [torch.autograd.grad(out, (x, theta), gradient, retain_graph=True) for _ in range(2)]
    for first, second, each in zip(*ours, torch.autograd.grad(wanted, (x64, theta64), gradient.double()), strict=True):
        assert torch.equal(first, second)  # deterministic
        close(first, each, 5 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "factor"), [((1, 48, 32, 32), 4), ((33, 12, 7, 5), 2), ((2, 9 * 67, 8, 8), 3)], ids=str)
def test_pixel_shuffle(dtype: torch.dtype, shape: tuple, factor: int) -> None:
    x, bias = torch.randn(shape, device=DEVICE).to(dtype), torch.randn(shape[1], device=DEVICE).to(dtype)
    assert torch.equal(ops.pixel_shuffle(x, factor), torch.nn.functional.pixel_shuffle(x, factor))
    wanted = torch_ops.pixel_shuffle_fused_twin(x.double(), factor, bias.double(), 0.2)
    close(ops.pixel_shuffle(x, factor, bias=bias, negative_slope=0.2), wanted, DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "factor"), [((1, 48, 32, 32), 4), ((33, 3, 128, 128), 1), ((2, 27, 7, 5), 3)], ids=str)
def test_to_image(dtype: torch.dtype, shape: tuple, factor: int) -> None:
    x = (torch.randn(shape, device=DEVICE) * 0.7).to(dtype)
    assert torch.equal(ops.to_image(x, factor), torch_ops.to_image_twin(x, factor, -1.0, 1.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 11, 11), (2, 3, 128, 128), (1, 3, 1080, 1920)], ids=str)
@pytest.mark.parametrize("same", [False, True])
def test_ssim(dtype: torch.dtype, shape: tuple, same: bool) -> None:
    a = (torch.rand(shape, device=DEVICE) * 255).to(dtype)
    b = (a.float() + torch.randn_like(a.float()) * 20).clamp(0, 255).to(dtype)
    settings = (gaussian_window(11, 1.5), same, 6.5025, 58.5225)
    a64 = a.double().requires_grad_()
    wanted = torch_ops.ssim_map(a64, b.double(), *settings).mean((2, 3))
    upstream = torch.randn_like(wanted).float()
    (theirs,) = torch.autograd.grad(wanted, a64, upstream.double())
    cuda_only()
    torch.testing.assert_close(device.ssim(torch_ops.ARRAYS, a, b, *settings, False).double(), wanted, atol=1e-5, rtol=0)
    close(
        device.ssim_backward(torch_ops.ARRAYS, upstream, a, b, *settings, False) / theirs.abs().max(),
        theirs / theirs.abs().max(),
        DTYPES[dtype],
    )


def test_face_crop() -> None:
    frame = torch.randint(0, 256, (1080, 1920, 3), dtype=torch.uint8)
    transforms = torch.eye(2, 3).repeat(32, 1, 1) * 2.5
    transforms[:, :, 2] = torch.rand(32, 2) * 1000
    expected = ops.face_crop(frame.numpy(), transforms.numpy(), (16, 16), 127.5, 127.5)
    ours = ops.face_crop(frame.to(DEVICE), transforms.to(DEVICE), (16, 16), 127.5, 127.5)
    torch.testing.assert_close(ours.cpu(), torch.from_numpy(expected), atol=2e-3, rtol=0)
    luma, chroma = frame[..., 0], frame[::2, ::2, 1:].contiguous()
    expected = ops.face_crop(ops.Nv12(luma.numpy(), chroma.numpy()), transforms.numpy(), (16, 16), 127.5, 127.5)
    ours = ops.face_crop(ops.Nv12(luma.to(DEVICE), chroma.to(DEVICE)), transforms.to(DEVICE), (16, 16), 127.5, 127.5)
    torch.testing.assert_close(ours.cpu(), torch.from_numpy(expected), atol=2e-3, rtol=0)


def test_side_streams_and_graph_capture() -> None:
    cuda_only()
    x, theta = torch.randn(4, 12, 32, 32, device=DEVICE), thetas(4)

    def work() -> torch.Tensor:
        return ops.to_image(ops.stn_sample(x, theta), 2)

    expected = work()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        aside = work()
    side.synchronize()
    assert torch.equal(aside, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    x.mul_(-1)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, work()) and not torch.equal(captured, expected)


def test_outputs_of_the_callers_own_in_a_graph_on_a_named_stream() -> None:
    cuda_only()
    x, theta, frame = (
        torch.randn(4, 12, 32, 32, device=DEVICE),
        thetas(4),
        torch.randint(0, 256, (90, 80, 3), dtype=torch.uint8, device=DEVICE),
    )
    outs = {
        "stn_sample": torch.empty(4, 12, 20, 24, device=DEVICE),
        "pixel_shuffle": torch.empty(4, 3, 64, 64, device=DEVICE),
        "to_image": torch.empty(4, 64, 64, 3, dtype=torch.uint8, device=DEVICE),
        "face_crop": torch.empty(4, 3, 16, 16, device=DEVICE),
        "ssim": torch.empty(4, 12, 22, 22, device=DEVICE),
    }

    def work(stream: int | None) -> None:
        ops.stn_sample_out(x, theta, outs["stn_sample"], stream=stream)
        ops.pixel_shuffle_out(x, outs["pixel_shuffle"], 2, stream=stream)
        ops.to_image_out(x, outs["to_image"], 2, stream=stream)
        ops.face_crop_out(frame, theta, outs["face_crop"], 127.5, 127.5, stream=stream)
        ops.ssim_out(x, x * 0.5, outs["ssim"], data_range=1.0, stream=stream)

    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=side):
        work(side.cuda_stream)
    x.mul_(-1)
    graph.replay()
    torch.cuda.synchronize()
    captured = {name: out.clone() for name, out in outs.items()}
    work(None)
    torch.cuda.synchronize()
    assert all(torch.equal(captured[name], out) for name, out in outs.items())


def test_bad_input_on_the_device() -> None:
    cuda_only()
    x, theta = torch.randn(2, 12, 8, 8, device=DEVICE), thetas(2)
    for call in (
        lambda: ops.stn_sample(x, theta.cpu()),
        lambda: ops.stn_sample(x, theta.double()),
        lambda: ops.stn_sample_out(x, theta, x),
        lambda: ops.stn_sample_out(x, theta, torch.empty(2, 12, 8, 8)),
        lambda: ops.pixel_shuffle_out(x, torch.empty(2, 3, 16, 16, device=DEVICE).transpose(2, 3), 2),
        lambda: ops.face_crop(torch.zeros(4, 4, 3, dtype=torch.uint8, device=DEVICE), theta.cpu(), (4, 4), 0.0, 1.0),
        lambda: ops.ssim(x, x.half(), window=3, data_range=1.0),
    ):
        with pytest.raises(BadInputError):
            call()
    torch.cuda.synchronize()


def test_cupy_arrays() -> None:
    cuda_only()
    cupy = pytest.importorskip("cupy")
    x, theta = torch.randn(4, 12, 32, 32, device=DEVICE), thetas(4)
    frame = torch.randint(0, 256, (90, 80, 3), dtype=torch.uint8, device=DEVICE)
    cx, ctheta, cframe = (cupy.asarray(tensor) for tensor in (x, theta, frame))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        results = (
            ops.stn_sample(cx, ctheta),
            ops.pixel_shuffle(cx, 2, negative_slope=0.1),
            ops.to_image(cx, 2),
            ops.ssim(cx, cx * 0.5, window=7, reduction="map"),
            ops.face_crop(cframe, ctheta, (16, 16), 127.5, 127.5),
        )
        stream.synchronize()
    wanted = (
        ops.stn_sample(x, theta),
        ops.pixel_shuffle(x, 2, negative_slope=0.1),
        ops.to_image(x, 2),
        ops.ssim(x, x * 0.5, window=7, reduction="map"),
        ops.face_crop(frame, theta, (16, 16), 127.5, 127.5),
    )
    for ours, theirs in zip(results, wanted, strict=True):
        assert isinstance(ours, cupy.ndarray)
        assert torch.equal(torch.as_tensor(ours, device=DEVICE), theirs)


def test_torch_compile() -> None:
    x, theta = torch.randn(4, 64, 16, 16, device=DEVICE).contiguous(memory_format=torch.channels_last), thetas(4)

    def work(x: torch.Tensor) -> torch.Tensor:
        return ops.pixel_shuffle(ops.stn_sample(x.relu(), theta), 2, negative_slope=0.1) + 1

    close(torch.compile(work)(x), work(x), 1e-5)
