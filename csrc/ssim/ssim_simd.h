// ssim's work on a tile of one plane, for each instruction set.
#pragma once
#include "../isa.h"
#include "../numeric.h"
#include "ssim.h"

namespace fhrt {

// Rows and columns of the map, or, on the way back, of the gradient.
struct SsimTile {
  int64_t row0, row1, column0, column1;
};

// Columns of a tile at most: the rows that the filters hold then fit into the first cache.
constexpr int64_t kSsimColumns = 64;

// A row of the scratch and all of it, in doubles. For a window of 11 not 128: rows 4096 bytes apart would share the cache's sets.
FHRT_HD constexpr int64_t ssim_stride_of(int64_t window) { return (kSsimColumns + 3 * window + 15) / 16 * 16; }
FHRT_HD int64_t ssim_stride(const Ssim& p) { return ssim_stride_of(p.window); }
FHRT_HD int64_t ssim_scratch(const Ssim& p) { return ssim_stride(p) * (8 * p.window + 24); }

FHRT_EACH_ISA(
  // a, b: the plane. `map`, the plane's, may be null. Returns the tile's sum.
  template <typename T>
  double ssim_tile(const T* a, const T* b, double* map, const Ssim& p, const SsimTile& tile, double* scratch);
  // `upstream`: of the plane's map, or one number for all of it. One of grad_a and grad_b, the plane's, may be null. In float unless T is
  // double.
  template <typename T>
  void ssim_tile_backward(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p,
                          const SsimTile& tile, double* scratch);
)

}  // namespace fhrt
