// pixel_shuffle's work on some rows of cells, for each instruction set.
#pragma once
#include "../isa.h"
#include "pixel_shuffle.h"

namespace fhrt {

// Rows are numbered (picture, output channel, input row, row within the cell): one is a row of the output, fed by `factor` input rows.
FHRT_EACH_ISA(
  template <typename T>
  void shuffle_rows(const T* x, const Strides& xs, T* out, const PixelShuffle& p, int64_t begin, int64_t end);
  template <typename T>
  void shuffle_rows_backward(const T* grad, const Strides& gs, const T* x, const Strides& xs, T* grad_x, const PixelShuffle& p, int64_t begin,
                             int64_t end);
)

}  // namespace fhrt
