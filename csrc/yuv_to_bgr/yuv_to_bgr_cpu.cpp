#include "../scratch.h"
#include "yuv_to_bgr_simd.h"

namespace fhrt {

void yuv_to_bgr_cpu(const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, uint8_t* out, const YuvToBgr& p) {
  const auto chroma = FHRT_BEST(chroma_row);
  const auto row = FHRT_BEST(bgr_row);
  const int64_t width = even_width(p);
  const Scratch scratch(3 * width);  // of 12 bytes per pixel 11 are used
  int16_t *added = reinterpret_cast<int16_t*>(scratch.floats()), *rest = added + 3 * width;
  for (int64_t i = 0; i < p.h; ++i) {
    if (i % 2 == 0) chroma(cb + i / 2 * p.chroma_row, cr + i / 2 * p.chroma_row, added, p);
    row(luma + i * p.luma_row, added, rest, out + i * p.w * 3, p);
  }
}

}  // namespace fhrt
