// SSIM of one window from its moments, and its derivatives (Wang et al., 2004, eq. 13): one source for the CPU and the device.
#pragma once
#include "../numeric.h"

namespace fhrt {

// Weighted means of a and b, the sum of their central second moments, and the covariance, of one window.
template <typename T>
struct SsimMoments {
  T mean_a, mean_b, variances, covariance;
};

template <typename T>
FHRT_HD T ssim_value(const SsimMoments<T>& m, T c1, T c2) {
  return (2 * m.mean_a * m.mean_b + c1) * (2 * m.covariance + c2) /
         ((m.mean_a * m.mean_a + m.mean_b * m.mean_b + c1) * (m.variances + c2));
}

// The value's derivatives by either mean, by the variance of either, and by the covariance, the others held.
template <typename T>
struct SsimSlopes {
  T by_mean_a, by_mean_b, by_variance, by_covariance;
};

template <typename T>
FHRT_HD SsimSlopes<T> ssim_slopes(const SsimMoments<T>& m, T c1, T c2) {
  const T a1 = 2 * m.mean_a * m.mean_b + c1, a2 = 2 * m.covariance + c2;
  const T b1 = m.mean_a * m.mean_a + m.mean_b * m.mean_b + c1, b2 = m.variances + c2;
  const T inverse = 1 / (b1 * b2), value = a1 * a2 * inverse, value_by_b1 = value * inverse * b2;
  return {2 * (m.mean_b * a2 * inverse - m.mean_a * value_by_b1), 2 * (m.mean_a * a2 * inverse - m.mean_b * value_by_b1),
          -value * inverse * b1, 2 * a1 * inverse};
}

}  // namespace fhrt
