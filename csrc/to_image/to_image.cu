#include "../launch.h"
#include "to_image_cuda.h"

namespace fhrt {
namespace {

constexpr int kThreads = 256;

// A thread is one input pixel of one output row: `factor` neighbouring output pixels with all their channels. Any strides.
template <typename T>
__global__ void to_image(const T* __restrict__ x, Strides xs, uint8_t* __restrict__ out, ToImage p, float scale, int64_t items) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t rows = p.h * p.factor, j = item % p.w, y = item / p.w % rows, n = item / p.w / rows;
  const T* source = x + n * xs.n + y / p.factor * xs.h + j * xs.w;
  uint8_t* target = out + item * p.factor * p.channels;
  for (int b = 0; b < p.factor; ++b) {
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t channel = (c * p.factor + y % p.factor) * p.factor + b;
      target[b * p.channels + c] = grey_level(to_float(source[channel * xs.c]), p.low, scale);
    }
  }
}

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T values[4];
};

// Three channels, rows contiguous and aligned: a thread is four input pixels, read at once from every channel and written as whole words.
template <typename T, int kFactor>
__global__ void to_image_wide(const T* __restrict__ x, Strides xs, uint8_t* __restrict__ out, ToImage p, float scale, int64_t items) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t groups = p.w / 4, rows = p.h * kFactor, j = item % groups * 4, y = item / groups % rows, n = item / groups / rows;
  const T* source = x + n * xs.n + y / kFactor * xs.h + j;
  constexpr int kBytes = 4 * kFactor * 3;
  alignas(4) uint8_t bytes[kBytes];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
#pragma unroll
    for (int b = 0; b < kFactor; ++b) {
      const int64_t channel = (c * kFactor + y % kFactor) * kFactor + b;
      const Four<T> four = *reinterpret_cast<const Four<T>*>(source + channel * xs.c);
#pragma unroll
      for (int k = 0; k < 4; ++k) bytes[(k * kFactor + b) * 3 + c] = grey_level(to_float(four.values[k]), p.low, scale);
    }
  }
  uint32_t* target = reinterpret_cast<uint32_t*>(out + item * kBytes);
#pragma unroll
  for (int k = 0; k < kBytes / 4; ++k) {
    target[k] = static_cast<uint32_t>(bytes[4 * k]) | static_cast<uint32_t>(bytes[4 * k + 1]) << 8 |
                static_cast<uint32_t>(bytes[4 * k + 2]) << 16 | static_cast<uint32_t>(bytes[4 * k + 3]) << 24;
  }
}

template <typename T>
bool goes_wide(const T* x, const Strides& xs, const uint8_t* out, const ToImage& p) {
  const bool aligned = reinterpret_cast<uintptr_t>(x) % sizeof(Four<T>) == 0 && reinterpret_cast<uintptr_t>(out) % 4 == 0;
  const bool whole = p.w % 4 == 0 && xs.w == 1 && xs.h % 4 == 0 && xs.c % 4 == 0 && (xs.n % 4 == 0 || p.batch == 1);
  return aligned && whole && p.channels == 3 && (p.factor == 1 || p.factor == 2 || p.factor == 4);
}

}  // namespace

template <typename T>
void to_image_cuda(const T* x, const Strides& xs, uint8_t* out, const ToImage& p, void* stream) {
  int64_t items = p.batch * p.h * p.factor * p.w;
  if (items == 0 || p.channels == 0) return;
  const float scale = 255.0f / (p.high - p.low);
  const bool wide = goes_wide(x, xs, out, p);
  auto kernel = to_image<T>;
  if (wide) {
    items /= 4;
    kernel = p.factor == 1 ? to_image_wide<T, 1> : p.factor == 2 ? to_image_wide<T, 2> : to_image_wide<T, 4>;
  }
  launch("to_image", kernel, dim3(blocks_for(items, kThreads)), dim3(kThreads), stream, x, xs, out, p, scale, items);
}

template void to_image_cuda<float>(const float*, const Strides&, uint8_t*, const ToImage&, void*);
template void to_image_cuda<Half>(const Half*, const Strides&, uint8_t*, const ToImage&, void*);
template void to_image_cuda<BFloat16>(const BFloat16*, const Strides&, uint8_t*, const ToImage&, void*);

}  // namespace fhrt
