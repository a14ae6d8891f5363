// face_crop's work on some rows of the crops, for each instruction set.
#pragma once
#include "../isa.h"
#include "face_crop.h"

namespace fhrt {

// Rows are numbered (crop, row of the crop).
FHRT_EACH_ISA(void crop_rows(const uint8_t* frame, const uint8_t* chroma, const float* transforms, float* out, const FaceCrop& p, int64_t begin,
                             int64_t end);)

}  // namespace fhrt
