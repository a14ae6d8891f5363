// A row of pixels comes in, is filtered along itself and kept with the `window` latest such rows; down these, a row of windows comes out.
// So each pixel is filtered once along and once down, all in the first cache.
#include "ssim_simd.h"

#include "../simd.h"
#include "ssim_math.h"

namespace fhrt::FHRT_ISA {
namespace {

constexpr int kMoments = 4;  // a, b, a² + b², ab
constexpr int kUsual = 11;   // the window that the compiler knows
constexpr int64_t kStride = ssim_stride_of(kUsual);

template <typename C>
constexpr int kLanes = kWide * 4 / static_cast<int>(sizeof(C));
template <typename C>
using Vector = typename VectorOf<C, kLanes<C>>::type;

template <typename C, typename T>
FHRT_INLINE C compute(T v) {
  if constexpr (sizeof(T) == 2) {
    return to_float(v);
  } else {
    return static_cast<C>(v);
  }
}

template <typename T, typename C>
FHRT_INLINE void put(T* p, C v) {
  if constexpr (sizeof(T) == 2) {
    *p = from_float<T>(static_cast<float>(v));
  } else {
    *p = static_cast<T>(v);
  }
}

// Lanes Shift and after of a and b side by side.
template <int Shift, typename V>
FHRT_INLINE V slide(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(a[0]), s = Shift;
  if constexpr (s == 0) return a;
  if constexpr (n == 2) return FHRT_SHUFFLE(a, b, s, s + 1);
  if constexpr (n == 4) return FHRT_SHUFFLE(a, b, s, s + 1, s + 2, s + 3);
  if constexpr (n == 8) return FHRT_SHUFFLE(a, b, s, s + 1, s + 2, s + 3, s + 4, s + 5, s + 6, s + 7);
  if constexpr (n == 16)
    return FHRT_SHUFFLE(a, b, s, s + 1, s + 2, s + 3, s + 4, s + 5, s + 6, s + 7, s + 8, s + 9, s + 10, s + 11, s + 12, s + 13, s + 14, s + 15);
}

// Adds the window's terms K and after, for the vector at `in`. Every other neighbour comes out of the registers and the rest out of memory:
// nearly every such load crosses a cache line, so neither way alone is as fast.
template <int K, typename C>
FHRT_INLINE Vector<C> add_terms(const C* in, const Vector<C>* blocks, const Vector<C>* w, Vector<C> sum) {
  if constexpr (K == kUsual) {
    return sum;
  } else {
    constexpr int n = kLanes<C>;
    Vector<C> term;
    if constexpr (K % 2 == 0) {
      term = slide<K % n>(blocks[K / n], blocks[K / n + (K % n > 0)]);
    } else {
      __builtin_memcpy(&term, in + K, sizeof term);
    }
    return add_terms<K + 1>(in, blocks, w, sum + w[K <= kUsual / 2 ? K : kUsual - 1 - K] * term);
  }
}

// out[j] = sum over k of weights[k] * in[j + k], for M rows each `stride` after the last; `in` and `out` have room up to the next multiple of
// kLanes and a window.
template <int M, typename C>
__attribute__((noinline)) void filter_along(const C* __restrict__ in, const double* __restrict__ weights, int window, C* __restrict__ out,
                                            int64_t stride, int64_t count) {
  if (window == kUsual) {
    constexpr int n = kLanes<C>, kBlocks = (kUsual - 1 + n - 1) / n + 1;
    Vector<C> w[kUsual / 2 + 1];  // the others are the same again
    for (int k = 0; k <= kUsual / 2; ++k) w[k] = static_cast<C>(weights[k]) - Vector<C>{};
    for (int m = 0; m < M; ++m, in += stride, out += stride) {
      Vector<C> blocks[kBlocks];
      for (int k = 1; k < kBlocks; ++k) __builtin_memcpy(&blocks[k], in + (k - 1) * n, sizeof(Vector<C>));
      for (int64_t j = 0; j < count; j += n) {
        for (int k = 1; k < kBlocks; ++k) blocks[k - 1] = blocks[k];
        __builtin_memcpy(&blocks[kBlocks - 1], in + j + (kBlocks - 1) * n, sizeof(Vector<C>));
        const Vector<C> sum = add_terms<1>(in + j, blocks, w, w[0] * blocks[0]);
        __builtin_memcpy(out + j, &sum, sizeof(Vector<C>));
      }
    }
    return;
  }
  for (int m = 0; m < M; ++m, in += stride, out += stride) {
    for (int64_t j = 0; j < count; ++j) out[j] = 0;
    for (int k = 0; k < window; ++k)
      for (int64_t j = 0; j < count; ++j) out[j] += static_cast<C>(weights[k]) * in[j + k];
  }
}

// The latest `window` rows of kMoments, each `stride` long.
template <typename C>
struct Ring {
  C* rows;
  int64_t stride;
  int window;
  int oldest = 0;  // the slot that the next row takes

