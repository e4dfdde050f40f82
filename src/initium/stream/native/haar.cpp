// Haar-random orthogonal matrices, row by row of Q^T: the blocked product of reflections that
// docs/stream.md defines. Any rows can be had alone; they are independent of one another.
//
// Matrices are packed into strips of as many rows or columns as a tile of the kernels has, in
// float64; numbers are rounded to float32 wherever the definition says so.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "filler.h"
#include "levels.h"
#include "parallel.h"

namespace initium {
namespace {

typedef std::vector<double> Numbers;

constexpr size_t ROWS = 128;   // reflections in a block: part of the definition
constexpr size_t DEPTH = 256;  // steps for which strips of both factors stay in the first cache
constexpr size_t ACROSS = 16;   // tiles of a row that are worked on in turn
constexpr size_t SMALL = 1 << 14;  // numbers that are not worth a thread
constexpr size_t CHUNK = 16;    // tiles of a column for which a block is read once

size_t strips(size_t n, size_t width) { return (n + width - 1) / width; }

// One strip: for each of `depth` steps `width` numbers, zero beyond the first `held`.
void pack(const float* from, size_t held, size_t stride, size_t depth, size_t step, size_t width,
          double* to) {
  for (size_t k = 0; k < depth; k++, from += step)
    for (size_t i = 0; i < width; i++) *to++ = i < held ? double(from[i * stride]) : 0.0;
}

// What a block of reflections is made of, packed for its three products.
struct Block {
  size_t start, size, length;  // the first reflection, their number, and what they act on
  std::vector<float> vectors;  // rows v_k from column `start` on, zero before column k
  std::vector<float> signs;
  std::vector<double> by_row, by_column, triangle;
};

void reflector(Filler& filler, uint64_t longer, uint64_t k, float* x, float& sign_of_d) {
  filler.run(k * longer + k, longer - k, reinterpret_cast<char*>(x));
  double square = 0;
  for (uint64_t i = 0; i < longer - k; i++) square += double(x[i]) * x[i];
  if (square == 0) square = x[0] = 1;
  const double sign = x[0] < 0 ? -1 : 1;
  x[0] = float(x[0] + sign * std::sqrt(square));
  sign_of_d = float(-sign);
}

// T of the block, float32, as a ROWS x ROWS matrix.
std::vector<float> triangle(const Numbers& gram, size_t size, size_t stride) {
  Numbers columns(size * size);  // column k from k * size on
  for (size_t k = 0; k < size; k++) {
    double* made = &columns[k * size];
    for (size_t i = 0; i < k; i++) {
      const double factor = gram[i * stride + k];
      for (size_t row = 0; row < k; row++) made[row] += columns[i * size + row] * factor;
    }
    const double corner = 2.0 / gram[k * stride + k];
    for (size_t row = 0; row < k; row++) made[row] = -made[row] * corner;
    made[k] = corner;
  }
  return std::vector<float>(columns.begin(), columns.end());
}

class Haar {
 public:
  Haar(const Kernels& kernels, unsigned threads, const Law& law, size_t longer)
      : k_(kernels), threads_(threads), law_(law), longer_(longer), wide_(kernels.wide) {}

  // Rows [first, last) of the K x M matrix Q^T.
  void rows(size_t shorter, size_t first, size_t last, float* out) {
    std::vector<float> signs(last - first);
    parallel(threads_, last - first, 1, 1, [&](size_t start, size_t stop) {
      memset(out + start * longer_, 0, (stop - start) * longer_ * sizeof *out);
      for (size_t row = start; row < stop; row++) out[row * longer_ + first + row] = 1;
    });
    for (size_t start = (last - 1) / ROWS * ROWS;; start -= ROWS) {
      const Block block = prepare(start, std::min(ROWS, shorter - start));
      for (size_t i = 0; i < block.size; i++)
        if (start + i >= first && start + i < last) signs[start + i - first] = block.signs[i];
      const size_t from = std::max(first, start) - first, count = last - first - from;
      parallel(threads_, count, k_.tall, share(count), [&](size_t begin, size_t end) {
        apply(block, out + (from + begin) * longer_ + start, end - begin);
      });
      if (start == 0) break;
    }
    parallel(threads_, last - first, 1, 1, [&](size_t start, size_t stop) {
      for (size_t row = start; row < stop; row++)
        for (size_t i = 0; i < longer_; i++) out[row * longer_ + i] *= signs[row];
    });
  }

 private:
  // Rows that a thread takes at a time: few threads would read the block for fewer.
  size_t share(size_t count) const {
    const size_t each = strips(count, threads_);
    return std::min(CHUNK, strips(each, k_.tall)) * k_.tall;
  }

