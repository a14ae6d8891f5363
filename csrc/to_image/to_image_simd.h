// to_image's work on some rows of the pictures, for each instruction set.
#pragma once
#include "../isa.h"
#include "to_image.h"

namespace fhrt {

// Rows are numbered (picture, row of the picture).
FHRT_EACH_ISA(
  template <typename T>
  void image_rows(const T* x, const Strides& xs, uint8_t* out, const ToImage& p, int64_t begin, int64_t end);
)

}  // namespace fhrt
