#include "../parallel.h"
#include "face_crop_math.h"

namespace fhrt {

void face_crop_cpu(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p) {
  const int64_t plane = p.out_h * p.out_w;
  parallel_for(p.count * p.out_h, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p.out_h, i = row % p.out_h;
      const float* t = transforms + n * 6;
      const int kx = crop_samples(t[0], t[3], p), ky = crop_samples(t[1], t[4], p);
      for (int64_t j = 0; j < p.out_w; ++j) {
        float level[kMaxFrameChannels];
        crop_pixel(frame, t, i, j, kx, ky, p, level);
        for (int64_t c = 0; c < p.channels; ++c) out[(n * p.channels + c) * plane + i * p.out_w + j] = (level[c] - p.mean[c]) / p.std[c];
      }
    }
  });
}

}  // namespace fhrt
