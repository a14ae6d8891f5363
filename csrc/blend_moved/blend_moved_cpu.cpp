#include <algorithm>

#include "../scratch.h"
#include "blend_moved_simd.h"

namespace fhrt {

void blend_moved_cpu(const float* const* before, const float* now, const float* maps, const float* weights, float* out, const BlendMoved& p) {
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
    pad(before[n], scratch.floats(), p);
    blend(scratch.floats(), now + n * size, maps + n * 6, weights[n], out + n * size, p);
  }
}

}  // namespace fhrt
