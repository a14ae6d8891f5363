#include "stn_sample.h"

#include <vector>

#include "../parallel.h"
#include "stn_math.h"

namespace fhrt {

void stn_sample_cpu(const float* x, const float* theta, float* out, const StnSample& p) {
  const int64_t in_plane = p.in_h * p.in_w, out_plane = p.out_h * p.out_w;
  // One task is a row of one picture: its taps are worked out once and serve all channels.
  parallel_for(p.batch * p.out_h, 8, [&](int64_t begin, int64_t end) {
    std::vector<Tap> taps(p.out_w);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p.out_h, i = row % p.out_h;
      for (int64_t j = 0; j < p.out_w; ++j) {
        float px, py;
        stn_position(theta + n * 6, i, j, p, px, py);
        taps[j] = stn_tap(px, py, p, p.in_w, 1);
      }
      for (int64_t c = 0; c < p.channels; ++c) {
        const float* source = x + (n * p.channels + c) * in_plane;
        float* target = out + (n * p.channels + c) * out_plane + i * p.out_w;
        for (int64_t j = 0; j < p.out_w; ++j) target[j] = stn_read(source, taps[j]);
      }
    }
  });
}

}  // namespace fhrt
