// A network's output made into a picture: shuffle, clamp, scale, round, uint8 and HWC in one pass.
#pragma once
#include <cstdint>

#include "../numeric.h"

namespace fhrt {

constexpr int kMaxImageChannels = 4, kMaxImageFactor = 64;

struct ToImage {
  int64_t batch, channels, h, w;  // channels of the picture, 1 to 4; height and width of the input
  int factor;                     // of the sub-pixel shuffle; 1 for none
  float low, high;                // values that become 0 and 255
};

// Nearest level, ties to even; below `low` 0, above `high` 255. NaN becomes 0.
FHRT_HD uint8_t grey_level(float value, float low, float scale) {
  const float level = (value - low) * scale, within = level > 0 ? (level < 255 ? level : 255.0f) : 0.0f;
  // Added to 1.5 * 2^23 a number is rounded by the adder, and its units are the lowest bits: no call, so loops become vectors.
  return static_cast<uint8_t>(float_to_bits(within + 12582912.0f));
}

// T is float, Half or BFloat16. x [batch, channels * factor², h, w] of any strides; out uint8 [batch, h * factor, w * factor, channels]
// contiguous.
template <typename T>
void to_image_cpu(const T* x, const Strides& xs, uint8_t* out, const ToImage& p);

}  // namespace fhrt
