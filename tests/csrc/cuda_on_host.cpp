// fhrt._C.cuda once more, with the kernels on the host shim: what fhrt.ops.device does is then tested without a GPU.
#include "../../csrc/bindings_cuda.h"

PYBIND11_MODULE(cuda_on_host, m) { bind_cuda(m); }
