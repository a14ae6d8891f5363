// One pixel of a crop: one source for the CPU and the device.
#pragma once
#include <cmath>

#include "../numeric.h"
#include "face_crop.h"

namespace fhrt {

// How many samples a step of one crop pixel, (dx, dy) in the frame, needs in its direction. An eighth of a pixel of slack: a crop at
// (nearly) the frame's own scale stays a plain bilinear sample. More samples than the frame has pixels add nothing.
FHRT_HD int crop_samples(float dx, float dy, const FaceCrop& p) {
  const float most = static_cast<float>(p.frame_h > p.frame_w ? p.frame_h : p.frame_w), wanted = ceilf(sqrtf(dx * dx + dy * dy) - 0.125f);
  return wanted > 1 ? static_cast<int>(wanted < most ? wanted : most) : 1;
}

FHRT_HD float within(float v, int64_t size) {
  const float last = static_cast<float>(size - 1);
  return v > 0 ? (v < last ? v : last) : 0.0f;
}

// Mean grey level per channel of the kx x ky samples of crop pixel (i, j), by transform t[6]. C: the frame's channels, known to the
// compiler so that the levels stay in registers.
template <int C>
FHRT_HD void crop_pixel(const uint8_t* frame, const float* t, int64_t i, int64_t j, int kx, int ky, const FaceCrop& p, float (&level)[C]) {
  for (int c = 0; c < C; ++c) level[c] = 0;
  for (int sy = 0; sy < ky; ++sy) {
    for (int sx = 0; sx < kx; ++sx) {
      const float u = static_cast<float>(j) + (static_cast<float>(sx) + 0.5f) / static_cast<float>(kx) - 0.5f;
      const float v = static_cast<float>(i) + (static_cast<float>(sy) + 0.5f) / static_cast<float>(ky) - 0.5f;
      const float x = within(t[0] * u + t[1] * v + t[2], p.frame_w), y = within(t[3] * u + t[4] * v + t[5], p.frame_h);
      const int64_t x0 = static_cast<int64_t>(x), y0 = static_cast<int64_t>(y);
      const int64_t x1 = x0 + 1 < p.frame_w ? x0 + 1 : x0, y1 = y0 + 1 < p.frame_h ? y0 + 1 : y0;
      const float ax = x - static_cast<float>(x0), ay = y - static_cast<float>(y0);
      const uint8_t *top = frame + y0 * p.row_bytes, *bottom = frame + y1 * p.row_bytes;
      for (int c = 0; c < C; ++c) {
        const float a = top[x0 * C + c], b = top[x1 * C + c], d = bottom[x0 * C + c], e = bottom[x1 * C + c];
        const float upper = a + ax * (b - a), lower = d + ax * (e - d);
        level[c] += upper + ay * (lower - upper);
      }
    }
  }
  for (int c = 0; c < C; ++c) level[c] /= static_cast<float>(kx * ky);
}

}  // namespace fhrt
