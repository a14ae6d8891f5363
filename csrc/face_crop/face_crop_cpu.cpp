#include "face_crop.h"

#include <algorithm>
#include <cmath>

#include "../parallel.h"

namespace fhrt {

void face_crop_cpu(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p) {
  const int64_t plane = p.out_h * p.out_w;
  parallel_for(p.count * p.out_h, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p.out_h, i = row % p.out_h;
      const float* t = transforms + n * 6;
      const auto samples = [&](float dx, float dy) {
        // An eighth of a pixel of slack: a crop at (nearly) the frame's own scale stays a plain bilinear sample. More samples than the
        // frame has pixels add nothing.
        const float most = static_cast<float>(std::max(p.frame_h, p.frame_w));
        return std::max(1, static_cast<int>(std::min(std::ceil(std::hypot(dx, dy) - 0.125f), most)));
      };
      const int kx = samples(t[0], t[3]), ky = samples(t[1], t[4]);
      for (int64_t j = 0; j < p.out_w; ++j) {
        float sum[4] = {0, 0, 0, 0};
        for (int sy = 0; sy < ky; ++sy) {
          for (int sx = 0; sx < kx; ++sx) {
            const float u = static_cast<float>(j) + (static_cast<float>(sx) + 0.5f) / static_cast<float>(kx) - 0.5f;
            const float v = static_cast<float>(i) + (static_cast<float>(sy) + 0.5f) / static_cast<float>(ky) - 0.5f;
            const float x = std::min(std::max(t[0] * u + t[1] * v + t[2], 0.0f), static_cast<float>(p.frame_w - 1));
            const float y = std::min(std::max(t[3] * u + t[4] * v + t[5], 0.0f), static_cast<float>(p.frame_h - 1));
            const int64_t x0 = static_cast<int64_t>(x), y0 = static_cast<int64_t>(y);
            const int64_t x1 = std::min(x0 + 1, p.frame_w - 1), y1 = std::min(y0 + 1, p.frame_h - 1);
            const float ax = x - static_cast<float>(x0), ay = y - static_cast<float>(y0);
            const uint8_t *top = frame + y0 * p.row_bytes, *bottom = frame + y1 * p.row_bytes;
            for (int64_t c = 0; c < p.channels; ++c) {
              const float a = top[x0 * p.channels + c], b = top[x1 * p.channels + c];
              const float d = bottom[x0 * p.channels + c], e = bottom[x1 * p.channels + c];
              const float upper = a + ax * (b - a), lower = d + ax * (e - d);
              sum[c] += upper + ay * (lower - upper);
            }
          }
        }
        for (int64_t c = 0; c < p.channels; ++c)
          out[(n * p.channels + c) * plane + i * p.out_w + j] = (sum[c] / static_cast<float>(kx * ky) - p.mean[c]) / p.std[c];
      }
    }
  });
}

}  // namespace fhrt
