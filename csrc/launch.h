// How a kernel starts: on the current device, or, where tests define FHRT_HOST_SHIM, on the CPU (tests/csrc/host_shim.h).
#pragma once

#if defined(FHRT_HOST_SHIM)
#include "host_shim.h"
#else
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fhrt {

// Throws std::runtime_error with the CUDA error's own words.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// On the current device; `stream` is a cudaStream_t.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  check_cuda(cudaGetLastError(), name);
}

}  // namespace fhrt
#endif

namespace fhrt {

constexpr int kMaxGridYZ = 65535;

inline unsigned blocks_for(long long items, int per_block) { return static_cast<unsigned>((items + per_block - 1) / per_block); }

}  // namespace fhrt