  FHRT_INLINE Ring(C* rows_, int64_t stride_, int64_t window_) : rows(rows_), stride(stride_), window(static_cast<int>(window_)) {}

  FHRT_INLINE C* next() {
    C* row = rows + oldest * kMoments * stride;
    oldest = oldest + 1 < window ? oldest + 1 : 0;
    return row;
  }
  // The rows from the oldest on.
  FHRT_INLINE const C* row(int k) const { return rows + (oldest + k < window ? oldest + k : oldest + k - window) * kMoments * stride; }
};

// out[m * stride + j] = sum over k of weights[k] * (row m of the ring's k-th)[j], for the first M rows. All together: one chain of sums would
// wait for itself. The weights turn with the ring, so that every address is the same distance from the first.
template <int M, typename C>
__attribute__((noinline)) void filter_down(const Ring<C>& ring, const double* __restrict__ weights, C* __restrict__ out, int64_t count) {
  const int64_t stride = ring.stride;
  if (ring.window == kUsual) {
    C w[kUsual];
    for (int k = 0; k < kUsual; ++k) w[k] = static_cast<C>(weights[k >= ring.oldest ? k - ring.oldest : k - ring.oldest + kUsual]);
    for (int64_t j = 0; j < count; j += kLanes<C>) {
      const C* in = ring.rows + j;
      Vector<C> sums[M] = {};
      for (int k = 0; k < kUsual; ++k) {
        for (int m = 0; m < M; ++m) {
          Vector<C> row;
          __builtin_memcpy(&row, in + (k * kMoments + m) * kStride, sizeof row);
          sums[m] += w[k] * row;
        }
      }
      for (int m = 0; m < M; ++m) __builtin_memcpy(out + m * stride + j, &sums[m], sizeof sums[m]);
    }
    return;
  }
  for (int64_t j = 0; j < M * stride; ++j) out[j] = 0;
  for (int k = 0; k < ring.window; ++k) {
    const C* __restrict__ in = ring.row(k);
    for (int64_t j = 0; j < M * stride; ++j) out[j] += static_cast<C>(weights[k]) * in[j];
  }
}

template <typename C>
FHRT_INLINE void fill(C* p, C value, int64_t count) {
  for (int64_t j = 0; j < count; ++j) p[j] = value;
}

// What is subtracted from the pictures before anything is squared. In double nothing is; in float the tile's means are: second moments of
// what is left keep their digits, while those of values near 255 would lose them all against c2.
template <typename C>
struct Pivots {
  C a, b;
};

template <typename T, typename C>
__attribute__((noinline)) void multiply(const T* __restrict__ a, const T* __restrict__ b, Pivots<C> pivots, C* __restrict__ line,
                                        int64_t stride, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const C va = compute<C>(a[j]) - pivots.a, vb = compute<C>(b[j]) - pivots.b;
    line[j] = va;
    line[stride + j] = vb;
    line[2 * stride + j] = va * va + vb * vb;
    line[3 * stride + j] = va * vb;
  }
}

__attribute__((noinline)) void find_values(const double* __restrict__ sums, int64_t stride, double c1, double c2, double* __restrict__ values,
                                           int64_t count) {
  const double *a = sums, *b = sums + stride, *squares = sums + 2 * stride, *products = sums + 3 * stride;
  for (int64_t j = 0; j < count; ++j)
    values[j] = ssim_value<double>({a[j], b[j], squares[j] - a[j] * a[j] - b[j] * b[j], products[j] - a[j] * b[j]}, c1, c2);
}

// The gradients' factors in this order: of 2a (2b), of b (a), of 1 in grad_a, of 1 in grad_b (where M is 4).
template <int M, typename C>
__attribute__((noinline)) void find_slopes(const C* __restrict__ sums, int64_t stride, Pivots<C> pivots, C c1, C c2, const C* __restrict__ upstream,
                                           C* __restrict__ factors, int64_t count) {
  const C *first = sums, *second = sums + stride, *third = sums + 2 * stride, *fourth = sums + 3 * stride;
  for (int64_t j = 0; j < count; ++j) {
    const C a = first[j], b = second[j], g = upstream[j];
    const SsimSlopes<C> by = ssim_slopes<C>({a + pivots.a, b + pivots.b, third[j] - a * a - b * b, fourth[j] - a * b}, c1, c2);
    // The variances hold the means too: var_a = E[a²] - mean_a², covariance = E[ab] - mean_a mean_b.
    factors[j] = g * by.by_variance;
    factors[stride + j] = g * by.by_covariance;
    factors[2 * stride + j] = g * (by.by_mean_a - 2 * a * by.by_variance - b * by.by_covariance);
    if constexpr (M == 4) factors[3 * stride + j] = g * (by.by_mean_b - 2 * b * by.by_variance - a * by.by_covariance);
  }
}

template <typename T, typename C>
__attribute__((noinline)) void put_row(const C* __restrict__ twice, const C* __restrict__ other, const C* __restrict__ one,
                                       const T* __restrict__ self, C self_pivot, const T* __restrict__ partner, C partner_pivot,
                                       T* __restrict__ grad, int64_t count) {
  for (int64_t x = 0; x < count; ++x)
    put(grad + x, one[x] + 2 * (compute<C>(self[x]) - self_pivot) * twice[x] + (compute<C>(partner[x]) - partner_pivot) * other[x]);
}

// Rows of moments of a strip of one plane's windows, one after another.
template <typename T, typename C>
struct Moments {
  const T *a, *b;
  const Ssim& p;
  Pivots<C> pivots;
  int64_t count;            // windows in a row of the strip
  int64_t from, to, start;  // the plane's columns that they hold, and where the first stands in `line`: padding is around
  C *line, *sums;
  Ring<C> ring;
  int64_t y;  // row of the plane that comes next

