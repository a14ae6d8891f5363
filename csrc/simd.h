// Vectors for the *_simd.cpp files, which setup.py compiles once per instruction set, each time with FHRT_ISA naming it.
//
// Such a file puts everything into namespace fhrt::FHRT_ISA and instantiates nothing of the standard library: the linker keeps one copy
// of an inline function, and that copy may hold instructions that the machine lacks.
#pragma once
#include "isa.h"
#include "numeric.h"

#define FHRT_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#define FHRT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FHRT_SHUFFLE(a, b, ...) \
  __builtin_shuffle(a, b, typename ::fhrt::FHRT_ISA::MaskOf<sizeof((a)[0]), sizeof(a) / sizeof((a)[0])>::type{__VA_ARGS__})
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
struct MaskOf<1, L> : VectorOf<uint8_t, L> {};
template <int L>
struct MaskOf<2, L> : VectorOf<uint16_t, L> {};
template <int L>
struct MaskOf<4, L> : VectorOf<int32_t, L> {};
template <int L>
using Floats = typename VectorOf<float, L>::type;
template <int L>
using Ints = typename VectorOf<int32_t, L>::type;

template <int L, typename T>
FHRT_INLINE Floats<L> load(const T* p) {
  Floats<L> v;
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

// Four bytes, the lowest first.
FHRT_INLINE Floats<4> widen(uint32_t bytes) {
  typename VectorOf<uint32_t, 4>::type first = {bytes, 0, 0, 0};
  typename VectorOf<uint8_t, 16>::type as_bytes, none = {};
  typename VectorOf<uint16_t, 8>::type as_words, no_words = {};
  __builtin_memcpy(&as_bytes, &first, 16);
  as_bytes = FHRT_SHUFFLE(as_bytes, none, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  __builtin_memcpy(&as_words, &as_bytes, 16);
  as_words = FHRT_SHUFFLE(as_words, no_words, 0, 8, 1, 9, 2, 10, 3, 11);
  Ints<4> numbers;
  __builtin_memcpy(&numbers, &as_words, 16);
  return __builtin_convertvector(numbers, Floats<4>);
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

// out[c * out_stride + r] = in[r * in_stride + c] for a square of S, 4 or 8.
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
constexpr int kSquare = L < 8 || kWide < 8 ? 4 : 8;

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
    alignas(64) float planes[L * kPixels];
    for (int k = 0; k < kPixels; k += kS)
      for (int c = 0; c < L; c += kS) transpose<kS>(pixels + k * L + c, L, planes + c * kPixels + k, kPixels);
    for (int c = 0; c < channels; ++c) {
      T* row = p + c * channel_stride;
      const float* plane = planes + c * kPixels;
      if (count == kPixels) {
        for (int k = 0; k < kPixels; k += kWide) store<kWide>(row + k, load<kWide>(plane + k));
      } else {
        for (int k = 0; k < count; ++k) row[k] = from_float<T>(plane[k]);
      }
    }
    return;
  }
  for (int k = 0; k < count; ++k)
    for (int c = 0; c < channels; ++c) p[c * channel_stride + k * pixel_stride] = from_float<T>(pixels[k * L + c]);
}

}  // namespace fhrt::FHRT_ISA
