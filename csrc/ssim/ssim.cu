#include "../launch.h"
#include "ssim_cuda.h"
#include "ssim_math.h"

namespace fhrt {
namespace {

constexpr int kTile = 16, kThreads = kTile * kTile;
constexpr int kHalo = kMaxSsimWindow - 1;

// A tile of both pictures in shared memory, less each picture's mean over the tile: second moments of what is left keep their digits,
// while those of values near 255 would lose them all against c2.
template <int kSide>
struct Tile {
  float a[kSide][kSide + 1], b[kSide][kSide + 1];
  float pivot_a, pivot_b;
  float sums[kThreads / 32][2];
};

// Pictures' pixels (top + row, left + column); zero outside the picture, as "same" padding has it.
template <typename T, int kSide>
__device__ void load_tile(Tile<kSide>& tile, const T* a, const Strides& as, const T* b, const Strides& bs, int64_t top, int64_t left, int side,
                          const SsimCuda& p) {
  float sum_a = 0, sum_b = 0;
  for (int item = threadIdx.x; item < side * side; item += kThreads) {
    const int row = item / side, column = item % side;
    const int64_t y = top + row, x = left + column;
    const bool inside = y >= 0 && y < p.h && x >= 0 && x < p.w;
    const float va = inside ? to_float(a[y * as.h + x * as.w]) : 0.0f, vb = inside ? to_float(b[y * bs.h + x * bs.w]) : 0.0f;
    tile.a[row][column] = va;
    tile.b[row][column] = vb;
    sum_a += va;
    sum_b += vb;
  }
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) {
    sum_a += __shfl_down_sync(0xffffffffu, sum_a, delta);
    sum_b += __shfl_down_sync(0xffffffffu, sum_b, delta);
  }
  if (threadIdx.x % 32 == 0) {
    tile.sums[threadIdx.x / 32][0] = sum_a;
    tile.sums[threadIdx.x / 32][1] = sum_b;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float total_a = 0, total_b = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) {
      total_a += tile.sums[warp][0];
      total_b += tile.sums[warp][1];
    }
    tile.pivot_a = total_a / static_cast<float>(side * side);
    tile.pivot_b = total_b / static_cast<float>(side * side);
  }
  __syncthreads();
  for (int item = threadIdx.x; item < side * side; item += kThreads) {
    tile.a[item / side][item % side] -= tile.pivot_a;
    tile.b[item / side][item % side] -= tile.pivot_b;
  }
  __syncthreads();
}

// The four moments a, b, a² + b² and ab along each row: rows[m][row][column] for `height` rows and `width` columns.
template <int kSide, int kRows, int kColumns>
__device__ void filter_rows(const Tile<kSide>& tile, float (&rows)[4][kRows][kColumns], int height, int width, const SsimCuda& p) {
  for (int item = threadIdx.x; item < height * width; item += kThreads) {
    const int row = item / width, column = item % width;
    float sum[4] = {};
    for (int k = 0; k < p.window; ++k) {
      const float va = tile.a[row][column + k], vb = tile.b[row][column + k], wa = p.weights[k] * va, wb = p.weights[k] * vb;
      sum[0] += wa;
      sum[1] += wb;
      sum[2] += wa * va + wb * vb;
      sum[3] += wa * vb;
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) rows[m][row][column] = sum[m];
  }
  __syncthreads();
}

// Moments of the window whose first row and column in `rows` are these; mean_a and mean_b without the pivots.
template <int kRows, int kColumns>
__device__ SsimMoments<float> window_moments(const float (&rows)[4][kRows][kColumns], int row, int column, const SsimCuda& p) {
  float sum[4] = {};
  for (int k = 0; k < p.window; ++k) {
#pragma unroll
    for (int m = 0; m < 4; ++m) sum[m] += p.weights[k] * rows[m][row + k][column];
  }
  return {sum[0], sum[1], sum[2] - sum[0] * sum[0] - sum[1] * sum[1], sum[3] - sum[0] * sum[1]};
}

// The block's values added up, always in the same order; thread 0 has the result.
__device__ float block_sum(float value, float (&warps)[kThreads / 32]) {
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(0xffffffffu, value, delta);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kThreads / 32; ++warp) total += warps[warp];
  return total;
}

