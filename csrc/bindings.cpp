// fhrt._C, the CPU's side: this file and bindings_cuda.cpp alone know Python. fhrt.ops checks what users give; what is checked here again
// keeps memory safe. Outputs are the caller's. Half types: float16 as such, bfloat16 as uint16.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings_cuda.h"
#include "blend_moved/blend_moved.h"
#include "face_crop/face_crop.h"
#include "fuse_crops/fuse_crops.h"
#include "isa.h"
#include "match_templates/match_templates.h"
#include "neighbour_embedding/neighbour_embedding.h"
#include "parallel.h"
#include "pixel_shuffle/pixel_shuffle.h"
#include "pool.h"
#include "ssim/ssim.h"
#include "stn_sample/stn_sample.h"
#include "to_image/to_image.h"
#include "track_faces/track_faces.h"
#include "yuv_to_bgr/yuv_to_bgr.h"

namespace py = pybind11;

namespace {

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

template <typename T>
bool holds(const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (std::is_same_v<T, fhrt::Half>) return dtype.kind() == 'f' && dtype.itemsize() == 2;
  if (std::is_same_v<T, fhrt::BFloat16>) return dtype.kind() == 'u' && dtype.itemsize() == 2;
  return dtype.kind() == 'f' && dtype.itemsize() == sizeof(T);
}

// Calls `work` with a null pointer of the array's element type.
template <typename Work>
void by_type(const py::array& array, const Work& work) {
  if (holds<float>(array)) return work(static_cast<float*>(nullptr));
  if (holds<fhrt::Half>(array)) return work(static_cast<fhrt::Half*>(nullptr));
  if (holds<fhrt::BFloat16>(array)) return work(static_cast<fhrt::BFloat16*>(nullptr));
  throw std::invalid_argument("arrays must be float32, float16 or bfloat16");
}

template <typename T>
const T* data(const py::array& array) {
  return static_cast<const T*>(array.data());
}

template <typename T>
T* mutable_data(py::array& array) {
  return static_cast<T*>(array.mutable_data());  // throws where the array is read-only
}

// An array for an op's output, from the pool where it is large.
py::array empty(const std::vector<int64_t>& shape, const py::dtype& dtype) {
  size_t size = static_cast<size_t>(dtype.itemsize());
  for (const int64_t length : shape) {
    require(length >= 0, "empty: negative size");
    require(length == 0 || size <= (size_t{1} << 46) / static_cast<size_t>(length), "empty: too large");
    size *= static_cast<size_t>(length);
  }
  if (size < fhrt::kPooled) return py::array(dtype, shape);
  struct Owner {
    void* block;
    size_t size;
  };
  auto owner = std::make_unique<Owner>(Owner{fhrt::take_block(size), size});
  void* block = owner->block;
  const py::capsule base(owner.release(), [](void* pointer) {
    const std::unique_ptr<Owner> owner(static_cast<Owner*>(pointer));
    fhrt::give_block(owner->block, owner->size);
  });
  return py::array(dtype, shape, {}, block, base);
}

fhrt::Strides strides(const py::array& array) {
  const int64_t size = array.itemsize();
  for (int i = 0; i < 4; ++i) require(array.strides(i) % size == 0, "strides must be whole elements");
  return {array.strides(0) / size, array.strides(1) / size, array.strides(2) / size, array.strides(3) / size};
}

bool contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

// The bytes that an array can touch: [first, second).
std::pair<const char*, const char*> extent(const py::array& array) {
  const char *first = static_cast<const char*>(array.data()), *last = first + array.itemsize();
  for (int i = 0; i < array.ndim(); ++i) {
    if (array.shape(i) == 0) return {first, first};
    const int64_t reach = array.strides(i) * (array.shape(i) - 1);
    (reach < 0 ? first : last) += reach;
  }
  return {first, last};
}

void require_apart(const py::array& out, const py::array& input) {
  const auto [a, b] = extent(out);
  const auto [c, d] = extent(input);
  require(b <= c || d <= a, "out overlaps an input");
}

void require_finite(const py::array& maps, const char* message) {
  const float* values = data<float>(maps);
  for (int64_t k = 0; k < maps.size(); ++k) require(std::isfinite(values[k]), message);
}

bool has_shape(const py::array& array, std::initializer_list<int64_t> shape) {
  return array.ndim() == static_cast<int64_t>(shape.size()) && std::equal(shape.begin(), shape.end(), array.shape());
}

fhrt::StnSample stn_settings(const py::array& x, const py::array& theta, const py::array& out, bool align_corners, bool border, int upsample) {
  require(x.ndim() == 4 && out.ndim() == 4, "stn_sample: x and out must be [N, C, H, W]");
  require(holds<float>(theta) && contiguous(theta) && has_shape(theta, {x.shape(0), 2, 3}), "stn_sample: theta must be contiguous float32 [N, 2, 3]");
  require(out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1), "stn_sample: out must have x's N and C");
  require(out.shape(2) > 0 && out.shape(3) > 0 && x.shape(2) > 0 && x.shape(3) > 0, "stn_sample: empty picture");
  require(upsample > 0 && std::max({x.shape(2) * upsample, x.shape(3) * upsample, x.shape(2) * x.shape(3), out.shape(2), out.shape(3)}) < (1 << 30),
          "stn_sample: picture too large");
  return {x.shape(0), x.shape(1), x.shape(2), x.shape(3), out.shape(2), out.shape(3), upsample, align_corners, border};
}

