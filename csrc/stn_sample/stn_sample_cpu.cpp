#include "stn_sample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../parallel.h"

namespace fhrt {
namespace {

// Where one output pixel reads: four offsets into a plane of the stored map, with their weights (0 for a neighbour outside).
struct Tap {
  int32_t offset[4];
  float weight[4];
};

float from_normalised(float v, int64_t size, bool align_corners) {
  return align_corners ? (v + 1) * 0.5f * static_cast<float>(size - 1) : ((v + 1) * static_cast<float>(size) - 1) * 0.5f;
}

float to_normalised(int64_t i, int64_t size, bool align_corners) {
  if (align_corners) return size > 1 ? 2.0f * static_cast<float>(i) / static_cast<float>(size - 1) - 1.0f : 0.0f;
  return (2.0f * static_cast<float>(i) + 1.0f) / static_cast<float>(size) - 1.0f;
}

Tap tap_at(float x, float y, const StnSample& p) {
  const int64_t w = p.in_w * p.upsample, h = p.in_h * p.upsample;
  if (p.border) {
    x = std::min(std::max(x, 0.0f), static_cast<float>(w - 1));
    y = std::min(std::max(y, 0.0f), static_cast<float>(h - 1));
  }
  // Far outside, every weight is zero; clamping first keeps the conversion to an integer defined. NaN counts as far outside.
  x = x > -2.0f ? std::min(x, static_cast<float>(w + 1)) : -2.0f;
  y = y > -2.0f ? std::min(y, static_cast<float>(h + 1)) : -2.0f;
  const float fx = std::floor(x), fy = std::floor(y);
  const int64_t x0 = static_cast<int64_t>(fx), y0 = static_cast<int64_t>(fy);
  const float ax = x - fx, ay = y - fy;
  Tap tap;
  for (int k = 0; k < 4; ++k) {
    const int64_t xi = x0 + (k & 1), yi = y0 + (k >> 1);
    const bool inside = xi >= 0 && xi < w && yi >= 0 && yi < h;
    tap.offset[k] = inside ? static_cast<int32_t>((yi / p.upsample) * p.in_w + xi / p.upsample) : 0;
    tap.weight[k] = inside ? ((k & 1) ? ax : 1 - ax) * ((k >> 1) ? ay : 1 - ay) : 0.0f;
  }
  return tap;
}

}  // namespace

void stn_sample_cpu(const float* x, const float* theta, float* out, const StnSample& p) {
  const int64_t in_plane = p.in_h * p.in_w, out_plane = p.out_h * p.out_w;
  // One task is a row of one picture: its taps are worked out once and serve all channels.
  parallel_for(p.batch * p.out_h, 8, [&](int64_t begin, int64_t end) {
    std::vector<Tap> taps(p.out_w);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p.out_h, i = row % p.out_h;
      const float* t = theta + n * 6;
      const float v = to_normalised(i, p.out_h, p.align_corners);
      for (int64_t j = 0; j < p.out_w; ++j) {
        const float u = to_normalised(j, p.out_w, p.align_corners);
        taps[j] = tap_at(from_normalised(t[0] * u + t[1] * v + t[2], p.in_w * p.upsample, p.align_corners),
                         from_normalised(t[3] * u + t[4] * v + t[5], p.in_h * p.upsample, p.align_corners), p);
      }
      for (int64_t c = 0; c < p.channels; ++c) {
        const float* source = x + (n * p.channels + c) * in_plane;
        float* target = out + (n * p.channels + c) * out_plane + i * p.out_w;
        for (int64_t j = 0; j < p.out_w; ++j) {
          const Tap& tap = taps[j];
          target[j] = source[tap.offset[0]] * tap.weight[0] + source[tap.offset[1]] * tap.weight[1] +
                      source[tap.offset[2]] * tap.weight[2] + source[tap.offset[3]] * tap.weight[3];
        }
      }
    }
  });
}

}  // namespace fhrt
