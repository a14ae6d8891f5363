// Where an output pixel of stn_sample reads, and how its gradients go back: one source for the CPU and the device.
#pragma once
#include <cmath>

#include "../numeric.h"
#include "stn_sample.h"

namespace fhrt {

// The four stored pixels that one output pixel reads: offsets into a plane (row * row_stride + column * column_stride) and weights,
// 0 for a neighbour outside. `ax`, `ay` and `moves_x`, `moves_y` serve the gradient to theta.
struct Tap {
  int64_t offset[4];
  float weight[4];
  float ax, ay;
  bool inside[4];
  bool moves_x, moves_y;  // false where border padding holds the position fast
};

FHRT_HD float to_normalised(int64_t i, int64_t size, bool align_corners) {
  if (align_corners) return size > 1 ? 2.0f * static_cast<float>(i) / static_cast<float>(size - 1) - 1.0f : 0.0f;
  return (2.0f * static_cast<float>(i) + 1.0f) / static_cast<float>(size) - 1.0f;
}

FHRT_HD float from_normalised(float v, int64_t size, bool align_corners) {
  return align_corners ? (v + 1) * 0.5f * static_cast<float>(size - 1) : ((v + 1) * static_cast<float>(size) - 1) * 0.5f;
}

// d(position in the map) / d(normalised position).
FHRT_HD float pixels_per_unit(int64_t size, bool align_corners) {
  return 0.5f * static_cast<float>(align_corners ? size - 1 : size);
}

// Position in the (upsampled) map of output pixel (i, j) of one picture with theta t[6].
FHRT_HD void stn_position(const float* t, int64_t i, int64_t j, const StnSample& p, float& x, float& y) {
  const float u = to_normalised(j, p.out_w, p.align_corners), v = to_normalised(i, p.out_h, p.align_corners);
  x = from_normalised(t[0] * u + t[1] * v + t[2], p.in_w * p.upsample, p.align_corners);
  y = from_normalised(t[3] * u + t[4] * v + t[5], p.in_h * p.upsample, p.align_corners);
}

FHRT_HD float clamped(float v, float low, float high) { return v > low ? (v < high ? v : high) : low; }  // NaN becomes low

FHRT_HD Tap stn_tap(float x, float y, const StnSample& p, int64_t row_stride, int64_t column_stride) {
  const int64_t w = p.in_w * p.upsample, h = p.in_h * p.upsample;
  const float last_x = static_cast<float>(w - 1), last_y = static_cast<float>(h - 1);
  Tap tap;
  tap.moves_x = !p.border || (x > 0 && x < last_x);
  tap.moves_y = !p.border || (y > 0 && y < last_y);
  if (p.border) {
    x = clamped(x, 0.0f, last_x);
    y = clamped(y, 0.0f, last_y);
  }
  // Far outside, every weight is zero; clamping first keeps the conversion to an integer defined.
  x = clamped(x, -2.0f, last_x + 2);
  y = clamped(y, -2.0f, last_y + 2);
  const float fx = floorf(x), fy = floorf(y);
  const int64_t x0 = static_cast<int64_t>(fx), y0 = static_cast<int64_t>(fy);
  tap.ax = x - fx;
  tap.ay = y - fy;
  for (int k = 0; k < 4; ++k) {
    const int64_t xi = x0 + (k & 1), yi = y0 + (k >> 1);
    tap.inside[k] = xi >= 0 && xi < w && yi >= 0 && yi < h;
    tap.offset[k] = tap.inside[k] ? (yi / p.upsample) * row_stride + (xi / p.upsample) * column_stride : 0;
    tap.weight[k] = tap.inside[k] ? ((k & 1) ? tap.ax : 1 - tap.ax) * ((k >> 1) ? tap.ay : 1 - tap.ay) : 0.0f;
  }
  return tap;
}

template <typename T>
FHRT_HD float stn_read(const T* plane, const Tap& tap) {
  return to_float(plane[tap.offset[0]]) * tap.weight[0] + to_float(plane[tap.offset[1]]) * tap.weight[1] +
         to_float(plane[tap.offset[2]]) * tap.weight[2] + to_float(plane[tap.offset[3]]) * tap.weight[3];
}

// Derivative of stn_read by the position, in map pixels.
template <typename T>
FHRT_HD void stn_slope(const T* plane, const Tap& tap, float& by_x, float& by_y) {
  float value[4];
  for (int k = 0; k < 4; ++k) value[k] = tap.inside[k] ? to_float(plane[tap.offset[k]]) : 0.0f;
  by_x = tap.moves_x ? (1 - tap.ay) * (value[1] - value[0]) + tap.ay * (value[3] - value[2]) : 0.0f;
  by_y = tap.moves_y ? (1 - tap.ax) * (value[2] - value[0]) + tap.ax * (value[3] - value[1]) : 0.0f;
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
  stn_position(t, 0, 0, p, ox, oy);
  stn_position(t, 0, p.out_w - 1, p, ax, ay);
  stn_position(t, p.out_h - 1, 0, p, dx, dy);
  const float spans_j = static_cast<float>(p.out_w > 1 ? p.out_w - 1 : 1), spans_i = static_cast<float>(p.out_h > 1 ? p.out_h - 1 : 1);
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

// Weight with which an output pixel at map position (x, y) reads the stored pixel at (row, column).
FHRT_HD float stn_weight_of(float x, float y, int64_t row, int64_t column, const StnSample& p) {
  const Tap tap = stn_tap(x, y, p, p.in_w, 1);
  const int64_t offset = row * p.in_w + column;
  float weight = 0;
  for (int k = 0; k < 4; ++k)
    if (tap.inside[k] && tap.offset[k] == offset) weight += tap.weight[k];
  return weight;
}

}  // namespace fhrt