void stn_sample(const py::array& x, const py::array& theta, py::array& out, bool align_corners, bool border, int upsample) {
  const fhrt::StnSample p = stn_settings(x, theta, out, align_corners, border, upsample);
  require_finite(theta, "stn_sample: theta holds NaN or infinity");
  const fhrt::Strides xs = strides(x), os = strides(out);
  require_apart(out, x);
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(holds<T>(out), "stn_sample: out must have x's dtype");
    const T* source = data<T>(x);
    const float* maps = data<float>(theta);
    T* target = mutable_data<T>(out);
    py::gil_scoped_release release;
    fhrt::stn_sample_cpu(source, xs, maps, target, os, p);
  });
}

void stn_sample_backward(const py::array& grad, const py::array& x, const py::array& theta, std::optional<py::array> grad_x,
                         std::optional<py::array> grad_theta, bool align_corners, bool border, int upsample) {
  const fhrt::StnSample p = stn_settings(x, theta, grad, align_corners, border, upsample);
  const fhrt::Strides xs = strides(x), gs = strides(grad);
  require(!grad_x || (has_shape(*grad_x, {p.batch, p.channels, p.in_h, p.in_w}) && contiguous(*grad_x)), "stn_sample: grad_x must be like x");
  require(!grad_theta || (has_shape(*grad_theta, {p.batch, 2, 3}) && contiguous(*grad_theta) && holds<float>(*grad_theta)),
          "stn_sample: grad_theta must be like theta");
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(holds<T>(grad) && (!grad_x || holds<T>(*grad_x)), "stn_sample: the gradients must have x's dtype");
    const T *given = data<T>(grad), *source = data<T>(x);
    const float* maps = data<float>(theta);
    T* to_x = grad_x ? mutable_data<T>(*grad_x) : nullptr;
    float* to_theta = grad_theta ? mutable_data<float>(*grad_theta) : nullptr;
    py::gil_scoped_release release;
    fhrt::stn_sample_backward_cpu(given, gs, source, xs, maps, to_x, to_theta, p);
  });
}

fhrt::PixelShuffle shuffle_settings(const py::array& x, const py::array& out, int factor, const std::optional<py::array>& bias, float slope) {
  require(x.ndim() == 4 && factor > 0 && x.shape(1) % (static_cast<int64_t>(factor) * factor) == 0, "pixel_shuffle: x must be [N, C·factor², H, W]");
  require(!bias || (has_shape(*bias, {x.shape(1)}) && contiguous(*bias) && holds<float>(*bias)),
          "pixel_shuffle: bias must be contiguous float32 [C·factor²]");
  const int64_t channels = x.shape(1) / factor / factor;
  require(has_shape(out, {x.shape(0), channels, x.shape(2) * factor, x.shape(3) * factor}), "pixel_shuffle: out must be [N, C, H·factor, W·factor]");
  return {x.shape(0), channels, x.shape(2), x.shape(3), factor, bias ? data<float>(*bias) : nullptr, slope};
}

