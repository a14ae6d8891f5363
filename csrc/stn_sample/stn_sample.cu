#include "../launch.h"
#include "stn_math.h"
#include "stn_sample_cuda.h"

namespace fhrt {
namespace {

constexpr int kThreads = 256;
constexpr int kChannels = 8;  // of one thread: the position is worked out once for all of them

// A thread is an output pixel and kChannels channels; neighbouring threads are neighbouring pixels of a row. Any strides.
template <typename T>
__global__ void sample_planar(const T* __restrict__ x, Strides xs, const float* __restrict__ theta, T* __restrict__ out, StnSample p) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, plane = p.out_h * p.out_w;
  if (pixel >= plane) return;
  const int i = static_cast<int>(pixel / p.out_w), j = static_cast<int>(pixel % p.out_w);
  for (int64_t n = blockIdx.z; n < p.batch; n += gridDim.z) {
    float px, py;
    stn_position(theta + n * 6, i, j, p, px, py);
    const Tap tap = stn_tap(px, py, p);
    for (int64_t group = blockIdx.y; group * kChannels < p.channels; group += gridDim.y) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const int64_t c = group * kChannels + k;
        if (c < p.channels) out[(n * p.channels + c) * plane + pixel] = from_float<T>(stn_read(x + n * xs.n + c * xs.c, tap, xs.h, xs.w));
      }
    }
  }
}

// Channels-last: a thread is an output pixel and 16 bytes of channels, read and written whole. x and out are 16-byte aligned.
template <typename T>
__global__ void sample_packed(const T* __restrict__ x, Strides xs, const float* __restrict__ theta, T* __restrict__ out, StnSample p) {
  constexpr int kWide = 16 / sizeof(T);
  const int64_t groups = p.channels / kWide, plane = p.out_h * p.out_w;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= plane * groups) return;
  const int64_t pixel = item / groups, c = item % groups * kWide;
  for (int64_t n = blockIdx.z; n < p.batch; n += gridDim.z) {
    float px, py;
    stn_position(theta + n * 6, static_cast<int>(pixel / p.out_w), static_cast<int>(pixel % p.out_w), p, px, py);
    const Tap tap = stn_tap(px, py, p);
    float sum[kWide] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      alignas(16) T values[kWide];
      *reinterpret_cast<uint4*>(values) = *reinterpret_cast<const uint4*>(x + n * xs.n + tap_offset(tap, k / 2, k % 2, xs.h, xs.w) + c);
      const float weight = tap.y.weight[k / 2] * tap.x.weight[k % 2];
#pragma unroll
      for (int m = 0; m < kWide; ++m) sum[m] += to_float(values[m]) * weight;
    }
    alignas(16) T packed[kWide];
#pragma unroll
    for (int m = 0; m < kWide; ++m) packed[m] = from_float<T>(sum[m]);
    *reinterpret_cast<uint4*>(out + (n * plane + pixel) * p.channels + c) = *reinterpret_cast<const uint4*>(packed);
  }
}

// A thread is a stored pixel and kChannels channels: it gathers from the output pixels that read it. No atomics, so the sum's order and
// every bit of it are the same each time, and nothing has to be cleared before.
template <typename T>
__global__ void backward_x(const T* __restrict__ grad, Strides gs, const float* __restrict__ theta, T* __restrict__ grad_x, StnSample p) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, plane = p.in_h * p.in_w;
  if (pixel >= plane) return;
  const int64_t row = pixel / p.in_w, column = pixel % p.in_w;
  for (int64_t n = blockIdx.z; n < p.batch; n += gridDim.z) {
    const float* t = theta + n * 6;
    const Reach reach = stn_reach(t, row, column, p);
    for (int64_t group = blockIdx.y; group * kChannels < p.channels; group += gridDim.y) {
      float sum[kChannels] = {};
      for (int64_t i = reach.i0; i < reach.i1; ++i) {
        for (int64_t j = reach.j0; j < reach.j1; ++j) {
          float px, py;
          stn_position(t, static_cast<int>(i), static_cast<int>(j), p, px, py);
          const Tap tap = stn_tap(px, py, p);
          const float weight = axis_weight_of(tap.y, row) * axis_weight_of(tap.x, column);
          if (weight == 0) continue;
#pragma unroll
          for (int k = 0; k < kChannels; ++k) {
            const int64_t c = group * kChannels + k;
            if (c < p.channels) sum[k] += weight * to_float(grad[n * gs.n + c * gs.c + i * gs.h + j * gs.w]);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const int64_t c = group * kChannels + k;
        if (c < p.channels) grad_x[(n * p.channels + c) * plane + pixel] = from_float<T>(sum[k]);
      }
    }
  }
}

// A block adds up its share of one picture's pixels and channels into six numbers; `add_partials` adds the blocks of a picture.
template <typename T>
__global__ void backward_theta(const T* __restrict__ grad, Strides gs, const T* __restrict__ x, Strides xs, const float* __restrict__ theta,
                               float* __restrict__ partials, StnSample p) {
  __shared__ float warps[kThreads / 32][6];
  const int64_t plane = p.out_h * p.out_w;
  for (int64_t n = blockIdx.z; n < p.batch; n += gridDim.z) {
    const float* t = theta + n * 6;
    float sum[6] = {};
    for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; pixel < plane;
         pixel += static_cast<int64_t>(gridDim.x) * kThreads) {
      const int i = static_cast<int>(pixel / p.out_w), j = static_cast<int>(pixel % p.out_w);
      float px, py;
      stn_position(t, i, j, p, px, py);
      const Tap tap = stn_tap(px, py, p);
      float by_x = 0, by_y = 0;
      for (int64_t c = 0; c < p.channels; ++c) {
        float slope_x, slope_y;
        stn_slope(x + n * xs.n + c * xs.c, tap, xs.h, xs.w, slope_x, slope_y);
        const float g = to_float(grad[n * gs.n + c * gs.c + i * gs.h + j * gs.w]);
        by_x += g * slope_x;
        by_y += g * slope_y;
      }
      by_x *= pixels_per_unit(p.in_w * p.upsample, p.align_corners);
      by_y *= pixels_per_unit(p.in_h * p.upsample, p.align_corners);
      const float u = to_normalised(j, p.out_w, p.align_corners), v = to_normalised(i, p.out_h, p.align_corners);
      sum[0] += by_x * u, sum[1] += by_x * v, sum[2] += by_x;
      sum[3] += by_y * u, sum[4] += by_y * v, sum[5] += by_y;
    }
#pragma unroll
    for (int k = 0; k < 6; ++k) {
#pragma unroll
      for (int delta = 16; delta > 0; delta /= 2) sum[k] += __shfl_down_sync(0xffffffffu, sum[k], delta);
      if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32][k] = sum[k];
    }
    __syncthreads();
    if (threadIdx.x < 6) {
      float total = 0;
      for (int warp = 0; warp < kThreads / 32; ++warp) total += warps[warp][threadIdx.x];
      partials[(n * gridDim.x + blockIdx.x) * 6 + threadIdx.x] = total;
    }
    __syncthreads();
  }
}

