#include <memory>
#include <vector>

#include "../parallel.h"
#include "ssim.h"
#include "ssim_simd.h"

namespace fhrt {
namespace {

constexpr int64_t kRows = 128;  // of a tile at most; a tile filters `window` - 1 rows along that the next one filters too

// A vector that crosses two lines of the cache takes twice as long to load.
struct alignas(64) CacheLine {
  double values[8];
};

std::unique_ptr<CacheLine[]> scratch_of(const Ssim& p) {
  return std::unique_ptr<CacheLine[]>(new CacheLine[(ssim_scratch(p) + 7) / 8]);
}

// Tiles of a plane of this size, evenly cut. They do not depend on the number of threads, so neither does any sum.
struct Tiles {
  int64_t h, w, down, across;

  Tiles(int64_t h_, int64_t w_, int64_t columns) : h(h_), w(w_), down((h_ + kRows - 1) / kRows), across((w_ + columns - 1) / columns) {}
  int64_t count() const { return down * across; }
  SsimTile operator[](int64_t index) const {
    const int64_t i = index / across, j = index % across;
    return {i * h / down, (i + 1) * h / down, j * w / across, (j + 1) * w / across};
  }
};

}  // namespace

template <typename T>
void ssim_cpu(const T* a, const T* b, double* map, double* mean, const Ssim& p) {
  const auto work = FHRT_BEST(ssim_tile<T>);
  const int64_t windows = p.out_h() * p.out_w();
  const Tiles tiles(p.out_h(), p.out_w(), kSsimColumns);
  std::vector<double> sums(p.planes * tiles.count());
  parallel_for(p.planes * tiles.count(), 4 * windows / tiles.count(), [&](int64_t begin, int64_t end) {
    const auto scratch = scratch_of(p);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t plane = item / tiles.count(), start = plane * p.h * p.w;
      sums[item] = work(a + start, b + start, map ? map + plane * windows : nullptr, p, tiles[item % tiles.count()], scratch[0].values);
    }
  });
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    mean[plane] = 0;
    for (int64_t tile = 0; tile < tiles.count(); ++tile) mean[plane] += sums[plane * tiles.count() + tile];
    mean[plane] /= static_cast<double>(windows);
  }
}

template <typename T>
void ssim_backward_cpu(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p) {
  const auto work = FHRT_BEST(ssim_tile_backward<T>);
  const int64_t windows = p.out_h() * p.out_w(), pixels = p.h * p.w;
  const Tiles tiles(p.h, p.w, kSsimColumns);
  parallel_for(p.planes * tiles.count(), 10 * pixels / tiles.count(), [&](int64_t begin, int64_t end) {
    const auto scratch = scratch_of(p);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t plane = item / tiles.count(), start = plane * pixels;
      const double share = upstream_is_map ? 0 : upstream[plane] / static_cast<double>(windows);
      work(a + start, b + start, upstream_is_map ? upstream + plane * windows : &share, upstream_is_map, grad_a ? grad_a + start : nullptr,
           grad_b ? grad_b + start : nullptr, p, tiles[item % tiles.count()], scratch[0].values);
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
