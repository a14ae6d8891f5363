#include "match_templates_simd.h"

#include "../face_crop/face_crop_simd.h"
#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

// Place of the top of the parabola through values at -1, 0 and 1, of which the middle one is the largest.
FHRT_INLINE float vertex(float before, float middle, float after) {
  const float curvature = before - 2 * middle + after;
  return curvature < 0 ? 0.5f * (before - after) / curvature : 0.0f;
}

// Takes the mean away; the sum of squares that is left.
FHRT_INLINE float centred(const float* values, float* out, int64_t count) {
  double sum = 0, power = 0;
  for (int64_t k = 0; k < count; ++k) sum += values[k];
  const float mean = static_cast<float>(sum / static_cast<double>(count));
  for (int64_t k = 0; k < count; ++k) {
    out[k] = values[k] - mean;
    power += out[k] * out[k];
  }
  return static_cast<float>(power);
}

}  // namespace

void match_template(const uint8_t* frame, const double* square, const float* picture, float* out, const MatchTemplates& p, float* scratch) {
  const int64_t side = p.side, size = p.window(), area = side * side, places = 2 * p.reach + 1, stride = places + 16;
  float *window = scratch + size * size, *centre = scratch + 3 * size * size, *likeness = centre + area;
  out[0] = out[1] = out[2] = 0;
  const float power = centred(picture, centre, area);
  if (!(power > p.flat * p.flat * static_cast<float>(area))) return;

  const double scale = square[2] / static_cast<double>(side), corner = scale * (static_cast<double>(size) / 2 - 0.5) + 0.5;
  const float transform[6] = {static_cast<float>(scale), 0, static_cast<float>(square[0] - corner),
                              0, static_cast<float>(scale), static_cast<float>(square[1] - corner)};
  const FaceCrop crop{1, size, size, p.frame, {}, {0, 0, 0, 0}, {1, 1, 1, 1}, {}};
  crop_rows(frame, nullptr, transform, scratch, crop, 0, size);
  centred(window, window, size * size);  // sums of squares of what lies about 0 lose fewer digits

  constexpr int L = kWide;
  const float one = 1 / static_cast<float>(area);
  for (int64_t y = 0; y < places; ++y) {
    for (int64_t x = 0; x < places; x += L) {
      Floats<L> both = {}, sum = {}, squares = {};
      for (int64_t r = 0; r < side; ++r) {
        for (int64_t c = 0; c < side; ++c) {
          const Floats<L> seen = load<L>(window + (y + r) * size + x + c);  // beyond the row: places that nobody asks for
          both += centre[r * side + c] * seen;
          sum += seen;
          squares += seen * seen;
        }
      }
      const Floats<L> variance = (squares - one * sum * sum) * power;
      for (int l = 0; l < L; ++l) likeness[y * stride + x + l] = variance[l] > 1e-3f * power ? both[l] / __builtin_sqrtf(variance[l]) : 0;
    }
  }
  int64_t best_x = 0, best_y = 0;
  for (int64_t y = 0; y < places; ++y)
    for (int64_t x = 0; x < places; ++x)
      if (likeness[y * stride + x] > likeness[best_y * stride + best_x]) best_x = x, best_y = y;
  if (best_x == 0 || best_y == 0 || best_x == places - 1 || best_y == places - 1) return;
  const float* best = likeness + best_y * stride + best_x;
  out[0] = static_cast<float>(best_x - p.reach) + vertex(best[-1], best[0], best[1]);
  out[1] = static_cast<float>(best_y - p.reach) + vertex(best[-stride], best[0], best[stride]);
  out[2] = best[0];
}

}  // namespace fhrt::FHRT_ISA
