#include "../parallel.h"
#include "pixel_shuffle.h"

namespace fhrt {

void pixel_shuffle_cpu(const float* x, float* out, const PixelShuffle& p) {
  const int64_t factor = p.factor, rows = p.h * factor, columns = p.w * factor, plane = p.h * p.w;
  parallel_for(p.batch * p.channels * rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t picture = task / rows / p.channels, c = task / rows % p.channels, y = task % rows;
      float* target = out + task * columns;
      for (int64_t b = 0; b < factor; ++b) {
        const int64_t channel = shuffled_channel(c, static_cast<int>(y % factor), static_cast<int>(b), p.factor);
        const float* source = x + (picture * p.channels * factor * factor + channel) * plane + y / factor * p.w;
        // Bias and slope in registers: the loop below is then a plain one for the compiler.
        const float bias = p.bias ? p.bias[channel] : 0.0f, slope = p.negative_slope;
        for (int64_t j = 0; j < p.w; ++j) {
          const float value = source[j] + bias;
          target[j * factor + b] = value < 0 ? value * slope : value;
        }
      }
    }
  });
}

}  // namespace fhrt
