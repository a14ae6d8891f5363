#include "neighbour_embedding_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

constexpr int L = kWide;
// Below this part of their mean squared distances do not fall: `_FLOOR` of fhrt/models/neighbours.py.
constexpr float kFloor = 1e-4f;

FHRT_INLINE Floats<L> widen_codes(const uint8_t* bytes) {
#if defined(__AVX512F__)  // maskz: GCC 12 warns of its own header's plain form
  const auto whole = _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  return __builtin_convertvector((Ints<L>)whole, Floats<L>);
#elif defined(__AVX2__)
  return widen(bytes);
#else
  Floats<L> values;
  for (int l = 0; l < L; ++l) values[l] = static_cast<float>(bytes[l]);
  return values;
#endif
}

FHRT_INLINE float greater(float a, float b) { return a > b ? a : b; }

FHRT_INLINE float total(Floats<L> values) {
  float sum = 0;
  for (int l = 0; l < L; ++l) sum += values[l];
  return sum;
}

template <int Count>
FHRT_INLINE void distances_of(const float* shifted, const uint8_t* codes, const float* scale, float* distances, const NeighbourEmbedding& p) {
  const int64_t entries = p.entries, last = entries - L;
  for (int64_t m = 0; m < entries; m += L) {
    if (m > last && last >= 0) m = last;  // the last vector overlaps the one before
    Floats<L> sums[Count] = {};
    uint8_t few[L] = {};
    for (int64_t j = 0; j < p.features; ++j) {
      const uint8_t* row = codes + j * entries + m;
      if (last < 0) {
        for (int64_t l = 0; l < entries; ++l) few[l] = row[l];
        row = few;
      }
      const Floats<L> values = scale[j] * widen_codes(row);
      for (int n = 0; n < Count; ++n) {
        const Floats<L> difference = shifted[n * kMaxFeatures + j] - values;
        sums[n] += difference * difference;
      }
    }
    for (int n = 0; n < Count; ++n) {
      if (last >= 0) {
        store<L>(distances + n * entries + m, sums[n]);
      } else {
        for (int64_t l = 0; l < entries; ++l) distances[n * entries + l] = sums[n][l];
      }
    }
  }
}

// system [P, P] and right [P] of `size` equations, symmetric and positive definite: right becomes the solution. Needs no pivots.
FHRT_INLINE void solve(float* system, float* right, int64_t size, int64_t width) {
  for (int64_t j = 0; j < size; ++j) {
    const float *row = system + j * width, one = 1 / row[j];
    for (int64_t i = j + 1; i < size; ++i) {
      float* below = system + i * width;
      const float part = row[i] * one;  // what stands in column j below it, by symmetry: the lower half is not kept up
      for (int64_t k = i / L * L; k < width; k += L) store<L>(below + k, load<L>(below + k) - part * load<L>(row + k));
      right[i] -= part * right[j];
    }
  }
  for (int64_t i = size - 1; i >= 0; --i) {
    const float* row = system + i * width;
    for (int64_t k = i + 1; k < size; ++k) right[i] -= row[k] * right[k];
    right[i] /= row[i];
  }
}

}  // namespace

void squared_distances(const float* query, const uint8_t* codes, const float* scale, float* distances, int64_t count,
                       const NeighbourEmbedding& p) {
  float shifted[kTogether * kMaxFeatures];  // the query plus what the codes' zero of 128 is worth
  for (int64_t n = 0; n < count; ++n)
    for (int64_t j = 0; j < p.features; ++j) shifted[n * kMaxFeatures + j] = query[n * p.features + j] + 128 * scale[j];
  if (count == kTogether) return distances_of<kTogether>(shifted, codes, scale, distances, p);
  for (int64_t n = 0; n < count; ++n) distances_of<1>(shifted + n * kMaxFeatures, codes, scale, distances + n * p.entries, p);
}

void weighted_sum(const float* query, const uint8_t* codes, const float* scale, const uint8_t* target_codes, const float* target_scale,
                  const int32_t* indices, const float* squared, float* out, const NeighbourEmbedding& p, float* scratch) {
  const int64_t count = p.neighbours, width = padded(p.features);
  float *scaled = scratch, *system = scaled + count * width, *right = system + width * width, *inverse = right + 2 * width;

  // 1/d in units of the mean distance, d growing without bound toward the last neighbour (`fading`).
  double sum = 0;
  float furthest = 1e-12f;
  for (int64_t k = 0; k < count; ++k) {
    sum += squared[k];
    furthest = greater(furthest, squared[k]);
  }
  const float mean = greater(static_cast<float>(sum / static_cast<double>(count)), 1e-12f);
  for (int64_t k = 0; k < count; ++k) {
    const float faded = squared[k] / greater(1 - squared[k] / furthest, kFloor);
    inverse[k] = __builtin_sqrtf(mean / greater(faded, kFloor * mean));
  }
  for (int64_t k = 0; k < count; ++k) {
    float* row = scaled + k * width;
    const uint8_t* entry = codes + indices[k];
    for (int64_t j = 0; j < p.features; ++j) row[j] = (static_cast<float>(entry[j * p.entries]) - 128) * scale[j] * inverse[k];
    for (int64_t j = p.features; j < width; ++j) row[j] = 0;
  }

  // B'B, eight rows and a vector of columns at a time; of what lies below the diagonal nothing is read.
  for (int64_t i = 0; i < width; i += 8) {
    for (int64_t j = i / L * L; j < width; j += L) {
      Floats<L> sums[8] = {};
      for (int64_t k = 0; k < count; ++k) {
        const float* row = scaled + k * width;
        const Floats<L> columns = load<L>(row + j);
        for (int r = 0; r < 8; ++r) sums[r] += row[i + r] * columns;
      }
      for (int r = 0; r < 8; ++r) store<L>(system + (i + r) * width + j, sums[r]);
    }
  }
  for (int64_t j = 0; j < p.features; ++j) {
    system[j * width + j] += p.strength * mean;
    right[j] = query[j];
  }
  for (int64_t j = p.features; j < width; ++j) right[j] = 0;
  solve(system, right, p.features, width);

  float weights = 0;
  for (int64_t k = 0; k < count; ++k) {
    Floats<L> products = {};
    for (int64_t j = 0; j < width; j += L) products += load<L>(scaled + k * width + j) * load<L>(right + j);
    inverse[k] *= total(products);
    weights += inverse[k];
  }
  const int64_t whole = p.targets / L * L;
  for (int64_t t = 0; t < whole; t += L) {
    Floats<L> values = {};
    for (int64_t k = 0; k < count; ++k) values += inverse[k] * widen_codes(target_codes + indices[k] * p.targets + t);
    store<L>(out + t, (values - 128 * weights) * load<L>(target_scale + t));
  }
  for (int64_t t = whole; t < p.targets; ++t) {
    float value = 0;
    for (int64_t k = 0; k < count; ++k) value += inverse[k] * static_cast<float>(target_codes[indices[k] * p.targets + t]);
    out[t] = (value - 128 * weights) * target_scale[t];
  }
}

}  // namespace fhrt::FHRT_ISA
