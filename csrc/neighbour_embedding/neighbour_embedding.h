// Weighted sums of what belongs to the nearest entries of a dictionary (Jiang et al. 2018; fhrt/models/neighbours.py says it in torch).
#pragma once
#include <cstdint>

namespace fhrt {

constexpr int64_t kMaxFeatures = 256;

// components C, queries N of each, entries M, features p and targets t of each entry, neighbours K; strength: λ of the weights;
// threads: at most so many, 0 for as many as there are.
struct NeighbourEmbedding {
  int64_t components, queries, entries, features, targets, neighbours;
  float strength;
  int threads;
};

// query [C, N, p]; codes [C, p, M], scale [C, p]: the entries as (code - 128) * scale, one feature after the other; target_codes [C, M, t],
// target_scale [C, t]: likewise, one entry after the other; out [C, N, t].
void neighbour_embedding_cpu(const float* query, const uint8_t* codes, const float* scale, const uint8_t* target_codes,
                             const float* target_scale, float* out, const NeighbourEmbedding& p);

}  // namespace fhrt
