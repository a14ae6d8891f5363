// A row of pixels comes in, is filtered along itself and kept with the `window` latest such rows; down these, a row of windows comes out.
// So each pixel is filtered once along and once down, all in the first cache.
#include "ssim_simd.h"

#include "../simd.h"
#include "ssim_math.h"

namespace fhrt::FHRT_ISA {
namespace {

constexpr int kMoments = 4;  // a, b, a² + b², ab; on the way back: what multiplies 1 in grad_a, 1 in grad_b, 2a (2b), and b (a)
constexpr int kUsual = 11;   // the window that the compiler knows

FHRT_INLINE double to_double(float v) { return v; }
FHRT_INLINE double to_double(double v) { return v; }
FHRT_INLINE double to_double(Half v) { return to_float(v); }
FHRT_INLINE double to_double(BFloat16 v) { return to_float(v); }
FHRT_INLINE void put(double* p, double v) { *p = v; }
template <typename T>
FHRT_INLINE void put(T* p, double v) {
  *p = from_float<T>(static_cast<float>(v));
}

constexpr int kDoubles = kWide / 2;
using Doubles = VectorOf<double, kDoubles>::type;

// Lanes `shift` to shift + kDoubles of a and b side by side.
template <int Shift>
FHRT_INLINE Doubles slide(Doubles a, Doubles b) {
  if constexpr (Shift == 0) return a;
  if constexpr (kDoubles == 2) return FHRT_SHUFFLE(a, b, 1, 2);
  if constexpr (kDoubles == 4) return FHRT_SHUFFLE(a, b, Shift, Shift + 1, Shift + 2, Shift + 3);
  if constexpr (kDoubles == 8)
    return FHRT_SHUFFLE(a, b, Shift, Shift + 1, Shift + 2, Shift + 3, Shift + 4, Shift + 5, Shift + 6, Shift + 7);
}

// Adds the window's terms K and after, for the vector at `in`. Every other neighbour comes out of the registers and the rest out of memory:
// nearly every such load crosses a cache line, so neither way alone is as fast.
template <int K>
FHRT_INLINE Doubles add_terms(const double* in, const Doubles* blocks, const double* w, Doubles sum) {
  if constexpr (K == kUsual) {
    return sum;
  } else {
    Doubles term;
    if constexpr (K % 2 == 0) {
      term = slide<K % kDoubles>(blocks[K / kDoubles], blocks[K / kDoubles + (K % kDoubles > 0)]);
    } else {
      __builtin_memcpy(&term, in + K, sizeof term);
    }
    return add_terms<K + 1>(in, blocks, w, sum + w[K] * term);
  }
}

// out[j] = sum over k of weights[k] * in[j + k]; `in` and `out` have room up to the next multiple of kDoubles and a window.
__attribute__((noinline)) void filter_along(const double* __restrict__ in, const double* __restrict__ weights, int window,
                                            double* __restrict__ out, int64_t count) {
  if (window == kUsual) {
    constexpr int kBlocks = (kUsual - 1 + kDoubles - 1) / kDoubles + 1;
    double w[kUsual];
    for (int k = 0; k < kUsual; ++k) w[k] = weights[k];
    Doubles blocks[kBlocks];
    for (int k = 1; k < kBlocks; ++k) __builtin_memcpy(&blocks[k], in + (k - 1) * kDoubles, sizeof(Doubles));
    for (int64_t j = 0; j < count; j += kDoubles) {
      for (int k = 1; k < kBlocks; ++k) blocks[k - 1] = blocks[k];
      __builtin_memcpy(&blocks[kBlocks - 1], in + j + (kBlocks - 1) * kDoubles, sizeof(Doubles));
      const Doubles sum = add_terms<1>(in + j, blocks, w, w[0] * blocks[0]);
      __builtin_memcpy(out + j, &sum, sizeof(Doubles));
    }
    return;
  }
  for (int64_t j = 0; j < count; ++j) out[j] = 0;
  for (int k = 0; k < window; ++k)
    for (int64_t j = 0; j < count; ++j) out[j] += weights[k] * in[j + k];
}

// The latest `window` rows of kMoments, each `stride` long.
struct Ring {
  double* rows;
  int64_t stride;
  int window;
  int oldest = 0;  // the slot that the next row takes

  FHRT_INLINE Ring(double* rows_, int64_t stride_, int64_t window_) : rows(rows_), stride(stride_), window(static_cast<int>(window_)) {}

