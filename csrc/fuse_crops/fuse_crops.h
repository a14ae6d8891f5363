// Crops of a face, taken at different times, laid on top of one another and averaged.
//
// A place [3] float64 says where a crop shows what another one does: natural logarithm of the scale, then x and y in pixels, about the
// pictures' middle. Crops are planes [3, h, w] float32, h and w even.
#pragma once
#include <cstdint>

namespace fhrt {

struct Crops {
  int64_t count, h, w;
};

// places [count, 3]: of each reference in its crop, NaN where they do not match. Inverse-compositional Lucas-Kanade (Baker & Matthews, 2004)
// on the channels' mean for a shift and a scale, with the crop's brightness and contrast free.
void register_crops_cpu(const float* const* references, const float* const* crops, double* places, const Crops& p);

// Per face the weighted mean of `most` crops, each read at its place (Keys' cubic, a = -0.75; beyond the crop its border is replicated); a
// null crop is none. crops, weights [count, most], places [count, most, 3]; means [count, 3, h, w], and those of its 2x2 pixels: halves
// [count, 3, h / 2, w / 2].
void average_crops_cpu(const float* const* crops, const double* places, const double* weights, int64_t most, float* means, float* halves,
                       const Crops& p);

// Per crop, above 0 to 1, what it shows of a face: sharpness (the mean squared step between pixels of half the crop's resolution, as a part
// of its variance, at most 1) times how alike its mirror image is (half of 1 + their correlation). looks [count] float64.
void crop_looks_cpu(const float* const* crops, double* looks, const Crops& p);

}  // namespace fhrt
