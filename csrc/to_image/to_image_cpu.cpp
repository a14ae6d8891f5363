#include <algorithm>
#include <memory>

#include "../parallel.h"
#include "to_image.h"
#include "to_image_simd.h"

namespace fhrt {

template <typename T>
void to_image_cpu(const T* x, const Strides& xs, uint8_t* out, const ToImage& p) {
  const auto work = FHRT_BEST(image_rows<T>);
  const int64_t band = image_band(p), bands = (p.h + band - 1) / band, inputs = p.channels * p.factor * p.factor;
  parallel_for(p.batch * bands, band * p.w * inputs / 4, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint8_t[]> scratch(new uint8_t[image_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row0 = item % bands * band;
      work(x, xs, out, p, item / bands, row0, std::min(row0 + band, p.h), scratch.get());
    }
  });
}

template void to_image_cpu<float>(const float*, const Strides&, uint8_t*, const ToImage&);
template void to_image_cpu<Half>(const Half*, const Strides&, uint8_t*, const ToImage&);
template void to_image_cpu<BFloat16>(const BFloat16*, const Strides&, uint8_t*, const ToImage&);

}  // namespace fhrt
