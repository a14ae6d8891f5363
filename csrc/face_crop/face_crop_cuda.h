// The device side of face_crop. Pointers are device pointers, `stream` is a cudaStream_t; nothing is allocated or waited for.
#pragma once
#include "../numeric.h"
#include "face_crop.h"

namespace fhrt {

// As face_crop_cpu; out is T: float, Half or BFloat16.
template <typename T>
void face_crop_cuda(const uint8_t* frame, const uint8_t* chroma, const float* transforms, T* out, const FaceCrop& p, void* stream);

}  // namespace fhrt
