#include "pixel_shuffle.h"

#include "../parallel.h"

namespace fhrt {

void pixel_shuffle_cpu(const float* x, float* out, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t factor) {
  const int64_t rows = h * factor, columns = w * factor;
  parallel_for(batch * channels * rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / rows, y = task % rows, i = y / factor, a = y % factor;
      const float* source = x + ((plane * factor + a) * factor * h + i) * w;
      float* target = out + task * columns;
      for (int64_t j = 0; j < w; ++j)
        for (int64_t b = 0; b < factor; ++b) target[j * factor + b] = source[b * h * w + j];
    }
  });
}

}  // namespace fhrt
