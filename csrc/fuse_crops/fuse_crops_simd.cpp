#include "fuse_crops_simd.h"

#include "../simd.h"

namespace fhrt::FHRT_ISA {
namespace {

constexpr int kSteps = 5;           // of the registration at most; it mostly stands still after three,
constexpr double kStill = 0.04;     // pixels per step: to go on from there gains nothing that PSNR would show
constexpr double kFocus = 0.6;      // standard deviation of the registration's weight in half crops: the background moves otherwise
constexpr double kFarthest = 0.2;   // of the crop's side: a shift beyond is no jitter of a box
constexpr double kUnlike = 0.6;     // part of a crop's variance that the reference does not explain, above which they are not the same

FHRT_INLINE double absolute(double v) { return v < 0 ? -v : v; }

// Of two planes with zeros up to the next 16.
FHRT_INLINE double dot(const float* a, const float* b, int64_t count) {
  Lanes<16> sum = Lanes<16>::zero();
  for (int64_t k = 0; k < count; k += 16) sum.add(Lanes<16>::from(a + k), Lanes<16>::from(b + k));
  alignas(64) float each[16];
  sum.to(each);
  double total = 0;
  for (int l = 0; l < 16; ++l) total += each[l];
  return total;
}

// Keys' cubic, a = -0.75, as OpenCV has it.
FHRT_INLINE void cubic(float t, float* weights) {
  constexpr float a = -0.75f;
  const float s = t + 1, u = 1 - t;
  weights[0] = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a;
  weights[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
  weights[2] = ((a + 2) * u - (a + 3)) * u * u + 1;
  weights[3] = 1 - weights[0] - weights[1] - weights[2];
}

constexpr int64_t kBeyond = 4;  // pixels at both ends of a row that repeat its last: no tap lies further out

// What pixel k of `count` along an axis is made of, at zoom * (k - middle) + shift from the middle: four pixels from the one on that is
// returned, at least 1 - kBeyond, and their weights.
FHRT_INLINE int64_t taps_of(double zoom, double shift, int64_t count, int64_t k, float* weights) {
  const double middle = static_cast<double>(count - 1) / 2, low = -2, high = static_cast<double>(count + 1);
  double at = zoom * (static_cast<double>(k) - middle) + shift + middle;
  at = at > low ? (at < high ? at : high) : low;
  const double floor = __builtin_floor(at);
  cubic(static_cast<float>(at - floor), weights);
  return static_cast<int64_t>(floor) - 1;
}

// out += weight * what `count` planes [h, w] show at a place. scratch: 9 * w + 9 floats.
void add_moved(const float* planes, int64_t count, const Place& place, float weight, float* out, const Crops& p, float* scratch) {
  constexpr int L = 8;
  const int64_t w = p.w, pixels = p.h * w;
  float *row = scratch + kBeyond, *across = row + w + kBeyond;
  int* first = reinterpret_cast<int*>(across + 4 * w);
  const double zoom = __builtin_exp(place.growth);
  for (int64_t j = 0; j < w; ++j) {
    float weights[4];
    first[j] = static_cast<int>(taps_of(zoom, place.x, w, j, weights));
    for (int tap = 0; tap < 4; ++tap) across[tap * w + j] = weights[tap];
  }
  for (int64_t i = 0; i < p.h; ++i) {
    float down[4];
    const float* rows[4];
    const int64_t top = taps_of(zoom, place.y, p.h, i, down);
    for (int64_t tap = 0; tap < 4; ++tap) {
      const int64_t line = top + tap;
      rows[tap] = planes + (line > 0 ? (line < p.h - 1 ? line : p.h - 1) : 0) * w;
      down[tap] *= weight;
    }
    for (int64_t plane = 0; plane < count; ++plane) {
      for (int64_t j = 0; j < w; ++j) {
        float sum = 0;
        for (int tap = 0; tap < 4; ++tap) sum += down[tap] * rows[tap][plane * pixels + j];
        row[j] = sum;
      }
      for (int64_t k = 1; k <= kBeyond; ++k) row[-k] = row[0], row[w - 1 + k] = row[w - 1];
      float* target = out + plane * pixels + i * w;
      for (int64_t j = 0; j < w;) {
        // Where the scale is nearly 1, most pixels that lie side by side are made of pixels that do. At either end, where positions are
        // held, the last of them alone would not tell.
        const bool together = j + L <= w && first[j + L - 1] - first[j] == L - 1 && first[j] > 1 - kBeyond && first[j + L - 1] < w;
        if (together) {
          Floats<L> sum = {};
          for (int tap = 0; tap < 4; ++tap) sum += load<L>(across + tap * w + j) * load<L>(row + first[j] + tap);
          store<L>(target + j, load<L>(target + j) + sum);
          j += L;
        } else {
          float sum = 0;
          for (int tap = 0; tap < 4; ++tap) sum += across[tap * w + j] * row[first[j] + tap];
          target[j++] += sum;
        }
      }
    }
  }
}

FHRT_INLINE void grey(const float* crop, float* out, int64_t pixels) {
  for (int64_t k = 0; k < pixels; ++k) out[k] = (crop[k] + crop[pixels + k] + crop[2 * pixels + k]) * (1.0f / 3);
}

// The means of 2x2 pixels.
FHRT_INLINE void halve(const float* plane, float* half, const Crops& p) {
  for (int64_t i = 0; i < p.h / 2; ++i) {
    const float *a = plane + 2 * i * p.w, *b = a + p.w;
    for (int64_t j = 0; j < p.w / 2; ++j) half[i * (p.w / 2) + j] = (a[2 * j] + b[2 * j] + a[2 * j + 1] + b[2 * j + 1]) * 0.25f;
  }
}

// The registration's weight along an axis.
FHRT_INLINE void focus(int64_t count, float* weights) {
  for (int64_t k = 0; k < count; ++k) {
    const double at = (static_cast<double>(k) + 0.5) / static_cast<double>(count) * 2 - 1;
    weights[k] = static_cast<float>(__builtin_exp(at * at / (-2 * kFocus * kFocus)));
  }
}

// An index beyond an axis of 2 or more, mirrored at its first or last pixel.
FHRT_INLINE int64_t mirrored(int64_t k, int64_t count) {
  while (k < 0 || k >= count) k = k < 0 ? -k : 2 * (count - 1) - k;
  return k;
}

// A symmetric positive definite matrix is inverted in place, by Gauss and Jordan.
FHRT_INLINE void invert(double (&m)[5][5]) {
  for (int k = 0; k < 5; ++k) {
    const double pivot = 1 / m[k][k];
    m[k][k] = 1;
    for (int c = 0; c < 5; ++c) m[k][c] *= pivot;
    for (int r = 0; r < 5; ++r) {
      if (r == k) continue;
      const double factor = m[r][k];
      m[r][k] = 0;
      for (int c = 0; c < 5; ++c) m[r][c] -= factor * m[k][c];
    }
  }
}

}  // namespace

bool register_crop(const float* reference, const float* crop, Place& place, const Crops& p, float* scratch) {
  const int64_t pixels = p.h * p.w, size = plane_floats(p);
  float *rows[5], *weighted[5], *shown = scratch + 10 * size, *seen = scratch + 11 * size, *more = scratch + 12 * size;
  for (int k = 0; k < 5; ++k) rows[k] = scratch + k * size, weighted[k] = scratch + (5 + k) * size;
  for (int64_t k = 0; k < 12 * size; ++k) scratch[k] = 0;

  // What a growth, a step along x, one down y, more contrast and more brightness would each add to the reference.
  float *growth = rows[0], *along_x = rows[1], *along_y = rows[2], *target = rows[3], *weight = weighted[4];
  grey(reference, target, pixels);
  float *focus_x = more, *focus_y = more + p.w;
  focus(p.w, focus_x);
  focus(p.h, focus_y);
  const float middle_x = static_cast<float>(p.w - 1) / 2, middle_y = static_cast<float>(p.h - 1) / 2;
  for (int64_t i = 0; i < p.h; ++i) {
    const float *row = target + i * p.w, *above = i > 0 ? row - p.w : row, *below = i + 1 < p.h ? row + p.w : row;
    const float y = static_cast<float>(i) - middle_y;
    const int64_t last = p.w - 1, k = i * p.w;
    for (int64_t j = 1; j < last; ++j) along_x[k + j] = 0.5f * (row[j + 1] - row[j - 1]);
    along_x[k] = 0.5f * (row[1] - row[0]);
    along_x[k + last] = 0.5f * (row[last] - row[last - 1]);
    for (int64_t j = 0; j < p.w; ++j) {
      along_y[k + j] = 0.5f * (below[j] - above[j]);
      growth[k + j] = along_x[k + j] * (static_cast<float>(j) - middle_x) + along_y[k + j] * y;
      rows[4][k + j] = 1;
      weight[k + j] = focus_x[j] * focus_y[i];
    }
  }
  for (int k = 0; k < 4; ++k)
    for (int64_t n = 0; n < size; ++n) weighted[k][n] = weight[n] * rows[k][n];
  double square[5][5], trace = 0;
  for (int r = 0; r < 5; ++r)
    for (int c = 0; c <= r; ++c) square[r][c] = square[c][r] = dot(weighted[r], rows[c], size);
  const double weights = square[4][4];
  for (int k = 0; k < 5; ++k) trace += square[k][k];
  // The ridge keeps the face still where nothing tells: in a flat crop, or along edges that all run the same way.
  for (int k = 0; k < 5; ++k) square[k][k] += 1e-6 * trace;
  invert(square);

  grey(crop, seen, pixels);
  Place found{0, 0, 0};
  double solution[5];
  for (int step = 0; step < kSteps; ++step) {
    for (int64_t k = 0; k < pixels; ++k) shown[k] = 0;
    add_moved(seen, 1, found, 1, shown, p, more);
    double projected[5];
    for (int k = 0; k < 5; ++k) projected[k] = dot(weighted[k], shown, size);
    for (int r = 0; r < 5; ++r) {
      solution[r] = 0;
      for (int c = 0; c < 5; ++c) solution[r] += square[r][c] * projected[c];
    }
    if (!(solution[3] > 0)) return false;
    const Place off{solution[0] / solution[3], solution[1] / solution[3], solution[2] / solution[3]};
    found = found.seen_from(off);
    const double farthest = kFarthest * static_cast<double>(p.h < p.w ? p.h : p.w);
    if (!(absolute(found.growth) <= kFarthest && absolute(found.x) <= farthest && absolute(found.y) <= farthest)) return false;
    if (absolute(off.x) < kStill && absolute(off.y) < kStill) break;
  }
  const double mean = dot(weight, shown, size) / weights;
  float unexplained[5];
  for (int k = 0; k < 5; ++k) unexplained[k] = static_cast<float>(solution[k]);
  for (int64_t n = 0; n < size; ++n) {
    float rest = shown[n];
    for (int k = 0; k < 5; ++k) rest -= unexplained[k] * rows[k][n];
    const float spread = shown[n] - static_cast<float>(mean);
    seen[n] = rest * rest;
    shown[n] = spread * spread;
  }
  if (dot(weight, seen, size) > kUnlike * dot(weight, shown, size)) return false;
  place = found;
  return true;
}

void average_crops(const float* const* crops, const double* places, const double* weights, int64_t most, float* mean, float* half,
                   const Crops& p, float* scratch) {
  const int64_t pixels = p.h * p.w;
  double total = 0;
  for (int64_t n = 0; n < most; ++n) total += weights[n];
  for (int64_t k = 0; k < 3 * pixels; ++k) mean[k] = 0;
  for (int64_t n = 0; n < most; ++n) {
    if (!(weights[n] > 0)) continue;
    const Place place{places[3 * n], places[3 * n + 1], places[3 * n + 2]};
    const float weight = static_cast<float>(weights[n] / total);
    if (place.growth == 0 && place.x == 0 && place.y == 0) {
      for (int64_t k = 0; k < 3 * pixels; ++k) mean[k] += weight * crops[n][k];
    } else {
      add_moved(crops[n], 3, place, weight, mean, p, scratch);
    }
  }
  for (int c = 0; c < 3; ++c) halve(mean + c * pixels, half + c * pixels / 4, p);
}

double crop_look(const float* crop, const Crops& p, float* scratch) {
  const int64_t h = p.h / 2, w = p.w / 2;
  float *full = scratch, *small = full + plane_floats(p), *down = small + plane_floats(p);
  grey(crop, full, p.h * p.w);
  halve(full, small, p);
  // Noise is not sharpness: a Gaussian of 0.6 pixels, the border mirrored without its last pixel twice.
  float taps[3] = {1, static_cast<float>(__builtin_exp(-0.5 / 0.36)), static_cast<float>(__builtin_exp(-2 / 0.36))};
  const float sum = taps[0] + 2 * (taps[1] + taps[2]);
  for (float& tap : taps) tap /= sum;
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < w; ++j) {
      down[i * w + j] = taps[0] * small[i * w + j];
      for (int64_t k = 1; k < 3; ++k) down[i * w + j] += taps[k] * (small[mirrored(i - k, h) * w + j] + small[mirrored(i + k, h) * w + j]);
    }
  double total = 0;
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < w; ++j) {
      float value = taps[0] * down[i * w + j];
      for (int64_t k = 1; k < 3; ++k) value += taps[k] * (down[i * w + mirrored(j - k, w)] + down[i * w + mirrored(j + k, w)]);
      small[i * w + j] = value;
      total += value;
    }
  const float mean = static_cast<float>(total / static_cast<double>(h * w));
  double power = 1e-6, steps = 0, alike = 0;
  for (int64_t k = 0; k < h * w; ++k) small[k] -= mean;
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < w; ++j) {
      const float value = small[i * w + j];
      const float across = j > 0 ? value - small[i * w + j - 1] : 0, above = i > 0 ? value - small[(i - 1) * w + j] : 0;
      power += value * value;
      steps += across * across + above * above;
      alike += value * small[i * w + w - 1 - j];
    }
  return (steps < power ? steps / power : 1) * (1 + alike / power) / 2;
}

}  // namespace fhrt::FHRT_ISA
