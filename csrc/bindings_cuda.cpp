// fhrt._C.cuda: the kernels on device pointers. fhrt.ops.device owns the arrays, checks them and picks the stream; plain C++, so that a
// build without CUDA simply leaves this file's bindings out.
#include "bindings_cuda.h"

#include <stdexcept>
#include <vector>

#if defined(FHRT_CUDA)
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "face_crop/face_crop_cuda.h"
#include "pixel_shuffle/pixel_shuffle_cuda.h"
#include "ssim/ssim_cuda.h"
#include "stn_sample/stn_sample_cuda.h"
#include "to_image/to_image_cuda.h"

namespace py = pybind11;
using namespace fhrt;

namespace {

using Address = uintptr_t;
using Four = std::array<int64_t, 4>;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Strides strides(const Four& s) { return Strides{s[0], s[1], s[2], s[3]}; }

// Calls body with a null pointer of the C++ type of `dtype`.
template <typename Body>
void with_type(int dtype, const Body& body) {
  switch (static_cast<DType>(dtype)) {
    case DType::f32: return body(static_cast<float*>(nullptr));
    case DType::f16: return body(static_cast<Half*>(nullptr));
    case DType::bf16: return body(static_cast<BFloat16*>(nullptr));
  }
  throw std::invalid_argument("dtype must be 0 (float32), 1 (float16) or 2 (bfloat16)");
}

StnSample stn(const Four& shape, int64_t out_h, int64_t out_w, bool align_corners, bool border, int upsample) {
  require(shape[2] > 0 && shape[3] > 0 && out_h > 0 && out_w > 0 && upsample > 0, "stn_sample: empty picture");
  return StnSample{shape[0], shape[1], shape[2], shape[3], out_h, out_w, upsample, align_corners, border};
}

void stn_sample(int dtype, Address x, const Four& xs, const Four& shape, Address theta, Address out, int64_t out_h, int64_t out_w,
                bool channels_last, bool align_corners, bool border, int upsample, Address stream) {
  const StnSample p = stn(shape, out_h, out_w, align_corners, border, upsample);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(!channels_last || stn_sample_packs(at<T>(x), strides(xs), at<T>(out), p), "stn_sample: x does not allow a channels-last output");
    stn_sample_cuda(at<T>(x), strides(xs), at<float>(theta), at<T>(out), channels_last, p, at<void>(stream));
  });
}

void stn_sample_backward(int dtype, Address grad, const Four& gs, Address x, const Four& xs, const Four& shape, Address theta, Address partials,
                         Address grad_x, Address grad_theta, int64_t out_h, int64_t out_w, bool align_corners, bool border, int upsample,
                         Address stream) {
  const StnSample p = stn(shape, out_h, out_w, align_corners, border, upsample);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (grad_x) stn_sample_backward_x_cuda(at<T>(grad), strides(gs), at<float>(theta), at<T>(grad_x), p, at<void>(stream));
    if (grad_theta) {
      stn_sample_backward_theta_cuda(at<T>(grad), strides(gs), at<T>(x), strides(xs), at<float>(theta), at<float>(partials),
                                     at<float>(grad_theta), p, at<void>(stream));
    }
  });
}

PixelShuffle shuffle(const Four& shape, int factor, Address bias, float negative_slope) {
  require(factor > 0 && shape[1] % (static_cast<int64_t>(factor) * factor) == 0, "pixel_shuffle: x [N, C·factor², H, W]");
  return PixelShuffle{shape[0], shape[1] / factor / factor, shape[2], shape[3], factor, at<float>(bias), negative_slope};
}

void pixel_shuffle(int dtype, Address x, const Four& xs, const Four& shape, Address out, int factor, Address bias, float negative_slope,
                   Address stream) {
  const PixelShuffle p = shuffle(shape, factor, bias, negative_slope);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    pixel_shuffle_cuda(at<T>(x), strides(xs), at<T>(out), p, at<void>(stream));
  });
}

void pixel_shuffle_backward(int dtype, Address grad, const Four& gs, Address x, const Four& xs, const Four& shape, Address grad_x, int factor,
                            Address bias, float negative_slope, Address stream) {
  const PixelShuffle p = shuffle(shape, factor, bias, negative_slope);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    pixel_shuffle_backward_cuda(at<T>(grad), strides(gs), at<T>(x), strides(xs), at<T>(grad_x), p, at<void>(stream));
  });
}

void to_image(int dtype, Address x, const Four& xs, const Four& shape, Address out, int factor, float low, float high, Address stream) {
  const int64_t channels = factor > 0 ? shape[1] / factor / factor : 0;
  require(channels >= 1 && channels <= kMaxImageChannels && low < high, "to_image: 1 to 4 channels, low < high");
  const ToImage p{shape[0], channels, shape[2], shape[3], factor, low, high};
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    to_image_cuda(at<T>(x), strides(xs), at<uint8_t>(out), p, at<void>(stream));
  });
}

