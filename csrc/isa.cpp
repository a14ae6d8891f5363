#include "isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fhrt {
namespace {

constexpr const char* kNames[] = {"base", "avx2", "avx512"};

Isa found() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // x86-64-v3 and x86-64-v4, feature by feature: compilers differ in which names of levels they know.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  return v4 ? Isa::avx512 : v3 ? Isa::avx2 : Isa::base;
#else
  return Isa::base;
#endif
}

Isa chosen() {
  const Isa best = found();
  const char* wanted = std::getenv("FHRT_ISA");
  for (int k = 0; wanted && k < 3; ++k)
    if (std::strcmp(wanted, kNames[k]) == 0) return std::min(best, static_cast<Isa>(k));
  return best;
}

}  // namespace

Isa isa() {
  static const Isa choice = chosen();
  return choice;
}

const char* isa_name() { return kNames[static_cast<int>(isa())]; }

}  // namespace fhrt
