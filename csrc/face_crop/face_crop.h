// Normalised network input cut out of a camera frame along affine transforms.
#pragma once
#include <cstdint>

namespace fhrt {

constexpr int kMaxFrameChannels = 4;
constexpr int64_t kMaxFrameSide = 1 << 24;  // positions are floats

// A plane of a frame: rows of `row_bytes` with `channels` (1 to 4) interleaved bytes per pixel.
struct FramePlane {
  int64_t h, w, channels, row_bytes;
};

// red = luma * (Y - black) + red_v * (V - 128), and so on.
struct YuvToRgb {
  float luma, black, red_v, green_u, green_v, blue_u;
};

struct FaceCrop {
  int64_t count, out_h, out_w;
  FramePlane frame, chroma;                             // chroma.channels: 2 for NV12, whose frame is its luma; 0 for other frames
  float mean[kMaxFrameChannels], std[kMaxFrameChannels];  // grey levels
  YuvToRgb to_rgb;                                      // of NV12

  bool nv12() const { return chroma.channels > 0; }
  int64_t channels() const { return nv12() ? 3 : frame.channels; }
};

// frame, chroma (NV12's only): uint8; transforms [count, 2, 3] contiguous float32, crop pixel to frame pixel, pixel centres at integers;
// out [count, channels(), out_h, out_w] float32 = (value - mean) / std. Antialiased bicubic (Keys, 1981, a = -0.5), as fhrt.resample
// has it, along the rows and columns of the frame: where the crop shrinks one of these axes s > 1 times, the kernel reaches 2 s pixels to
// either side instead of 2, of which every ceil(s / 8)th is read. Outside the frame its border is replicated. Values are clamped to 0 to
// 255; NV12's planes are resampled as they are, and the RGB that they become is clamped.
void face_crop_cpu(const uint8_t* frame, const uint8_t* chroma, const float* transforms, float* out, const FaceCrop& p);

}  // namespace fhrt
