// Where one pixel of a crop reads the frame: one source for the CPU and the device.
#pragma once
#include <cmath>

#include "../numeric.h"
#include "face_crop.h"

namespace fhrt {

// How many samples a step of one crop pixel, (dx, dy) in the frame, needs in its direction. An eighth of a pixel of slack: a crop at
// (nearly) the frame's own scale stays a plain bilinear sample. More samples than the frame has pixels add nothing.
FHRT_HD int crop_samples(float dx, float dy, const FaceCrop& p) {
  const float most = static_cast<float>(p.frame.h > p.frame.w ? p.frame.h : p.frame.w), wanted = ceilf(sqrtf(dx * dx + dy * dy) - 0.125f);
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

// The transform into NV12's chroma that goes with t[6] into its luma: half the size, sited as MPEG-2 and H.264 do by default, on the even
// columns and between the rows (ITU-T H.264, figure E-1, type 0).
FHRT_HD void chroma_transform(const float* t, float* halved) {
  for (int k = 0; k < 6; ++k) halved[k] = 0.5f * t[k];
  halved[5] -= 0.25f;
}

FHRT_HD float clamp_byte(float v) { return v > 0 ? (v < 255 ? v : 255.0f) : 0.0f; }

FHRT_HD void yuv_to_rgb(float y, float u, float v, const YuvToRgb& m, float* rgb) {
  const float grey = m.luma * (y - m.black);
  u -= 128;
  v -= 128;
  rgb[0] = clamp_byte(grey + m.red_v * v);
  rgb[1] = clamp_byte(grey + (m.green_u * u + m.green_v * v));
  rgb[2] = clamp_byte(grey + m.blue_u * u);
}

}  // namespace fhrt
