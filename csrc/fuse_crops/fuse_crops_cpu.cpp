#include <algorithm>
#include <cmath>

#include "../scratch.h"
#include "fuse_crops_simd.h"

namespace fhrt {
namespace {

// [2, 3] pixel of a picture [h, w] to pixel of one of which `place` shows it.
struct Map {
  double zoom, x, y;

  Map(const Place& place, int64_t h, int64_t w)
      : zoom(std::exp(place.growth)),
        x(place.x + static_cast<double>(w - 1) / 2 * (1 - zoom)),
        y(place.y + static_cast<double>(h - 1) / 2 * (1 - zoom)) {}
};

// The places as they are seen from their mean, which is returned.
Place centre_places(double* places, const double* weights, int64_t most) {
  Place middle{0, 0, 0};
  int64_t there = 0;
  for (int64_t k = 0; k < most; ++k) {
    if (!(weights[k] > 0)) continue;
    middle.growth += places[3 * k], middle.x += places[3 * k + 1], middle.y += places[3 * k + 2];
    ++there;
  }
  const double share = 1 / static_cast<double>(std::max<int64_t>(there, 1));
  middle = {middle.growth * share, middle.x * share, middle.y * share};
  for (int64_t k = 0; k < most; ++k) {
    double* at = places + 3 * k;
    const Place seen = weights[k] > 0 ? Place{at[0], at[1], at[2]}.seen_from(middle) : Place{0, 0, 0};
    at[0] = seen.growth, at[1] = seen.x, at[2] = seen.y;
  }
  return middle;
}

}  // namespace

void fuse_crops_cpu(const FuseCrops& fuse, const Crops& p) {
  const auto find = FHRT_BEST(register_crop);
  const auto average = FHRT_BEST(average_crops);
  const int64_t size = 3 * p.h * p.w, most = fuse.most;
  // On the caller's thread alone: a stream has several that follow faces, and to wake others takes longer than a few of these.
  const Scratch scratch(fuse_scratch(p));
  for (int64_t n = 0; n < p.count; ++n) {
    const float* const* crops = fuse.crops + n * most;
    double *places = fuse.places + 3 * n * most, *weights = fuse.weights + n * most;
    Place newest{0, 0, 0};
    const bool known = fuse.before[n] && find(fuse.before[n], crops[0], newest, p, scratch.floats());
    places[0] = newest.growth, places[1] = newest.x, places[2] = newest.y;
    for (int64_t k = 1; k < most; ++k) weights[k] = known && crops[k] ? weights[k] : 0;
    const Place middle = centre_places(places, weights, most);
    average(crops, places, weights, most, fuse.means + n * size, fuse.halves + n * size / 4, p, scratch.floats());

    // Pixel k of the halves lies at 2 k + 1 / 2 of the mean.
    const Map to_newest({places[0], places[1], places[2]}, p.h, p.w);
    const double x = to_newest.zoom / 2 + to_newest.x, y = to_newest.zoom / 2 + to_newest.y;
    const Place origin = Place{0, 0, 0}.seen_from(middle);
    const Map to_before({origin.growth, origin.x / 2, origin.y / 2}, p.h / 2, p.w / 2);
    const float nan = std::nanf(""), zoom = static_cast<float>(to_before.zoom);
    float* back = fuse.back + 6 * n;
    const float wanted[6] = {zoom, 0, static_cast<float>(to_before.x), 0, zoom, static_cast<float>(to_before.y)};
    for (int k = 0; k < 6; ++k) back[k] = known ? wanted[k] : nan;
    for (int row = 0; row < 2; ++row) {
      const float* t = fuse.transforms + 6 * n + 3 * row;
      float* out = fuse.placed + 6 * n + 3 * row;
      out[0] = static_cast<float>(2 * to_newest.zoom * t[0]);
      out[1] = static_cast<float>(2 * to_newest.zoom * t[1]);
      out[2] = static_cast<float>(t[0] * x + t[1] * y + t[2]);
    }
  }
}

void crop_looks_cpu(const float* const* crops, double* looks, const Crops& p) {
  const auto work = FHRT_BEST(crop_look);
  const Scratch scratch(fuse_scratch(p));
  for (int64_t n = 0; n < p.count; ++n) looks[n] = work(crops[n], p, scratch.floats());
}

}  // namespace fhrt
