// The device side of to_image. Pointers are device pointers, `stream` is a cudaStream_t; nothing is allocated or waited for.
#pragma once
#include "to_image.h"

namespace fhrt {

// T is float, Half or BFloat16. x [batch, channels * factor², h, w] of any strides; out as for the CPU.
template <typename T>
void to_image_cuda(const T* x, const Strides& xs, uint8_t* out, const ToImage& p, void* stream);

}  // namespace fhrt