// A block is a tile of 16 x 16 windows of one plane.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    ssim_forward(const T* __restrict__ a, Strides as, const T* __restrict__ b, Strides bs, float* __restrict__ map, float* __restrict__ partials,
                 const __grid_constant__ SsimCuda p) {
  constexpr int kSide = kTile + kHalo;
  __shared__ Tile<kSide> tile;
  __shared__ float rows[4][kSide][kTile];
  __shared__ float warps[kThreads / 32];
  const int64_t out_h = p.out_h(), out_w = p.out_w(), planes = p.batch * p.channels;
  const int pad = p.same ? p.window / 2 : 0, side = kTile + p.window - 1;
  const int64_t across = (out_w + kTile - 1) / kTile, first_y = blockIdx.x / across * kTile, first_x = blockIdx.x % across * kTile;
  for (int64_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const int64_t n = plane / p.channels, c = plane % p.channels;
    load_tile(tile, a + n * as.n + c * as.c, as, b + n * bs.n + c * bs.c, bs, first_y - pad, first_x - pad, side, p);
    filter_rows(tile, rows, side, kTile, p);
    const int row = threadIdx.x / kTile, column = threadIdx.x % kTile;
    float value = 0;
    if (first_y + row < out_h && first_x + column < out_w) {
      SsimMoments<float> moments = window_moments(rows, row, column, p);
      moments.mean_a += tile.pivot_a;
      moments.mean_b += tile.pivot_b;
      value = ssim_value(moments, p.c1, p.c2);
      if (map) map[(plane * out_h + first_y + row) * out_w + first_x + column] = value;
    }
    if (partials) {
      const float total = block_sum(value, warps);
      if (threadIdx.x == 0) partials[plane * gridDim.x + blockIdx.x] = total;
    }
    __syncthreads();  // before the next plane overwrites the tile
  }
}

// One block per plane adds up its tiles, always in the same order.
__global__ void __launch_bounds__(kThreads) ssim_mean(const float* __restrict__ partials, float* __restrict__ mean, int64_t blocks, float count) {
  __shared__ float warps[kThreads / 32];
  float sum = 0;
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) sum += partials[blockIdx.x * blocks + block];
  const float total = block_sum(sum, warps);
  if (threadIdx.x == 0) mean[blockIdx.x] = total / count;
}

// A block is a tile of 16 x 16 pixels of grad_a: it works out the windows that hold them, (16 + window - 1)² of them, and filters their slopes.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    ssim_backward(const T* __restrict__ a, Strides as, const T* __restrict__ b, Strides bs, const float* __restrict__ upstream, bool upstream_is_map,
                  T* __restrict__ grad_a, const __grid_constant__ SsimCuda p) {
  constexpr int kWindows = kTile + kHalo, kSide = kTile + 2 * kHalo;
  __shared__ Tile<kSide> tile;
  __shared__ float rows[4][kSide][kWindows];
  __shared__ float slopes[3][kWindows][kWindows];
  const int64_t out_h = p.out_h(), out_w = p.out_w(), planes = p.batch * p.channels;
  const int reach = p.window - 1, windows = kTile + reach, side = kTile + 2 * reach, pad = p.same ? p.window / 2 : 0;
  const int64_t across = (p.w + kTile - 1) / kTile, first_y = blockIdx.x / across * kTile, first_x = blockIdx.x % across * kTile;
  // Window (i, j) of the map begins at pixel (i - pad, j - pad); the first that holds pixel first_y is first_y - reach + pad.
  const int64_t window_y = first_y - reach + pad, window_x = first_x - reach + pad;
  for (int64_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const int64_t n = plane / p.channels, c = plane % p.channels;
    load_tile(tile, a + n * as.n + c * as.c, as, b + n * bs.n + c * bs.c, bs, first_y - reach, first_x - reach, side, p);
    filter_rows(tile, rows, side, windows, p);
    for (int item = threadIdx.x; item < windows * windows; item += kThreads) {
      const int row = item / windows, column = item % windows;
      const int64_t i = window_y + row, j = window_x + column;
      float by_mean = 0, by_square = 0, by_product = 0;
      if (i >= 0 && i < out_h && j >= 0 && j < out_w) {
        const SsimMoments<float> centred = window_moments(rows, row, column, p);
        SsimMoments<float> moments = centred;
        moments.mean_a += tile.pivot_a;
        moments.mean_b += tile.pivot_b;
        const SsimSlopes<float> by = ssim_slopes(moments, p.c1, p.c2);
        by_square = by.by_variance, by_product = by.by_covariance;
        // The variances hold the means too: var_a = E[a²] - mean_a², covariance = E[ab] - mean_a mean_b.
        by_mean = by.by_mean_a - 2 * centred.mean_a * by_square - centred.mean_b * by_product;
        const float gradient =
            upstream_is_map ? upstream[(plane * out_h + i) * out_w + j] : upstream[plane] / static_cast<float>(out_h * out_w);
        by_mean *= gradient, by_square *= gradient, by_product *= gradient;
      }
      slopes[0][row][column] = by_mean;
      slopes[1][row][column] = by_square;
      slopes[2][row][column] = by_product;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < windows * kTile; item += kThreads) {  // along the rows; `rows` is free again
      const int row = item / kTile, column = item % kTile;
#pragma unroll
      for (int m = 0; m < 3; ++m) {
        float sum = 0;
        for (int k = 0; k < p.window; ++k) sum += p.weights[k] * slopes[m][row][column + reach - k];
        rows[m][row][column] = sum;
      }
    }
    __syncthreads();
    const int row = threadIdx.x / kTile, column = threadIdx.x % kTile;
    const int64_t y = first_y + row, x = first_x + column;
    if (y < p.h && x < p.w) {
      float sum[3] = {};
      for (int k = 0; k < p.window; ++k) {
#pragma unroll
        for (int m = 0; m < 3; ++m) sum[m] += p.weights[k] * rows[m][row + reach - k][column];
      }
      const float va = tile.a[row + reach][column + reach], vb = tile.b[row + reach][column + reach];
      grad_a[(plane * p.h + y) * p.w + x] = from_float<T>(sum[0] + 2 * va * sum[1] + vb * sum[2]);
    }
    __syncthreads();
  }
}

