// Where an output pixel of stn_sample reads, and how its gradients go back: one source for the CPU and the device.
#pragma once
#include <cmath>

#include "../numeric.h"
#include "stn_sample.h"

namespace fhrt {

FHRT_HD float to_normalised(int i, int64_t size, bool align_corners) {
  const float span = static_cast<float>(align_corners ? size - 1 : size), step = span > 0 ? 2 / span : 0.0f;
  const float first = align_corners ? (span > 0 ? -1.0f : 0.0f) : 0.5f * step - 1;
  return static_cast<float>(i) * step + first;
}

FHRT_HD float from_normalised(float v, int64_t size, bool align_corners) {
  const float half = 0.5f * static_cast<float>(align_corners ? size - 1 : size), shift = align_corners ? 0.0f : 0.5f;
  return (v + 1) * half - shift;
}

// d(position in the map) / d(normalised position).
FHRT_HD float pixels_per_unit(int64_t size, bool align_corners) {
  return 0.5f * static_cast<float>(align_corners ? size - 1 : size);
}

// Position in the (upsampled) map of output pixel (i, j) of one picture with theta t[6].
FHRT_HD void stn_position(const float* t, int i, int j, const StnSample& p, float& x, float& y) {
  const float u = to_normalised(j, p.out_w, p.align_corners), v = to_normalised(i, p.out_h, p.align_corners);
  x = from_normalised(t[0] * u + t[1] * v + t[2], p.in_w * p.upsample, p.align_corners);
  y = from_normalised(t[3] * u + t[4] * v + t[5], p.in_h * p.upsample, p.align_corners);
}

FHRT_HD float clamped(float v, float low, float high) { return v > low ? (v < high ? v : high) : low; }  // NaN becomes low

// How a position reads one axis of the stored map: two neighbours (0 where outside), their weights (0 where outside), and the weights'
// derivatives by the position. A pixel reads neighbour (k, l) with the product of its weights along y and x.
struct AxisTap {
  int index[2];
  float weight[2], slope[2];
};

// Without a branch, so that a loop over pixels becomes vectors.
FHRT_HD AxisTap stn_axis_tap(float v, int64_t stored, const StnSample& p) {
  const int size = static_cast<int>(stored) * p.upsample;
  const float last = static_cast<float>(size - 1), per_stored = 1.0f / static_cast<float>(p.upsample);
  // Border padding holds a position beyond the border fast. For zero padding, every weight is zero from one pixel beyond; clamping
  // before that keeps the conversion to an integer defined.
  const float low = p.border ? 0.0f : -2.0f, high = p.border ? last : last + 2;
  const float moves = (v > low) & (v < high) ? 1.0f : 0.0f;
  v = clamped(v, low, high);
  const float below = floorf(v), fraction = v - below;
  const int first = static_cast<int>(below);
  const float inside0 = (first >= 0) & (first < size) ? 1.0f : 0.0f, inside1 = (first >= -1) & (first < size - 1) ? 1.0f : 0.0f;
  // Half a pixel in, no rounding of the product reaches a whole number: a division that vectorises.
  const int index0 = static_cast<int>((below + 0.5f) * per_stored), index1 = static_cast<int>((below + 1.5f) * per_stored);
  AxisTap tap;
  tap.index[0] = inside0 > 0 ? index0 : 0;
  tap.index[1] = inside1 > 0 ? index1 : 0;
  tap.weight[0] = inside0 * (1 - fraction);
  tap.weight[1] = inside1 * fraction;
  tap.slope[0] = -inside0 * moves;
  tap.slope[1] = inside1 * moves;
  return tap;
}

// Both axes of one output pixel.
struct Tap {
  AxisTap x, y;
};

FHRT_HD Tap stn_tap(float x, float y, const StnSample& p) { return {stn_axis_tap(x, p.in_w, p), stn_axis_tap(y, p.in_h, p)}; }

FHRT_HD int64_t tap_offset(const Tap& tap, int k, int l, int64_t row_stride, int64_t column_stride) {
  return tap.y.index[k] * row_stride + tap.x.index[l] * column_stride;
}

template <typename T>
FHRT_HD float stn_read(const T* plane, const Tap& tap, int64_t row_stride, int64_t column_stride) {
  float sum = 0;
  for (int k = 0; k < 2; ++k)
    for (int l = 0; l < 2; ++l)
      sum += to_float(plane[tap_offset(tap, k, l, row_stride, column_stride)]) * (tap.y.weight[k] * tap.x.weight[l]);
  return sum;
}

// Derivative of stn_read by the position, in map pixels.
template <typename T>
FHRT_HD void stn_slope(const T* plane, const Tap& tap, int64_t row_stride, int64_t column_stride, float& by_x, float& by_y) {
  by_x = by_y = 0;
  for (int k = 0; k < 2; ++k) {
    for (int l = 0; l < 2; ++l) {
      const float value = to_float(plane[tap_offset(tap, k, l, row_stride, column_stride)]);
      by_x += value * (tap.y.weight[k] * tap.x.slope[l]);
      by_y += value * (tap.y.slope[k] * tap.x.weight[l]);
    }
  }
}

// The output pixels that may read a given stored pixel: columns [j0, j1), rows [i0, i1).
struct Reach {
  int64_t j0, j1, i0, i1;
};

// The stored pixel (row, column) covers the map positions within one pixel of its block of upsample x upsample; with border padding, a
// pixel at the border also everything beyond it. Their preimage under theta is a parallelogram, this its bounding box, a little widened
// against rounding. Where theta is (nearly) singular or the region endless, the whole output.
FHRT_HD Reach stn_reach(const float* t, int64_t row, int64_t column, const StnSample& p) {
  const Reach all{0, p.out_w, 0, p.out_h};
  if (p.border && (row == 0 || column == 0 || row == p.in_h - 1 || column == p.in_w - 1)) return all;
  // Map position = origin + across * j + down * i, affine in the output pixel.
  float ox, oy, ax, ay, dx, dy;
  const int last_j = static_cast<int>(p.out_w) - 1, last_i = static_cast<int>(p.out_h) - 1;
  stn_position(t, 0, 0, p, ox, oy);
  stn_position(t, 0, last_j, p, ax, ay);
  stn_position(t, last_i, 0, p, dx, dy);
  const float spans_j = static_cast<float>(last_j > 0 ? last_j : 1), spans_i = static_cast<float>(last_i > 0 ? last_i : 1);
  ax = (ax - ox) / spans_j, ay = (ay - oy) / spans_j, dx = (dx - ox) / spans_i, dy = (dy - oy) / spans_i;
  const float determinant = ax * dy - ay * dx, size = fabsf(ax * dy) + fabsf(ay * dx);
  if (!(fabsf(determinant) > 1e-4f * size) || !(size > 1e-12f)) return all;
  const float centre_x = static_cast<float>(column * p.upsample) + 0.5f * static_cast<float>(p.upsample - 1) - ox;
  const float centre_y = static_cast<float>(row * p.upsample) + 0.5f * static_cast<float>(p.upsample - 1) - oy;
  const float half = 0.5f * static_cast<float>(p.upsample - 1) + 1.0f;
  const float j = (dy * centre_x - dx * centre_y) / determinant, i = (ax * centre_y - ay * centre_x) / determinant;
  const float half_j = half * (fabsf(dy) + fabsf(dx)) / fabsf(determinant) + 0.01f + 1e-4f * fabsf(j);
  const float half_i = half * (fabsf(ay) + fabsf(ax)) / fabsf(determinant) + 0.01f + 1e-4f * fabsf(i);
  Reach reach;
  reach.j0 = static_cast<int64_t>(clamped(floorf(j - half_j), 0.0f, static_cast<float>(p.out_w)));
  reach.j1 = static_cast<int64_t>(clamped(ceilf(j + half_j) + 1, 0.0f, static_cast<float>(p.out_w)));
  reach.i0 = static_cast<int64_t>(clamped(floorf(i - half_i), 0.0f, static_cast<float>(p.out_h)));
  reach.i1 = static_cast<int64_t>(clamped(ceilf(i + half_i) + 1, 0.0f, static_cast<float>(p.out_h)));
  return reach;
}

// Weight with which a position along one axis reads stored pixel `index` of that axis.
FHRT_HD float axis_weight_of(const AxisTap& tap, int64_t index) {
  return (tap.index[0] == index ? tap.weight[0] : 0.0f) + (tap.index[1] == index ? tap.weight[1] : 0.0f);
}

}  // namespace fhrt
