// match_templates' work on one template, for each instruction set.
#pragma once
#include "../isa.h"
#include "match_templates.h"

namespace fhrt {

// Floats that one template takes, aligned to 64 bytes.
constexpr int64_t match_scratch(const MatchTemplates& p) {
  return 3 * p.window() * p.window() + p.side * p.side + (2 * p.reach + 1) * (2 * p.reach + 17) + 64;
}

FHRT_EACH_ISA(void match_template(const uint8_t* frame, const double* square, const float* picture, float* out, const MatchTemplates& p,
                                  float* scratch);)

}  // namespace fhrt
