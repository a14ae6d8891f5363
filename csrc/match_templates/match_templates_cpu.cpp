#include "../scratch.h"
#include "match_templates_simd.h"

namespace fhrt {

void match_templates_cpu(const uint8_t* frame, const double* squares, const float* templates, float* out, const MatchTemplates& p) {
  const auto work = FHRT_BEST(match_template);
  // On the caller's thread alone: a stream has several that follow faces, and to wake others takes longer than a few of these.
  const Scratch scratch(match_scratch(p));
  for (int64_t n = 0; n < p.count; ++n) work(frame, squares + n * 3, templates + n * p.side * p.side, out + n * 3, p, scratch.floats());
}

}  // namespace fhrt
