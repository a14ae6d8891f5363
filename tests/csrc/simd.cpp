// The CPU kernels behind C functions, scratch memory given by the tests; compiled together with csrc's *_simd.cpp files for one instruction set.
#include "../../csrc/ssim/ssim_simd.h"
#include "../../csrc/stn_sample/stn_sample_simd.h"

using namespace fhrt;

extern "C" {

// Batch 1; s: channels, in_h, in_w, out_h, out_w. Forward, then both gradients.
void stn(const float* x, const float* theta, const float* grad, float* out, float* grad_x, float* grad_theta, float* scratch, const int64_t* s) {
  const StnSample p{1, s[0], s[1], s[2], s[3], s[4], 1, false, false};
  const Strides xs{0, s[1] * s[2], s[2], 1}, os{0, s[3] * s[4], s[4], 1};
  base::stn_forward(x, xs, theta, out, os, p, StnPiece{0, 0, s[0], 0, s[3]}, scratch);
  base::stn_backward(grad, os, x, xs, theta, grad_x, xs, grad_theta, p, StnPiece{0, 0, s[0], 0, s[3]}, scratch);
}

int64_t ssim_doubles(int64_t window) { return ssim_scratch(Ssim{1, 64, 64, window, nullptr, false, 1, 1}); }

// One plane; s: h, w, window, same. The sum of the map, and the gradient of the mean to a.
double ssim(const float* a, const float* b, const double* weights, float* grad_a, double* scratch, const int64_t* s) {
  const Ssim p{1, s[0], s[1], s[2], weights, s[3] != 0, 6.5025, 58.5225};
  const double share = 1.0 / static_cast<double>(p.out_h() * p.out_w()), total = base::ssim_tile(a, b, nullptr, p, {0, p.out_h(), 0, p.out_w()}, scratch);
  base::ssim_tile_backward<float>(a, b, &share, false, grad_a, nullptr, p, {0, p.h, 0, p.w}, scratch);
  return total;
}

}  // extern "C"
