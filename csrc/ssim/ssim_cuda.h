// The device side of ssim. Pointers are device pointers, `stream` is a cudaStream_t; nothing is allocated, cleared or waited for.
#pragma once
#include "../numeric.h"

namespace fhrt {

constexpr int kMaxSsimWindow = 11;

struct SsimCuda {
  int64_t batch, channels, h, w;
  int window;  // odd, up to kMaxSsimWindow
  float weights[kMaxSsimWindow];
  bool same;  // zero padding, the map as large as the pictures; otherwise whole windows only
  float c1, c2;

  FHRT_HD int64_t out_h() const { return same ? h : h - window + 1; }
  FHRT_HD int64_t out_w() const { return same ? w : w - window + 1; }
};

// Floats of scratch that a mean needs: the sums of the blocks of every plane.
int64_t ssim_partials(const SsimCuda& p);

// T is float, Half or BFloat16; a, b [batch, channels, h, w] of any strides. map [batch * channels, out_h, out_w] float32, or null;
// mean [batch * channels] float32 with its scratch, or both null.
template <typename T>
void ssim_cuda(const T* a, const Strides& as, const T* b, const Strides& bs, float* map, float* mean, float* partials, const SsimCuda& p,
               void* stream);

// Gradient to a, [batch, channels, h, w] contiguous; exchange a and b for the gradient to b. `upstream` [batch * channels] float32 is the
// gradient of each plane's mean, or, with `upstream_is_map`, that of the map. The moments are computed again: the forward pass keeps nothing.
template <typename T>
void ssim_backward_cuda(const T* a, const Strides& as, const T* b, const Strides& bs, const float* upstream, bool upstream_is_map, T* grad_a,
                        const SsimCuda& p, void* stream);

}  // namespace fhrt
