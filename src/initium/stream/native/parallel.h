// Fork and join: pieces of the same work, taken in turn by whichever thread is free, so that one which
// shares its processor with something else holds up no other. Bounds never change a result.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace initium {

constexpr uint64_t PIECES = 32;  // for every thread

// Calls work(start, stop) for disjoint ranges that cover [0, n), with bounds at multiples of `grain`:
// at most `threads` at a time, and fewer if there is less than `share` for each.
template <class Work>
void parallel(unsigned threads, uint64_t n, uint64_t share, uint64_t grain, const Work& work) {
  const uint64_t parts = std::min<uint64_t>(threads, n / share);
  if (parts <= 1) return work(uint64_t(0), n);
  const uint64_t least = std::max(n / (parts * PIECES), (share + 3) / 4);
  const uint64_t piece = (least + grain - 1) / grain * grain;
  std::atomic<uint64_t> next{0};
  const auto take = [&] {
    for (uint64_t start; (start = next.fetch_add(piece)) < n;)
      work(start, std::min(n, start + piece));
  };
  std::vector<std::thread> started;
  try {
    while (started.size() + 1 < parts) started.emplace_back(take);
  } catch (const std::system_error&) {  // no more threads: those that there are do the rest
  }
  take();
  for (std::thread& thread : started) thread.join();
}

}  // namespace initium
