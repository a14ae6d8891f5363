#include <algorithm>
#include <memory>
#include <vector>

#include "../parallel.h"
#include "ssim.h"
#include "ssim_simd.h"

namespace fhrt {
namespace {

// Fixed, so that no sum depends on the number of threads. A band filters `window` - 1 rows along that its neighbour filters too.
constexpr int64_t kBand = 64;

int64_t bands_of(int64_t rows) { return (rows + kBand - 1) / kBand; }

// Evenly, not 64 and a little rest.
int64_t band_start(int64_t band, int64_t bands, int64_t rows) { return band * rows / bands; }

}  // namespace

template <typename T>
void ssim_cpu(const T* a, const T* b, double* map, double* mean, const Ssim& p) {
  const auto work = FHRT_BEST(ssim_band<T>);
  const int64_t out_h = p.out_h(), out_w = p.out_w(), bands = bands_of(out_h);
  std::vector<double> sums(p.planes * bands);
  parallel_for(p.planes * bands, 4 * out_h * out_w / bands, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[ssim_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t plane = item / bands, band = item % bands;
      sums[item] = work(a + plane * p.h * p.w, b + plane * p.h * p.w, map ? map + plane * out_h * out_w : nullptr, p,
                        band_start(band, bands, out_h), band_start(band + 1, bands, out_h), scratch.get());
    }
  });
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    mean[plane] = 0;
    for (int64_t band = 0; band < bands; ++band) mean[plane] += sums[plane * bands + band];
    mean[plane] /= static_cast<double>(out_h * out_w);
  }
}

template <typename T>
void ssim_backward_cpu(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p) {
  const auto work = FHRT_BEST(ssim_band_backward<T>);
  const int64_t windows = p.out_h() * p.out_w(), pixels = p.h * p.w, bands = bands_of(p.h);
  parallel_for(p.planes * bands, 10 * pixels / bands, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[ssim_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t plane = item / bands, band = item % bands, start = plane * pixels;
      const double share = upstream_is_map ? 0 : upstream[plane] / static_cast<double>(windows);
      work(a + start, b + start, upstream_is_map ? upstream + plane * windows : &share, upstream_is_map, grad_a ? grad_a + start : nullptr,
           grad_b ? grad_b + start : nullptr, p, band_start(band, bands, p.h), band_start(band + 1, bands, p.h), scratch.get());
    }
  });
}

#define FHRT_SSIM(T)                                                                     \
  template void ssim_cpu<T>(const T*, const T*, double*, double*, const Ssim&);          \
  template void ssim_backward_cpu<T>(const T*, const T*, const double*, bool, T*, T*, const Ssim&);
FHRT_SSIM(float)
FHRT_SSIM(double)
FHRT_SSIM(Half)
FHRT_SSIM(BFloat16)
#undef FHRT_SSIM

}  // namespace fhrt