void pixel_shuffle(const py::array& x, py::array& out, int factor, const std::optional<py::array>& bias, float negative_slope) {
  const fhrt::PixelShuffle p = shuffle_settings(x, out, factor, bias, negative_slope);
  const fhrt::Strides xs = strides(x);
  require(contiguous(out), "pixel_shuffle: out must be contiguous");
  require_apart(out, x);
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(holds<T>(out), "pixel_shuffle: out must have x's dtype");
    const T* source = data<T>(x);
    T* target = mutable_data<T>(out);
    py::gil_scoped_release release;
    fhrt::pixel_shuffle_cpu(source, xs, target, p);
  });
}

void pixel_shuffle_backward(const py::array& grad, const py::array& x, py::array& grad_x, int factor, const std::optional<py::array>& bias,
                            float negative_slope) {
  const fhrt::PixelShuffle p = shuffle_settings(x, grad, factor, bias, negative_slope);
  const fhrt::Strides xs = strides(x), gs = strides(grad);
  require(contiguous(grad_x) && has_shape(grad_x, {x.shape(0), x.shape(1), x.shape(2), x.shape(3)}), "pixel_shuffle: grad_x must be like x");
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(holds<T>(grad) && holds<T>(grad_x), "pixel_shuffle: the gradients must have x's dtype");
    const T *given = data<T>(grad), *source = data<T>(x);
    T* target = mutable_data<T>(grad_x);
    py::gil_scoped_release release;
    fhrt::pixel_shuffle_backward_cpu(given, gs, source, xs, target, p);
  });
}

void to_image(const py::array& x, py::array& out, int factor, float low, float high) {
  require(x.ndim() == 4 && factor > 0 && factor <= fhrt::kMaxImageFactor && x.shape(1) % (factor * factor) == 0,
          "to_image: x must be [N, C·factor², H, W]");
  const int64_t channels = x.shape(1) / factor / factor;
  require(channels >= 1 && channels <= fhrt::kMaxImageChannels && low < high, "to_image: 1 to 4 channels, low < high");
  require(has_shape(out, {x.shape(0), x.shape(2) * factor, x.shape(3) * factor, channels}) && contiguous(out) && py::isinstance<py::array_t<uint8_t>>(out),
          "to_image: out must be contiguous uint8 [N, H·factor, W·factor, C]");
  const fhrt::ToImage p{x.shape(0), channels, x.shape(2), x.shape(3), factor, low, high};
  const fhrt::Strides xs = strides(x);
  require_apart(out, x);
  by_type(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* source = data<T>(x);
    uint8_t* target = mutable_data<uint8_t>(out);
    py::gil_scoped_release release;
    fhrt::to_image_cpu(source, xs, target, p);
  });
}

fhrt::Ssim ssim_settings(const py::array& a, const py::array& b, const py::array& weights, bool same, double c1, double c2) {
  require(a.ndim() == 3 && b.ndim() == 3 && contiguous(a) && contiguous(b), "ssim: a and b must be contiguous planes [P, H, W]");
  for (int i = 0; i < 3; ++i) require(a.shape(i) == b.shape(i), "ssim: a and b differ in shape");
  require(weights.ndim() == 1 && weights.shape(0) % 2 == 1 && holds<double>(weights) && contiguous(weights), "ssim: weights must be float64, an odd number");
  const fhrt::Ssim p{a.shape(0), a.shape(1), a.shape(2), weights.shape(0), data<double>(weights), same, c1, c2};
  require(p.out_h() > 0 && p.out_w() > 0, "ssim: pictures smaller than the window");
  return p;
}

// As by_type, with float64.
template <typename Work>
void by_wide_type(const py::array& array, const Work& work) {
  if (holds<double>(array)) return work(static_cast<double*>(nullptr));
  by_type(array, work);
}

bool is_output(const py::array& array, std::initializer_list<int64_t> shape) {
  return has_shape(array, shape) && holds<double>(array) && contiguous(array);
}

void ssim(const py::array& a, const py::array& b, const py::array& weights, std::optional<py::array> map, py::array& mean, bool same, double c1,
          double c2) {
  const fhrt::Ssim p = ssim_settings(a, b, weights, same, c1, c2);
  require(is_output(mean, {p.planes}) && (!map || is_output(*map, {p.planes, p.out_h(), p.out_w()})), "ssim: outputs must be float64 [P] and [P, h, w]");
  by_wide_type(a, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(holds<T>(b), "ssim: a and b differ in dtype");
    const T *ap = data<T>(a), *bp = data<T>(b);
    double *means = mutable_data<double>(mean), *values = map ? mutable_data<double>(*map) : nullptr;
    py::gil_scoped_release release;
    fhrt::ssim_cpu(ap, bp, values, means, p);
  });
}

