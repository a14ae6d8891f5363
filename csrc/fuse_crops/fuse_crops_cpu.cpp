#include "../parallel.h"
#include "../scratch.h"
#include "fuse_crops_simd.h"

namespace fhrt {

void register_crops_cpu(const float* const* references, const float* const* crops, double* places, const Crops& p) {
  const auto work = FHRT_BEST(register_crop);
  parallel_for(p.count, 12 * p.h * p.w, [&](int64_t begin, int64_t end) {
    const Scratch scratch(fuse_scratch(p));
    for (int64_t n = begin; n < end; ++n) work(references[n], crops[n], places + 3 * n, p, scratch.floats());
  });
}

void average_crops_cpu(const float* const* crops, const double* places, const double* weights, int64_t most, float* means, float* halves,
                       const Crops& p) {
  const auto work = FHRT_BEST(average_crop);
  const int64_t size = 3 * p.h * p.w;
  parallel_for(p.count, 2 * most * size, [&](int64_t begin, int64_t end) {
    const Scratch scratch(fuse_scratch(p));
    for (int64_t n = begin; n < end; ++n)
      work(crops + n * most, places + 3 * n * most, weights + n * most, most, means + n * size, halves + n * size / 4, p, scratch.floats());
  });
}

void crop_looks_cpu(const float* const* crops, double* looks, const Crops& p) {
  const auto work = FHRT_BEST(crop_look);
  parallel_for(p.count, 2 * p.h * p.w, [&](int64_t begin, int64_t end) {
    const Scratch scratch(fuse_scratch(p));
    for (int64_t n = begin; n < end; ++n) looks[n] = work(crops[n], p, scratch.floats());
  });
}

}  // namespace fhrt
