// Runs the .cu kernels on the CPU: blocks one after another, the threads of a block as fibers that switch at every barrier.
//
// It stands in for the part of CUDA that csrc/*.cu uses, so that the very source of the kernels is tested where there is no GPU.
// A barrier that some threads of a block never reach, or a shuffle among threads that have left, ends the program with a message.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time, so one copy serves

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace shim {

constexpr size_t kStack = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  dim3 index;
  bool done = false;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline ucontext_t scheduler;
inline Fiber* current = nullptr;
inline const std::function<void()>* body = nullptr;
inline uint64_t exchange[32 * 64];  // of warp shuffles: a slot per thread

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "host shim: %s in block (%u, %u, %u)\n", message, blockIdx.x, blockIdx.y, blockIdx.z);
  std::abort();
}

inline void yield() { swapcontext(&current->context, &scheduler); }

inline void trampoline() {
  (*body)();
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

inline unsigned linear_thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

inline void run_block(unsigned count) {
  while (fibers.size() < count) fibers.push_back(std::make_unique<Fiber>());
  for (unsigned t = 0; t < count; ++t) {
    Fiber& fiber = *fibers[t];
    fiber.index = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, trampoline, 0);
  }
  // A round runs every thread up to its next barrier; a barrier is met by all threads of the block or by none.
  for (unsigned left = count; left > 0;) {
    unsigned finished = 0;
    for (unsigned t = 0; t < count; ++t) {
      Fiber& fiber = *fibers[t];
      if (fiber.done) continue;
      current = &fiber;
      threadIdx = fiber.index;
      swapcontext(&scheduler, &fiber.context);
      finished += fiber.done;
    }
    if (finished != 0 && finished != left) fail("a barrier that only some threads reach");
    left -= finished;
  }
}

}  // namespace shim

inline void __syncthreads() { shim::yield(); }
inline void __syncwarp(unsigned = 0xffffffffu) { shim::yield(); }

// All threads of the block must take part, which is stricter than CUDA asks.
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  static_assert(sizeof(T) <= 8);
  const unsigned self = shim::linear_thread(), count = blockDim.x * blockDim.y * blockDim.z;
  __builtin_memcpy(&shim::exchange[self], &value, sizeof(T));
  shim::yield();
  const unsigned other = (self % 32 + delta < 32 && self + delta < count) ? self + delta : self;
  T result;
  __builtin_memcpy(&result, &shim::exchange[other], sizeof(T));
  shim::yield();
  return result;
}

namespace fhrt {

template <typename... Parameters, typename... Arguments>
void launch(const char*, void (*kernel)(Parameters...), dim3 grid, dim3 block, void*, Arguments... arguments) {
  const std::function<void()> body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  shim::body = &body;
  gridDim = grid;
  blockDim = block;
  if (block.x * block.y * block.z > 1024) shim::fail("more than 1024 threads per block");
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        shim::run_block(block.x * block.y * block.z);
      }
}

}  // namespace fhrt
