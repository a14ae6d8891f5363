// The device side of pixel_shuffle. Pointers are device pointers, `stream` is a cudaStream_t; nothing is allocated or waited for.
#pragma once
#include "pixel_shuffle.h"

namespace fhrt {

// T is float, Half or BFloat16. x of any strides; out [batch, channels, h * factor, w * factor] contiguous.
template <typename T>
void pixel_shuffle_cuda(const T* x, const Strides& xs, T* out, const PixelShuffle& p, void* stream);

// grad like out, of any strides; x as it went in (its sign after the bias decides the slope); grad_x contiguous, like x. The bias's
// gradient is grad_x summed over all but its channels.
template <typename T>
void pixel_shuffle_backward_cuda(const T* grad, const Strides& gs, const T* x, const Strides& xs, T* grad_x, const PixelShuffle& p,
                                 void* stream);

}  // namespace fhrt
