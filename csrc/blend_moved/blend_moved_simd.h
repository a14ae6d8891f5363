// blend_moved's work on some rows of a picture, for each instruction set.
#pragma once
#include "../isa.h"
#include "blend_moved.h"

namespace fhrt {

constexpr int64_t kBlendPad = 32;  // columns to either side of a row

// Of a copy of the mean, its rows padded.
constexpr int64_t blend_scratch(const BlendMoved& p) { return p.channels * p.h * (p.w + 2 * kBlendPad); }

FHRT_EACH_ISA(void pad_rows(const float* before, float* padded, const BlendMoved& p);
              void blend_rows(const float* padded, const float* now, const float* map, float weight, float* out, const BlendMoved& p);)

}  // namespace fhrt