void ssim_backward(const py::array& a, const py::array& b, const py::array& weights, const py::array& upstream, std::optional<py::array> grad_a,
                   std::optional<py::array> grad_b, bool same, double c1, double c2) {
  const fhrt::Ssim p = ssim_settings(a, b, weights, same, c1, c2);
  const bool is_map = upstream.ndim() == 3;
  require(is_map ? is_output(upstream, {p.planes, p.out_h(), p.out_w()}) : is_output(upstream, {p.planes}), "ssim: upstream must be float64 [P] or [P, h, w]");
  by_wide_type(a, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    require(holds<T>(b), "ssim: a and b differ in dtype");
    for (const auto& grad : {grad_a, grad_b})
      require(!grad || (holds<T>(*grad) && contiguous(*grad) && has_shape(*grad, {p.planes, p.h, p.w})), "ssim: a gradient must be like its input");
    const T *ap = data<T>(a), *bp = data<T>(b);
    T *to_a = grad_a ? mutable_data<T>(*grad_a) : nullptr, *to_b = grad_b ? mutable_data<T>(*grad_b) : nullptr;
    const double* given = data<double>(upstream);
    py::gil_scoped_release release;
    fhrt::ssim_backward_cpu(ap, bp, given, is_map, to_a, to_b, p);
  });
}

fhrt::FramePlane frame_plane(const py::array& plane, int64_t channels) {
  require(py::isinstance<py::array_t<uint8_t>>(plane) && plane.ndim() == 3 && plane.shape(2) == channels, "face_crop: a plane must be uint8 [H, W, C]");
  require(plane.shape(0) > 0 && plane.shape(1) > 0, "face_crop: empty frame");
  // NumPy gives an axis of length 1 any stride.
  const int64_t pixel = plane.shape(1) == 1 ? channels : plane.strides(1), row = plane.shape(0) == 1 ? channels * plane.shape(1) : plane.strides(0);
  require((channels == 1 || plane.strides(2) == 1) && pixel == channels && row >= pixel * plane.shape(1), "face_crop: a row's pixels must lie together");
  require(row * plane.shape(0) < (int64_t{1} << 31) && std::max(plane.shape(0), plane.shape(1)) <= fhrt::kMaxFrameSide, "face_crop: frame too large");
  return {plane.shape(0), plane.shape(1), channels, row};
}

// frame [H, W, C]; for NV12 the luma [H, W, 1], with the chroma [⌈H / 2⌉, ⌈W / 2⌉, 2] and how both become RGB.
void face_crop(const py::array& frame, const std::optional<py::array>& chroma, const std::optional<std::array<float, 6>>& to_rgb, const py::array& transforms,
               const py::array& mean, const py::array& std, py::array& out) {
  require(frame.ndim() == 3 && frame.shape(2) >= 1 && frame.shape(2) <= (chroma ? 1 : fhrt::kMaxFrameChannels), "face_crop: frame must be [H, W, 1 to 4]");
  require(chroma.has_value() == to_rgb.has_value(), "face_crop: chroma comes with its way to RGB");
  fhrt::FaceCrop p{};
  p.frame = frame_plane(frame, frame.shape(2));
  if (chroma) {
    p.chroma = frame_plane(*chroma, 2);
    const auto& m = *to_rgb;  // the fields of YuvToRgb in their order
    p.to_rgb = {m[0], m[1], m[2], m[3], m[4], m[5]};
    require(p.chroma.h == (p.frame.h + 1) / 2 && p.chroma.w == (p.frame.w + 1) / 2, "face_crop: the chroma must be half as large as the luma");
    require_apart(out, *chroma);
  }
  require(holds<float>(transforms) && contiguous(transforms) && has_shape(transforms, {transforms.shape(0), 2, 3}),
          "face_crop: transforms must be contiguous float32 [N, 2, 3]");
  require_finite(transforms, "face_crop: transforms holds NaN or infinity");
  for (const py::array* each : {&mean, &std})
    require(holds<float>(*each) && contiguous(*each) && has_shape(*each, {p.channels()}), "face_crop: mean and std must be float32, one per channel");
  for (int64_t c = 0; c < p.channels(); ++c) require(data<float>(std)[c] > 0, "face_crop: std must be positive");
  require(out.ndim() == 4 && holds<float>(out) && contiguous(out) && out.shape(0) == transforms.shape(0) && out.shape(1) == p.channels() &&
              out.shape(2) > 0 && out.shape(3) > 0,
          "face_crop: out must be contiguous float32 [N, C, h, w]");
  require_apart(out, frame);
  p.count = transforms.shape(0), p.out_h = out.shape(2), p.out_w = out.shape(3);
  std::copy_n(data<float>(mean), p.channels(), p.mean);
  std::copy_n(data<float>(std), p.channels(), p.std);
  const uint8_t *source = data<uint8_t>(frame), *colours = chroma ? data<uint8_t>(*chroma) : nullptr;
  const float* maps = data<float>(transforms);
  float* target = mutable_data<float>(out);
  py::gil_scoped_release release;
  fhrt::face_crop_cpu(source, colours, maps, target, p);
}

