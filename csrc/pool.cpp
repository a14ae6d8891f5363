#include "pool.h"

#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>

namespace fhrt {
namespace {

struct Block {
  void* memory;
  size_t size;
};

std::mutex mutex;
size_t idle_bytes = 0;

// Never destroyed: arrays may outlive the module. The block that was given back last is taken first: it is still in the caches.
std::deque<Block>& idle() {
  static auto* const blocks = new std::deque<Block>;
  return *blocks;
}

size_t rounded(size_t size) { return (size + 4095) / 4096 * 4096; }

}  // namespace

void* take_block(size_t size) {
  size = rounded(size);
  {
    std::lock_guard<std::mutex> lock(mutex);
    std::deque<Block>& blocks = idle();
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      if (block->size != size) continue;
      void* memory = block->memory;
      blocks.erase(std::next(block).base());
      idle_bytes -= size;
      return memory;
    }
  }
  void* memory = std::aligned_alloc(4096, size);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void give_block(void* block, size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  idle().push_back({block, rounded(size)});
  idle_bytes += rounded(size);
  while (idle_bytes > kMostIdle) {
    idle_bytes -= idle().front().size;
    std::free(idle().front().memory);
    idle().pop_front();
  }
}

}  // namespace fhrt
