// stn_sample's work on one picture and a few of its channels, for each instruction set.
#pragma once
#include "../isa.h"
#include "../numeric.h"
#include "stn_sample.h"

namespace fhrt {

constexpr int kStnLanes = 16;  // channels of one piece of work

// What a piece is: channels [first, first + count), count up to kStnLanes, of picture n, and for the forward pass output rows [row0, row1).
struct StnPiece {
  int64_t n, first, count, row0, row1;
};

// Floats of scratch for one piece; the backward pass needs twice as many.
FHRT_HD int64_t stn_scratch(const StnSample& p) { return p.in_h * p.in_w * kStnLanes; }

FHRT_EACH_ISA(
  template <typename T>
  void stn_forward(const T* x, const Strides& xs, const float* theta, T* out, const Strides& os, const StnSample& p, const StnPiece& piece,
                   float* scratch);
  // Gradients to the piece's channels of x, and its share of theta's six; each may be null.
  template <typename T>
  void stn_backward(const T* grad, const Strides& gs, const T* x, const Strides& xs, const float* theta, T* grad_x, const Strides& os,
                    float* grad_theta, const StnSample& p, const StnPiece& piece, float* scratch);
)

}  // namespace fhrt
