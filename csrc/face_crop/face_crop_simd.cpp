#include "face_crop_simd.h"

#include "../simd.h"
#include "face_crop_math.h"

namespace fhrt::FHRT_ISA {
namespace {

constexpr int kWeights = kCropTaps + 8;  // of an axis, read in vectors of 8
constexpr int kLine = 8 * kPixels + kCropTaps;  // columns of the frame that kPixels pixels side by side are made of, at most

// What kPixels pixels of a row of a crop take of an axis: their first taps, and the weights of all, which add up to 1, zeros behind them.
struct Taps {
  alignas(64) int32_t first[kPixels];
  alignas(64) float weights[kWeights][kPixels];
};

// t[3]: the axis's part of the transform. Not inlined, and on copies, which no store can change: so the compiler turns the loops into
// vectors.
__attribute__((noinline)) void find_taps(const CropAxis& of, const float* t, int i, int j0, Taps& taps) {
  const CropAxis axis = of;
  const float along[3] = {t[0], t[1], t[2]};
  alignas(64) float offset[kPixels], sum[kPixels];
  for (int k = 0; k < kPixels; ++k) {
    float way;
    taps.first[k] = crop_first(axis, crop_position(along, i, j0 + k), way);
    offset[k] = way;
    sum[k] = 0;
  }
  for (int tap = 0; tap < axis.taps; ++tap) {
    for (int k = 0; k < kPixels; ++k) {
      const float weight = crop_weight(axis, offset[k], tap);
      taps.weights[tap][k] = weight;
      sum[k] += weight;
    }
  }
  for (int k = 0; k < kPixels; ++k) sum[k] = 1 / sum[k];
  for (int tap = 0; tap < axis.taps; ++tap)
    for (int k = 0; k < kPixels; ++k) taps.weights[tap][k] *= sum[k];
  for (int tap = axis.taps; tap < axis.taps + 8; ++tap)
    for (int k = 0; k < kPixels; ++k) taps.weights[tap][k] = 0;
}

// The weights of 8 / C pixels side by side, each for all channels of its pixel.
template <int C>
FHRT_INLINE Floats<8> for_channels(const float* weights) {
  const Floats<8> w = load<8>(weights);
  if constexpr (C == 1) return w;
  else if constexpr (C == 2) return FHRT_SHUFFLE(w, w, 0, 0, 1, 1, 2, 2, 3, 3);
  else if constexpr (C == 3) return FHRT_SHUFFLE(w, w, 0, 0, 0, 1, 1, 1, 1, 1);
  else return FHRT_SHUFFLE(w, w, 0, 0, 0, 0, 1, 1, 1, 1);
}

// The sums of each channel's lanes come first.
template <int C>
FHRT_INLINE Floats<4> over_channels(Floats<8> v) {
  if constexpr (C == 1) v += FHRT_SHUFFLE(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  if constexpr (C <= 2) v += FHRT_SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  if constexpr (C == 3) v += FHRT_SHUFFLE(v, v, 3, 4, 5, 0, 0, 0, 0, 0);
  else v += FHRT_SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  Floats<4> first;
  __builtin_memcpy(&first, &v, sizeof first);
  return first;
}

// A plane of the frame, of C channels, and a row of a crop in it.
template <int C>
struct Source {
  const uint8_t* data;
  const FramePlane& plane;
  const float* t;
  const CropAxis across, down;
  Taps x, y;
  alignas(64) float weights[kPixels][kWeights];  // x's, those of a pixel side by side
  bool upright;                                  // whether all these pixels read the same rows
  int left, columns;                             // their first column, and how many
  alignas(64) float line[kLine * C + 16];        // and the sums down their columns

  FHRT_INLINE Source(const uint8_t* bytes, const FramePlane& of, const float* transform)
      : data(bytes), plane(of), t(transform), across(crop_axis(t[0], t[1], plane.w)), down(crop_axis(t[3], t[4], plane.h)) {}

  // Before the pixels from j0 on of row i; `first`: of the rows that are asked for.
  FHRT_INLINE void begin(int i, int j0, bool first) {
    find_taps(down, t + 3, i, j0, y);
    if (first || t[1] != 0) find_columns(i, j0);
    if (upright) sum_down();
  }

  // Pixel k from there on: C levels, and whatever behind them.
  FHRT_INLINE Floats<4> level(int k) const {
    if (upright) return level_of_line(k);
    return across.taps == 4 && down.taps == 4 ? level(k, 4, 4) : level(k, across.taps, down.taps);  // unrolled where nothing shrinks
  }

 private:
  static constexpr int kRow = kCropTaps * C + 8;  // bytes

  __attribute__((noinline)) void find_columns(int i, int j0) {
    find_taps(across, t, i, j0, x);
    for (int tap = 0; tap < across.taps + 4; tap += 4)
      for (int k = 0; k < kPixels; k += 4) transpose<4>(x.weights[tap] + k, kPixels, weights[k] + tap, kWeights);
    const int one = x.first[0], other = x.first[kPixels - 1];
    left = one < other ? one : other;
    columns = (one < other ? other - one : one - other) / across.step + across.taps;
    upright = t[3] == 0 && columns <= kLine;
  }

  __attribute__((noinline)) void sum_down() {
    const int count = columns * C, right = left + (columns - 1) * across.step, bottom = y.first[0] + (down.taps - 1) * down.step;
    const int64_t end = crop_pixel(down, bottom, 0) * plane.row_bytes + int64_t{left} * C + (count + 15) / 16 * 16;
    const bool as_is = left >= 0 && right < plane.w && across.step == 1 && end <= (plane.h - 1) * plane.row_bytes + plane.w * C;
    const uint8_t* rows[kCropTaps];
    uint8_t copies[kCropTaps][kLine * C + 16];
    for (int tap = 0; tap < down.taps; ++tap) {
      rows[tap] = data + crop_pixel(down, y.first[0], tap) * plane.row_bytes + (as_is ? int64_t{left} * C : 0);
      if (as_is) continue;  // columns beyond the border, or not side by side, or a vector that would end behind the frame
      for (int column = 0; column < columns; ++column)
        for (int c = 0; c < C; ++c) copies[tap][column * C + c] = rows[tap][crop_pixel(across, left, column) * C + c];
      for (int c = count; c < count + 16; ++c) copies[tap][c] = 0;
      rows[tap] = copies[tap];
    }
    for (int c = 0; c < count; c += 16) {
      Floats<8> first = {}, second = {};
      for (int tap = 0; tap < down.taps; ++tap) {
        first += y.weights[tap][0] * widen(rows[tap] + c);
        second += y.weights[tap][0] * widen(rows[tap] + c + 8);
      }
      store<8>(line + c, first);
      store<8>(line + c + 8, second);
    }
    for (int c = count; c < count + 8; ++c) line[c] = 0;
  }

  FHRT_INLINE Floats<4> level_of_line(int k) const {
    constexpr int kPart = 8 / C;  // pixels of a vector
    const int parts = (across.taps + kPart - 1) / kPart;
    const float* columns = line + (x.first[k] - left) / across.step * C;
    Floats<8> sum = {};
    for (int part = 0; part < parts; ++part) sum += for_channels<C>(weights[k] + part * kPart) * load<8>(columns + part * (kPart * C));
    return over_channels<C>(sum);
  }

  FHRT_INLINE Floats<4> level(int k, int columns, int rows) const {
    constexpr int kPart = 8 / C;  // pixels of a vector
    const int parts = (columns + kPart - 1) / kPart, bytes = (parts - 1) * kPart * C + 8;
    const int64_t left = x.first[k], top = y.first[k], bottom = top + (rows - 1) * down.step;
    const bool inside = left >= 0 && left + columns <= plane.w && top >= 0 && bottom < plane.h;
    const bool room = bottom * plane.row_bytes + left * C + bytes <= (plane.h - 1) * plane.row_bytes + plane.w * C;
    const uint8_t* corner;
    int64_t pitch;
    uint8_t copy[kCropTaps * kRow];
    if (inside && room && across.step == 1) {
      corner = data + top * plane.row_bytes + left * C;
      pitch = down.step * plane.row_bytes;
    } else {  // pixels beyond the border, or not side by side, or a vector that would end behind the frame
      copy_taps(k, (bytes + C - 1) / C, copy);
      corner = copy;
      pitch = kRow;
    }
    // Down the columns for all channels alike; then along the row that is left.
    Floats<8> sum = {};
    for (int part = 0; part < parts; ++part) {
      Floats<8> column = {};
      for (int tap = 0; tap < rows; ++tap) column += y.weights[tap][k] * widen(corner + tap * pitch + part * (kPart * C));
      sum += for_channels<C>(weights[k] + part * kPart) * column;
    }
    return over_channels<C>(sum);
  }

  __attribute__((noinline)) void copy_taps(int k, int columns, uint8_t* copy) const {
    for (int r = 0; r < down.taps; ++r) {
      const uint8_t* row = data + crop_pixel(down, y.first[k], r) * plane.row_bytes;
      for (int tap = 0; tap < columns; ++tap)
        for (int c = 0; c < C; ++c) copy[r * kRow + tap * C + c] = row[crop_pixel(across, x.first[k], tap) * C + c];
    }
  }
};

struct Rows {
  int begin, end;
};

// Rows of a crop, C channels; `begin` prepares the pixels of row i from j on, of which `level` gives the k-th.
template <int C, typename Begin, typename Level>
FHRT_INLINE void crop_part(float* out, const FaceCrop& p, const Rows& rows, Begin begin, Level level) {
  Floats<4> mean = {}, scale = {};
  for (int c = 0; c < C; ++c) mean[c] = p.mean[c], scale[c] = 1 / p.std[c];
  for (int64_t j0 = 0; j0 < p.out_w; j0 += kPixels) {  // row after row, since those of an upright crop share their columns
    const int count = static_cast<int>(p.out_w - j0 < kPixels ? p.out_w - j0 : kPixels);
    for (int i = rows.begin; i < rows.end; ++i) {
      alignas(64) float pixels[kPixels * 4] = {};
      begin(i, static_cast<int>(j0), i == rows.begin);
      for (int k = 0; k < count; ++k) store<4>(pixels + k * 4, level(k));
      for (int k = 0; k < kPixels * 4; ++k) pixels[k] = clamp_byte(pixels[k]);
      for (int k = 0; k < kPixels; ++k) store<4>(pixels + k * 4, (load<4>(pixels + k * 4) - mean) * scale);
      from_pixels<4>(pixels, out + i * p.out_w + j0, p.out_h * p.out_w, 1, C, count);
    }
  }
}

template <int C>
FHRT_INLINE void crop_interleaved(const uint8_t* frame, const float* t, float* out, const FaceCrop& p, const Rows& rows) {
  Source<C> source(frame, p.frame, t);
  crop_part<C>(out, p, rows, [&](int i, int j, bool first) { source.begin(i, j, first); }, [&](int k) { return source.level(k); });
}

FHRT_INLINE void crop_nv12(const uint8_t* luma, const uint8_t* chroma, const float* t, float* out, const FaceCrop& p, const Rows& rows) {
  float halved[6];
  chroma_transform(t, halved);
  Source<1> grey(luma, p.frame, t);
  Source<2> colours(chroma, p.chroma, halved);
  const auto begin = [&](int i, int j, bool first) {
    grey.begin(i, j, first);
    colours.begin(i, j, first);
  };
  crop_part<3>(out, p, rows, begin, [&](int k) {
    const Floats<4> y = grey.level(k), uv = colours.level(k);
    float rgb[3];
    yuv_to_rgb(y[0], uv[0], uv[1], p.to_rgb, rgb);
    return Floats<4>{rgb[0], rgb[1], rgb[2], 0};
  });
}

}  // namespace

void crop_rows(const uint8_t* frame, const uint8_t* chroma, const float* transforms, float* out, const FaceCrop& p, int64_t begin, int64_t end) {
  for (int64_t each = begin, next; each < end; each = next) {
    const int64_t n = each / p.out_h, last = (n + 1) * p.out_h;
    next = last < end ? last : end;
    const float* t = transforms + n * 6;
    const Rows rows{static_cast<int>(each - n * p.out_h), static_cast<int>(next - n * p.out_h)};
    float* target = out + n * p.channels() * p.out_h * p.out_w;
    if (p.nv12()) crop_nv12(frame, chroma, t, target, p, rows);
    else if (p.frame.channels == 1) crop_interleaved<1>(frame, t, target, p, rows);
    else if (p.frame.channels == 2) crop_interleaved<2>(frame, t, target, p, rows);
    else if (p.frame.channels == 3) crop_interleaved<3>(frame, t, target, p, rows);
    else crop_interleaved<4>(frame, t, target, p, rows);
  }
}

}  // namespace fhrt::FHRT_ISA
