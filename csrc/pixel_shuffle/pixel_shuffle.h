// Sub-pixel shuffle with the bias and the LeakyReLU that usually stand beside it.
#pragma once
#include <cstdint>

#include "../numeric.h"

namespace fhrt {

struct PixelShuffle {
  int64_t batch, channels, h, w;  // of the output's channels and the input's height and width
  int factor;
  const float* bias;     // [channels * factor²], one per input channel as a convolution has it; null for none
  float negative_slope;  // of LeakyReLU; 1 for no activation
};

FHRT_HD float bias_of(const PixelShuffle& p, int64_t input_channel) { return p.bias ? p.bias[input_channel] : 0.0f; }

// What happens to one value on its way, and to its gradient on the way back.
FHRT_HD float shuffled(float value, float bias, float slope) {
  value += bias;
  return value < 0 ? value * slope : value;
}
FHRT_HD float shuffled_slope(float value, float bias, float slope) { return value + bias > 0 ? 1.0f : slope; }

// Input channel that feeds phase (a, b), row and column within a factor x factor cell, of output channel c.
FHRT_HD int64_t shuffled_channel(int64_t c, int a, int b, int factor) { return (c * factor + a) * factor + b; }

// T is float, Half or BFloat16. x [batch, channels * factor², h, w] of any strides; out [batch, channels, h * factor, w * factor]
// contiguous.
template <typename T>
void pixel_shuffle_cpu(const T* x, const Strides& xs, T* out, const PixelShuffle& p);

// grad like out, of any strides; x as it went in; grad_x contiguous, like x. The bias's gradient is grad_x summed over all but its
// channels.
template <typename T>
void pixel_shuffle_backward_cpu(const T* grad, const Strides& gs, const T* x, const Strides& xs, T* grad_x, const PixelShuffle& p);

}  // namespace fhrt
