#include "../launch.h"
#include "face_crop_cuda.h"
#include "face_crop_math.h"

namespace fhrt {
namespace {

constexpr int kThreads = 128;  // small blocks: a batch of 16 x 16 crops then spreads over more of the device

// A thread is one pixel of one crop with all its channels.
template <typename T, int C>
__global__ void __launch_bounds__(kThreads)
    face_crop(const uint8_t* __restrict__ frame, const float* __restrict__ transforms, T* __restrict__ out, const __grid_constant__ FaceCrop p) {
  const int64_t plane = p.out_h * p.out_w, item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= p.count * plane) return;
  const int64_t n = item / plane, pixel = item % plane;
  const float* t = transforms + n * 6;
  const int kx = crop_samples(t[0], t[3], p), ky = crop_samples(t[1], t[4], p);
  float level[C] = {};
  for (int sy = 0; sy < ky; ++sy) {
    for (int sx = 0; sx < kx; ++sx) {
      float x, y, ax, ay;
      int x0, y0;
      crop_position(t, static_cast<int>(pixel / p.out_w), static_cast<int>(pixel % p.out_w), sx, sy, kx, ky, x, y);
      crop_neighbours(x, static_cast<int>(p.frame_w), x0, ax);
      crop_neighbours(y, static_cast<int>(p.frame_h), y0, ay);
      const uint8_t* top = frame + y0 * p.row_bytes + x0 * C;
      const uint8_t* bottom = top + (p.frame_h > 1 ? p.row_bytes : 0);
      const int right = p.frame_w > 1 ? C : 0;
#pragma unroll
      for (int c = 0; c < C; ++c) level[c] += crop_level(top[c], top[right + c], bottom[c], bottom[right + c], ax, ay);
    }
  }
  const float share = 1 / static_cast<float>(kx * ky);
#pragma unroll
  for (int c = 0; c < C; ++c) out[(n * C + c) * plane + pixel] = from_float<T>((level[c] * share - p.mean[c]) * (1 / p.std[c]));
}

}  // namespace

template <typename T>
void face_crop_cuda(const uint8_t* frame, const float* transforms, T* out, const FaceCrop& p, void* stream) {
  const int64_t items = p.count * p.out_h * p.out_w;
  if (items == 0) return;
  constexpr void (*kernels[])(const uint8_t*, const float*, T*, FaceCrop) = {face_crop<T, 1>, face_crop<T, 2>, face_crop<T, 3>, face_crop<T, 4>};
  launch("face_crop", kernels[p.channels - 1], dim3(blocks_for(items, kThreads)), dim3(kThreads), stream, frame, transforms, out, p);
}

template void face_crop_cuda<float>(const uint8_t*, const float*, float*, const FaceCrop&, void*);
template void face_crop_cuda<Half>(const uint8_t*, const float*, Half*, const FaceCrop&, void*);
template void face_crop_cuda<BFloat16>(const uint8_t*, const float*, BFloat16*, const FaceCrop&, void*);

}  // namespace fhrt
