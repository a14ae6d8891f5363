#include "blend_moved_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

// The weights of five pixels side by side of which a position lies `t` (0 to 2) from the second: four of them count.
template <int L>
FHRT_INLINE void cubic(Floats<L> t, Floats<L> (&weights)[5]) {
  const auto late = t >= 1;  // by then it lies between the third and the fourth
  t = late ? t - 1 : t;
  const Floats<L> none = {}, before = ((1 - 0.5f * t) * t - 0.5f) * t, here = (1.5f * t - 2.5f) * t * t + 1, behind = (0.5f * t - 0.5f) * t * t,
                  next = 1 - before - here - behind;
  weights[0] = late ? none : before;
  weights[1] = late ? before : here;
  weights[2] = late ? here : next;
  weights[3] = late ? next : behind;
  weights[4] = late ? behind : none;
}

FHRT_INLINE float between(float v, float low, float high) { return v > low ? (v < high ? v : high) : low; }

FHRT_INLINE int floor_of(float v) {
  const int cut = static_cast<int>(v);
  return cut - (static_cast<float>(cut) > v);
}

struct Row {
  const float* padded;
  const float* now;
  float* out;
  const BlendMoved& p;
  float weight, x, y, dx, dy;  // of the first pixel, and how far each goes on
};

// Whether a position is so near that padded rows hold all that it reads.
FHRT_INLINE bool near(float at, float size) { return at > -16 && at < size + 15; }

// L pixels of a row from column j on. They lie side by side in the mean before too, but for a jump of one row or column; more would be a
// turn or growth of 1 / L, and is done in halves.
template <int L>
void blend(const Row& row, int64_t j) {
  const BlendMoved& p = row.p;
  const float width = static_cast<float>(p.w), height = static_cast<float>(p.h), first = static_cast<float>(j), last = first + (L - 1);
  float x = row.x + row.dx * first, y = row.y + row.dy * first, x_last = row.x + row.dx * last, y_last = row.y + row.dy * last;
  bool together = true;
  if constexpr (L == 1) {  // all beyond the border is alike
    x = x_last = between(x, -4, width + 3);
    y = y_last = between(y, -4, height + 3);
  } else {
    together = near(x, width) && near(x_last, width) && near(y, height) && near(y_last, height);
  }
  int column = 0, line = 0, columns = 4, rows = 4;  // of the mean before
  if (together) {
    const int left = floor_of(x), left_last = floor_of(x_last) - (L - 1), top = floor_of(y), top_last = floor_of(y_last);
    column = left < left_last ? left : left_last;
    line = top < top_last ? top : top_last;
    columns += left != left_last;
    rows += top != top_last;
    together = left + left_last - 2 * column <= 1 && top + top_last - 2 * line <= 1;
  }
  if constexpr (L > 1) {
    if (!together) {
      blend<L / 2>(row, j);
      blend<L / 2>(row, j + L / 2);
      return;
    }
  }
  Floats<L> at = {};
  for (int l = 0; l < L; ++l) at[l] = static_cast<float>(l);
  Floats<L> across[5], down[5];
  cubic<L>(x + row.dx * at - at - static_cast<float>(column), across);
  cubic<L>(y + row.dy * at - static_cast<float>(line), down);
  const int64_t stride = p.w + 2 * kBlendPad;
  for (int64_t c = 0; c < p.channels; ++c) {
    const float* plane = row.padded + c * p.h * stride + kBlendPad + column - 1;
    Floats<L> moved = {};
    for (int r = 0; r < rows; ++r) {
      const int64_t wanted = line - 1 + r, source = wanted > 0 ? (wanted < p.h - 1 ? wanted : p.h - 1) : 0;
      Floats<L> sum = {};
      const float* from = plane + source * stride;
      for (int k = 0; k < 4; ++k) sum += across[k] * load<L>(from + k);
      if (columns > 4) sum += across[4] * load<L>(from + 4);
      moved += down[r] * sum;
    }
    const int64_t pixel = c * p.h * p.w + j;
    store<L>(row.out + pixel, moved + row.weight * (load<L>(row.now + pixel) - moved));
  }
}

}  // namespace

void pad_rows(const float* before, float* padded, const BlendMoved& p) {
  for (int64_t row = 0; row < p.channels * p.h; ++row) {
    const float* from = before + row * p.w;
    float* to = padded + row * (p.w + 2 * kBlendPad);
    for (int64_t k = 0; k < kBlendPad; ++k) to[k] = from[0], to[kBlendPad + p.w + k] = from[p.w - 1];
    __builtin_memcpy(to + kBlendPad, from, static_cast<size_t>(p.w) * sizeof(float));
  }
}

void blend_rows(const float* padded, const float* now, const float* map, float weight, float* out, const BlendMoved& p) {
  for (int64_t i = 0; i < p.h; ++i) {
    const float down = static_cast<float>(i);
    const Row row{padded, now + i * p.w, out + i * p.w, p, weight, map[1] * down + map[2], map[4] * down + map[5], map[0], map[3]};
    int64_t j = 0;
    for (; j + kWide <= p.w; j += kWide) blend<kWide>(row, j);
    for (; j < p.w; ++j) blend<1>(row, j);
  }
}

}  // namespace fhrt::FHRT_ISA
