// Crops of a face, taken at different times, laid on top of one another and averaged.
//
// A place says where a crop shows what another one does. Crops are planes [3, h, w] float32, h and w even.
#pragma once
#include <cstdint>

#include "../numeric.h"

namespace fhrt {

// Natural logarithm of the scale, and the shift in pixels, about the pictures' middle.
struct Place {
  double growth, x, y;

  // From where `origin` has its own.
  FHRT_HD Place seen_from(const Place& origin) const {
    const double less = growth - origin.growth, zoom = __builtin_exp(less);
    return {less, x - zoom * origin.x, y - zoom * origin.y};
  }
};

struct Crops {
  int64_t count, h, w;
};

// What `most` crops of each of `count` faces are fused from and into.
struct FuseCrops {
  const float* const* before;  // [count]: the mean of a face's crops before its newest; null where there is none
  const float* const* crops;   // [count, most], the newest first; null where there is none
  int64_t most;
  double* places;           // [count, most, 3]: of all but the newest, in the mean before; then of all, in the new one
  double* weights;          // [count, most]: 0 where there is no crop; then also of those before, where the newest does not match them
  const float* transforms;  // [count, 2, 3]: the newest crops' pixels to the frame's
  float* means;             // [count, 3, h, w]
  float* halves;            // [count, 3, h / 2, w / 2]: of 2x2 pixels each
  float* placed;            // [count, 2, 3]: pixels of the halves to the frame's
  float* back;              // [count, 2, 3]: pixels of the halves to those of the halves before; NaN where the newest does not match
};

// The newest crop of a face is registered to the mean before: inverse-compositional Lucas-Kanade (Baker & Matthews, 2004) on the channels'
// mean for a shift and a scale, with the crop's brightness and contrast free. Where they match, all crops get the places that they have
// seen from the mean of these; where not, the newest stands alone. The new mean is weighted, and made of each crop read at its place (Keys'
// cubic, a = -0.75; beyond the crop its border is replicated).
void fuse_crops_cpu(const FuseCrops& fuse, const Crops& p);

// Per crop, above 0 to 1, what it shows of a face: sharpness (the mean squared step between pixels of half the crop's resolution, as a part
// of its variance, at most 1) times how alike its mirror image is (half of 1 + their correlation). looks [count].
void crop_looks_cpu(const float* const* crops, double* looks, const Crops& p);

}  // namespace fhrt
