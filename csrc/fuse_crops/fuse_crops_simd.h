// fuse_crops' work on one face, for each instruction set.
#pragma once
#include "../isa.h"
#include "fuse_crops.h"

namespace fhrt {

// Of a plane in whole vectors.
constexpr int64_t plane_floats(const Crops& p) { return (p.h * p.w + 15) / 16 * 16; }

// Floats that one face takes, aligned to 64 bytes.
constexpr int64_t fuse_scratch(const Crops& p) { return 12 * plane_floats(p) + 9 * p.w + p.h; }

FHRT_EACH_ISA(void register_crop(const float* reference, const float* crop, double* place, const Crops& p, float* scratch);
              void average_crop(const float* const* crops, const double* places, const double* weights, int64_t most, float* mean, float* half,
                                const Crops& p, float* scratch);
              double crop_look(const float* crop, const Crops& p, float* scratch);)

}  // namespace fhrt
