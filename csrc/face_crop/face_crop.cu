#include "../launch.h"
#include "face_crop_cuda.h"
#include "face_crop_math.h"

namespace fhrt {
namespace {

constexpr int kThreads = 128;  // small blocks: a batch of 16 x 16 crops then spreads over more of the device

// Pixel (i, j) of the crop by transform t of a plane of C channels.
template <int C>
__device__ void resample(const uint8_t* __restrict__ data, const FramePlane& plane, const float* t, int i, int j, float* level) {
  const CropAxis across = crop_axis(t[0], t[1], plane.w), down = crop_axis(t[3], t[4], plane.h);
  float right, below, total = 0;
  const int x = crop_first(across, crop_position(t, i, j), right), y = crop_first(down, crop_position(t + 3, i, j), below);
  for (int r = 0; r < down.taps; ++r) {
    const uint8_t* row = data + crop_pixel(down, y, r) * plane.row_bytes;
    const float vertical = crop_weight(down, below, r);
    for (int k = 0; k < across.taps; ++k) {
      const float weight = vertical * crop_weight(across, right, k);
      const uint8_t* pixel = row + static_cast<int64_t>(crop_pixel(across, x, k)) * C;
      total += weight;
#pragma unroll
      for (int c = 0; c < C; ++c) level[c] += weight * pixel[c];
    }
  }
#pragma unroll
  for (int c = 0; c < C; ++c) level[c] /= total;
}

// A thread is one pixel of one crop with all its channels; frames of C interleaved channels, or NV12.
template <typename T, int C, bool kNv12>
__global__ void __launch_bounds__(kThreads)
    face_crop(const uint8_t* __restrict__ frame, const uint8_t* __restrict__ chroma, const float* __restrict__ transforms, T* __restrict__ out,
              const __grid_constant__ FaceCrop p) {
  const int64_t plane = p.out_h * p.out_w, item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= p.count * plane) return;
  const int64_t n = item / plane, pixel = item % plane;
  const int i = static_cast<int>(pixel / p.out_w), j = static_cast<int>(pixel % p.out_w);
  const float* t = transforms + n * 6;
  float level[C] = {};
  if constexpr (kNv12) {
    float luma[1] = {}, colour[2] = {}, halved[6];
    chroma_transform(t, halved);
    resample<1>(frame, p.frame, t, i, j, luma);
    resample<2>(chroma, p.chroma, halved, i, j, colour);
    yuv_to_rgb(luma[0], colour[0], colour[1], p.to_rgb, level);
  } else {
    resample<C>(frame, p.frame, t, i, j, level);
#pragma unroll
    for (int c = 0; c < C; ++c) level[c] = clamp_byte(level[c]);
  }
#pragma unroll
  for (int c = 0; c < C; ++c) out[(n * C + c) * plane + pixel] = from_float<T>((level[c] - p.mean[c]) * (1 / p.std[c]));
}

}  // namespace

template <typename T>
void face_crop_cuda(const uint8_t* frame, const uint8_t* chroma, const float* transforms, T* out, const FaceCrop& p, void* stream) {
  const int64_t items = p.count * p.out_h * p.out_w;
  if (items == 0) return;
  constexpr void (*interleaved[])(const uint8_t*, const uint8_t*, const float*, T*, FaceCrop) = {face_crop<T, 1, false>, face_crop<T, 2, false>,
                                                                                               face_crop<T, 3, false>, face_crop<T, 4, false>};
  const auto kernel = p.nv12() ? face_crop<T, 3, true> : interleaved[p.frame.channels - 1];
  launch("face_crop", kernel, dim3(blocks_for(items, kThreads)), dim3(kThreads), stream, frame, chroma, transforms, out, p);
}

template void face_crop_cuda<float>(const uint8_t*, const uint8_t*, const float*, float*, const FaceCrop&, void*);
template void face_crop_cuda<Half>(const uint8_t*, const uint8_t*, const float*, Half*, const FaceCrop&, void*);
template void face_crop_cuda<BFloat16>(const uint8_t*, const uint8_t*, const float*, BFloat16*, const FaceCrop&, void*);

}  // namespace fhrt
