// ssim's work on a band of rows of one plane, for each instruction set.
#pragma once
#include "../isa.h"
#include "../numeric.h"
#include "ssim.h"

namespace fhrt {

// Doubles of scratch for one call.
FHRT_HD int64_t ssim_stride(const Ssim& p) { return (p.w + 3 * p.window + 15) / 8 * 8; }
FHRT_HD int64_t ssim_scratch(const Ssim& p) { return ssim_stride(p) * (8 * p.window + 24); }

FHRT_EACH_ISA(
  // a, b: the plane. Rows [row0, row1) of the map; `map`, the plane's, may be null. Returns their sum.
  template <typename T>
  double ssim_band(const T* a, const T* b, double* map, const Ssim& p, int64_t row0, int64_t row1, double* scratch);
  // Rows [row0, row1) of the gradients. `upstream`: of the plane's map, or one number for all of it.
  template <typename T>
  void ssim_band_backward(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p,
                          int64_t row0, int64_t row1, double* scratch);
)

}  // namespace fhrt
