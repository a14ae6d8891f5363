// to_image's work on a band of rows of one picture, for each instruction set.
#pragma once
#include "../isa.h"
#include "to_image.h"

namespace fhrt {

// Input rows of a band: their levels stay in the first cache.
FHRT_HD int64_t image_band(const ToImage& p) {
  const int64_t row = p.w * p.channels * p.factor * p.factor, rows = 24 * 1024 / (row > 0 ? row : 1);
  return rows < 1 ? 1 : (rows < p.h ? rows : p.h);
}
// Bytes of scratch for one band.
FHRT_HD int64_t image_scratch(const ToImage& p) {
  return image_band(p) * p.w * p.channels * p.factor * p.factor + p.w * p.factor * p.channels;
}

FHRT_EACH_ISA(
  // Input rows [row0, row1) of picture n.
  template <typename T>
  void image_rows(const T* x, const Strides& xs, uint8_t* out, const ToImage& p, int64_t n, int64_t row0, int64_t row1, uint8_t* scratch);
)

}  // namespace fhrt
