#include "to_image.h"

#include "../parallel.h"

namespace fhrt {

void to_image_cpu(const float* x, uint8_t* out, const ToImage& p) {
  const int64_t factor = p.factor, rows = p.h * factor, row_bytes = p.w * factor * p.channels, plane = p.h * p.w;
  const float low = p.low, scale = 255.0f / (p.high - p.low);
  parallel_for(p.batch * rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / rows, y = task % rows;
      uint8_t* target = out + task * row_bytes;
      for (int64_t c = 0; c < p.channels; ++c) {
        for (int64_t b = 0; b < factor; ++b) {
          const int64_t channel = (c * factor + y % factor) * factor + b;
          const float* source = x + (n * p.channels * factor * factor + channel) * plane + y / factor * p.w;
          for (int64_t j = 0; j < p.w; ++j) target[(j * factor + b) * p.channels + c] = grey_level(source[j], low, scale);
        }
      }
    }
  });
}

}  // namespace fhrt