  // Windows [column0, column1) of the rows from `row0` on; `scratch`: kMoments * (window + 2) rows.
  FHRT_INLINE Moments(const T* a_, const T* b_, const Ssim& p_, Pivots<C> pivots_, int64_t row0, int64_t column0, int64_t column1, C* scratch)
      : a(a_), b(b_), p(p_), pivots(pivots_), count(column1 - column0), line(scratch), sums(scratch + kMoments * ssim_stride(p_)),
        ring(scratch + 2 * kMoments * ssim_stride(p_), ssim_stride(p_), p_.window), y(row0 - p_.pad()) {
    const int64_t left = column0 - p.pad(), right = column1 - p.pad() + p.window - 1;
    from = left > 0 ? left : 0;
    to = right < p.w ? right : p.w;
    start = from - left;
    pad(line);
    for (int k = 1; k < ring.window; ++k) push();
  }

  // Moments of zeros, which lie around the picture.
  FHRT_INLINE void pad(C* rows) {
    const C zeros[kMoments] = {-pivots.a, -pivots.b, pivots.a * pivots.a + pivots.b * pivots.b, pivots.a * pivots.b};
    for (int m = 0; m < kMoments; ++m) fill(rows + m * ring.stride, zeros[m], ring.stride);
  }

  FHRT_INLINE void push() {
    C* row = ring.next();
    if (y < 0 || y >= p.h) {
      pad(row);
    } else {
      multiply(a + y * p.w + from, b + y * p.w + from, pivots, line + start, ring.stride, to - from);
      filter_along<kMoments>(line, p.weights, ring.window, row, ring.stride, count);
    }
    ++y;
  }

