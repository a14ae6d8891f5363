// neighbour_embedding's work, for each instruction set.
#pragma once
#include "../isa.h"
#include "neighbour_embedding.h"

namespace fhrt {

// Queries that look through the dictionary together: each code is turned into a float once for all of them.
constexpr int64_t kTogether = 4;

// A count with what fills its last vector up.
constexpr int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

// Floats that `weighted_sum` takes, aligned to 64 bytes.
constexpr int64_t embedding_scratch(const NeighbourEmbedding& p) {
  const int64_t row = padded(p.neighbours), width = padded(p.features);
  return (width + 3) * row + (width + 1) * width;
}

// distances [kTogether, M]: squared, of `count` queries to every entry. Codes, scale: of one component.
FHRT_EACH_ISA(void squared_distances(const float* query, const uint8_t* codes, const float* scale, float* distances, int64_t count,
                                     const NeighbourEmbedding& p);)

// out [t]: of one query, whose neighbours stand at indices [K] at squared distances [K].
FHRT_EACH_ISA(void weighted_sum(const float* query, const uint8_t* codes, const float* scale, const uint8_t* target_codes,
                                const float* target_scale, const int32_t* indices, const float* squared, float* out,
                                const NeighbourEmbedding& p, float* scratch);)

}  // namespace fhrt
