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

// Of Count queries to Vectors · L entries from m on: sums that do not wait for one another.
template <int Count, int Vectors>
FHRT_INLINE void distances_at(int64_t m, const float* shifted, const uint8_t* codes, const float* scale, float* distances, const NeighbourEmbedding& p) {
  Floats<L> sums[Count][Vectors] = {};
  for (int64_t j = 0; j < p.features; ++j) {
    for (int v = 0; v < Vectors; ++v) {
      const Floats<L> values = scale[j] * widen_codes(codes + j * p.entries + m + v * L);
      for (int n = 0; n < Count; ++n) {
        const Floats<L> difference = shifted[n * kMaxFeatures + j] - values;
        sums[n][v] += difference * difference;
      }
    }
  }
  for (int n = 0; n < Count; ++n)
    for (int v = 0; v < Vectors; ++v) store<L>(distances + n * p.entries + m + v * L, sums[n][v]);
}

template <int Count>
FHRT_INLINE void distances_of(const float* shifted, const uint8_t* codes, const float* scale, float* distances, const NeighbourEmbedding& p) {
  constexpr int kVectors = kTogether / Count;
  int64_t m = 0;
  for (; m + kVectors * L <= p.entries; m += kVectors * L) distances_at<Count, kVectors>(m, shifted, codes, scale, distances, p);
  for (; m + L <= p.entries; m += L) distances_at<Count, 1>(m, shifted, codes, scale, distances, p);
  for (; m < p.entries; ++m) {
    for (int n = 0; n < Count; ++n) {
      float sum = 0;
      for (int64_t j = 0; j < p.features; ++j) {
        const float difference = shifted[n * kMaxFeatures + j] - scale[j] * static_cast<float>(codes[j * p.entries + m]);
        sum += difference * difference;
      }
      distances[n * p.entries + m] = sum;
    }
  }
}

// out [16]: the sum of each vector.
FHRT_INLINE void totals(const Floats<L>* vectors, float* out) {
  alignas(64) float rows[16 * L], turned[L * L];
  for (int r = 0; r < 16; ++r) store<L>(rows + r * L, vectors[r]);
  for (int r = 0; r < 16; r += L) {
    transpose<L>(rows + r * L, L, turned, L);
    Floats<L> sums = {};
    for (int c = 0; c < L; ++c) sums += load<L>(turned + c * L);
    store<L>(out + r, sums);
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
  const int64_t count = p.neighbours, row = padded(count), width = padded(p.features);
  float *scaled = scratch, *inverse = scaled + width * row, *weights = inverse + row, *system = weights + 2 * row, *right = system + width * width;
  auto* picked = reinterpret_cast<uint8_t*>(weights);

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
  for (int64_t k = count; k < row; ++k) inverse[k] = 0, picked[k] = 0;

  // B', one feature of all neighbours after the other.
  const int64_t used = (p.features + 3) / 4 * 4;
  for (int64_t j = 0; j < used; ++j) {
    if (j < p.features) {
      for (int64_t k = 0; k < count; ++k) picked[k] = codes[j * p.entries + indices[k]];
    }
    const float worth = j < p.features ? scale[j] : 0;
    for (int64_t k = 0; k < row; k += L) store<L>(scaled + j * row + k, (widen_codes(picked + k) - 128) * worth * load<L>(inverse + k));
  }

  // B'B + λI, four features by four; of what lies below the diagonal nothing is read.
  for (int64_t k = 0; k < width * (width + 1); ++k) system[k] = 0;
  for (int64_t i = 0; i < used; i += 4) {
    for (int64_t j = i; j < used; j += 4) {
      Floats<L> products[16] = {};
      for (int64_t k = 0; k < row; k += L) {
        const float *a = scaled + i * row + k, *b = scaled + j * row + k;
        const Floats<L> columns[4] = {load<L>(b), load<L>(b + row), load<L>(b + 2 * row), load<L>(b + 3 * row)};
        for (int r = 0; r < 4; ++r)
          for (int c = 0; c < 4; ++c) products[4 * r + c] += load<L>(a + r * row) * columns[c];
      }
      alignas(64) float sums[16];
      totals(products, sums);
      for (int e = 0; e < 16; ++e) system[(i + e / 4) * width + j + e % 4] = sums[e];
    }
  }
  for (int64_t j = 0; j < p.features; ++j) {
    system[j * width + j] += p.strength * mean;
    right[j] = query[j];
  }
  solve(system, right, p.features, width);

  Floats<L> all = {};
  for (int64_t k = 0; k < row; k += L) {
    Floats<L> products = {};
    for (int64_t j = 0; j < p.features; ++j) products += right[j] * load<L>(scaled + j * row + k);
    products *= load<L>(inverse + k);
    store<L>(weights + k, products);
    all += products;
  }
  float total = 0;
  for (int l = 0; l < L; ++l) total += all[l];
  const int64_t whole = p.targets / L * L;
  for (int64_t t = 0; t < whole; t += L) {
    Floats<L> values = {};
    for (int64_t k = 0; k < count; ++k) values += weights[k] * widen_codes(target_codes + indices[k] * p.targets + t);
    store<L>(out + t, (values - 128 * total) * load<L>(target_scale + t));
  }
  for (int64_t t = whole; t < p.targets; ++t) {
    float value = 0;
    for (int64_t k = 0; k < count; ++k) value += weights[k] * static_cast<float>(target_codes[indices[k] * p.targets + t]);
    out[t] = (value - 128 * total) * target_scale[t];
  }
}

}  // namespace fhrt::FHRT_ISA
