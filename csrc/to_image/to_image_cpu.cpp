#include "../parallel.h"
#include "to_image.h"
#include "to_image_simd.h"

namespace fhrt {

template <typename T>
void to_image_cpu(const T* x, const Strides& xs, uint8_t* out, const ToImage& p) {
  const auto work = FHRT_BEST(image_rows<T>);
  parallel_for(p.batch * p.h * p.factor, p.w * p.factor * p.channels / 6 + 2,
               [&](int64_t begin, int64_t end) { work(x, xs, out, p, begin, end); });
}

template void to_image_cpu<float>(const float*, const Strides&, uint8_t*, const ToImage&);
template void to_image_cpu<Half>(const Half*, const Strides&, uint8_t*, const ToImage&);
template void to_image_cpu<BFloat16>(const BFloat16*, const Strides&, uint8_t*, const ToImage&);

}  // namespace fhrt