__global__ void add_partials(const float* __restrict__ partials, float* __restrict__ grad_theta, int64_t batch, int64_t blocks) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= batch * 6) return;
  float total = 0;
  for (int64_t block = 0; block < blocks; ++block) total += partials[(item / 6 * blocks + block) * 6 + item % 6];
  grad_theta[item] = total;
}

unsigned grid_z(int64_t batch) { return static_cast<unsigned>(batch < kMaxGridYZ ? batch : kMaxGridYZ); }

unsigned channel_groups(int64_t channels) { return blocks_for(channels < kChannels * 65535LL ? channels : kChannels * 65535LL, kChannels); }

bool packs(const void* x, const Strides& xs, const void* out, const StnSample& p, int64_t size) {
  const int64_t wide = 16 / size;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  return xs.c == 1 && p.channels % wide == 0 && xs.w % wide == 0 && xs.h % wide == 0 && xs.n % wide == 0 && aligned(x) && aligned(out);
}

}  // namespace

template <typename T>
void stn_sample_cuda(const T* x, const Strides& xs, const float* theta, T* out, bool out_channels_last, const StnSample& p,
                     void* stream) {
  const int64_t plane = p.out_h * p.out_w;
  if (p.batch * p.channels * plane == 0) return;
  if (out_channels_last) {
    const int64_t items = plane * (p.channels * sizeof(T) / 16);
    launch("stn_sample", sample_packed<T>, dim3(blocks_for(items, kThreads), 1, grid_z(p.batch)), dim3(kThreads), stream, x, xs, theta, out, p);
  } else {
    const dim3 grid(blocks_for(plane, kThreads), channel_groups(p.channels), grid_z(p.batch));
    launch("stn_sample", sample_planar<T>, grid, dim3(kThreads), stream, x, xs, theta, out, p);
  }
}

template <typename T>
bool stn_sample_packs(const T* x, const Strides& xs, const T* out, const StnSample& p) {
  return packs(x, xs, out, p, sizeof(T));
}

template <typename T>
void stn_sample_backward_x_cuda(const T* grad, const Strides& gs, const float* theta, T* grad_x, const StnSample& p, void* stream) {
  const int64_t plane = p.in_h * p.in_w;
  if (p.batch * p.channels * plane == 0) return;
  const dim3 grid(blocks_for(plane, kThreads), channel_groups(p.channels), grid_z(p.batch));
  launch("stn_sample backward to x", backward_x<T>, grid, dim3(kThreads), stream, grad, gs, theta, grad_x, p);
}

int64_t stn_theta_blocks(const StnSample& p) {
  const int64_t blocks = (p.out_h * p.out_w + kThreads - 1) / kThreads;
  return blocks < 64 ? blocks : 64;
}

template <typename T>
void stn_sample_backward_theta_cuda(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, float* partials,
                                    float* grad_theta, const StnSample& p, void* stream) {
  if (p.batch == 0) return;
  const int64_t blocks = stn_theta_blocks(p);
  launch("stn_sample backward to theta", backward_theta<T>, dim3(static_cast<unsigned>(blocks), 1, grid_z(p.batch)), dim3(kThreads), stream,
         grad, gs, x, xs, theta, partials, p);
  launch("stn_sample backward to theta", add_partials, dim3(blocks_for(p.batch * 6, kThreads)), dim3(kThreads), stream, partials, grad_theta,
         p.batch, blocks);
}

#define FHRT_STN_SAMPLE(T)                                                                                                             \
  template void stn_sample_cuda<T>(const T*, const Strides&, const float*, T*, bool, const StnSample&, void*);                  \
  template bool stn_sample_packs<T>(const T*, const Strides&, const T*, const StnSample&);                                             \
  template void stn_sample_backward_x_cuda<T>(const T*, const Strides&, const float*, T*, const StnSample&, void*);             \
  template void stn_sample_backward_theta_cuda<T>(const T*, const Strides&, const T*, const Strides&, const float*, float*, float*,    \
                                                  const StnSample&, void*);
FHRT_STN_SAMPLE(float)
FHRT_STN_SAMPLE(Half)
FHRT_STN_SAMPLE(BFloat16)
#undef FHRT_STN_SAMPLE

}  // namespace fhrt
