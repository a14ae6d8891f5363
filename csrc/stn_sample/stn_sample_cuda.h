// The device side of stn_sample. Pointers are device pointers, `stream` is a cudaStream_t; nothing is allocated, cleared or waited for.
#pragma once
#include "../numeric.h"
#include "stn_sample.h"

namespace fhrt {

// T is float, Half or BFloat16. x [batch, channels, in_h, in_w] of any strides; theta [batch, 2, 3] contiguous float32; out
// [batch, channels, out_h, out_w], contiguous, or channels-last where stn_sample_packs allows it.
template <typename T>
void stn_sample_cuda(const T* x, const Strides& xs, const float* theta, T* out, bool out_channels_last, const StnSample& p, void* stream);

// Whether x is channels-last and both are aligned so that 16 bytes of channels can be read and written at once.
template <typename T>
bool stn_sample_packs(const T* x, const Strides& xs, const T* out, const StnSample& p);

// grad [batch, channels, out_h, out_w] of any strides; grad_x contiguous, like x. Every bit is the same on every run.
template <typename T>
void stn_sample_backward_x_cuda(const T* grad, const Strides& gs, const float* theta, T* grad_x, const StnSample& p, void* stream);

// partials: float32 scratch [batch, stn_theta_blocks(p), 6]; grad_theta [batch, 2, 3].
int64_t stn_theta_blocks(const StnSample& p);
template <typename T>
void stn_sample_backward_theta_cuda(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, float* partials,
                                    float* grad_theta, const StnSample& p, void* stream);

}  // namespace fhrt
