// Normalised network input cut out of a camera frame along affine transforms.
#pragma once
#include <cstdint>

namespace fhrt {

constexpr int kMaxFrameChannels = 4;

struct FaceCrop {
  int64_t count, frame_h, frame_w, channels, row_bytes;  // channels 1 to 4, interleaved
  int64_t out_h, out_w;
  float mean[kMaxFrameChannels], std[kMaxFrameChannels];  // grey levels
};

// frame: uint8 rows of `row_bytes`; transforms [count, 2, 3] contiguous float32, crop pixel to frame pixel, pixel centres at integers;
// out [count, channels, out_h, out_w] float32 = (value − mean) / std. Where the crop shrinks the frame s times, each output pixel is the
// mean of ⌈s⌉×⌈s⌉ bilinear samples spread over its area. Outside the frame its border is replicated.
void face_crop_cpu(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p);

}  // namespace fhrt
