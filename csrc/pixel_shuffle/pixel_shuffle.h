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

// What happens to one value on its way.
FHRT_HD float shuffled_value(float value, int64_t input_channel, const PixelShuffle& p) {
  if (p.bias) value += p.bias[input_channel];
  return value < 0 ? value * p.negative_slope : value;
}

// Input channel that feeds phase (a, b), row and column within a factor x factor cell, of output channel c.
FHRT_HD int64_t shuffled_channel(int64_t c, int a, int b, int factor) { return (c * factor + a) * factor + b; }

// x [batch, channels * factor², h, w] contiguous; out [batch, channels, h * factor, w * factor] contiguous.
void pixel_shuffle_cpu(const float* x, float* out, const PixelShuffle& p);

}  // namespace fhrt
