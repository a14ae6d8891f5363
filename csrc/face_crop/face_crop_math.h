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

// Position in the frame, by transform t[6], of sample (sx, sy) of the kx x ky that are spread evenly over the area of crop pixel (i, j).
FHRT_HD void crop_position(const float* t, int i, int j, int sx, int sy, int kx, int ky, float& x, float& y) {
  const float u = static_cast<float>(j) + ((static_cast<float>(sx) + 0.5f) / static_cast<float>(kx) - 0.5f);
  const float v = static_cast<float>(i) + ((static_cast<float>(sy) + 0.5f) / static_cast<float>(ky) - 0.5f);
  x = t[0] * u + t[1] * v + t[2];
  y = t[3] * u + t[4] * v + t[5];
}

// A position along one axis as a pixel, never the last, and how far it lies on the way to the next: beyond the border, 0 or 1.
FHRT_HD void crop_neighbours(float v, int size, int& first, float& fraction) {
  const float last = static_cast<float>(size - 1), before = static_cast<float>(size > 1 ? size - 2 : 0);
  v = v > 0 ? (v < last ? v : last) : 0.0f;
  const float below = floorf(v), start = below < before ? below : before;
  first = static_cast<int>(start);
  fraction = v - start;
}

// Bilinear, down the columns first.
FHRT_HD float crop_level(float top_left, float top_right, float bottom_left, float bottom_right, float ax, float ay) {
  const float left = top_left + ay * (bottom_left - top_left), right = top_right + ay * (bottom_right - top_right);
  return left + ax * (right - left);
}

}  // namespace fhrt
