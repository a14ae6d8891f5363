#include "../parallel.h"
#include "face_crop_math.h"

namespace fhrt {
namespace {

template <int C>
void face_crop(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p) {
  const int64_t plane = p.out_h * p.out_w;
  parallel_for(p.count * p.out_h, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p.out_h, i = row % p.out_h;
      const float* t = transforms + n * 6;
      const int kx = crop_samples(t[0], t[3], p), ky = crop_samples(t[1], t[4], p);
      for (int64_t j = 0; j < p.out_w; ++j) {
        float level[C];
        crop_pixel(frame, t, i, j, kx, ky, p, level);
        for (int c = 0; c < C; ++c) out[(n * C + c) * plane + i * p.out_w + j] = (level[c] - p.mean[c]) / p.std[c];
      }
    }
  });
}

}  // namespace

void face_crop_cpu(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p) {
  constexpr void (*versions[])(const uint8_t*, const float*, float*, const FaceCrop&) = {face_crop<1>, face_crop<2>, face_crop<3>, face_crop<4>};
  versions[p.channels - 1](frame, transforms, out, p);
}

}  // namespace fhrt
