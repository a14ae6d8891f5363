// Small pictures found again near where they are expected in a frame.
#pragma once
#include "../face_crop/face_crop.h"

namespace fhrt {

constexpr int64_t kMaxTemplateSide = 64, kMaxTemplateReach = 64;

// side: of a template, pixels; reach: how many of these it may lie off; flat: standard deviation up to which one is found nowhere.
struct MatchTemplates {
  FramePlane frame;
  int64_t count, side, reach;
  float flat;

  constexpr int64_t window() const { return side + 2 * reach; }
};

// frame [H, W, 3] uint8, of which green alone is compared; squares [count, 3] float64: where templates are expected, centre x, y and side in
// frame pixels, (0, 0) being the outer corner of the first; templates [count, side, side] float32; out [count, 3] float32: how far off along
// x and y each was found, in its own pixels and parts of them (the vertex of a parabola), and its likeness there: the normalised
// correlation (less both means). Zeros where the best place is at the border of what was searched, or the template is flat.
void match_templates_cpu(const uint8_t* frame, const double* squares, const float* templates, float* out, const MatchTemplates& p);

}  // namespace fhrt
