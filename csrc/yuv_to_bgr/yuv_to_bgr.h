// A decoder's planes as a picture.
#pragma once
#include <cstdint>

#include "../face_crop/face_crop.h"

namespace fhrt {

// Rows of luma [h, w] and of the chroma planes [(h + 1) / 2, (w + 1) / 2] begin `luma_row` and `chroma_row` bytes apart.
struct YuvToBgr {
  int64_t h, w, luma_row, chroma_row;
  YuvToRgb to_rgb;
};

// out [h, w, 3]. Each chroma pixel counts for the 2x2 luma pixels that it lies among. On the caller's thread: frames of several cameras are
// converted side by side.
void yuv_to_bgr_cpu(const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, uint8_t* out, const YuvToBgr& p);

}  // namespace fhrt
