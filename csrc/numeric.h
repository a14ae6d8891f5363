// Scalar types, strides, and the qualifiers with which host and device share one source of arithmetic.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define FHRT_HD __host__ __device__ __forceinline__
#else
// Always: a copy compiled for one instruction set (simd.h) must not end up serving the others.
#define FHRT_HD inline __attribute__((always_inline))
#endif

namespace fhrt {

enum class DType : int { f32 = 0, f16 = 1, bf16 = 2 };

// Of a batch [n, c, h, w], in elements.
struct Strides {
  int64_t n, c, h, w;
};

// Storage only: arithmetic is done in float.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

FHRT_HD float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

FHRT_HD uint32_t float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

FHRT_HD float to_float(float value) { return value; }

FHRT_HD float to_float(BFloat16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }

FHRT_HD float to_float(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  // Shifted into a float's fields the exponent is 112 too small; a multiplication by 2^112 sets it right, subnormals included.
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);
  const uint32_t bits = magnitude >= 0x7c00u ? (0x7f800000u | (magnitude & 0x3ffu) << 13) : float_to_bits(scaled);
  return bits_to_float(sign | bits);
#endif
}

// Chooses the function by type alone.
template <typename T>
struct Type {};

FHRT_HD float from_float(float value, Type<float>) { return value; }

// Round to nearest, ties to even, as torch and the hardware do.
FHRT_HD BFloat16 from_float(float value, Type<BFloat16>) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BFloat16{static_cast<uint16_t>((bits >> 16) | 0x40u)};  // NaN stays NaN
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

FHRT_HD Half from_float(float value, Type<Half>) {
#if defined(__CUDA_ARCH__)
  return Half{__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Half{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return Half{static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 leaves the wanted bits, rounded, at the bottom of the mantissa.
    return Half{static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u))};
  }
  return Half{static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13))};
#endif
}

template <typename T>
FHRT_HD T from_float(float value) {
  return from_float(value, Type<T>{});
}

}  // namespace fhrt
