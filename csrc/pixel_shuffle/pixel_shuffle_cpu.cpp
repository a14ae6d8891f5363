#include "../parallel.h"
#include "pixel_shuffle.h"
#include "pixel_shuffle_simd.h"

namespace fhrt {

template <typename T>
void pixel_shuffle_cpu(const T* x, const Strides& xs, T* out, const PixelShuffle& p) {
  const auto work = FHRT_BEST(shuffle_rows<T>);
  const int64_t columns = p.w * p.factor;
  parallel_for(p.batch * p.channels * p.h * p.factor, columns / 8 + 2, [&](int64_t begin, int64_t end) { work(x, xs, out, p, begin, end); });
}

template <typename T>
void pixel_shuffle_backward_cpu(const T* grad, const Strides& gs, const T* x, const Strides& xs, T* grad_x, const PixelShuffle& p) {
  const auto work = FHRT_BEST(shuffle_rows_backward<T>);
  const int64_t columns = p.w * p.factor;
  parallel_for(p.batch * p.channels * p.h * p.factor, columns / 4 + 2,
               [&](int64_t begin, int64_t end) { work(grad, gs, x, xs, grad_x, p, begin, end); });
}

#define FHRT_SHUFFLE(T)                                                                     \
  template void pixel_shuffle_cpu<T>(const T*, const Strides&, T*, const PixelShuffle&);    \
  template void pixel_shuffle_backward_cpu<T>(const T*, const Strides&, const T*, const Strides&, T*, const PixelShuffle&);
FHRT_SHUFFLE(float)
FHRT_SHUFFLE(Half)
FHRT_SHUFFLE(BFloat16)
#undef FHRT_SHUFFLE

}  // namespace fhrt
