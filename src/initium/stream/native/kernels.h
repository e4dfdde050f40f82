// What one instruction set offers: a table of functions, compiled once per set from kernels.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace initium {

enum Kind : uint32_t { CONSTANT, NORMAL, UNIFORM, TRUNCATED };
enum Type : uint32_t { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, E4M3FN, E5M2, TYPES };

// An elementwise distribution and the key of its stream, as in docs/stream.md.
struct Law {
  uint32_t kind;
  uint32_t key[4];          // k0, k1, c2, c3
  float scale, shift;       // of the standard number; the shift of a constant is its value
  float least, most;        // what uniform and truncated numbers are clamped to
  uint32_t first;           // first point of the grid of a truncated normal
  uint64_t count;           // and the number of its points, at most 2^32
};

constexpr unsigned BLOCK = 256;  // counters at a time: their words stay in the first-level cache

struct Kernels {
  // The 4 n numbers of n <= BLOCK counters: those listed, or n from `first` on if none are.
  // Writes as many as there are for n rounded up to a multiple of 32.
  void (*numbers)(const Law&, const uint64_t* listed, uint64_t first, unsigned n, float* out);
  void (*cast[TYPES])(const float* values, void* out, size_t n);

  // c += a b for a small matrix c with rows at distance `stride`: a has `tall` numbers for each of
  // `depth` steps, b has `wide`. One product after the other. The products have to be exact in
  // float64, as those of float32 numbers are: then it does not matter that they are fused.
  void (*tile)(size_t depth, const double* a, const double* b, double* c, size_t stride);
  unsigned tall, wide;
};

}  // namespace initium
