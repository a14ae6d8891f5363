// fhrt._C, the CPU's side: this file and bindings_cuda.cpp alone know Python. Shapes and types are checked by fhrt.ops; what is checked here again keeps memory safe.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <vector>

#include "bindings_cuda.h"
#include "face_crop/face_crop.h"
#include "parallel.h"
#include "pixel_shuffle/pixel_shuffle.h"
#include "ssim/ssim.h"
#include "stn_sample/stn_sample.h"
#include "to_image/to_image.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

Array<float> stn_sample(const Array<float>& x, const Array<float>& theta, int64_t out_h, int64_t out_w, bool align_corners, bool border,
                        int upsample) {
  require(x.ndim() == 4 && theta.ndim() == 3, "stn_sample: x [N, C, H, W], theta [N, 2, 3]");
  require(theta.shape(0) == x.shape(0) && theta.shape(1) == 2 && theta.shape(2) == 3, "stn_sample: theta must be [N, 2, 3]");
  require(out_h > 0 && out_w > 0 && upsample > 0 && x.shape(2) > 0 && x.shape(3) > 0, "stn_sample: empty picture");
  Array<float> out({static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)), out_h, out_w});
  const fhrt::StnSample p{x.shape(0), x.shape(1), x.shape(2), x.shape(3), out_h, out_w, upsample, align_corners, border};
  const float *xp = x.data(), *tp = theta.data();
  float* op = out.mutable_data();
  py::gil_scoped_release release;
  fhrt::stn_sample_cpu(xp, tp, op, p);
  return out;
}

Array<float> pixel_shuffle(const Array<float>& x, int factor, const std::optional<Array<float>>& bias, float negative_slope) {
  require(x.ndim() == 4 && factor > 0 && x.shape(1) % (static_cast<int64_t>(factor) * factor) == 0, "pixel_shuffle: x [N, C·factor², H, W]");
  require(!bias || (bias->ndim() == 1 && bias->shape(0) == x.shape(1)), "pixel_shuffle: bias must be [C·factor²]");
  const int64_t n = x.shape(0), c = x.shape(1) / factor / factor, h = x.shape(2), w = x.shape(3);
  Array<float> out({n, c, h * factor, w * factor});
  const fhrt::PixelShuffle p{n, c, h, w, factor, bias ? bias->data() : nullptr, negative_slope};
  const float* xp = x.data();
  float* op = out.mutable_data();
  py::gil_scoped_release release;
  fhrt::pixel_shuffle_cpu(xp, op, p);
  return out;
}

py::array_t<uint8_t> to_image(const Array<float>& x, int factor, float low, float high) {
  require(x.ndim() == 4 && factor > 0 && x.shape(1) % (static_cast<int64_t>(factor) * factor) == 0, "to_image: x [N, C·factor², H, W]");
  const int64_t n = x.shape(0), c = x.shape(1) / factor / factor, h = x.shape(2), w = x.shape(3);
  require(c >= 1 && c <= fhrt::kMaxImageChannels && low < high, "to_image: 1 to 4 channels, low < high");
  py::array_t<uint8_t> out({n, h * factor, w * factor, c});
  const fhrt::ToImage p{n, c, h, w, factor, low, high};
  const float* xp = x.data();
  uint8_t* op = out.mutable_data();
  py::gil_scoped_release release;
  fhrt::to_image_cpu(xp, op, p);
  return out;
}

// Returns the map [planes, out_h, out_w] when want_map, else the mean of each plane [planes].
template <typename T>
py::array_t<double> ssim(const Array<T>& a, const Array<T>& b, const Array<double>& weights, bool same, double c1, double c2, bool want_map) {
  require(a.ndim() == 3 && b.ndim() == 3 && weights.ndim() == 1 && weights.shape(0) % 2 == 1, "ssim: planes [P, H, W], odd window");
  for (int i = 0; i < 3; ++i) require(a.shape(i) == b.shape(i), "ssim: shapes differ");
  const int64_t window = weights.shape(0), shrink = same ? 0 : window - 1;
  const int64_t out_h = a.shape(1) - shrink, out_w = a.shape(2) - shrink;
  require(out_h > 0 && out_w > 0, "ssim: picture smaller than the window");
  const fhrt::Ssim p{a.shape(0), a.shape(1), a.shape(2), window, weights.data(), same, c1, c2};
  py::array_t<double> mean(a.shape(0));
  py::array_t<double> map(want_map ? std::vector<int64_t>{a.shape(0), out_h, out_w} : std::vector<int64_t>{0});
  const T *ap = a.data(), *bp = b.data();
  double *mean_p = mean.mutable_data(), *map_p = want_map ? map.mutable_data() : nullptr;
  {
    py::gil_scoped_release release;
    fhrt::ssim_cpu(ap, bp, map_p, mean_p, p);
  }
  return want_map ? map : mean;
}

Array<float> face_crop(const py::array_t<uint8_t>& frame, const Array<float>& transforms, int64_t out_h, int64_t out_w,
                       const Array<float>& mean, const Array<float>& std) {
  require(frame.ndim() == 3 && frame.shape(2) >= 1 && frame.shape(2) <= fhrt::kMaxFrameChannels, "face_crop: frame [H, W, 1 to 4] uint8");
  // NumPy gives an axis of length 1 any stride.
  require((frame.shape(2) == 1 || frame.strides(2) == 1) && frame.strides(1) == frame.shape(2) && frame.strides(0) >= frame.strides(1) * frame.shape(1),
          "face_crop: the pixels of a row must lie together");
  require(transforms.ndim() == 3 && transforms.shape(1) == 2 && transforms.shape(2) == 3, "face_crop: transforms [N, 2, 3]");
  require(mean.size() == frame.shape(2) && std.size() == frame.shape(2), "face_crop: one mean and std per channel");
  require(frame.shape(0) > 0 && frame.shape(1) > 0 && out_h > 0 && out_w > 0, "face_crop: empty picture");
  Array<float> out({static_cast<int64_t>(transforms.shape(0)), static_cast<int64_t>(frame.shape(2)), out_h, out_w});
  fhrt::FaceCrop p{transforms.shape(0), frame.shape(0), frame.shape(1), frame.shape(2), frame.strides(0), out_h, out_w, {}, {}};
  std::copy_n(mean.data(), mean.size(), p.mean);
  std::copy_n(std.data(), std.size(), p.std);
  const uint8_t* fp = frame.data();
  const float* tp = transforms.data();
  float* op = out.mutable_data();
  py::gil_scoped_release release;
  fhrt::face_crop_cpu(fp, tp, op, p);
  return out;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native operations of fhrt; call them through fhrt.ops.";
  m.def("stn_sample", &stn_sample);
  m.def("pixel_shuffle", &pixel_shuffle);
  m.def("to_image", &to_image);
  m.def("ssim", &ssim<float>);
  m.def("ssim_double", &ssim<double>);
  m.def("face_crop", &face_crop);
  m.def("set_num_threads", &fhrt::set_num_threads);
  m.def("get_num_threads", &fhrt::get_num_threads);
  bind_cuda(m);
}
