// A running mean of pictures that move.
#pragma once
#include <cstdint>

namespace fhrt {

struct BlendMoved {
  int64_t count, channels, h, w;
};

// Where pictures lie: [count, 2, 3], pixel centres at integers. Pixels of the mean before and of the newest to those of the small pictures
// that they were made of, and those of the newest of these to those of the one before.
struct Ways {
  const double* before;
  const double* now;
  const float* back;
};

// before: per picture the mean so far, planes [channels, h, w], or null; now [count, channels, h, w] the newest; out like now: the mean moved
// to where the newest is, plus weights [count] times what the newest differs from that. The mean is read by Keys' cubic (a = -0.5); beyond
// its border that is replicated. Without a mean before, out is the newest. All pictures and weights float32.
void blend_moved_cpu(const float* const* before, const float* now, const Ways& ways, const float* weights, float* out, const BlendMoved& p);

}  // namespace fhrt
