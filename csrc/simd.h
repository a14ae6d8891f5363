// Vectors for the *_simd.cpp files, which setup.py compiles once per instruction set, each time with FHRT_ISA naming it.
//
// Such a file puts everything into namespace fhrt::FHRT_ISA and instantiates nothing of the standard library: the linker keeps one copy
// of an inline function, and that copy may hold instructions that the machine lacks.
#pragma once
#include "isa.h"
#include "numeric.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FHRT_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#define FHRT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FHRT_SHUFFLE(a, b, ...) \
  __builtin_shuffle(a, b, ::fhrt::FHRT_ISA::Mask<sizeof((a)[0]), sizeof(a) / sizeof((a)[0])>{__VA_ARGS__})
#endif

namespace fhrt::FHRT_ISA {

#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX2__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif

template <typename T, int L>
struct VectorOf {
  typedef T type __attribute__((vector_size(L * sizeof(T))));
};
template <int Bytes, int L>
struct MaskOf;
template <int L>
struct MaskOf<4, L> : VectorOf<int32_t, L> {};
template <int L>
struct MaskOf<8, L> : VectorOf<int64_t, L> {};
template <int Bytes, int L>
using Mask = typename MaskOf<Bytes, L>::type;
template <int L>
using Floats = typename VectorOf<float, L>::type;
template <int L>
using Ints = typename VectorOf<int32_t, L>::type;

template <int L, typename T>
FHRT_INLINE Floats<L> load(const T* p) {
  Floats<L> v = {};
  if constexpr (sizeof(T) == sizeof(float)) {
    __builtin_memcpy(&v, p, sizeof v);
  } else {
    for (int l = 0; l < L; ++l) v[l] = to_float(p[l]);
  }
  return v;
}

template <int L, typename T>
FHRT_INLINE void store(T* p, Floats<L> v) {
  if constexpr (sizeof(T) == sizeof(float)) {
    __builtin_memcpy(p, &v, sizeof v);
  } else {
    for (int l = 0; l < L; ++l) p[l] = from_float<T>(v[l]);
  }
}

// Eight bytes.
FHRT_INLINE Floats<8> widen(const uint8_t* bytes) {
#if defined(__AVX2__)  // one instruction, which no compiler finds by itself
  return (Floats<8>)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#else
  Floats<8> values;
  for (int l = 0; l < 8; ++l) values[l] = static_cast<float>(bytes[l]);
  return values;
#endif
}

// out[j * F + b] = in[b * in_stride + j]: phases into a row, or rows of channels into pixels.
template <int F>
__attribute__((noinline)) void interleave(const uint8_t* __restrict__ in, int64_t in_stride, uint8_t* __restrict__ out, int64_t count) {
  for (int64_t j = 0; j < count; ++j)
    for (int b = 0; b < F; ++b) out[j * F + b] = in[b * in_stride + j];
}

// L floats in as many registers as that takes.
template <int L>
struct Lanes {
  static constexpr int kPart = L < kWide ? L : kWide, kParts = L / kPart;
  Floats<kPart> part[kParts];

