#include "pixel_shuffle_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

// Where an output row lies.
struct Row {
  int64_t n, c, y;
};

FHRT_INLINE Row row_of(int64_t task, const PixelShuffle& p) {
  const int64_t height = p.h * p.factor, plane = task / height;
  return {plane / p.channels, plane % p.channels, task % height};
}

// The row after this one, without the divisions.
FHRT_INLINE void advance(Row& r, const PixelShuffle& p) {
  if (++r.y < p.h * p.factor) return;
  r.y = 0;
  if (++r.c < p.channels) return;
  r.c = 0;
  ++r.n;
}

// The factor and the strides along the row known to the compiler: all phases in one loop, which becomes vectors.
template <int F, typename T>
FHRT_INLINE void interleave(const T* __restrict__ source, int64_t channel_stride, const float* biases, float slope, T* __restrict__ out,
                            int64_t width) {
  float bias[F];
  for (int b = 0; b < F; ++b) bias[b] = biases ? biases[b] : 0.0f;
  for (int64_t j = 0; j < width; ++j)
    for (int b = 0; b < F; ++b) out[j * F + b] = from_float<T>(shuffled(to_float(source[b * channel_stride + j]), bias[b], slope));
}

template <int F, typename T>
FHRT_INLINE void part(const T* __restrict__ grad, const T* __restrict__ source, int64_t channel_stride, const float* biases, float slope,
                      T* __restrict__ out, int64_t out_stride, int64_t width) {
  float bias[F];
  for (int b = 0; b < F; ++b) bias[b] = biases ? biases[b] : 0.0f;
  for (int64_t j = 0; j < width; ++j)
    for (int b = 0; b < F; ++b)
      out[b * out_stride + j] = from_float<T>(to_float(grad[j * F + b]) * shuffled_slope(to_float(source[b * channel_stride + j]), bias[b], slope));
}

}  // namespace

template <typename T>
void shuffle_rows(const T* x, const Strides& xs, T* out, const PixelShuffle& p, int64_t begin, int64_t end) {
  Row r = row_of(begin, p);
  for (int64_t task = begin; task < end; ++task, advance(r, p)) {
    const int i = static_cast<int>(r.y) / p.factor;
    const int64_t channel = shuffled_channel(r.c, static_cast<int>(r.y) - i * p.factor, 0, p.factor);
    const T* source = x + r.n * xs.n + channel * xs.c + i * xs.h;
    T* target = out + task * p.w * p.factor;
    const float* biases = p.bias ? p.bias + channel : nullptr;
    if (xs.w == 1 && p.factor == 2) {
      interleave<2>(source, xs.c, biases, p.negative_slope, target, p.w);
    } else if (xs.w == 1 && p.factor == 3) {
      interleave<3>(source, xs.c, biases, p.negative_slope, target, p.w);
    } else if (xs.w == 1 && p.factor == 4) {
      interleave<4>(source, xs.c, biases, p.negative_slope, target, p.w);
    } else {
      for (int64_t b = 0; b < p.factor; ++b)
        for (int64_t j = 0; j < p.w; ++j)
          target[j * p.factor + b] = from_float<T>(shuffled(to_float(source[b * xs.c + j * xs.w]), biases ? biases[b] : 0.0f, p.negative_slope));
    }
  }
}

template <typename T>
void shuffle_rows_backward(const T* grad, const Strides& gs, const T* x, const Strides& xs, T* grad_x, const PixelShuffle& p, int64_t begin,
                           int64_t end) {
  const int64_t plane = p.h * p.w, inputs = p.channels * p.factor * p.factor;
  Row r = row_of(begin, p);
  for (int64_t task = begin; task < end; ++task, advance(r, p)) {
    const int i = static_cast<int>(r.y) / p.factor;
    const int64_t channel = shuffled_channel(r.c, static_cast<int>(r.y) - i * p.factor, 0, p.factor);
    const T *source = x + r.n * xs.n + channel * xs.c + i * xs.h, *given = grad + r.n * gs.n + r.c * gs.c + r.y * gs.h;
    T* target = grad_x + (r.n * inputs + channel) * plane + i * p.w;
    const float* biases = p.bias ? p.bias + channel : nullptr;
    if (xs.w == 1 && gs.w == 1 && p.factor == 2) {
      part<2>(given, source, xs.c, biases, p.negative_slope, target, plane, p.w);
    } else if (xs.w == 1 && gs.w == 1 && p.factor == 4) {
      part<4>(given, source, xs.c, biases, p.negative_slope, target, plane, p.w);
    } else {
      for (int64_t b = 0; b < p.factor; ++b) {
        for (int64_t j = 0; j < p.w; ++j) {
          const float slope = shuffled_slope(to_float(source[b * xs.c + j * xs.w]), biases ? biases[b] : 0.0f, p.negative_slope);
          target[b * plane + j] = from_float<T>(to_float(given[(j * p.factor + b) * gs.w]) * slope);
        }
      }
    }
  }
}

#define FHRT_SHUFFLE_ROWS(T)                                                                                        \
  template void shuffle_rows<T>(const T*, const Strides&, T*, const PixelShuffle&, int64_t, int64_t);               \
  template void shuffle_rows_backward<T>(const T*, const Strides&, const T*, const Strides&, T*, const PixelShuffle&, \
                                         int64_t, int64_t);
FHRT_SHUFFLE_ROWS(float)
FHRT_SHUFFLE_ROWS(Half)
FHRT_SHUFFLE_ROWS(BFloat16)
#undef FHRT_SHUFFLE_ROWS

}  // namespace fhrt::FHRT_ISA
