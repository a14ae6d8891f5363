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

struct Smallest {
  std::vector<uint32_t> keys, places;
  std::vector<uint64_t> found;

  // The `count` smallest of `entries` distances, in no order; of equal ones the first.
  void find(const float* distances, int64_t entries, int64_t count, int32_t* indices, float* squared) {
    uint32_t limit = ~0u;
    if (entries >= 4 * count && count >= kSampled) {
      keys.clear();
      for (int64_t m = 0; m < entries; m += kSampled) keys.push_back(order(distances[m]));
      const auto guess = keys.begin() + std::min<int64_t>(static_cast<int64_t>(keys.size()) - 1, count * 3 / 2 / kSampled);
      std::nth_element(keys.begin(), guess, keys.end());
      limit = *guess;
    }
    int64_t some = collect(distances, entries, limit);
    if (some < count) some = collect(distances, entries, ~0u);  // the guess was wrong
    found.clear();
    for (int64_t k = 0; k < some; ++k) {
      const uint32_t place = places[static_cast<size_t>(k)];
      found.push_back(uint64_t{order(distances[place])} << 32 | place);
    }
    std::nth_element(found.begin(), found.begin() + count - 1, found.end());
    for (int64_t k = 0; k < count; ++k) {
      indices[k] = static_cast<int32_t>(found[static_cast<size_t>(k)]);
      squared[k] = distances[indices[k]];
    }
  }

  // Writes the places of distances up to the limit; how many.
  int64_t collect(const float* distances, int64_t entries, uint32_t limit) {
    places.resize(static_cast<size_t>(entries));
    uint32_t* next = places.data();
    for (int64_t m = 0; m < entries; ++m) {
      *next = static_cast<uint32_t>(m);
      next += order(distances[m]) <= limit;
    }
    return next - places.data();
  }
};

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
        Smallest nearest;
        std::vector<int32_t> indices(static_cast<size_t>(p.neighbours));
        for (int64_t piece = begin; piece < end; ++piece) {
          const int64_t c = piece / blocks, first = piece % blocks * kTogether, count = std::min(kTogether, p.queries - first);
          const uint8_t *entries = codes + c * p.features * p.entries, *values = target_codes + c * p.entries * p.targets;
          const float *asked = query + (c * p.queries + first) * p.features, *worth = scale + c * p.features;
          measure(asked, entries, worth, distances.floats(), count, p);
          for (int64_t n = 0; n < count; ++n) {
            nearest.find(distances.floats() + n * p.entries, p.entries, p.neighbours, indices.data(), squared.floats());
            sum(asked + n * p.features, entries, worth, values, target_scale + c * p.targets, indices.data(), squared.floats(),
                out + (c * p.queries + first + n) * p.targets, p, scratch.floats());
          }
        }
      },
      p.threads);
}

}  // namespace fhrt
