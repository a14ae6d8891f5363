// 32nds of a level are what 16 bits hold of these sums (at most 255 * 1.17 + 128 * 2.12 levels), and rounding them twice errs by a 20th of a
// level at most.
#include "yuv_to_bgr_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

FHRT_INLINE int16_t fraction_of(float weight, int unit) {
  const float scaled = weight * static_cast<float>(unit);
  return static_cast<int16_t>(scaled < 0 ? scaled - 0.5f : scaled + 0.5f);
}

// One instruction: the product's upper half, rounded.
FHRT_INLINE int16_t times(int16_t a, int16_t b) { return static_cast<int16_t>((static_cast<int32_t>(a) * b + (1 << 14)) >> 15); }

}  // namespace

void chroma_row(const uint8_t* __restrict__ cb, const uint8_t* __restrict__ cr, int16_t* __restrict__ added, const YuvToBgr& p) {
  const int64_t width = even_width(p);
  // Chroma in 128ths times weights in 8192nds, less 15 bits, is 32nds.
  const int16_t blue_u = fraction_of(p.to_rgb.blue_u, 8192), green_u = fraction_of(p.to_rgb.green_u, 8192),
                green_v = fraction_of(p.to_rgb.green_v, 8192), red_v = fraction_of(p.to_rgb.red_v, 8192);
  int16_t *__restrict__ blue = added, *__restrict__ green = added + width, *__restrict__ red = added + 2 * width;
  for (int64_t j = 0; j < width / 2; ++j) {
    const int16_t u = static_cast<int16_t>((cb[j] - 128) * 128), v = static_cast<int16_t>((cr[j] - 128) * 128);
    const int16_t b = times(u, blue_u), g = static_cast<int16_t>(times(u, green_u) + times(v, green_v)), r = times(v, red_v);
    blue[2 * j] = blue[2 * j + 1] = b;
    green[2 * j] = green[2 * j + 1] = g;
    red[2 * j] = red[2 * j + 1] = r;
  }
}

void bgr_row(const uint8_t* __restrict__ luma, const int16_t* __restrict__ added, int16_t* __restrict__ scratch, uint8_t* out, const YuvToBgr& p) {
  const int64_t width = even_width(p);
  const int16_t scale = fraction_of(p.to_rgb.luma, 16384), black = static_cast<int16_t>(p.to_rgb.black);
  int16_t* __restrict__ level = scratch;
  for (int64_t j = 0; j < p.w; ++j) level[j] = times(static_cast<int16_t>((luma[j] - black) * 64), scale);
  uint8_t* __restrict__ lines = reinterpret_cast<uint8_t*>(scratch + width);
  for (int64_t c = 0; c < 3; ++c) {
    const int16_t* __restrict__ more = added + c * width;
    uint8_t* __restrict__ line = lines + c * width;
    for (int64_t j = 0; j < p.w; ++j) {
      const int16_t value = static_cast<int16_t>(static_cast<int16_t>(level[j] + more[j] + 16) >> 5);
      line[j] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
  }
  interleave<3>(lines, width, out, p.w);
}

}  // namespace fhrt::FHRT_ISA
