#include <algorithm>
#include <memory>
#include <vector>

#include "../parallel.h"
#include "stn_sample.h"
#include "stn_sample_simd.h"

namespace fhrt {
namespace {

constexpr int64_t kPixelCost = 6;  // nanoseconds for kStnLanes channels of a pixel, roughly

// A batch in pieces of up to `most` channels.
struct Pieces {
  const StnSample& p;
  int64_t most, per_picture;

  Pieces(const StnSample& p_, int64_t most_) : p(p_), most(most_), per_picture((p_.channels + most_ - 1) / most_) {}
  int64_t count() const { return p.batch * per_picture; }
  int64_t cost() const { return kPixelCost * p.out_h * p.out_w * std::max<int64_t>(1, std::min(most, p.channels) / kStnLanes); }
  StnPiece operator[](int64_t index) const {
    const int64_t first = index % per_picture * most;
    return {index / per_picture, first, std::min(most, p.channels - first), 0, p.out_h};
  }
};

Strides contiguous(int64_t channels, int64_t h, int64_t w) { return {channels * h * w, h * w, w, 1}; }

}  // namespace

template <typename T>
void stn_sample_cpu(const T* x, const Strides& xs, const float* theta, T* out, const Strides& os, const StnSample& p) {
  const auto work = FHRT_BEST(stn_forward<T>);
  const Pieces pieces(p, stn_channels(p));
  // A few large pictures are cut into bands of rows too; a band turns only the stored rows that it reads.
  const int64_t wanted = (4 * get_num_threads() + pieces.count() - 1) / std::max<int64_t>(1, pieces.count());
  const int64_t bands = std::clamp<int64_t>(std::min(wanted, p.out_h * p.out_w / 1024), 1, p.out_h);
  parallel_for(pieces.count() * bands, pieces.cost() / bands, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[stn_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      StnPiece piece = pieces[item / bands];
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
  const Pieces pieces(p, kStnLanes);
  const Strides os = contiguous(p.channels, p.in_h, p.in_w);
  std::vector<float> shares(grad_theta ? pieces.count() * 6 : 0);
  parallel_for(pieces.count(), 4 * pieces.cost(), [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[stn_backward_scratch(p)]);
    for (int64_t item = begin; item < end; ++item) {
      work(grad, gs, x, xs, theta, grad_x, os, grad_theta ? shares.data() + item * 6 : nullptr, p, pieces[item], scratch.get());
    }
  });
  for (int64_t k = 0; grad_theta && k < p.batch * 6; ++k) {
    grad_theta[k] = 0;
    for (int64_t piece = 0; piece < pieces.per_picture; ++piece) grad_theta[k] += shares[(k / 6 * pieces.per_picture + piece) * 6 + k % 6];
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
