#include "to_image_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

constexpr int kColumns = 512;  // of a picture's row that are worked on at a time

// First the phases of each channel, then the channels: two interleavings that the compiler knows how to do with vectors.
template <int F, typename T>
FHRT_INLINE void interleave_phases(const T* __restrict__ source, int64_t channel_stride, float low, float scale, uint8_t* __restrict__ levels,
                                   int count) {
  for (int j = 0; j < count; ++j)
    for (int b = 0; b < F; ++b) levels[j * F + b] = grey_level(to_float(source[b * channel_stride + j]), low, scale);
}

template <typename T>
FHRT_INLINE void phases(const T* source, const Strides& xs, const ToImage& p, float scale, uint8_t* levels, int count) {
  if (xs.w == 1 && p.factor == 1) return interleave_phases<1>(source, xs.c, p.low, scale, levels, count);
  if (xs.w == 1 && p.factor == 2) return interleave_phases<2>(source, xs.c, p.low, scale, levels, count);
  if (xs.w == 1 && p.factor == 4) return interleave_phases<4>(source, xs.c, p.low, scale, levels, count);
  for (int64_t b = 0; b < p.factor; ++b)
    for (int j = 0; j < count; ++j) levels[j * p.factor + b] = grey_level(to_float(source[b * xs.c + j * xs.w]), p.low, scale);
}

template <int C>
FHRT_INLINE void interleave_channels(const uint8_t (*levels)[kColumns], uint8_t* __restrict__ out, int count) {
  for (int j = 0; j < count; ++j)
    for (int c = 0; c < C; ++c) out[j * C + c] = levels[c][j];
}

}  // namespace

template <typename T>
void image_rows(const T* x, const Strides& xs, uint8_t* out, const ToImage& p, int64_t begin, int64_t end) {
  const int64_t height = p.h * p.factor, width = p.w * p.factor, span = kColumns / p.factor;
  const float scale = 255.0f / (p.high - p.low);
  alignas(64) uint8_t levels[kMaxImageChannels][kColumns];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / height, y = task % height;
    for (int64_t j = 0; j < p.w; j += span) {
      const int count = static_cast<int>(p.w - j < span ? p.w - j : span), columns = count * p.factor;
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t channel = (c * p.factor + y % p.factor) * p.factor;
        phases(x + n * xs.n + channel * xs.c + y / p.factor * xs.h + j * xs.w, xs, p, scale, levels[c], count);
      }
      uint8_t* target = out + (task * width + j * p.factor) * p.channels;
      if (p.channels == 1) interleave_channels<1>(levels, target, columns);
      if (p.channels == 2) interleave_channels<2>(levels, target, columns);
      if (p.channels == 3) interleave_channels<3>(levels, target, columns);
      if (p.channels == 4) interleave_channels<4>(levels, target, columns);
    }
  }
}

template void image_rows<float>(const float*, const Strides&, uint8_t*, const ToImage&, int64_t, int64_t);
template void image_rows<Half>(const Half*, const Strides&, uint8_t*, const ToImage&, int64_t, int64_t);
template void image_rows<BFloat16>(const BFloat16*, const Strides&, uint8_t*, const ToImage&, int64_t, int64_t);

}  // namespace fhrt::FHRT_ISA
