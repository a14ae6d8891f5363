// Structural similarity with a separable window (Wang et al., 2004).
#pragma once
#include <cstdint>

#include "../numeric.h"

namespace fhrt {

struct Ssim {
  int64_t planes, h, w;
  int64_t window;         // odd
  const double* weights;  // [window], symmetric, sums to 1
  bool same;              // pad the moments' windows with zeros to keep [h, w]; else only whole windows: [h-window+1, w-window+1]
  double c1, c2;

  FHRT_HD int64_t pad() const { return same ? window / 2 : 0; }
  FHRT_HD int64_t out_h() const { return h + 2 * pad() - window + 1; }
  FHRT_HD int64_t out_w() const { return w + 2 * pad() - window + 1; }
};

// T is float, double, Half or BFloat16; everything is computed in double. a, b [planes, h, w] contiguous; map [planes, out_h, out_w] may
// be null; mean [planes].
template <typename T>
void ssim_cpu(const T* a, const T* b, double* map, double* mean, const Ssim& p);

// Gradients to a and b, each like its input or null. `upstream` is the gradient of the map, or [planes] of the means. The moments are
// computed again: the forward pass keeps nothing.
template <typename T>
void ssim_backward_cpu(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p);

}  // namespace fhrt