  FHRT_INLINE double* next() {
    double* row = rows + oldest * kMoments * stride;
    oldest = oldest + 1 < window ? oldest + 1 : 0;
    return row;
  }
  // The rows from the oldest on.
  FHRT_INLINE const double* row(int k) const { return rows + (oldest + k < window ? oldest + k : oldest + k - window) * kMoments * stride; }
};

// Moment m of out, out[m * stride + j] = sum over k of weights[k] * (moment m of the ring's row k)[j]. All moments together: one chain of
// sums would wait for itself. The weights turn with the ring, so that every address is the same distance from the first.
__attribute__((noinline)) void filter_down(const Ring& ring, const double* __restrict__ weights, double* __restrict__ out, int64_t count) {
  const int64_t stride = ring.stride;
  if (ring.window == kUsual) {
    constexpr int64_t kStride = ssim_stride_of(kUsual);
    double w[kUsual];
    for (int k = 0; k < kUsual; ++k) w[k] = weights[k >= ring.oldest ? k - ring.oldest : k - ring.oldest + kUsual];
    for (int64_t j = 0; j < count; j += kDoubles) {
      const double* in = ring.rows + j;
      Doubles sums[kMoments] = {};
      for (int k = 0; k < kUsual; ++k) {
        for (int m = 0; m < kMoments; ++m) {
          Doubles row;
          __builtin_memcpy(&row, in + (k * kMoments + m) * kStride, sizeof row);
          sums[m] += w[k] * row;
        }
      }
      for (int m = 0; m < kMoments; ++m) __builtin_memcpy(out + m * stride + j, &sums[m], sizeof(Doubles));
    }
    return;
  }
  for (int64_t j = 0; j < kMoments * stride; ++j) out[j] = 0;
  for (int k = 0; k < ring.window; ++k) {
    const double* __restrict__ in = ring.row(k);
    for (int64_t j = 0; j < kMoments * stride; ++j) out[j] += weights[k] * in[j];
  }
}

__attribute__((noinline)) void find_values(const double* __restrict__ sums, int64_t stride, double c1, double c2, double* __restrict__ values,
                                           int64_t count) {
  const double *a = sums, *b = sums + stride, *squares = sums + 2 * stride, *products = sums + 3 * stride;
  for (int64_t j = 0; j < count; ++j)
    values[j] = ssim_value<double>({a[j], b[j], squares[j] - a[j] * a[j] - b[j] * b[j], products[j] - a[j] * b[j]}, c1, c2);
}

// In place: the moments become the four factors of the gradients.
__attribute__((noinline)) void find_slopes(double* __restrict__ sums, int64_t stride, double c1, double c2, const double* __restrict__ upstream,
                                           int64_t count) {
  double *a = sums, *b = sums + stride, *squares = sums + 2 * stride, *products = sums + 3 * stride;
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const double mean_a = a[j], mean_b = b[j], g = upstream[j];
    const SsimSlopes<double> by =
        ssim_slopes<double>({mean_a, mean_b, squares[j] - mean_a * mean_a - mean_b * mean_b, products[j] - mean_a * mean_b}, c1, c2);
    // The variances hold the means too: var_a = E[a²] - mean_a², covariance = E[ab] - mean_a mean_b.
    a[j] = g * (by.by_mean_a - 2 * mean_a * by.by_variance - mean_b * by.by_covariance);
    b[j] = g * (by.by_mean_b - 2 * mean_b * by.by_variance - mean_a * by.by_covariance);
    squares[j] = g * by.by_variance;
    products[j] = g * by.by_covariance;
  }
}

FHRT_INLINE void clear(double* p, int64_t count) {
  for (int64_t j = 0; j < count; ++j) p[j] = 0;
}

// Products of one row of both pictures, with the zeros around it already in `line`.
template <typename T>
FHRT_INLINE void multiply(const T* __restrict__ a, const T* __restrict__ b, double* __restrict__ line, int64_t stride, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const double va = to_double(a[j]), vb = to_double(b[j]);
    line[j] = va;
    line[stride + j] = vb;
    line[2 * stride + j] = va * va + vb * vb;
    line[3 * stride + j] = va * vb;
  }
}

template <typename T>
FHRT_INLINE void put_row(const double* __restrict__ one, const double* __restrict__ twice, const double* __restrict__ other,
                         const T* __restrict__ self, const T* __restrict__ partner, T* __restrict__ grad, int64_t count) {
  for (int64_t x = 0; x < count; ++x) put(grad + x, one[x] + 2 * to_double(self[x]) * twice[x] + to_double(partner[x]) * other[x]);
}

// Rows of moments of a strip of one plane's windows, one after another.
template <typename T>
struct Moments {
  const T *a, *b;
  const Ssim& p;
  int64_t count;            // windows in a row of the strip
  int64_t from, to, start;  // the plane's columns that they hold, and where the first stands in `line`: zeros are around
  double *line, *sums;
  Ring ring;
  int64_t y;  // row of the plane that comes next

  // Windows [column0, column1) of the rows from `row0` on; `scratch`: kMoments * (window + 2) rows.
  FHRT_INLINE Moments(const T* a_, const T* b_, const Ssim& p_, int64_t row0, int64_t column0, int64_t column1, double* scratch)
      : a(a_), b(b_), p(p_), count(column1 - column0), line(scratch), sums(scratch + kMoments * ssim_stride(p_)),
        ring(scratch + 2 * kMoments * ssim_stride(p_), ssim_stride(p_), p_.window), y(row0 - p_.pad()) {
    const int64_t left = column0 - p.pad(), right = column1 - p.pad() + p.window - 1;
    from = left > 0 ? left : 0;
    to = right < p.w ? right : p.w;
    start = from - left;
    clear(line, kMoments * ring.stride);
    for (int k = 1; k < ring.window; ++k) push();
  }