// luma [H, W], cb and cr [(H + 1) / 2, (W + 1) / 2], whose rows may be longer than the picture; out [H, W, 3], all uint8.
void yuv_to_bgr(const py::array& luma, const py::array& cb, const py::array& cr, const std::array<float, 6>& to_rgb, py::array& out) {
  const auto plane = [](const py::array& array, int64_t h, int64_t w) {
    return py::isinstance<py::array_t<uint8_t>>(array) && has_shape(array, {h, w}) && (w == 1 || array.strides(1) == 1) && (h == 1 || array.strides(0) >= w);
  };
  require(luma.ndim() == 2 && luma.shape(0) > 0 && luma.shape(1) > 0 && plane(luma, luma.shape(0), luma.shape(1)), "yuv_to_bgr: luma must be uint8 [H, W], row by row");
  fhrt::YuvToBgr p{luma.shape(0), luma.shape(1), luma.strides(0), cb.ndim() == 2 ? cb.strides(0) : 0, {}};
  const int64_t h = (p.h + 1) / 2, w = (p.w + 1) / 2;
  require(plane(cb, h, w) && plane(cr, h, w) && (h == 1 || cb.strides(0) == cr.strides(0)), "yuv_to_bgr: cb and cr must be alike, uint8, of half the luma's sides");
  p.to_rgb = {to_rgb[0], to_rgb[1], to_rgb[2], to_rgb[3], to_rgb[4], to_rgb[5]};
  require(py::isinstance<py::array_t<uint8_t>>(out) && contiguous(out) && has_shape(out, {p.h, p.w, 3}), "yuv_to_bgr: out must be contiguous uint8 [H, W, 3]");
  const uint8_t *y = data<uint8_t>(luma), *u = data<uint8_t>(cb), *v = data<uint8_t>(cr);
  uint8_t* target = mutable_data<uint8_t>(out);
  py::gil_scoped_release release;
  fhrt::yuv_to_bgr_cpu(y, u, v, target, p);
}

// Where contiguous float32 arrays [channels, h, w] lie; null for None.
std::vector<const float*> pictures(const py::list& arrays, int64_t channels, int64_t h, int64_t w, bool or_none, const char* message) {
  std::vector<const float*> found;
  found.reserve(arrays.size());
  for (const py::handle each : arrays) {
    if (each.is_none() && or_none) {
      found.push_back(nullptr);
      continue;
    }
    require(py::isinstance<py::array>(each), message);
    const auto array = py::reinterpret_borrow<py::array>(each);
    require(holds<float>(array) && contiguous(array) && has_shape(array, {channels, h, w}), message);
    found.push_back(data<float>(array));
  }
  return found;
}

