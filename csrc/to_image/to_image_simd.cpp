// Every input channel is read from its first pixel to its last and becomes bytes; then the bytes, a quarter as many and all in the first
// cache, are put in order. Going row by row over all channels instead would be a cache miss for every few pixels.
#include "to_image_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

template <typename T>
FHRT_INLINE void levels_of(const T* __restrict__ source, int64_t stride, float low, float scale, uint8_t* __restrict__ levels, int64_t count) {
  if (stride == 1) {
    for (int64_t j = 0; j < count; ++j) levels[j] = grey_level(to_float(source[j]), low, scale);
  } else {
    for (int64_t j = 0; j < count; ++j) levels[j] = grey_level(to_float(source[j * stride]), low, scale);
  }
}

FHRT_INLINE void interleave_by(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t count, int64_t factor) {
  if (factor == 1) return interleave<1>(in, in_stride, out, count);
  if (factor == 2) return interleave<2>(in, in_stride, out, count);
  if (factor == 3) return interleave<3>(in, in_stride, out, count);
  if (factor == 4) return interleave<4>(in, in_stride, out, count);
  for (int64_t b = 0; b < factor; ++b)
    for (int64_t j = 0; j < count; ++j) out[j * factor + b] = in[b * in_stride + j];
}

}  // namespace

template <typename T>
void image_rows(const T* x, const Strides& xs, uint8_t* out, const ToImage& p, int64_t n, int64_t row0, int64_t row1, uint8_t* scratch) {
  const int64_t rows = row1 - row0, plane = rows * p.w, factor = p.factor, width = p.w * factor, inputs = p.channels * factor * factor;
  const float scale = 255.0f / (p.high - p.low);
  uint8_t *levels = scratch, *line = scratch + inputs * plane;
  for (int64_t channel = 0; channel < inputs; ++channel) {
    const T* source = x + n * xs.n + channel * xs.c + row0 * xs.h;
    uint8_t* target = levels + channel * plane;
    if (xs.h == p.w * xs.w) {
      levels_of(source, xs.w, p.low, scale, target, plane);
    } else {
      for (int64_t i = 0; i < rows; ++i) levels_of(source + i * xs.h, xs.w, p.low, scale, target + i * p.w, p.w);
    }
  }
  for (int64_t y = 0; y < rows * factor; ++y) {
    const uint8_t* first = levels + y % factor * factor * plane + y / factor * p.w;  // channel 0, phase 0 of this row
    uint8_t* target = out + ((n * p.h + row0) * factor + y) * width * p.channels;
    if (factor == 1) {
      interleave_by(first, plane, target, p.w, p.channels);
      continue;
    }
    for (int64_t c = 0; c < p.channels; ++c) interleave_by(first + c * factor * factor * plane, plane, line + c * width, p.w, factor);
    interleave_by(line, width, target, width, p.channels);
  }
}

template void image_rows<float>(const float*, const Strides&, uint8_t*, const ToImage&, int64_t, int64_t, int64_t, uint8_t*);
template void image_rows<Half>(const Half*, const Strides&, uint8_t*, const ToImage&, int64_t, int64_t, int64_t, uint8_t*);
template void image_rows<BFloat16>(const BFloat16*, const Strides&, uint8_t*, const ToImage&, int64_t, int64_t, int64_t, uint8_t*);

}  // namespace fhrt::FHRT_ISA
