#include "face_crop_simd.h"

#include "../simd.h"
#include "face_crop_math.h"

namespace fhrt::FHRT_ISA {
namespace {

// The channels of one pixel in the lanes of a register; four bytes are read where the frame has them.
template <int C>
FHRT_INLINE Floats<4> read_pixel(const uint8_t* pixel, const uint8_t* end) {
  uint32_t bytes = 0;
  if (C == 4 || pixel + 4 <= end) {
    __builtin_memcpy(&bytes, pixel, 4);
  } else {
    __builtin_memcpy(&bytes, pixel, C);
  }
  return widen(bytes);
}

template <int C>
FHRT_INLINE void crop_row(const uint8_t* frame, const float* t, int64_t i, float* out, const FaceCrop& p) {
  const int kx = crop_samples(t[0], t[3], p), ky = crop_samples(t[1], t[4], p);
  const uint8_t* end = frame + (p.frame_h - 1) * p.row_bytes + p.frame_w * C;
  const int64_t plane = p.out_h * p.out_w;
  Floats<4> mean = {}, deviation = {1, 1, 1, 1};
  for (int c = 0; c < C; ++c) mean[c] = p.mean[c], deviation[c] = p.std[c];
  const float share = 1 / static_cast<float>(kx * ky);
  for (int64_t j0 = 0; j0 < p.out_w; j0 += kPixels) {
    const int count = static_cast<int>(p.out_w - j0 < kPixels ? p.out_w - j0 : kPixels);
    alignas(64) float pixels[kPixels * 4] = {};
    for (int k = 0; k < count; ++k) {
      Floats<4> level = {};
      for (int sy = 0; sy < ky; ++sy) {
        for (int sx = 0; sx < kx; ++sx) {
          const CropSample s = crop_sample(t, i, j0 + k, sx, sy, kx, ky, p);
          const uint8_t *top = frame + s.y0 * p.row_bytes, *bottom = frame + s.y1 * p.row_bytes;
          const Floats<4> a = read_pixel<C>(top + s.x0 * C, end), b = read_pixel<C>(top + s.x1 * C, end);
          const Floats<4> d = read_pixel<C>(bottom + s.x0 * C, end), e = read_pixel<C>(bottom + s.x1 * C, end);
          const Floats<4> upper = a + s.ax * (b - a), lower = d + s.ax * (e - d);
          level += upper + s.ay * (lower - upper);
        }
      }
      store<4>(pixels + k * 4, (level * share - mean) / deviation);
    }
    from_pixels<4>(pixels, out + i * p.out_w + j0, plane, 1, C, count);
  }
}

}  // namespace

void crop_rows(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / p.out_h, i = row % p.out_h;
    float* target = out + n * p.channels * p.out_h * p.out_w;
    if (p.channels == 1) crop_row<1>(frame, transforms + n * 6, i, target, p);
    if (p.channels == 2) crop_row<2>(frame, transforms + n * 6, i, target, p);
    if (p.channels == 3) crop_row<3>(frame, transforms + n * 6, i, target, p);
    if (p.channels == 4) crop_row<4>(frame, transforms + n * 6, i, target, p);
  }
}

}  // namespace fhrt::FHRT_ISA
