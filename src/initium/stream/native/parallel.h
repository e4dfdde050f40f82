// Fork and join: the same work in contiguous shares, whose bounds never change a result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace initium {

// Calls work(start, stop) for disjoint ranges that cover [0, n): at most `threads` at a time, each
// of at least about `share`, with bounds at multiples of `grain`.
template <class Work>
void parallel(unsigned threads, uint64_t n, uint64_t share, uint64_t grain, const Work& work) {
  const uint64_t parts = std::max<uint64_t>(1, std::min<uint64_t>(threads, n / share));
  const auto bound = [=](uint64_t part) {
    return part == parts ? n : std::min(n, n / parts * part / grain * grain);
  };
  std::vector<std::thread> started;
  uint64_t part = 1;
  try {
    for (; part < parts; part++) started.emplace_back(work, bound(part), bound(part + 1));
  } catch (const std::system_error&) {  // no more threads: the rest is done here
    work(bound(part), n);
  }
  work(uint64_t(0), bound(1));
  for (std::thread& thread : started) thread.join();
}

}  // namespace initium
