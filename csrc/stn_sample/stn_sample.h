// Bilinear sampling of feature maps along affine thetas; no grid is stored.
#pragma once
#include <cstdint>

namespace fhrt {

struct StnSample {
  int64_t batch, channels, in_h, in_w, out_h, out_w;
  int upsample;        // sample the nearest-upsampled ×upsample map without storing it; in_h, in_w are those of the stored map
  bool align_corners;  // as torch.nn.functional.affine_grid
  bool border;         // positions outside: clamp to the border, or count as zero
};

// x [batch, channels, in_h, in_w], theta [batch, 2, 3] (normalised, output position to input position),
// out [batch, channels, out_h, out_w]; all contiguous float32.
void stn_sample_cpu(const float* x, const float* theta, float* out, const StnSample& p);

}  // namespace fhrt
