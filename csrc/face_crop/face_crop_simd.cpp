#include "face_crop_simd.h"

#include "../simd.h"
#include "face_crop_math.h"

namespace fhrt::FHRT_ISA {
namespace {

// One sample of kPixels pixels of a row of a crop: offsets of the top left neighbours into the frame, and the way to the others.
struct Samples {
  alignas(64) int32_t offset[kPixels];
  alignas(64) float ax[kPixels], ay[kPixels];
};

// Not inlined, and on copies, which no store can change: so the compiler turns the loop into vectors.
__attribute__((noinline)) void find_samples(const float* transform, int i, int j0, int sx, int sy, int kx, int ky, const FaceCrop& settings,
                                            Samples& samples) {
  const float t[6] = {transform[0], transform[1], transform[2], transform[3], transform[4], transform[5]};
  const int width = static_cast<int>(settings.frame_w), height = static_cast<int>(settings.frame_h);
  const int row_bytes = static_cast<int>(settings.row_bytes), channels = static_cast<int>(settings.channels);
  for (int k = 0; k < kPixels; ++k) {
    float x, y, ax, ay;
    int x0, y0;
    crop_position(t, i, j0 + k, sx, sy, kx, ky, x, y);
    crop_neighbours(x, width, x0, ax);
    crop_neighbours(y, height, y0, ay);
    samples.offset[k] = y0 * row_bytes + x0 * channels;
    samples.ax[k] = ax;
    samples.ay[k] = ay;
  }
}

// A pixel and its right neighbour, C channels each, the pixel's first.
template <int C>
FHRT_INLINE Floats<8> read_pair(const uint8_t* pixel, const uint8_t* end, int right) {
  if (right == C && pixel + 8 <= end) return widen(pixel);
  uint8_t bytes[8] = {};  // at the frame's end, or in a frame of one column
  for (int c = 0; c < C; ++c) bytes[c] = pixel[c], bytes[C + c] = pixel[right + c];
  return widen(bytes);
}

FHRT_INLINE Floats<4> lower(Floats<8> v) {
  Floats<4> half;
  __builtin_memcpy(&half, &v, sizeof half);
  return half;
}

template <int C>
FHRT_INLINE void crop_row(const uint8_t* frame, const float* t, int i, float* out, const FaceCrop& p) {
  const int kx = crop_samples(t[0], t[3], p), ky = crop_samples(t[1], t[4], p);
  const uint8_t* end = frame + (p.frame_h - 1) * p.row_bytes + p.frame_w * C;
  const int64_t plane = p.out_h * p.out_w, below = p.frame_h > 1 ? p.row_bytes : 0;
  const int right = p.frame_w > 1 ? C : 0;
  Floats<4> mean = {}, scale = {};
  for (int c = 0; c < C; ++c) mean[c] = p.mean[c], scale[c] = 1 / p.std[c];
  const float share = 1 / static_cast<float>(kx * ky);
  Samples samples;
  for (int64_t j0 = 0; j0 < p.out_w; j0 += kPixels) {
    const int count = static_cast<int>(p.out_w - j0 < kPixels ? p.out_w - j0 : kPixels);
    alignas(64) float pixels[kPixels * 4] = {};
    for (int sy = 0; sy < ky; ++sy) {
      for (int sx = 0; sx < kx; ++sx) {
        find_samples(t, i, static_cast<int>(j0), sx, sy, kx, ky, p, samples);
        for (int k = 0; k < count; ++k) {
          const uint8_t* corner = frame + samples.offset[k];
          const Floats<8> top = read_pair<C>(corner, end, right), bottom = read_pair<C>(corner + below, end, right);
          const Floats<8> pair = top + samples.ay[k] * (bottom - top);
          const Floats<8> next = FHRT_SHUFFLE(pair, pair, C, C + 1, C + 2, C + 3, C, C, C, C);
          const Floats<8> level = pair + samples.ax[k] * (next - pair);
          store<4>(pixels + k * 4, load<4>(pixels + k * 4) + lower(level));
        }
      }
    }
    for (int k = 0; k < kPixels; ++k) store<4>(pixels + k * 4, (load<4>(pixels + k * 4) * share - mean) * scale);
    from_pixels<4>(pixels, out + i * p.out_w + j0, plane, 1, C, count);
  }
}

}  // namespace

void crop_rows(const uint8_t* frame, const float* transforms, float* out, const FaceCrop& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / p.out_h;
    const int i = static_cast<int>(row % p.out_h);
    float* target = out + n * p.channels * p.out_h * p.out_w;
    if (p.channels == 1) crop_row<1>(frame, transforms + n * 6, i, target, p);
    if (p.channels == 2) crop_row<2>(frame, transforms + n * 6, i, target, p);
    if (p.channels == 3) crop_row<3>(frame, transforms + n * 6, i, target, p);
    if (p.channels == 4) crop_row<4>(frame, transforms + n * 6, i, target, p);
  }
}

}  // namespace fhrt::FHRT_ISA