  FHRT_INLINE void push() {
    double* row = ring.next();
    if (y < 0 || y >= p.h) {
      clear(row, kMoments * ring.stride);
    } else {
      multiply(a + y * p.w + from, b + y * p.w + from, line + start, ring.stride, to - from);
      for (int m = 0; m < kMoments; ++m) filter_along(line + m * ring.stride, p.weights, ring.window, row + m * ring.stride, count);
    }
    ++y;
  }

  // The next row of windows: its moments, in `sums`.
  FHRT_INLINE void next() {
    push();
    filter_down(ring, p.weights, sums, count);
  }
};

}  // namespace

template <typename T>
double ssim_tile(const T* a, const T* b, double* map, const Ssim& p, const SsimTile& tile, double* scratch) {
  constexpr int kSums = 8;  // side by side, so that adding up is vectors too
  const int64_t stride = ssim_stride(p), count = tile.column1 - tile.column0, whole = (count + kSums - 1) / kSums * kSums;
  double* values = scratch;
  clear(values, stride);
  Moments<T> moments(a, b, p, tile.row0, tile.column0, tile.column1, scratch + stride);
  double total[kSums] = {};
  for (int64_t i = tile.row0; i < tile.row1; ++i) {
    moments.next();
    find_values(moments.sums, stride, p.c1, p.c2, values, count);
    if (map)
      for (int64_t j = 0; j < count; ++j) map[i * p.out_w() + tile.column0 + j] = values[j];
    for (int64_t j = 0; j < whole; j += kSums)
      for (int k = 0; k < kSums; ++k) total[k] += values[j + k];
  }
  double sum = 0;
  for (int k = 0; k < kSums; ++k) sum += total[k];
  return sum;
}

template <typename T>
void ssim_tile_backward(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p,
                        const SsimTile& tile, double* scratch) {
  const int64_t stride = ssim_stride(p), out_h = p.out_h(), out_w = p.out_w(), pad = p.pad(), reach = p.window - 1;
  const int64_t width = tile.column1 - tile.column0;
  double *given = scratch, *line = given + stride, *factors = line + kMoments * stride;
  Ring ring(factors + kMoments * stride, stride, p.window);
  // Pixel (y, x) is in the windows from (y + pad - reach, x + pad - reach) to (y + pad, x + pad); the weights are symmetric.
  const int64_t first_i = tile.row0 + pad - reach > 0 ? tile.row0 + pad - reach : 0;
  const int64_t left = tile.column0 + pad - reach, first_j = left > 0 ? left : 0;
  const int64_t end_j = tile.column1 + pad < out_w ? tile.column1 + pad : out_w, count = end_j - first_j;
  Moments<T> moments(a, b, p, first_i, first_j, end_j, ring.rows + kMoments * p.window * stride);
  clear(line, kMoments * stride);
  clear(ring.rows, kMoments * p.window * stride);
  for (int64_t j = 0; j < count; ++j) given[j] = *upstream;
  for (int64_t i = first_i; i < tile.row1 + pad; ++i) {
    double* row = ring.next();
    if (i < out_h) {
      moments.next();
      if (upstream_is_map)
        for (int64_t j = 0; j < count; ++j) given[j] = upstream[i * out_w + first_j + j];
      find_slopes(moments.sums, stride, p.c1, p.c2, given, count);
      for (int m = 0; m < kMoments; ++m) {
        for (int64_t j = 0; j < count; ++j) line[m * stride + first_j - left + j] = moments.sums[m * stride + j];
        filter_along(line + m * stride, p.weights, ring.window, row + m * stride, width);
      }
    } else {
      clear(row, kMoments * stride);
    }
    const int64_t y = i - pad;
    if (y < tile.row0) continue;
    filter_down(ring, p.weights, factors, width);
    const double *one_a = factors, *one_b = factors + stride, *twice = factors + 2 * stride, *other = factors + 3 * stride;
    const int64_t at = y * p.w + tile.column0;
    if (grad_a) put_row(one_a, twice, other, a + at, b + at, grad_a + at, width);
    if (grad_b) put_row(one_b, twice, other, b + at, a + at, grad_b + at, width);
  }
}

#define FHRT_SSIM(T)                                                                                                 \
  template double ssim_tile<T>(const T*, const T*, double*, const Ssim&, const SsimTile&, double*);                  \
  template void ssim_tile_backward<T>(const T*, const T*, const double*, bool, T*, T*, const Ssim&, const SsimTile&, double*);
FHRT_SSIM(float)
FHRT_SSIM(double)
FHRT_SSIM(Half)
FHRT_SSIM(BFloat16)
#undef FHRT_SSIM

}  // namespace fhrt::FHRT_ISA
