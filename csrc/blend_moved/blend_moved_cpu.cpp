#include <algorithm>

#include "../scratch.h"
#include "blend_moved_simd.h"

namespace fhrt {
namespace {

// The affine map [2, 3] that `inner` and then `outer` are together.
template <typename Outer>
void compose(const Outer* outer, const double* inner, double* both) {
  for (int row = 0; row < 6; row += 3)
    for (int k = 0; k < 3; ++k) both[row + k] = outer[row] * inner[k] + outer[row + 1] * inner[3 + k] + (k == 2 ? outer[row + 2] : 0);
}

void invert(const double* m, double* back) {
  const double a = m[0], b = m[1], x = m[2], c = m[3], d = m[4], y = m[5], area = a * d - b * c;
  const double wanted[6] = {d, -b, b * y - d * x, -c, a, c * x - a * y};
  for (int k = 0; k < 6; ++k) back[k] = wanted[k] / area;
}

}  // namespace

void blend_moved_cpu(const float* const* before, const float* now, const Ways& ways, const float* weights, float* out, const BlendMoved& p) {
  const auto pad = FHRT_BEST(pad_rows);
  const auto blend = FHRT_BEST(blend_rows);
  const int64_t size = p.channels * p.h * p.w;
  // On the caller's thread alone: a stream has several that follow faces, and to wake others takes longer than a few of these.
  const Scratch scratch(blend_scratch(p));
  for (int64_t n = 0; n < p.count; ++n) {
    if (before[n] == nullptr) {
      std::copy_n(now + n * size, size, out + n * size);
      continue;
    }
    double from_small[6], to_small[6], way[6];
    invert(ways.before + n * 6, from_small);
    compose(ways.back + n * 6, ways.now + n * 6, to_small);
    compose(from_small, to_small, way);
    float map[6];
    std::transform(way, way + 6, map, [](double v) { return static_cast<float>(v); });
    pad(before[n], scratch.floats(), p);
    blend(scratch.floats(), now + n * size, map, weights[n], out + n * size, p);
  }
}

}  // namespace fhrt
