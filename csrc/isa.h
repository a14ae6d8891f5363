// Functions compiled for several instruction sets, and the choice among them when the program runs.
#pragma once

// setup.py compiles the *_simd.cpp files for these (ISAS there). Other processors than x86-64 have `base` alone: the compiler's default.
#if defined(__x86_64__)
#define FHRT_EACH_ISA(declaration)   \
  namespace base { declaration }     \
  namespace avx2 { declaration }     \
  namespace avx512 { declaration }
#define FHRT_BEST(function) ::fhrt::best_of(&base::function, &avx2::function, &avx512::function)
#else
#define FHRT_EACH_ISA(declaration) \
  namespace base { declaration }
#define FHRT_BEST(function) (&base::function)
#endif

namespace fhrt {

enum class Isa : int { base = 0, avx2 = 1, avx512 = 2 };

// The best that this machine has, or less if FHRT_ISA (base, avx2, avx512) says so in the environment; read once.
Isa isa();
const char* isa_name();

template <typename Function>
Function* best_of(Function* base, Function* avx2, Function* avx512) {
  return isa() == Isa::avx512 ? avx512 : isa() == Isa::avx2 ? avx2 : base;
}

}  // namespace fhrt
