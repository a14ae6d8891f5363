#include "../parallel.h"
#include "../scratch.h"
#include "match_templates_simd.h"

namespace fhrt {

void match_templates_cpu(const uint8_t* frame, const double* squares, const float* templates, float* out, const MatchTemplates& p) {
  const auto work = FHRT_BEST(match_template);
  const int64_t area = p.side * p.side, places = (2 * p.reach + 1) * (2 * p.reach + 1);
  parallel_for(p.count, 20 * p.window() * p.window() + places * area / 8, [&](int64_t begin, int64_t end) {
    const Scratch scratch(match_scratch(p));
    for (int64_t n = begin; n < end; ++n) work(frame, squares + n * 3, templates + n * area, out + n * 3, p, scratch.floats());
  });
}

}  // namespace fhrt