  Block prepare(size_t start, size_t size) const {
    const size_t length = longer_ - start, high = strips(size, wide_);
    Block b{start, size, length, std::vector<float>(size * length), std::vector<float>(size),
            Numbers(high * wide_ * length), Numbers(strips(length, wide_) * wide_ * size),
            Numbers(high * wide_ * size)};
    parallel(threads_, size, 1, 1, [&](size_t from, size_t to) {
      Filler filler(k_, law_, FLOAT32);
      for (size_t i = from; i < to; i++)
        reflector(filler, longer_, start + i, &b.vectors[i * length + i], b.signs[i]);
    });
    parallel(threads_, high, 1, 1, [&](size_t from, size_t to) {
      for (size_t s = from * wide_; s < to * wide_; s += wide_)
        pack(&b.vectors[s * length], std::min(wide_, size - s), length, length, 1, wide_,
             &b.by_row[s * length]);
    });
    parallel(threads_, strips(length, wide_), 1, 1, [&](size_t from, size_t to) {
      for (size_t s = from * wide_; s < std::min(to * wide_, length); s += wide_)
        pack(&b.vectors[s], std::min(wide_, length - s), 1, size, length, wide_,
             &b.by_column[s * size]);
    });
    // V V^T needs no more than the products that T is applied with.
    const std::vector<float> t = triangle(gram(b), size, high * wide_);
    for (size_t s = 0; s < size; s += wide_)  // T^T: step k, column i is T[i, k]
      pack(&t[s], std::min(wide_, size - s), 1, size, size, wide_, &b.triangle[s * size]);
    return b;
  }

  Numbers gram(const Block& b) const {
    const size_t stride = strips(b.size, wide_) * wide_;
    Numbers out(strips(b.size, k_.tall) * k_.tall * stride);
    parallel(threads_, b.size, k_.tall, share(b.size), [&](size_t from, size_t to) {
      project(b, &b.vectors[from * b.length], b.length, to - from, &out[from * stride]);
    });
    return out;
  }

  // out = x V^T for `count` rows of x, in float64.
  void project(const Block& b, const float* x, size_t step, size_t count, double* out) const {
    const size_t tall = k_.tall, stride = strips(b.size, wide_) * wide_;
    Numbers packed(strips(count, tall) * tall * DEPTH);
    for (size_t at = 0; at < b.length; at += DEPTH) {
      const size_t depth = std::min(DEPTH, b.length - at);
      for (size_t i = 0; i < count; i += tall)
        pack(x + i * step + at, std::min(tall, count - i), step, depth, 1, tall,
             &packed[i * depth]);
      for (size_t s = 0; s < b.size; s += wide_)
        for (size_t i = 0; i < count; i += tall)
          k_.tile(depth, &packed[i * depth], &b.by_row[s * b.length + at * wide_],
                  out + i * stride + s, stride);
    }
  }

  // x -= ((x V^T) T^T) V for `count` rows of x.
  void apply(const Block& b, float* x, size_t count) const {
    const size_t tall = k_.tall, stride = strips(b.size, wide_) * wide_;
    const size_t chunk = CHUNK * tall;
    Numbers along(chunk * stride), turned(chunk * stride), packed(chunk * b.size);
    Numbers part(tall * wide_);
    for (size_t row = 0; row < count; row += chunk, x += chunk * longer_) {
      const size_t held = std::min(chunk, count - row);
      std::fill(along.begin(), along.end(), 0.0);
      std::fill(turned.begin(), turned.end(), 0.0);
      project(b, x, longer_, held, along.data());
      repack(along, stride, held, b.size, 1, packed);
      for (size_t s = 0; s < b.size; s += wide_)
        for (size_t i = 0; i < held; i += tall)
          k_.tile(b.size, &packed[i * b.size], &b.triangle[s * b.size], &turned[i * stride + s],
                  stride);
      repack(turned, stride, held, b.size, -1, packed);
      // Whole cache lines of x at a time: its rows may all fall on the same place in the cache.
      for (size_t from = 0; from < b.length; from += ACROSS * wide_)
        for (size_t i = 0; i < held; i += tall)
          for (size_t s = from; s < std::min(from + ACROSS * wide_, b.length); s += wide_)
            add(b, &packed[i * b.size], s, std::min(tall, held - i), x + i * longer_ + s, part);
    }
  }

  // x += (packed rows) V for a tile of x, rounded.
  void add(const Block& b, const double* packed, size_t s, size_t high, float* x,
           Numbers& part) const {
    const size_t across = std::min(wide_, b.length - s);
    for (size_t r = 0; r < high; r++)
      for (size_t c = 0; c < across; c++) part[r * wide_ + c] = x[r * longer_ + c];
    k_.tile(b.size, packed, &b.by_column[s * b.size], part.data(), wide_);
    for (size_t r = 0; r < high; r++)
      for (size_t c = 0; c < across; c++) x[r * longer_ + c] = float(part[r * wide_ + c]);
  }

  // Rounded to float32, times a sign, as strips of rows.
  void repack(const Numbers& from, size_t stride, size_t rows, size_t columns, double sign,
              Numbers& to) const {
    double* at = to.data();
    for (size_t i = 0; i < rows; i += k_.tall)
      for (size_t c = 0; c < columns; c++)
        for (size_t r = i; r < i + k_.tall; r++) *at++ = sign * float(from[r * stride + c]);
  }

  const Kernels& k_;
  const unsigned threads_;
  const Law law_;
  const size_t longer_, wide_;
};

}  // namespace
}  // namespace initium

using namespace initium;

// Rows [first, last) of the shorter x longer matrix Q^T with the key of a law of standard normals.
extern "C" __attribute__((visibility("default"))) void initium_haar(
    unsigned level, unsigned threads, const Law* law, uint64_t longer, uint64_t shorter,
    uint64_t first, uint64_t last, float* out) {
  if (longer * last < SMALL) threads = 1;
  Haar(*LEVELS[level].kernels, threads, *law, longer).rows(shorter, first, last, out);
}
