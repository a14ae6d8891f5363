#include "../parallel.h"
#include "face_crop_math.h"
#include "face_crop_simd.h"

namespace fhrt {

void face_crop_cpu(const uint8_t* frame, const uint8_t* chroma, const float* transforms, float* out, const FaceCrop& p) {
  const auto work = FHRT_BEST(crop_rows);
  int64_t samples = 0;
  for (int64_t n = 0; n < p.count; ++n) {
    const float* t = transforms + n * 6;
    samples += static_cast<int64_t>(crop_samples(t[0], t[3], p)) * crop_samples(t[1], t[4], p);
  }
  parallel_for(p.count * p.out_h, 8 * p.out_w * (samples / (p.count > 0 ? p.count : 1)),
               [&](int64_t begin, int64_t end) { work(frame, chroma, transforms, out, p, begin, end); });
}

}  // namespace fhrt
