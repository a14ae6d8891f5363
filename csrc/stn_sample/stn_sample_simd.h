// stn_sample's work on one picture and a few of its channels, for each instruction set.
#pragma once
#include "../isa.h"
#include "../numeric.h"
#include "stn_sample.h"

namespace fhrt {

constexpr int kStnLanes = 16;  // channels of one block: a register's worth, or a few

// What a piece is: channels [first, first + count) of picture n, and for the forward pass output rows [row0, row1).
struct StnPiece {
  int64_t n, first, count, row0, row1;
};

// Channels of one piece at most: as many blocks as the first cache holds stored maps of, so that they share the positions.
FHRT_HD int64_t stn_channels(const StnSample& p) {
  const int64_t blocks = 512 / (p.in_h * p.in_w);
  return kStnLanes * (blocks > 1 ? blocks : 1);
}

// Floats of scratch for one piece.
FHRT_HD int64_t stn_scratch(const StnSample& p) { return p.in_h * p.in_w * stn_channels(p); }
FHRT_HD int64_t stn_backward_scratch(const StnSample& p) { return 2 * p.in_h * p.in_w * kStnLanes; }

FHRT_EACH_ISA(
  template <typename T>
  void stn_forward(const T* x, const Strides& xs, const float* theta, T* out, const Strides& os, const StnSample& p, const StnPiece& piece,
                   float* scratch);
  // Gradients to the piece's channels of x, up to kStnLanes, and its share of theta's six; each may be null.
  template <typename T>
  void stn_backward(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, T* grad_x, const Strides& os,
                    float* grad_theta, const StnSample& p, const StnPiece& piece, float* scratch);
)

}  // namespace fhrt
