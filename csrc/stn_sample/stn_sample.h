// Bilinear sampling of feature maps along affine thetas; no grid is stored.
#pragma once
#include <cstdint>

#include "../numeric.h"

namespace fhrt {

struct StnSample {
  int64_t batch, channels, in_h, in_w, out_h, out_w;
  int upsample;        // sample the nearest-upsampled ×upsample map without storing it; in_h, in_w are those of the stored map
  bool align_corners;  // as torch.nn.functional.affine_grid
  bool border;         // positions outside: clamp to the border, or count as zero
};

// T is float, Half or BFloat16. x [batch, channels, in_h, in_w] and out [batch, channels, out_h, out_w] of any strides; theta
// [batch, 2, 3] contiguous (normalised, output position to input position).
template <typename T>
void stn_sample_cpu(const T* x, const Strides& xs, const float* theta, T* out, const Strides& os, const StnSample& p);

// grad like out, of any strides. grad_x contiguous, like x; grad_theta [batch, 2, 3]; each may be null. The same bits on every run.
template <typename T>
void stn_sample_backward_cpu(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, T* grad_x,
                             float* grad_theta, const StnSample& p);

}  // namespace fhrt
