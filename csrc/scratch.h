// Memory for a thread's piece of an op, on whole lines of the cache: a vector across two of them takes twice as long to load.
#pragma once
#include <cstdint>
#include <memory>

namespace fhrt {

class Scratch {
 public:
  explicit Scratch(int64_t floats) : lines_(new Line[(floats + 15) / 16]) {}
  float* floats() const { return lines_[0].values; }

 private:
  struct alignas(64) Line {
    float values[16];
  };
  std::unique_ptr<Line[]> lines_;
};

}  // namespace fhrt
