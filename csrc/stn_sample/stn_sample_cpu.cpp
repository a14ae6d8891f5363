#include <algorithm>
#include <memory>
#include <vector>

#include "../parallel.h"
#include "stn_sample.h"
#include "stn_sample_simd.h"

namespace fhrt {
namespace {

constexpr int64_t kPixelCost = 10;  // nanoseconds for kStnLanes channels of a pixel, roughly

int64_t pieces_of(const StnSample& p) { return (p.channels + kStnLanes - 1) / kStnLanes; }

StnPiece piece_of(int64_t index, const StnSample& p) {
  const int64_t pieces = pieces_of(p), first = index % pieces * kStnLanes;
  return {index / pieces, first, std::min<int64_t>(kStnLanes, p.channels - first), 0, p.out_h};
}

Strides contiguous(int64_t channels, int64_t h, int64_t w) { return {channels * h * w, h * w, w, 1}; }

}  // namespace

template <typename T>
void stn_sample_cpu(const T* x, const Strides& xs, const float* theta, T* out, const Strides& os, const StnSample& p) {
  const auto work = FHRT_BEST(stn_forward<T>);
  // A few large pictures are cut into bands of rows too; a band turns only the stored rows that it reads.
  const int64_t pieces = p.batch * pieces_of(p), wanted = pieces < 2 * get_num_threads() ? 4 * get_num_threads() : 1;
  const int64_t bands = std::clamp<int64_t>(std::min(wanted, p.out_h * p.out_w / 4096), 1, p.out_h);
  parallel_for(pieces * bands, kPixelCost * p.out_h * p.out_w / bands, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[stn_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      StnPiece piece = piece_of(item / bands, p);
      piece.row0 = item % bands * p.out_h / bands;
      piece.row1 = (item % bands + 1) * p.out_h / bands;
      work(x, xs, theta, out, os, p, piece, scratch.get());
    }
  });
}

template <typename T>
void stn_sample_backward_cpu(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, T* grad_x,
                             float* grad_theta, const StnSample& p) {
  const auto work = FHRT_BEST(stn_backward<T>);
  const int64_t pieces = pieces_of(p);
  const Strides os = contiguous(p.channels, p.in_h, p.in_w);
  std::vector<float> shares(grad_theta ? p.batch * pieces * 6 : 0);
  parallel_for(p.batch * pieces, 4 * kPixelCost * p.out_h * p.out_w, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[2 * stn_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      work(grad, gs, x, xs, theta, grad_x, os, grad_theta ? shares.data() + item * 6 : nullptr, p, piece_of(item, p), scratch.get());
    }
  });
  for (int64_t k = 0; grad_theta && k < p.batch * 6; ++k) {
    grad_theta[k] = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) grad_theta[k] += shares[(k / 6 * pieces + piece) * 6 + k % 6];
  }
}

#define FHRT_STN(T)                                                                                                       \
  template void stn_sample_cpu<T>(const T*, const Strides&, const float*, T*, const Strides&, const StnSample&);          \
  template void stn_sample_backward_cpu<T>(const T*, const Strides&, const T*, const Strides&, const float*, T*, float*,  \
                                           const StnSample&);
FHRT_STN(float)
FHRT_STN(Half)
FHRT_STN(BFloat16)
#undef FHRT_STN

}  // namespace fhrt
