#include "../parallel.h"
#include "face_crop_math.h"
#include "face_crop_simd.h"

namespace fhrt {

void face_crop_cpu(const uint8_t* frame, const uint8_t* chroma, const float* transforms, float* out, const FaceCrop& p) {
  const auto work = FHRT_BEST(crop_rows);
  int64_t taps = 0;
  for (int64_t n = 0; n < p.count; ++n) {
    const float* t = transforms + n * 6;
    taps += int64_t{crop_axis(t[0], t[1], p.frame.w).taps} * crop_axis(t[3], t[4], p.frame.h).taps;
  }
  parallel_for(p.count * p.out_h, p.out_w * (8 + taps / (6 * (p.count > 0 ? p.count : 1))),
               [&](int64_t begin, int64_t end) { work(frame, chroma, transforms, out, p, begin, end); });
}

}  // namespace fhrt