  static FHRT_INLINE Lanes zero() {
    Lanes v;
    for (int k = 0; k < kParts; ++k) v.part[k] = Floats<kPart>{};
    return v;
  }
  static FHRT_INLINE Lanes from(const float* p) {
    Lanes v;
    for (int k = 0; k < kParts; ++k) v.part[k] = load<kPart>(p + k * kPart);
    return v;
  }
  FHRT_INLINE void to(float* p) const {
    for (int k = 0; k < kParts; ++k) store<kPart>(p + k * kPart, part[k]);
  }
  FHRT_INLINE void add(float weight, const Lanes& v) {
    for (int k = 0; k < kParts; ++k) part[k] += weight * v.part[k];
  }
  FHRT_INLINE void add(const Lanes& u, const Lanes& v) {
    for (int k = 0; k < kParts; ++k) part[k] += u.part[k] * v.part[k];
  }
};

// out[c * out_stride + r] = in[r * in_stride + c] for a square of S: 4, 8 or 16.
template <int S, typename In, typename Out>
FHRT_INLINE void transpose(const In* in, int64_t in_stride, Out* out, int64_t out_stride) {
  Floats<S> a[S], b[S];
  for (int r = 0; r < S; ++r) a[r] = load<S>(in + r * in_stride);
  if constexpr (S == 4) {
    for (int r = 0; r < 4; r += 2) {
      b[r] = FHRT_SHUFFLE(a[r], a[r + 1], 0, 4, 1, 5);
      b[r + 1] = FHRT_SHUFFLE(a[r], a[r + 1], 2, 6, 3, 7);
    }
    for (int r = 0; r < 2; ++r) {
      a[2 * r] = FHRT_SHUFFLE(b[r], b[r + 2], 0, 1, 4, 5);
      a[2 * r + 1] = FHRT_SHUFFLE(b[r], b[r + 2], 2, 3, 6, 7);
    }
  } else if constexpr (S == 16) {
    // Pairs, fours, then the quarters of a register, in two steps: alternate quarters side by side, then each to its column.
    for (int r = 0; r < 16; r += 2) {
      b[r] = FHRT_SHUFFLE(a[r], a[r + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
      b[r + 1] = FHRT_SHUFFLE(a[r], a[r + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    }
    for (int r = 0; r < 16; r += 4) {
      for (int k = 0; k < 2; ++k) {
        a[r + 2 * k] = FHRT_SHUFFLE(b[r + k], b[r + k + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        a[r + 2 * k + 1] = FHRT_SHUFFLE(b[r + k], b[r + k + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
      }
    }
    for (int r = 0; r < 16; r += 8) {
      for (int k = 0; k < 4; ++k) {
        b[r + k] = FHRT_SHUFFLE(a[r + k], a[r + k + 4], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
        b[r + k + 4] = FHRT_SHUFFLE(a[r + k], a[r + k + 4], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
      }
    }
    for (int k = 0; k < 8; ++k) {
      a[k] = FHRT_SHUFFLE(b[k], b[k + 8], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
      a[k + 8] = FHRT_SHUFFLE(b[k], b[k + 8], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
  } else {
    // Pairs, then fours within the halves of a register, then the halves themselves.
    for (int r = 0; r < 8; r += 2) {
      b[r] = FHRT_SHUFFLE(a[r], a[r + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      b[r + 1] = FHRT_SHUFFLE(a[r], a[r + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int r = 0; r < 8; r += 4) {
      for (int k = 0; k < 2; ++k) {
        a[r + 2 * k] = FHRT_SHUFFLE(b[r + k], b[r + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[r + 2 * k + 1] = FHRT_SHUFFLE(b[r + k], b[r + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
      }
    }
    for (int r = 0; r < 4; ++r) {
      b[r] = FHRT_SHUFFLE(a[r], a[r + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      b[r + 4] = FHRT_SHUFFLE(a[r], a[r + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int r = 0; r < 8; ++r) a[r] = b[r];
  }
  for (int r = 0; r < S; ++r) store<S>(out + r * out_stride, a[r]);
}

template <int L>
constexpr int kSquare = L < kWide ? L : kWide;

// Pixels that one call of to_pixels or from_pixels moves at most.
constexpr int kPixels = 16;

// pixels[k * L + c] = p[c * channel_stride + k * pixel_stride]; channels beyond `channels` become 0. L is a multiple of 4, up to 16.
template <int L, typename T>
FHRT_INLINE void to_pixels(const T* p, int64_t channel_stride, int64_t pixel_stride, int channels, int count, float* pixels) {
  static const T zeros[kPixels] = {};
  constexpr int kS = kSquare<L>;
  if (pixel_stride == 1 && count == kPixels) {
    const T* rows = p;
    alignas(64) T copy[L][kPixels];
    if (channels < L) {  // whole squares are read: the missing channels are rows of zeros
      for (int c = 0; c < L; ++c) __builtin_memcpy(copy[c], c < channels ? p + c * channel_stride : zeros, sizeof copy[c]);
      rows = copy[0];
      channel_stride = kPixels;
    }
    for (int c = 0; c < L; c += kS)
      for (int k = 0; k < kPixels; k += kS) transpose<kS>(rows + c * channel_stride + k, channel_stride, pixels + k * L + c, L);
    return;
  }
  for (int k = 0; k < count; ++k)
    for (int c = 0; c < L; ++c) pixels[k * L + c] = c < channels ? to_float(p[c * channel_stride + k * pixel_stride]) : 0.0f;
}

// The way back: p[c * channel_stride + k * pixel_stride] = pixels[k * L + c]. `pixels` holds kPixels, whatever `count`.
template <int L, typename T>
FHRT_INLINE void from_pixels(const float* pixels, T* p, int64_t channel_stride, int64_t pixel_stride, int channels, int count) {
  if (pixel_stride == 1) {
    constexpr int kS = kSquare<L>;
    for (int c = 0; c < channels; c += kS) {
      for (int k = 0; k < count; k += kS) {
        T* corner = p + c * channel_stride + k;
        if (c + kS <= channels && k + kS <= count) {
          transpose<kS>(pixels + k * L + c, L, corner, channel_stride);
        } else {
          alignas(64) float square[kS * kS];
          transpose<kS>(pixels + k * L + c, L, square, kS);
          for (int r = 0; r < kS && c + r < channels; ++r) {
            if (k + kS <= count) {
              store<kS>(corner + r * channel_stride, load<kS>(square + r * kS));
            } else {
              for (int m = 0; m < count - k; ++m) corner[r * channel_stride + m] = from_float<T>(square[r * kS + m]);
            }
          }
        }
      }
    }
    return;
  }
  for (int k = 0; k < count; ++k)
    for (int c = 0; c < channels; ++c) p[c * channel_stride + k * pixel_stride] = from_float<T>(pixels[k * L + c]);
}

}  // namespace fhrt::FHRT_ISA
