// Where one pixel of a crop reads the frame: one source for the CPU and the device.
#pragma once
#include <cmath>

#include "../numeric.h"
#include "face_crop.h"

namespace fhrt {

constexpr int kCropTaps = 32;  // of an axis, at most

// An axis of the frame: how many of its pixels a step of the crop covers, at least 1; how many pixels a crop pixel is made of and how far
// apart these are; the frame's last pixel.
struct CropAxis {
  float shrink, inverse;
  int taps, step, last;
};

// dx, dy: how far a step along the crop's rows and one down its columns go on this axis. For a similarity, turned however much, that is
// its scale; one number per axis keeps the kernel separable.
FHRT_HD CropAxis crop_axis(float dx, float dy, int64_t size) {
  constexpr float kMost = 1 << 20;  // keeps taps within int; no frame has so much to show
  const float length = sqrtf(dx * dx + dy * dy), shrink = length > 1 ? (length < kMost ? length : kMost) : 1.0f, step = ceilf(shrink / 8);
  return {shrink, 1 / shrink, static_cast<int>(ceilf(4 * shrink / step)), static_cast<int>(step), static_cast<int>(size - 1)};
}

// Position of crop pixel (i, j) on the axis that t[3] is the transform's row of.
FHRT_HD float crop_position(const float* t, int i, int j) { return t[0] * static_cast<float>(j) + t[1] * static_cast<float>(i) + t[2]; }

// The first tap of a crop pixel at `centre`, maybe beyond the border, and its way from there.
FHRT_HD int crop_first(const CropAxis& axis, float centre, float& offset) {
  // Further out than the kernel reaches all is the border; NaN too is taken for out there.
  const float reach = 2 * axis.shrink, low = -1 - reach, high = static_cast<float>(axis.last) + 1 + reach;
  centre = centre > low ? (centre < high ? centre : high) : low;
  // Multiples of the step: a crop that moves then reads the same pixels, which come and go with weight 0.
  const float step = static_cast<float>(axis.step), first = (floorf((centre - reach) / step) + 1) * step;
  offset = first - centre;
  return static_cast<int>(first);
}

// A tap's pixel: outside the frame its border is replicated.
FHRT_HD int crop_pixel(const CropAxis& axis, int first, int tap) {
  const int at = first + tap * axis.step;
  return at > 0 ? (at < axis.last ? at : axis.last) : 0;
}

FHRT_HD float crop_weight(const CropAxis& axis, float offset, int tap) {
  const float t = fabsf(offset + static_cast<float>(tap * axis.step)) * axis.inverse;
  const float inner = (1.5f * t - 2.5f) * t * t + 1, outer = ((-0.5f * t + 2.5f) * t - 4) * t + 2;
  return t < 1 ? inner : (t < 2 ? outer : 0.0f);
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