  // The next row of windows: its moments, in `sums`.
  FHRT_INLINE void next() {
    push();
    filter_down<kMoments>(ring, p.weights, sums, count);
  }
};

// The means of both pictures around a tile.
template <typename T>
FHRT_INLINE Pivots<float> means(const T* a, const T* b, const Ssim& p, const SsimTile& tile) {
  float sum_a = 0, sum_b = 0;
  int64_t count = 0;
  for (int64_t y = tile.row0; y < tile.row1; y += 3) {  // a sample will do
    for (int64_t x = tile.column0; x < tile.column1; x += 5) {
      sum_a += compute<float>(a[y * p.w + x]);
      sum_b += compute<float>(b[y * p.w + x]);
      ++count;
    }
  }
  return {sum_a / static_cast<float>(count), sum_b / static_cast<float>(count)};
}

template <int M, typename T, typename C>
FHRT_INLINE void backward(const T* a, const T* b, const double* upstream, bool upstream_is_map, T* grad_a, T* grad_b, const Ssim& p,
                          const SsimTile& tile, Pivots<C> pivots, C* scratch) {
  const int64_t stride = ssim_stride(p), out_h = p.out_h(), out_w = p.out_w(), pad = p.pad(), reach = p.window - 1;
  const int64_t width = tile.column1 - tile.column0;
  C *given = scratch, *line = given + stride, *factors = line + kMoments * stride;
  Ring<C> ring(factors + kMoments * stride, stride, p.window);
  // Pixel (y, x) is in the windows from (y + pad - reach, x + pad - reach) to (y + pad, x + pad); the weights are symmetric.
  const int64_t first_i = tile.row0 + pad - reach > 0 ? tile.row0 + pad - reach : 0;
  const int64_t left = tile.column0 + pad - reach, first_j = left > 0 ? left : 0;
  const int64_t end_j = tile.column1 + pad < out_w ? tile.column1 + pad : out_w, count = end_j - first_j;
  Moments<T, C> moments(a, b, p, pivots, first_i, first_j, end_j, ring.rows + kMoments * p.window * stride);
  fill(line, C(0), kMoments * stride);
  fill(ring.rows, C(0), kMoments * p.window * stride);
  fill(given, static_cast<C>(*upstream), count);
  for (int64_t i = first_i; i < tile.row1 + pad; ++i) {
    C* row = ring.next();
    if (i < out_h) {
      moments.next();
      if (upstream_is_map)
        for (int64_t j = 0; j < count; ++j) given[j] = static_cast<C>(upstream[i * out_w + first_j + j]);
      find_slopes<M>(moments.sums, stride, pivots, static_cast<C>(p.c1), static_cast<C>(p.c2), given, line + first_j - left, count);
      filter_along<M>(line, p.weights, ring.window, row, stride, width);
    } else {
      fill(row, C(0), kMoments * stride);
    }
    const int64_t y = i - pad;
    if (y < tile.row0) continue;
    filter_down<M>(ring, p.weights, factors, width);
    const C *twice = factors, *other = factors + stride, *one_a = factors + 2 * stride;
    const int64_t at = y * p.w + tile.column0;
    put_row(twice, other, one_a, a + at, pivots.a, b + at, pivots.b, grad_a + at, width);
    if constexpr (M == 4) put_row(twice, other, factors + 3 * stride, b + at, pivots.b, a + at, pivots.a, grad_b + at, width);
  }
}

}  // namespace

template <typename T>
double ssim_tile(const T* a, const T* b, double* map, const Ssim& p, const SsimTile& tile, double* scratch) {
  constexpr int kSums = 8;  // side by side, so that adding up is vectors too
  const int64_t stride = ssim_stride(p), count = tile.column1 - tile.column0, whole = (count + kSums - 1) / kSums * kSums;
  double* values = scratch;
  fill(values, 0.0, stride);
  Moments<T, double> moments(a, b, p, {0, 0}, tile.row0, tile.column0, tile.column1, scratch + stride);
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
  if (!grad_a) {  // the same with the parts exchanged
    const T* other = a;
    a = b, b = other;
    grad_a = grad_b, grad_b = nullptr;
  }
  if constexpr (sizeof(T) == sizeof(double)) {
    if (grad_b) return backward<4>(a, b, upstream, upstream_is_map, grad_a, grad_b, p, tile, Pivots<double>{0, 0}, scratch);
    backward<3>(a, b, upstream, upstream_is_map, grad_a, grad_b, p, tile, Pivots<double>{0, 0}, scratch);
  } else {
    const Pivots<float> pivots = means(a, b, p, tile);
    auto* floats = reinterpret_cast<float*>(scratch);
    if (grad_b) return backward<4>(a, b, upstream, upstream_is_map, grad_a, grad_b, p, tile, pivots, floats);
    backward<3>(a, b, upstream, upstream_is_map, grad_a, grad_b, p, tile, pivots, floats);
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
