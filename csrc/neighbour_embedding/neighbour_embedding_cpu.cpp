#include <algorithm>
#include <cstring>
#include <vector>

#include "../parallel.h"
#include "../scratch.h"
#include "neighbour_embedding_simd.h"

namespace fhrt {
namespace {

constexpr int64_t kSampled = 16;  // every so many distances are looked at to guess how far the last neighbour is

// A distance as a number that sorts as it does, NaN behind all others.
uint32_t order(float distance) {
  uint32_t bits;
  std::memcpy(&bits, &distance, sizeof bits);
  return bits;
}

// The `count` smallest of `entries` distances, in no order; of equal ones the first. found: scratch.
void smallest(const float* distances, int64_t entries, int64_t count, std::vector<uint64_t>& found, int32_t* indices, float* squared) {
  uint32_t limit = ~0u;
  if (entries >= 4 * count && count >= kSampled) {
    found.clear();
    for (int64_t m = 0; m < entries; m += kSampled) found.push_back(order(distances[m]));
    const auto guess = found.begin() + std::min<int64_t>(static_cast<int64_t>(found.size()) - 1, count * 3 / 2 / kSampled);
    std::nth_element(found.begin(), guess, found.end());
    limit = static_cast<uint32_t>(*guess);
  }
  found.resize(static_cast<size_t>(entries) + 1);
  const auto collect = [&] {
    int64_t some = 0;
    for (int64_t m = 0; m < entries; ++m) {
      const uint32_t key = order(distances[m]);
      found[static_cast<size_t>(some)] = uint64_t{key} << 32 | static_cast<uint64_t>(m);
      some += key <= limit;
    }
    return some;
  };
  int64_t some = collect();
  if (some < count) {  // the guess was wrong
    limit = ~0u;
    some = collect();
  }
  std::nth_element(found.begin(), found.begin() + count - 1, found.begin() + some);
  for (int64_t k = 0; k < count; ++k) {
    indices[k] = static_cast<int32_t>(found[static_cast<size_t>(k)]);
    squared[k] = distances[indices[k]];
  }
}

}  // namespace

void neighbour_embedding_cpu(const float* query, const uint8_t* codes, const float* scale, const uint8_t* target_codes,
                             const float* target_scale, float* out, const NeighbourEmbedding& p) {
  const auto measure = FHRT_BEST(squared_distances);
  const auto sum = FHRT_BEST(weighted_sum);
  const int64_t blocks = (p.queries + kTogether - 1) / kTogether;
  const int64_t cost = std::min(p.queries, kTogether) * (p.entries * p.features / 16 + p.neighbours * p.features * p.features / 16);
  parallel_for(
      p.components * blocks, cost,
      [&](int64_t begin, int64_t end) {
        const Scratch distances(kTogether * p.entries), scratch(embedding_scratch(p)), squared(p.neighbours);
        std::vector<uint64_t> found;
        std::vector<int32_t> indices(static_cast<size_t>(p.neighbours));
        for (int64_t piece = begin; piece < end; ++piece) {
          const int64_t c = piece / blocks, first = piece % blocks * kTogether, count = std::min(kTogether, p.queries - first);
          const uint8_t *entries = codes + c * p.features * p.entries, *values = target_codes + c * p.entries * p.targets;
          const float *asked = query + (c * p.queries + first) * p.features, *worth = scale + c * p.features;
          measure(asked, entries, worth, distances.floats(), count, p);
          for (int64_t n = 0; n < count; ++n) {
            smallest(distances.floats() + n * p.entries, p.entries, p.neighbours, found, indices.data(), squared.floats());
            sum(asked + n * p.features, entries, worth, values, target_scale + c * p.targets, indices.data(), squared.floats(),
                out + (c * p.queries + first + n) * p.targets, p, scratch.floats());
          }
        }
      },
      p.threads);
}

}  // namespace fhrt
