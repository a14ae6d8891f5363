// Structural similarity with a separable window (Wang et al., 2004).
#pragma once
#include <cstdint>

namespace fhrt {

struct Ssim {
  int64_t planes, h, w;
  int64_t window;         // odd
  const double* weights;  // [window], sums to 1
  bool same;              // pad the moments' windows with zeros to keep [h, w]; else only whole windows: [h-window+1, w-window+1]
  double c1, c2;
};

// a, b [planes, h, w] contiguous; map [planes, out_h, out_w] may be null; mean [planes]. Moments in double for either type.
template <typename T>
void ssim_cpu(const T* a, const T* b, double* map, double* mean, const Ssim& p);

}  // namespace fhrt
