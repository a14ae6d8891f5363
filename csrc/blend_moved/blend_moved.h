// A running mean of pictures that move.
#pragma once
#include <cstdint>

namespace fhrt {

struct BlendMoved {
  int64_t count, channels, h, w;
};

// before: per picture the mean so far, planes [channels, h, w], or null; now [count, channels, h, w] the newest; out like now: the mean moved
// to where the newest is, plus weights [count] times what the newest differs from that. maps [count, 2, 3]: pixel of the newest to pixel of
// the mean before, pixel centres at integers, read by Keys' cubic (a = -0.5); beyond its border that is replicated. Without a mean before,
// out is the newest. All float32.
void blend_moved_cpu(const float* const* before, const float* now, const float* maps, const float* weights, float* out, const BlendMoved& p);

}  // namespace fhrt
