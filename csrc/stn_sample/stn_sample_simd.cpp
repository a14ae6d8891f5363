// A pixel's channels lie side by side in registers: a neighbour is one load, whatever theta does, where a gather over neighbouring pixels
// would be sixteen. For that the stored map is turned to [pixel, channel] once per piece, which is small beside the sampling.
#include "stn_sample_simd.h"

#include "../simd.h"
#include "stn_math.h"

namespace fhrt::FHRT_ISA {
namespace {

// AxisTap of kPixels positions.
struct AxisTaps {
  alignas(64) int32_t index[2][kPixels];
  alignas(64) float weight[2][kPixels], slope[2][kPixels];
};

// Not inlined, and on copies of the settings, which no store can change: so the compiler turns the loops into vectors.
__attribute__((noinline)) void find_positions(const float* theta, int i, int j0, const StnSample& settings, float* __restrict x,
                                              float* __restrict y) {
  const StnSample p = settings;
  const float t[6] = {theta[0], theta[1], theta[2], theta[3], theta[4], theta[5]};
  for (int k = 0; k < kPixels; ++k) stn_position(t, i, j0 + k, p, x[k], y[k]);
}

__attribute__((noinline)) void find_axis_taps(const float* __restrict v, int64_t stored, const StnSample& settings, AxisTaps& taps) {
  const StnSample p = settings;
  for (int k = 0; k < kPixels; ++k) {
    const AxisTap tap = stn_axis_tap(v[k], stored, p);
    for (int m = 0; m < 2; ++m) {
      taps.index[m][k] = tap.index[m];
      taps.weight[m][k] = tap.weight[m];
      taps.slope[m][k] = tap.slope[m];
    }
  }
}

// Where kPixels output pixels of a row, from column j0 on, read: pixel numbers in the stored map, and what their weights are made of.
struct Taps {
  int32_t index[4][kPixels];
  float weight[4][kPixels], slope_x[4][kPixels], slope_y[4][kPixels];
};

template <bool WithSlopes>
FHRT_INLINE void find_taps(const float* t, int i, int j0, const StnSample& p, Taps& taps) {
  alignas(64) float px[kPixels], py[kPixels];
  AxisTaps x, y;
  find_positions(t, i, j0, p, px, py);
  find_axis_taps(px, p.in_w, p, x);
  find_axis_taps(py, p.in_h, p, y);
  const auto width = static_cast<int32_t>(p.in_w);
  for (int m = 0; m < 4; ++m) {
    const int row = m / 2, column = m % 2;
    for (int k = 0; k < kPixels; k += kWide) {
      Ints<kWide> down, across;
      __builtin_memcpy(&down, y.index[row] + k, sizeof down);
      __builtin_memcpy(&across, x.index[column] + k, sizeof across);
      const Ints<kWide> index = down * width + across;
      __builtin_memcpy(taps.index[m] + k, &index, sizeof index);
      store<kWide>(taps.weight[m] + k, load<kWide>(y.weight[row] + k) * load<kWide>(x.weight[column] + k));
      if constexpr (WithSlopes) {
        store<kWide>(taps.slope_x[m] + k, load<kWide>(y.weight[row] + k) * load<kWide>(x.slope[column] + k));
        store<kWide>(taps.slope_y[m] + k, load<kWide>(y.slope[row] + k) * load<kWide>(x.weight[column] + k));
      }
    }
  }
}

// The stored rows [low, high) that output rows [row0, row1) can read: y is affine, so its extremes lie at the corners.
FHRT_INLINE void rows_read(const float* t, const StnSample& p, int64_t row0, int64_t row1, int64_t& low, int64_t& high) {
  low = p.in_h, high = 0;
  for (int corner = 0; corner < 4; ++corner) {
    float x, y;
    stn_position(t, static_cast<int>(corner & 1 ? row1 - 1 : row0), corner & 2 ? static_cast<int>(p.out_w - 1) : 0, p, x, y);
    const float last = static_cast<float>(p.in_h - 1);
    const auto row = static_cast<int64_t>(clamped((y + 0.5f) / static_cast<float>(p.upsample) - 0.5f, 0.0f, last));
    low = row - 1 < low ? row - 1 : low;
    high = row + 3 > high ? row + 3 : high;
  }
  low = low > 0 ? low : 0;
  high = high < p.in_h ? high : p.in_h;
}

template <int L, typename T>
FHRT_INLINE void pack(const T* x, const Strides& xs, int channels, const StnSample& p, int64_t low, int64_t high, float* packed) {
  for (int64_t y = low; y < high; ++y) {
    for (int64_t k = 0; k < p.in_w; k += kPixels) {
      const int count = static_cast<int>(p.in_w - k < kPixels ? p.in_w - k : kPixels);
      to_pixels<L>(x + y * xs.h + k * xs.w, xs.c, xs.w, channels, count, packed + (y * p.in_w + k) * L);
    }
  }
}

template <int L, typename T>
FHRT_INLINE void forward(const T* x, const Strides& xs, const float* t, T* out, const Strides& os, const StnSample& p, const StnPiece& piece,
                         float* packed) {
  const int64_t block = p.in_h * p.in_w * L;  // floats
  int64_t low, high;
  rows_read(t, p, piece.row0, piece.row1, low, high);
  // The first row stands for whatever lies above or below, with weight 0; memory not written may hold NaN, which no weight takes away.
  for (int64_t c = 0; c < piece.count; c += L) {
    float* maps = packed + c / L * block;
    pack<L>(x + c * xs.c, xs, static_cast<int>(piece.count - c < L ? piece.count - c : L), p, low, high, maps);
    if (low > 0)
      for (int64_t k = 0; k < p.in_w * L; ++k) maps[k] = 0;
  }
  alignas(64) float pixels[kPixels * L];
  Taps taps;
  for (int64_t i = piece.row0; i < piece.row1; ++i) {
    for (int64_t j0 = 0; j0 < p.out_w; j0 += kPixels) {
      const int count = static_cast<int>(p.out_w - j0 < kPixels ? p.out_w - j0 : kPixels);
      find_taps<false>(t, static_cast<int>(i), static_cast<int>(j0), p, taps);
      for (int64_t c = 0; c < piece.count; c += L) {
        const float* maps = packed + c / L * block;
        for (int k = 0; k < kPixels; ++k) {
          Lanes<L> sum = Lanes<L>::zero();
          for (int m = 0; m < 4; ++m) sum.add(taps.weight[m][k], Lanes<L>::from(maps + static_cast<int64_t>(taps.index[m][k]) * L));
          sum.to(pixels + k * L);
        }
        const int channels = static_cast<int>(piece.count - c < L ? piece.count - c : L);
        from_pixels<L>(pixels, out + c * os.c + i * os.h + j0 * os.w, os.c, os.w, channels, count);
      }
    }
  }
}

template <int L, typename T>
FHRT_INLINE void backward(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* t, T* grad_x, const Strides& os,
                          float* grad_theta, const StnSample& p, const StnPiece& piece, float* scratch) {
  const int channels = static_cast<int>(piece.count);
  const int64_t stored = p.in_h * p.in_w * L;
  float *sums = scratch, *packed = scratch + stored;
  if (grad_x)
    for (int64_t k = 0; k < stored; ++k) sums[k] = 0;
  if (grad_theta) pack<L>(x, xs, channels, p, 0, p.in_h, packed);
  Lanes<L> by[6];
  for (int k = 0; k < 6; ++k) by[k] = Lanes<L>::zero();
  alignas(64) float pixels[kPixels * L];
  Taps taps;
  for (int64_t i = 0; i < p.out_h; ++i) {
    const float v = to_normalised(static_cast<int>(i), p.out_h, p.align_corners);
    for (int64_t j0 = 0; j0 < p.out_w; j0 += kPixels) {
      find_taps<true>(t, static_cast<int>(i), static_cast<int>(j0), p, taps);
      const int count = static_cast<int>(p.out_w - j0 < kPixels ? p.out_w - j0 : kPixels);
      to_pixels<L>(grad + i * gs.h + j0 * gs.w, gs.c, gs.w, channels, count, pixels);
      for (int k = 0; k < count; ++k) {
        const Lanes<L> g = Lanes<L>::from(pixels + k * L);
        if (grad_x) {
          for (int m = 0; m < 4; ++m) {
            float* target = sums + static_cast<int64_t>(taps.index[m][k]) * L;
            Lanes<L> sum = Lanes<L>::from(target);
            sum.add(taps.weight[m][k], g);
            sum.to(target);
          }
        }
        if (grad_theta) {
          Lanes<L> along_x = Lanes<L>::zero(), along_y = Lanes<L>::zero(), by_x = Lanes<L>::zero(), by_y = Lanes<L>::zero();
          for (int m = 0; m < 4; ++m) {
            const Lanes<L> value = Lanes<L>::from(packed + static_cast<int64_t>(taps.index[m][k]) * L);
            along_x.add(taps.slope_x[m][k], value);
            along_y.add(taps.slope_y[m][k], value);
          }
          by_x.add(along_x, g);
          by_y.add(along_y, g);
          const float u = to_normalised(static_cast<int>(j0) + k, p.out_w, p.align_corners);
          by[0].add(u, by_x), by[1].add(v, by_x), by[2].add(1, by_x);
          by[3].add(u, by_y), by[4].add(v, by_y), by[5].add(1, by_y);
        }
      }
    }
  }
  if (grad_x) {
    for (int64_t y = 0; y < p.in_h; ++y) {
      for (int64_t k = 0; k < p.in_w; k += kPixels) {
        const int count = static_cast<int>(p.in_w - k < kPixels ? p.in_w - k : kPixels);
        // from_pixels reads kPixels whatever the count.
        for (int m = 0; m < kPixels * L; ++m) pixels[m] = m < count * L ? sums[(y * p.in_w + k) * L + m] : 0.0f;
        from_pixels<L>(pixels, grad_x + y * os.h + k * os.w, os.c, os.w, channels, count);
      }
    }
  }
  if (grad_theta) {
    for (int k = 0; k < 6; ++k) {
      alignas(64) float lanes[L];
      by[k].to(lanes);
      float total = 0;
      for (int l = 0; l < L; ++l) total += lanes[l];
      grad_theta[k] = total * pixels_per_unit((k < 3 ? p.in_w : p.in_h) * p.upsample, p.align_corners);
    }
  }
}

}  // namespace

template <typename T>
void stn_forward(const T* x, const Strides& xs, const float* theta, T* out, const Strides& os, const StnSample& p, const StnPiece& piece,
                 float* scratch) {
  const T* source = x + piece.n * xs.n + piece.first * xs.c;
  T* target = out + piece.n * os.n + piece.first * os.c;
  if (piece.count <= 4) return forward<4>(source, xs, theta + piece.n * 6, target, os, p, piece, scratch);
  if (piece.count <= 8) return forward<8>(source, xs, theta + piece.n * 6, target, os, p, piece, scratch);
  return forward<kStnLanes>(source, xs, theta + piece.n * 6, target, os, p, piece, scratch);
}

template <typename T>
void stn_backward(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, T* grad_x, const Strides& os,
                  float* grad_theta, const StnSample& p, const StnPiece& piece, float* scratch) {
  const T *given = grad + piece.n * gs.n + piece.first * gs.c, *source = x + piece.n * xs.n + piece.first * xs.c;
  T* target = grad_x ? grad_x + piece.n * os.n + piece.first * os.c : nullptr;
  const float* t = theta + piece.n * 6;
  if (piece.count <= 4) return backward<4>(given, gs, source, xs, t, target, os, grad_theta, p, piece, scratch);
  return backward<kStnLanes>(given, gs, source, xs, t, target, os, grad_theta, p, piece, scratch);
}

#define FHRT_STN(T)                                                                                                                      \
  template void stn_forward<T>(const T*, const Strides&, const float*, T*, const Strides&, const StnSample&, const StnPiece&, float*);   \
  template void stn_backward<T>(const T*, const Strides&, const T*, const Strides&, const float*, T*, const Strides&, float*,            \
                                const StnSample&, const StnPiece&, float*);
FHRT_STN(float)
FHRT_STN(Half)
FHRT_STN(BFloat16)
#undef FHRT_STN

}  // namespace fhrt::FHRT_ISA
