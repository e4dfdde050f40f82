// The elements of one law, written by one thread: long runs at once, short ones collected.
#pragma once

#include <cstring>

#include "kernels.h"

namespace initium {

constexpr unsigned LENGTH = 4 * BLOCK;
constexpr unsigned SIZES[TYPES] = {4, 8, 2, 2, 1, 1};
constexpr uint64_t LONG = LENGTH / 8;  // runs of at least this length need no collecting

class Filler {
 public:
  Filler(const Kernels& kernels, const Law& law, Type type)
      : kernels_(kernels), law_(law), type_(type), size_(SIZES[type]) {
    if (law_.kind == CONSTANT) {
      kernels_.numbers(law_, nullptr, 0, BLOCK, numbers_);
      kernels_.cast[type_](numbers_, items_, LENGTH);
    }
  }

  // `count` neighbours from `element` on, one after the other in memory.
  void run(uint64_t element, uint64_t count, char* out) {
    while (count) {
      const unsigned lane = element & 3, room = LENGTH - lane;
      const unsigned now = count < room ? unsigned(count) : room;
      if (law_.kind == CONSTANT) {
        memcpy(out, items_, size_t(now) * size_);
      } else if (type_ == FLOAT32 && now == LENGTH) {
        kernels_.numbers(law_, nullptr, element >> 2, BLOCK, reinterpret_cast<float*>(out));
      } else {
        kernels_.numbers(law_, nullptr, element >> 2, (lane + now + 3) / 4, numbers_);
        kernels_.cast[type_](numbers_ + lane, out, now);
      }
      element += now, count -= now, out += size_t(now) * size_;
    }
  }

  // The same for a short run, or one that lies `stride` bytes apart in memory; it is written by the
  // next flush at the latest.
  void collect(uint64_t element, uint64_t count, char* out, int64_t stride) {
    while (count) {
      const uint64_t counter = element >> 2;
      const unsigned lane = element & 3;
      const bool known = counters_used_ && counters_[counters_used_ - 1] == counter;
      const unsigned base = counters_used_ - known;
      if (base == BLOCK || pieces_used_ == LENGTH) {
        flush();
        continue;
      }
      const unsigned room = 4 * (BLOCK - base) - lane;
      const unsigned now = count < room ? unsigned(count) : room;
      counters_used_ = base + (lane + now + 3) / 4;
      for (unsigned i = base; i < counters_used_; i++) counters_[i] = counter + (i - base);
      pieces_[pieces_used_++] = {out, stride, uint16_t(4 * base + lane), uint16_t(now)};
      element += now, count -= now, out += now * stride;
    }
  }

  void flush() {
    if (law_.kind != CONSTANT && pieces_used_) {
      kernels_.numbers(law_, counters_, 0, counters_used_, numbers_);
      kernels_.cast[type_](numbers_, items_, 4 * counters_used_);
    }
    switch (size_) {
      case 1: scatter<1>(); break;
      case 2: scatter<2>(); break;
      case 4: scatter<4>(); break;
      default: scatter<8>();
    }
    counters_used_ = pieces_used_ = 0;
  }

 private:
  struct Piece {
    char* out;
    int64_t stride;
    uint16_t from, count;
  };

  template <unsigned size> void scatter() {
    for (unsigned i = 0; i < pieces_used_; i++) {
      const Piece& piece = pieces_[i];
      const char* from = items_ + piece.from * size;
      if (piece.stride == size && piece.count > 1) {
        memcpy(piece.out, from, piece.count * size);
        continue;
      }
      char* out = piece.out;
      for (unsigned j = 0; j < piece.count; j++, from += size, out += piece.stride)
        memcpy(out, from, size);
    }
  }

  const Kernels& kernels_;
  const Law law_;
  const Type type_;
  const unsigned size_;
  unsigned counters_used_ = 0, pieces_used_ = 0;
  alignas(64) float numbers_[LENGTH];
  alignas(64) char items_[8 * LENGTH];
  alignas(64) uint64_t counters_[BLOCK] = {};
  Piece pieces_[LENGTH];
};

}  // namespace initium
