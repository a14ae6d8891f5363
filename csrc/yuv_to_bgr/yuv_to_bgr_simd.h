// yuv_to_bgr's work on a row, for each instruction set.
#pragma once
#include "../isa.h"
#include "../numeric.h"
#include "yuv_to_bgr.h"

namespace fhrt {

// Pixels of a row with its chroma's last one whole.
FHRT_HD int64_t even_width(const YuvToBgr& p) { return (p.w + 1) / 2 * 2; }

FHRT_EACH_ISA(
  // What the chroma of two rows adds to the luma: blue, green and red [3, even_width], in 32nds of a level.
  void chroma_row(const uint8_t* cb, const uint8_t* cr, int16_t* added, const YuvToBgr& p);
  // scratch: of 5 * even_width bytes.
  void bgr_row(const uint8_t* luma, const int16_t* added, int16_t* scratch, uint8_t* out, const YuvToBgr& p);
)

}  // namespace fhrt
