// The kernels that were compiled, and which of them this processor has.
#pragma once

#include <cstring>

#include "kernels.h"

namespace initium {

// INITIUM_LEVELS lists the levels that were compiled: LEVEL(name) for each, the slowest first.
#define LEVEL(name) extern const Kernels kernels_##name;
INITIUM_LEVELS
#undef LEVEL

struct Level {
  const char* name;
  const Kernels* kernels;
};

#define LEVEL(name) {#name, &kernels_##name},
constexpr Level LEVELS[] = {INITIUM_LEVELS};
#undef LEVEL
constexpr unsigned COUNT = sizeof LEVELS / sizeof *LEVELS;

inline bool supported(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  (void)name;
  return true;
}

}  // namespace initium
