#include "../launch.h"
#include "pixel_shuffle_cuda.h"

namespace fhrt {
namespace {

constexpr int kThreads = 256;

// A thread is one row's cell of an output channel: `factor` neighbouring output values.
template <typename T>
__global__ void shuffle(const T* __restrict__ x, Strides xs, T* __restrict__ out, PixelShuffle p, int64_t items) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t j = item % p.w, y = item / p.w % (p.h * p.factor), plane = item / p.w / (p.h * p.factor);
  const int64_t n = plane / p.channels, c = plane % p.channels;
  const T* source = x + n * xs.n + y / p.factor * xs.h + j * xs.w;
  for (int b = 0; b < p.factor; ++b) {
    const int64_t channel = shuffled_channel(c, static_cast<int>(y % p.factor), b, p.factor);
    out[item * p.factor + b] = from_float<T>(shuffled(to_float(source[channel * xs.c]), bias_of(p, channel), p.negative_slope));
  }
}

// Contiguous and 16-byte aligned rows: a thread reads 16 bytes of each of a cell's channels and writes them interleaved, 16 bytes at a time.
template <typename T, int kFactor>
__global__ void shuffle_wide(const T* __restrict__ x, T* __restrict__ out, PixelShuffle p, int64_t items) {
  constexpr int kWide = 16 / sizeof(T);
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t groups = p.w / kWide, rows = p.h * kFactor;
  const int64_t j = item % groups * kWide, y = item / groups % rows, plane = item / groups / rows;
  const int64_t n = plane / p.channels, c = plane % p.channels;
  alignas(16) T values[kFactor][kWide];
#pragma unroll
  for (int b = 0; b < kFactor; ++b) {
    const int64_t channel = shuffled_channel(c, static_cast<int>(y % kFactor), b, kFactor);
    const int64_t row = (n * p.channels * kFactor * kFactor + channel) * p.h + y / kFactor;
    *reinterpret_cast<uint4*>(values[b]) = *reinterpret_cast<const uint4*>(x + row * p.w + j);
#pragma unroll
    for (int m = 0; m < kWide; ++m) values[b][m] = from_float<T>(shuffled(to_float(values[b][m]), bias_of(p, channel), p.negative_slope));
  }
  T* target = out + (plane * rows + y) * p.w * kFactor + j * kFactor;
#pragma unroll
  for (int part = 0; part < kFactor; ++part) {
    alignas(16) T packed[kWide];
#pragma unroll
    for (int m = 0; m < kWide; ++m) packed[m] = values[(part * kWide + m) % kFactor][(part * kWide + m) / kFactor];
    *reinterpret_cast<uint4*>(target + part * kWide) = *reinterpret_cast<const uint4*>(packed);
  }
}

// A thread is one value of x's gradient.
template <typename T>
__global__ void shuffle_backward(const T* __restrict__ grad, Strides gs, const T* __restrict__ x, Strides xs, T* __restrict__ grad_x,
                                 PixelShuffle p, int64_t items) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t inputs = p.channels * p.factor * p.factor;
  const int64_t j = item % p.w, i = item / p.w % p.h, channel = item / p.w / p.h % inputs, n = item / p.w / p.h / inputs;
  const int64_t b = channel % p.factor, a = channel / p.factor % p.factor, c = channel / p.factor / p.factor;
  const float value = to_float(x[n * xs.n + channel * xs.c + i * xs.h + j * xs.w]);
  const float slope = shuffled_slope(value, bias_of(p, channel), p.negative_slope);
  const float g = to_float(grad[n * gs.n + c * gs.c + (i * p.factor + a) * gs.h + (j * p.factor + b) * gs.w]);
  grad_x[item] = from_float<T>(g * slope);
}

template <typename T>
bool goes_wide(const T* x, const Strides& xs, const T* out, const PixelShuffle& p) {
  const int64_t inputs = p.channels * p.factor * p.factor;
  const bool contiguous = xs.w == 1 && xs.h == p.w && xs.c == p.h * p.w && (xs.n == inputs * xs.c || p.batch == 1);
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  return contiguous && aligned && p.w % static_cast<int64_t>(16 / sizeof(T)) == 0 && p.factor >= 2 && p.factor <= 4;
}

}  // namespace

template <typename T>
void pixel_shuffle_cuda(const T* x, const Strides& xs, T* out, const PixelShuffle& p, void* stream) {
  int64_t items = p.batch * p.channels * p.h * p.factor * p.w;
  if (items == 0) return;
  if (goes_wide(x, xs, out, p)) {
    items /= 16 / sizeof(T);
    const auto kernel = p.factor == 2 ? shuffle_wide<T, 2> : p.factor == 3 ? shuffle_wide<T, 3> : shuffle_wide<T, 4>;
    launch("pixel_shuffle", kernel, dim3(blocks_for(items, kThreads)), dim3(kThreads), stream, x, out, p, items);
  } else {
    launch("pixel_shuffle", shuffle<T>, dim3(blocks_for(items, kThreads)), dim3(kThreads), stream, x, xs, out, p, items);
  }
}

template <typename T>
void pixel_shuffle_backward_cuda(const T* grad, const Strides& gs, const T* x, const Strides& xs, T* grad_x, const PixelShuffle& p,
                                 void* stream) {
  const int64_t items = p.batch * p.channels * p.factor * p.factor * p.h * p.w;
  if (items == 0) return;
  launch("pixel_shuffle backward", shuffle_backward<T>, dim3(blocks_for(items, kThreads)), dim3(kThreads), stream, grad, gs, x, xs, grad_x, p,
         items);
}

#define FHRT_PIXEL_SHUFFLE(T)                                                                    \
  template void pixel_shuffle_cuda<T>(const T*, const Strides&, T*, const PixelShuffle&, void*); \
  template void pixel_shuffle_backward_cuda<T>(const T*, const Strides&, const T*, const Strides&, T*, const PixelShuffle&, void*);
FHRT_PIXEL_SHUFFLE(float)
FHRT_PIXEL_SHUFFLE(Half)
FHRT_PIXEL_SHUFFLE(BFloat16)
#undef FHRT_PIXEL_SHUFFLE

}  // namespace fhrt
