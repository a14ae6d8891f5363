#include "face_crop_simd.h"

#include "../simd.h"
#include "face_crop_math.h"

namespace fhrt::FHRT_ISA {
namespace {

// Which samples the pixels of a row of a crop are the mean of.
struct Row {
  int i, kx, ky;
};

// One sample of kPixels pixels of a row of a crop: offsets of the top left neighbours into the plane, and the way to the others.
struct Samples {
  alignas(64) int32_t offset[kPixels];
  alignas(64) float ax[kPixels], ay[kPixels];
};

// Not inlined, and on copies, which no store can change: so the compiler turns the loop into vectors.
__attribute__((noinline)) void find_samples(const float* transform, const Row& of, int j0, int sx, int sy, const FramePlane& plane, Samples& samples) {
  const float t[6] = {transform[0], transform[1], transform[2], transform[3], transform[4], transform[5]};
  const int i = of.i, kx = of.kx, ky = of.ky;
  const int width = static_cast<int>(plane.w), height = static_cast<int>(plane.h);
  const int row_bytes = static_cast<int>(plane.row_bytes), channels = static_cast<int>(plane.channels);
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

// Adds the samples of `count` pixels of a row, from j0 on, to sums [kPixels][4].
template <int C>
FHRT_INLINE void add_samples(const uint8_t* data, const FramePlane& plane, const float* t, const Row& row, int j0, int count, float* sums) {
  const uint8_t* end = data + (plane.h - 1) * plane.row_bytes + plane.w * C;
  const int64_t below = plane.h > 1 ? plane.row_bytes : 0;
  const int right = plane.w > 1 ? C : 0;
  Samples samples;
  for (int sy = 0; sy < row.ky; ++sy) {
    for (int sx = 0; sx < row.kx; ++sx) {
      find_samples(t, row, j0, sx, sy, plane, samples);
      for (int k = 0; k < count; ++k) {
        const uint8_t* corner = data + samples.offset[k];
        const Floats<8> top = read_pair<C>(corner, end, right), bottom = read_pair<C>(corner + below, end, right);
        const Floats<8> pair = top + samples.ay[k] * (bottom - top);
        const Floats<8> next = FHRT_SHUFFLE(pair, pair, C, C + 1, C + 2, C + 3, C, C, C, C);
        const Floats<8> level = pair + samples.ax[k] * (next - pair);
        store<4>(sums + k * 4, load<4>(sums + k * 4) + lower(level));
      }
    }
  }
}

// A row of a crop, C channels. `read` adds the samples of some pixels to [kPixels][4], `finish` makes a pixel's levels of their mean.
template <int C, typename Read, typename Finish>
FHRT_INLINE void crop_row(float* out, const FaceCrop& p, const Row& row, Read read, Finish finish) {
  Floats<4> mean = {}, scale = {};
  for (int c = 0; c < C; ++c) mean[c] = p.mean[c], scale[c] = 1 / p.std[c];
  const float share = 1 / static_cast<float>(row.kx * row.ky);
  for (int64_t j0 = 0; j0 < p.out_w; j0 += kPixels) {
    const int count = static_cast<int>(p.out_w - j0 < kPixels ? p.out_w - j0 : kPixels);
    alignas(64) float pixels[kPixels * 4] = {};
    read(static_cast<int>(j0), count, pixels);
    for (int k = 0; k < kPixels; ++k) store<4>(pixels + k * 4, (finish(load<4>(pixels + k * 4) * share) - mean) * scale);
    from_pixels<4>(pixels, out + row.i * p.out_w + j0, p.out_h * p.out_w, 1, C, count);
  }
}

template <int C>
FHRT_INLINE void crop_interleaved(const uint8_t* frame, const float* t, float* out, const FaceCrop& p, const Row& row) {
  crop_row<C>(
      out, p, row, [&](int j0, int count, float* pixels) { add_samples<C>(frame, p.frame, t, row, j0, count, pixels); },
      [](Floats<4> mean) { return mean; });
}

FHRT_INLINE void crop_nv12(const uint8_t* luma, const uint8_t* chroma, const float* t, float* out, const FaceCrop& p, const Row& row) {
  float halved[6];
  chroma_transform(t, halved);
  const auto read = [&](int j0, int count, float* pixels) {
    alignas(64) float colours[kPixels * 4] = {};
    add_samples<1>(luma, p.frame, t, row, j0, count, pixels);
    add_samples<2>(chroma, p.chroma, halved, row, j0, count, colours);
    for (int k = 0; k < kPixels; ++k) pixels[k * 4 + 1] = colours[k * 4], pixels[k * 4 + 2] = colours[k * 4 + 1];
  };
  crop_row<3>(out, p, row, read, [&](Floats<4> yuv) {
    float rgb[3];
    yuv_to_rgb(yuv[0], yuv[1], yuv[2], p.to_rgb, rgb);
    return Floats<4>{rgb[0], rgb[1], rgb[2], 0};
  });
}

}  // namespace

void crop_rows(const uint8_t* frame, const uint8_t* chroma, const float* transforms, float* out, const FaceCrop& p, int64_t begin, int64_t end) {
  for (int64_t each = begin; each < end; ++each) {
    const int64_t n = each / p.out_h;
    const float* t = transforms + n * 6;
    const Row row{static_cast<int>(each % p.out_h), crop_samples(t[0], t[3], p), crop_samples(t[1], t[4], p)};
    float* target = out + n * p.channels() * p.out_h * p.out_w;
    if (p.nv12()) crop_nv12(frame, chroma, t, target, p, row);
    else if (p.frame.channels == 1) crop_interleaved<1>(frame, t, target, p, row);
    else if (p.frame.channels == 2) crop_interleaved<2>(frame, t, target, p, row);
    else if (p.frame.channels == 3) crop_interleaved<3>(frame, t, target, p, row);
    else crop_interleaved<4>(frame, t, target, p, row);
  }
}

}  // namespace fhrt::FHRT_ISA
