// Memory for the ops' outputs that is kept and given again: a fresh array of some megabytes costs more in page faults than an op takes.
#pragma once
#include <cstddef>

namespace fhrt {

constexpr size_t kPooled = 64 * 1024;       // smaller blocks are left to malloc, which keeps them itself
constexpr size_t kMostIdle = 64 << 20;      // bytes kept at most while nobody uses them

// At least `size` bytes, aligned to 64; give it back with the size that was asked for. Any thread.
void* take_block(size_t size);
void give_block(void* block, size_t size);

}  // namespace fhrt