// Shapes as in neighbour_embedding.h.
void neighbour_embedding(const py::array& query, const py::array& codes, const py::array& scale, const py::array& target_codes,
                         const py::array& target_scale, py::array& out, int64_t neighbours, float strength, int threads) {
  require(query.ndim() == 3 && codes.ndim() == 3 && target_codes.ndim() == 3, "neighbour_embedding: query and codes must have three axes");
  const fhrt::NeighbourEmbedding p{query.shape(0), query.shape(1), codes.shape(2), query.shape(2), target_codes.shape(2), neighbours, strength, threads};
  const auto floats = [](const py::array& array, std::initializer_list<int64_t> shape) {
    return holds<float>(array) && contiguous(array) && has_shape(array, shape);
  };
  const auto bytes = [](const py::array& array, std::initializer_list<int64_t> shape) {
    return py::isinstance<py::array_t<uint8_t>>(array) && contiguous(array) && has_shape(array, shape);
  };
  require(p.features > 0 && p.features <= fhrt::kMaxFeatures, "neighbour_embedding: an entry must have 1 to 256 features");
  require(p.entries > 0 && p.entries < (int64_t{1} << 31) && p.targets > 0, "neighbour_embedding: the dictionary must have entries, and they targets");
  require(floats(query, {p.components, p.queries, p.features}), "neighbour_embedding: query must be contiguous float32 [C, N, p]");
  require(bytes(codes, {p.components, p.features, p.entries}), "neighbour_embedding: codes must be contiguous uint8 [C, p, M]");
  require(bytes(target_codes, {p.components, p.entries, p.targets}), "neighbour_embedding: target_codes must be contiguous uint8 [C, M, t]");
  require(floats(scale, {p.components, p.features}), "neighbour_embedding: scale must be contiguous float32 [C, p]");
  require(floats(target_scale, {p.components, p.targets}), "neighbour_embedding: target_scale must be contiguous float32 [C, t]");
  require(floats(out, {p.components, p.queries, p.targets}), "neighbour_embedding: out must be contiguous float32 [C, N, t]");
  require(neighbours > 0 && neighbours <= p.entries, "neighbour_embedding: neighbours must be from 1 to the number of entries");
  require(strength > 0, "neighbour_embedding: strength must be positive");
  require_apart(out, query);
  const float *asked = data<float>(query), *worth = data<float>(scale), *target_worth = data<float>(target_scale);
  const uint8_t *entries = data<uint8_t>(codes), *targets = data<uint8_t>(target_codes);
  float* target = mutable_data<float>(out);
  py::gil_scoped_release release;
  fhrt::neighbour_embedding_cpu(asked, entries, worth, targets, target_worth, target, p);
}

// frame [H, W, 3], squares float64 [N, 3], templates float32 [N, S, S], out float32 [N, 3].
void match_templates(const py::array& frame, const py::array& squares, const py::array& templates, int reach, float flat, py::array& out) {
  fhrt::MatchTemplates p{frame_plane(frame, 3), squares.ndim() == 2 ? squares.shape(0) : -1, templates.ndim() == 3 ? templates.shape(1) : 0, reach, flat};
  require(is_output(squares, {p.count, 3}), "match_templates: squares must be contiguous float64 [N, 3]");
  const double* places = data<double>(squares);
  for (int64_t k = 0; k < p.count * 3; ++k) require(std::isfinite(places[k]) && (k % 3 < 2 || places[k] > 0), "match_templates: squares must be finite");
  require(holds<float>(templates) && contiguous(templates) && has_shape(templates, {p.count, p.side, p.side}) && p.side > 0 &&
              p.side <= fhrt::kMaxTemplateSide,
          "match_templates: templates must be contiguous float32 [N, S, S]");
  require(reach > 0 && reach <= fhrt::kMaxTemplateReach, "match_templates: reach must be from 1 to 64");
  require(holds<float>(out) && contiguous(out) && has_shape(out, {p.count, 3}), "match_templates: out must be contiguous float32 [N, 3]");
  const uint8_t* source = data<uint8_t>(frame);
  const float* wanted = data<float>(templates);
  float* target = mutable_data<float>(out);
  py::gil_scoped_release release;
  fhrt::match_templates_cpu(source, places, wanted, target, p);
}

fhrt::Crops crop_settings(int64_t count, int64_t h, int64_t w) {
  require(h >= 4 && w >= 4 && h % 2 == 0 && w % 2 == 0 && h <= 1024 && w <= 1024, "crops must have even sides from 4 to 1024");
  return {count, h, w};
}

