// SSIM of one window from its moments, and its derivatives (Wang et al., 2004, eq. 13): one source for the CPU and the device.
#pragma once
#include "../numeric.h"

namespace fhrt {

// Weighted means of a, b and central second moments of one window.
template <typename T>
struct SsimMoments {
  T mean_a, mean_b, var_a, var_b, covariance;
};

template <typename T>
FHRT_HD T ssim_value(const SsimMoments<T>& m, T c1, T c2) {
  return (2 * m.mean_a * m.mean_b + c1) * (2 * m.covariance + c2) /
         ((m.mean_a * m.mean_a + m.mean_b * m.mean_b + c1) * (m.var_a + m.var_b + c2));
}

// The value's derivatives by mean_a, var_a and covariance, the others held.
template <typename T>
FHRT_HD void ssim_slopes(const SsimMoments<T>& m, T c1, T c2, T& by_mean, T& by_variance, T& by_covariance) {
  const T a1 = 2 * m.mean_a * m.mean_b + c1, a2 = 2 * m.covariance + c2;
  const T b1 = m.mean_a * m.mean_a + m.mean_b * m.mean_b + c1, b2 = m.var_a + m.var_b + c2;
  const T value = a1 * a2 / (b1 * b2);
  by_mean = 2 * m.mean_b * a2 / (b1 * b2) - 2 * m.mean_a * value / b1;
  by_variance = -value / b2;
  by_covariance = 2 * a1 / (b1 * b2);
}

}  // namespace fhrt