int64_t tiles(int64_t h, int64_t w) { return ((h + kTile - 1) / kTile) * ((w + kTile - 1) / kTile); }

dim3 grid_of(int64_t tiles_per_plane, int64_t planes) {
  return dim3(static_cast<unsigned>(tiles_per_plane), static_cast<unsigned>(planes < kMaxGridYZ ? planes : kMaxGridYZ));
}

}  // namespace

int64_t ssim_partials(const SsimCuda& p) { return p.batch * p.channels * tiles(p.out_h(), p.out_w()); }

template <typename T>
void ssim_cuda(const T* a, const Strides& as, const T* b, const Strides& bs, float* map, float* mean, float* partials, const SsimCuda& p,
               void* stream) {
  const int64_t planes = p.batch * p.channels, blocks = tiles(p.out_h(), p.out_w());
  if (planes == 0) return;
  launch("ssim", ssim_forward<T>, grid_of(blocks, planes), dim3(kThreads), stream, a, as, b, bs, map, mean ? partials : nullptr, p);
  if (mean) {
    const float count = static_cast<float>(p.out_h() * p.out_w());
    launch("ssim", ssim_mean, dim3(static_cast<unsigned>(planes)), dim3(kThreads), stream, partials, mean, blocks, count);
  }
}

template <typename T>
void ssim_backward_cuda(const T* a, const Strides& as, const T* b, const Strides& bs, const float* upstream, bool upstream_is_map, T* grad_a,
                        const SsimCuda& p, void* stream) {
  const int64_t planes = p.batch * p.channels;
  if (planes * p.h * p.w == 0) return;
  launch("ssim backward", ssim_backward<T>, grid_of(tiles(p.h, p.w), planes), dim3(kThreads), stream, a, as, b, bs, upstream, upstream_is_map,
         grad_a, p);
}

#define FHRT_SSIM(T)                                                                                                                      \
  template void ssim_cuda<T>(const T*, const Strides&, const T*, const Strides&, float*, float*, float*, const SsimCuda&, void*);    \
  template void ssim_backward_cuda<T>(const T*, const Strides&, const T*, const Strides&, const float*, bool, T*, const SsimCuda&, void*);
FHRT_SSIM(float)
FHRT_SSIM(Half)
FHRT_SSIM(BFloat16)
#undef FHRT_SSIM

}  // namespace fhrt
