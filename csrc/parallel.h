// A small persistent pool of threads, shared by all CPU ops.
#pragma once
#include <cstdint>
#include <functional>

namespace fhrt {

// Threads that parallel_for may use, the caller's own included. 0 restores the default: FHRT_NUM_THREADS, or the cores that the process may use, as it was at first.
void set_num_threads(int count);
int get_num_threads();

// From now on parallel_for wakes nobody for the calling thread.
void stay_alone();

// Calls body(begin, end) on disjoint ranges that cover [0, n). Which thread gets which range does not change what is computed,
// so results do not depend on the number of threads. `cost`: nanoseconds of one item, roughly; little work is left to the caller alone.
// limit: threads at most, where it is not 0.
void parallel_for(int64_t n, int64_t cost, const std::function<void(int64_t, int64_t)>& body, int limit = 0);

}  // namespace fhrt
