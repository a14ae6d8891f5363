// fuse_crops' work on one face, for each instruction set.
#pragma once
#include "../isa.h"
#include "fuse_crops.h"

namespace fhrt {

// Of a plane in whole vectors.
constexpr int64_t plane_floats(const Crops& p) { return (p.h * p.w + 15) / 16 * 16; }

// Floats that one face takes, aligned to 64 bytes; after its planes the axes' weights, or a row with its ends repeated, and taps.
constexpr int64_t fuse_scratch(const Crops& p) { return 12 * plane_floats(p) + 9 * p.w + p.h + 16; }

// register_crop: whether the reference is found in the crop, and where. average_crops: of those with a weight.
FHRT_EACH_ISA(bool register_crop(const float* reference, const float* crop, Place& place, const Crops& p, float* scratch);
              void average_crops(const float* const* crops, const double* places, const double* weights, int64_t most, float* mean, float* half,
                                 const Crops& p, float* scratch);
              double crop_look(const float* crop, const Crops& p, float* scratch);)

}  // namespace fhrt