// As FuseCrops has them: before a list of N, crops of N times k, float32 [3, h, w] or None; places, weights float64; the rest float32.
void fuse_crops(const py::list& before, const py::list& crops, py::array& places, py::array& weights, const py::array& transforms, py::array& means,
                py::array& halves, py::array& placed, py::array& back) {
  require(means.ndim() == 4 && weights.ndim() == 2, "fuse_crops: means must be [N, 3, h, w], weights [N, k]");
  const fhrt::Crops p = crop_settings(means.shape(0), means.shape(2), means.shape(3));
  const int64_t most = weights.shape(1);
  const auto known = pictures(before, 3, p.h, p.w, true, "fuse_crops: before must be contiguous float32 [3, h, w], or None");
  const auto given = pictures(crops, 3, p.h, p.w, true, "fuse_crops: crops must be contiguous float32 [3, h, w], or None");
  require(most > 0 && static_cast<int64_t>(known.size()) == p.count && static_cast<int64_t>(given.size()) == p.count * most &&
              is_output(weights, {p.count, most}) && is_output(places, {p.count, most, 3}),
          "fuse_crops: a float64 place and weight for each crop");
  for (int64_t n = 0; n < p.count; ++n)
    require(given[static_cast<size_t>(n * most)] != nullptr && data<double>(weights)[n * most] > 0, "fuse_crops: each face must have a newest crop");
  for (int64_t k = 0; k < places.size(); ++k) require(std::isfinite(data<double>(places)[k]), "fuse_crops: places must be finite");
  const auto is = [](const py::array& array, std::initializer_list<int64_t> shape) { return holds<float>(array) && contiguous(array) && has_shape(array, shape); };
  require(is(transforms, {p.count, 2, 3}) && is(means, {p.count, 3, p.h, p.w}) && is(halves, {p.count, 3, p.h / 2, p.w / 2}) &&
              is(placed, {p.count, 2, 3}) && is(back, {p.count, 2, 3}),
          "fuse_crops: transforms and outputs must be contiguous float32");
  const fhrt::FuseCrops fuse{known.data(),
                             given.data(),
                             most,
                             mutable_data<double>(places),
                             mutable_data<double>(weights),
                             data<float>(transforms),
                             mutable_data<float>(means),
                             mutable_data<float>(halves),
                             mutable_data<float>(placed),
                             mutable_data<float>(back)};
  py::gil_scoped_release release;
  fhrt::fuse_crops_cpu(fuse, p);
}

// crops: a list of float32 [3, h, w]; looks float64 [N].
void crop_looks(const py::list& crops, int64_t h, int64_t w, py::array& looks) {
  const fhrt::Crops p = crop_settings(static_cast<int64_t>(crops.size()), h, w);
  const auto given = pictures(crops, 3, h, w, false, "crop_looks: crops must be contiguous float32 [3, h, w]");
  require(is_output(looks, {p.count}), "crop_looks: looks must be float64 [N]");
  double* target = mutable_data<double>(looks);
  py::gil_scoped_release release;
  fhrt::crop_looks_cpu(given.data(), target, p);
}

// before: N of float32 [C, h, w] or None; now, out float32 [N, C, h, w]; Ways [N, 2, 3], float64 and back float32; weights float32 [N].
void blend_moved(const py::list& before, const py::array& now, const py::array& before_way, const py::array& now_way, const py::array& back,
                 const py::array& weights, py::array& out) {
  require(now.ndim() == 4 && out.ndim() == 4, "blend_moved: now and out must be [N, C, h, w]");
  const fhrt::BlendMoved p{now.shape(0), now.shape(1), now.shape(2), now.shape(3)};
  require(p.h > 0 && p.w > 0 && std::max(p.h, p.w) <= (1 << 16), "blend_moved: pictures must have from 1 to 65536 rows and columns");
  for (const py::array* each : {&now, static_cast<const py::array*>(&out)})
    require(holds<float>(*each) && contiguous(*each) && has_shape(*each, {p.count, p.channels, p.h, p.w}), "blend_moved: now and out must be contiguous float32");
  require(is_output(before_way, {p.count, 2, 3}) && is_output(now_way, {p.count, 2, 3}), "blend_moved: ways must be contiguous float64 [N, 2, 3]");
  require(holds<float>(back) && contiguous(back) && has_shape(back, {p.count, 2, 3}) && holds<float>(weights) && contiguous(weights) &&
              has_shape(weights, {p.count}) && static_cast<int64_t>(before.size()) == p.count,
          "blend_moved: a float32 way back and weight for each picture, and its mean before or None");
  const auto means = pictures(before, p.channels, p.h, p.w, true, "blend_moved: before must be contiguous float32 [C, h, w], or None");
  require_apart(out, now);
  const fhrt::Ways ways{data<double>(before_way), data<double>(now_way), data<float>(back)};
  const float *newest = data<float>(now), *shares = data<float>(weights);
  float* target = mutable_data<float>(out);
  py::gil_scoped_release release;
  fhrt::blend_moved_cpu(means.data(), newest, ways, shares, target, p);
}

