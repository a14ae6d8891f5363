#include "ssim.h"

#include <algorithm>
#include <vector>

#include "../parallel.h"
#include "ssim_math.h"

namespace fhrt {

template <typename T>
void ssim_cpu(const T* a, const T* b, double* map, double* mean, const Ssim& p) {
  const int64_t pad = p.same ? p.window / 2 : 0;
  const int64_t out_h = p.h + 2 * pad - p.window + 1, out_w = p.w + 2 * pad - p.window + 1;
  parallel_for(p.planes, 1, [&](int64_t begin, int64_t end) {
    // The five moments a, b, a², b², ab of one output row: first down the columns, then along the row.
    std::vector<double> columns(5 * (p.w + 2 * pad));
    const int64_t stride = p.w + 2 * pad;
    for (int64_t plane = begin; plane < end; ++plane) {
      double total = 0;
      for (int64_t i = 0; i < out_h; ++i) {
        std::fill(columns.begin(), columns.end(), 0.0);
        for (int64_t k = 0; k < p.window; ++k) {
          const int64_t y = i + k - pad;
          if (y < 0 || y >= p.h) continue;
          const T* ra = a + (plane * p.h + y) * p.w;
          const T* rb = b + (plane * p.h + y) * p.w;
          const double weight = p.weights[k];
          double* column = columns.data() + pad;
          for (int64_t j = 0; j < p.w; ++j) {
            const double va = ra[j], vb = rb[j];
            column[j] += weight * va;
            column[stride + j] += weight * vb;
            column[2 * stride + j] += weight * va * va;
            column[3 * stride + j] += weight * vb * vb;
            column[4 * stride + j] += weight * va * vb;
          }
        }
        for (int64_t j = 0; j < out_w; ++j) {
          double moment[5] = {0, 0, 0, 0, 0};
          for (int m = 0; m < 5; ++m) {
            const double* column = columns.data() + m * stride + j;
            for (int64_t k = 0; k < p.window; ++k) moment[m] += p.weights[k] * column[k];
          }
          const double value = ssim_value(
              SsimMoments<double>{moment[0], moment[1], moment[2] - moment[0] * moment[0], moment[3] - moment[1] * moment[1],
                                  moment[4] - moment[0] * moment[1]},
              p.c1, p.c2);
          total += value;
          if (map) map[(plane * out_h + i) * out_w + j] = value;
        }
      }
      mean[plane] = total / static_cast<double>(out_h * out_w);
    }
  });
}

template void ssim_cpu<float>(const float*, const float*, double*, double*, const Ssim&);
template void ssim_cpu<double>(const double*, const double*, double*, double*, const Ssim&);

}  // namespace fhrt
