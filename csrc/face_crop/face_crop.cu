#include "../launch.h"
#include "face_crop_cuda.h"
#include "face_crop_math.h"

namespace fhrt {
namespace {

constexpr int kThreads = 128;  // small blocks: a batch of 16 x 16 crops then spreads over more of the device

// Adds the samples of pixel (i, j) of a crop to sums [C].
template <int C>
__device__ void add_samples(const uint8_t* __restrict__ data, const FramePlane& plane, const float* t, int i, int j, int kx, int ky, float* sums) {
  const int64_t below = plane.h > 1 ? plane.row_bytes : 0;
  const int right = plane.w > 1 ? C : 0;
  for (int sy = 0; sy < ky; ++sy) {
    for (int sx = 0; sx < kx; ++sx) {
      float x, y, ax, ay;
      int x0, y0;
      crop_position(t, i, j, sx, sy, kx, ky, x, y);
      crop_neighbours(x, static_cast<int>(plane.w), x0, ax);
      crop_neighbours(y, static_cast<int>(plane.h), y0, ay);
      const uint8_t* top = data + y0 * plane.row_bytes + x0 * C;
      const uint8_t* bottom = top + below;
#pragma unroll
      for (int c = 0; c < C; ++c) sums[c] += crop_level(top[c], top[right + c], bottom[c], bottom[right + c], ax, ay);
    }
  }
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
  const int kx = crop_samples(t[0], t[3], p), ky = crop_samples(t[1], t[4], p);
  const float share = 1 / static_cast<float>(kx * ky);
  float level[C] = {};
  if constexpr (kNv12) {
    float luma[1] = {}, colour[2] = {}, halved[6];
    chroma_transform(t, halved);
    add_samples<1>(frame, p.frame, t, i, j, kx, ky, luma);
    add_samples<2>(chroma, p.chroma, halved, i, j, kx, ky, colour);
    yuv_to_rgb(luma[0] * share, colour[0] * share, colour[1] * share, p.to_rgb, level);
  } else {
    add_samples<C>(frame, p.frame, t, i, j, kx, ky, level);
#pragma unroll
    for (int c = 0; c < C; ++c) level[c] *= share;
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
