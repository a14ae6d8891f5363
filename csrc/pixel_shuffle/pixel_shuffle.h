// Sub-pixel shuffle (Shi et al., 2016).
#pragma once
#include <cstdint>

namespace fhrt {

// x [batch, channels·factor², h, w] -> out [batch, channels, h·factor, w·factor], contiguous float32, torch's channel order:
// out[n, c, i·r + a, j·r + b] = x[n, (c·r + a)·r + b, i, j].
void pixel_shuffle_cpu(const float* x, float* out, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t factor);

}  // namespace fhrt