// A tracker that threads may share: they wait for one another without Python's lock.
struct SharedTracker {
  fhrt::Tracker tracker;
  mutable std::mutex mutex;

  SharedTracker(double start_score, double patience) : tracker(start_score, patience) {}
  explicit SharedTracker(const fhrt::Tracker& other) : tracker(other) {}

  template <typename Work>
  auto alone(const Work& work) {
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex);
    return work(tracker);
  }
};

// detections: None, or x1, y1, x2, y2, score, then x, y of each eye (NaN: not known); frame uint8 [H, W, 3] or None. A tuple per face: id, box,
// score, eyes float64 [2, 2] or None, whether it was detected.
py::list track_faces(SharedTracker& shared, double time, const std::optional<std::vector<std::array<double, 9>>>& detections,
                     const std::optional<py::array>& frame) {
  require(std::isfinite(time), "a frame's time must be finite seconds");
  std::vector<fhrt::Detected> found;
  if (detections) {
    for (const auto& v : *detections) {
      require(std::all_of(v.begin(), v.begin() + 5, [](double each) { return std::isfinite(each); }) && v[0] < v[2] && v[1] < v[3],
              "a detection must have a finite score and box, with x1 < x2 and y1 < y2");
      found.push_back({{v[0], v[1], v[2], v[3]}, v[4], {v[5], v[6], v[7], v[8]}});
    }
  }
  const fhrt::FramePlane plane = frame ? frame_plane(*frame, 3) : fhrt::FramePlane{};
  const uint8_t* pixels = frame ? data<uint8_t>(*frame) : nullptr;
  const auto tracks = shared.alone([&](fhrt::Tracker& tracker) { return tracker.update(time, detections ? &found : nullptr, pixels, plane); });
  py::list out;
  for (const auto& [id, face, detected] : tracks) {
    py::object eyes = py::none();
    if (!std::isnan(face.eyes[0])) {
      py::array_t<double> points({2, 2});
      std::copy(face.eyes.begin(), face.eyes.end(), points.mutable_data());
      eyes = std::move(points);
    }
    out.append(py::make_tuple(id, py::make_tuple(face.box[0], face.box[1], face.box[2], face.box[3]), face.score, eyes, detected));
  }
  return out;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native operations of fhrt; call them through fhrt.ops.";
  m.def("stn_sample", &stn_sample);
  m.def("stn_sample_backward", &stn_sample_backward);
  m.def("pixel_shuffle", &pixel_shuffle);
  m.def("pixel_shuffle_backward", &pixel_shuffle_backward);
  m.def("to_image", &to_image);
  m.def("ssim", &ssim);
  m.def("ssim_backward", &ssim_backward);
  m.def("face_crop", &face_crop);
  m.def("yuv_to_bgr", &yuv_to_bgr);
  m.def("neighbour_embedding", &neighbour_embedding);
  m.def("match_templates", &match_templates);
  m.def("fuse_crops", &fuse_crops);
  m.def("crop_looks", &crop_looks);
  m.def("blend_moved", &blend_moved);
  py::class_<SharedTracker>(m, "Tracker")
      .def(py::init<double, double>())
      .def("copy", [](SharedTracker& shared) { return std::make_unique<SharedTracker>(shared.alone([](const fhrt::Tracker& each) { return each; })); })
      .def("ids", [](SharedTracker& shared) { return shared.alone([](const fhrt::Tracker& each) { return each.ids(); }); })
      .def("update", &track_faces);
  m.def("empty", &empty);
  m.def("isa", &fhrt::isa_name);
  m.def("set_num_threads", &fhrt::set_num_threads);
  m.def("stay_alone", &fhrt::stay_alone);
  m.def("get_num_threads", &fhrt::get_num_threads);
  bind_cuda(m);
}
