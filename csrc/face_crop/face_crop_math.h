// Where one pixel of a crop reads the frame: one source for the CPU and the device.
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

// The four pixels around one sample, and how far it lies from the first.
struct CropSample {
  int64_t x0, x1, y0, y1;
  float ax, ay;
};

// Sample (sx, sy) of the kx x ky that are spread evenly over the area of crop pixel (i, j), by transform t[6].
FHRT_HD CropSample crop_sample(const float* t, int64_t i, int64_t j, int sx, int sy, int kx, int ky, const FaceCrop& p) {
  const float u = static_cast<float>(j) + (static_cast<float>(sx) + 0.5f) / static_cast<float>(kx) - 0.5f;
  const float v = static_cast<float>(i) + (static_cast<float>(sy) + 0.5f) / static_cast<float>(ky) - 0.5f;
  const float x = within(t[0] * u + t[1] * v + t[2], p.frame_w), y = within(t[3] * u + t[4] * v + t[5], p.frame_h);
  const int64_t x0 = static_cast<int64_t>(x), y0 = static_cast<int64_t>(y);
  return {x0, x0 + 1 < p.frame_w ? x0 + 1 : x0, y0, y0 + 1 < p.frame_h ? y0 + 1 : y0, x - static_cast<float>(x0), y - static_cast<float>(y0)};
}

}  // namespace fhrt