SsimCuda ssim_settings(const Four& shape, const std::vector<float>& weights, bool same, float c1, float c2) {
  const int window = static_cast<int>(weights.size());
  require(window % 2 == 1 && window <= kMaxSsimWindow, "ssim: the window must be odd and at most 11 wide");
  SsimCuda p{shape[0], shape[1], shape[2], shape[3], window, {}, same, c1, c2};
  require(p.out_h() > 0 && p.out_w() > 0, "ssim: picture smaller than the window");
  for (int k = 0; k < window; ++k) p.weights[k] = weights[k];
  return p;
}

int64_t ssim_scratch(const Four& shape, const std::vector<float>& weights, bool same) {
  return ssim_partials(ssim_settings(shape, weights, same, 0, 0));
}

void ssim(int dtype, Address a, const Four& as, Address b, const Four& bs, const Four& shape, Address map, Address mean, Address partials,
          const std::vector<float>& weights, bool same, float c1, float c2, Address stream) {
  const SsimCuda p = ssim_settings(shape, weights, same, c1, c2);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    ssim_cuda(at<T>(a), strides(as), at<T>(b), strides(bs), at<float>(map), at<float>(mean), at<float>(partials), p, at<void>(stream));
  });
}

void ssim_backward(int dtype, Address a, const Four& as, Address b, const Four& bs, const Four& shape, Address upstream, bool upstream_is_map,
                   Address grad_a, const std::vector<float>& weights, bool same, float c1, float c2, Address stream) {
  const SsimCuda p = ssim_settings(shape, weights, same, c1, c2);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    ssim_backward_cuda(at<T>(a), strides(as), at<T>(b), strides(bs), at<float>(upstream), upstream_is_map, at<T>(grad_a), p, at<void>(stream));
  });
}

using Plane = std::tuple<Address, int64_t, int64_t, int64_t, int64_t>;  // of a frame: where, rows, columns, channels, bytes from row to row

FramePlane frame_plane(const Plane& plane) {
  const auto& [address, h, w, channels, row_bytes] = plane;
  require(h > 0 && w > 0, "face_crop: empty picture");
  require(channels >= 1 && channels <= kMaxFrameChannels && row_bytes >= channels * w, "face_crop: frame [H, W, 1 to 4] uint8");
  require(row_bytes * h < (int64_t{1} << 31) && std::max(h, w) <= kMaxFrameSide, "face_crop: frame too large");
  return {h, w, channels, row_bytes};
}

// Chroma and its way to RGB (the fields of YuvToRgb in their order): both or neither.
void face_crop(const Plane& frame, const std::optional<Plane>& chroma, const std::optional<std::array<float, 6>>& to_rgb, Address transforms,
               int64_t count, int dtype, Address out, int64_t out_h, int64_t out_w, const std::vector<float>& mean, const std::vector<float>& std,
               Address stream) {
  require(out_h > 0 && out_w > 0, "face_crop: empty crop");
  FaceCrop p{};
  p.count = count, p.out_h = out_h, p.out_w = out_w, p.frame = frame_plane(frame);
  if (chroma) {
    p.chroma = frame_plane(*chroma);
    require(p.frame.channels == 1 && p.chroma.channels == 2, "face_crop: NV12 is [H, W, 1] and [H / 2, W / 2, 2]");
    const auto& m = to_rgb.value();
    p.to_rgb = {m[0], m[1], m[2], m[3], m[4], m[5]};
  }
  require(static_cast<int64_t>(mean.size()) == p.channels() && static_cast<int64_t>(std.size()) == p.channels(), "face_crop: one mean and std per channel");
  std::copy_n(mean.begin(), p.channels(), p.mean);
  std::copy_n(std.begin(), p.channels(), p.std);
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    face_crop_cuda(at<uint8_t>(std::get<0>(frame)), chroma ? at<uint8_t>(std::get<0>(*chroma)) : nullptr, at<float>(transforms), at<T>(out), p, at<void>(stream));
  });
}

}  // namespace

void bind_cuda(py::module_& m) {
  py::module_ cuda = m.def_submodule("cuda", "Kernels on device pointers; call them through fhrt.ops.");
  cuda.def("stn_sample", &stn_sample);
  cuda.def("stn_sample_backward", &stn_sample_backward);
  cuda.def("stn_theta_blocks", [](int64_t out_h, int64_t out_w) {
    return stn_theta_blocks(StnSample{1, 1, 1, 1, out_h, out_w, 1, false, false});
  });
  cuda.def("pixel_shuffle", &pixel_shuffle);
  cuda.def("pixel_shuffle_backward", &pixel_shuffle_backward);
  cuda.def("to_image", &to_image);
  cuda.def("ssim", &ssim);
  cuda.def("ssim_backward", &ssim_backward);
  cuda.def("ssim_scratch", &ssim_scratch);
  cuda.def("face_crop", &face_crop);
}
#else
void bind_cuda(pybind11::module_&) {}
#endif
