// Splits a convolution into row blocks x panel blocks and calls the tile kernel on each with the
// rows' input pointers. Both dtypes, all ops that multiply weights, 1-D and 2-D alike go through
// here: padding, stride and dilation are only pointers, or copies where a tap has few inputs.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/pack_conv.h"
#include "engine/op.h"

namespace earmark {

struct ConvUnit {
  int row_begin, row_end;  // positions of the range, (t - range.begin) * width_out + w
  int panel_begin, panel_end;
};

// How the positions and panels of one convolution are dealt out.
class ConvGrid {
 public:
  template <class W>
  ConvGrid(const PackedConv<W>& packed, int rows, int threads)
      : rows_(rows), panels_(packed.panels) {
    const int tile = packed.packing.tile_rows;
    // A block's inputs are read once for each panel: they should stay in the L2 cache.
    constexpr size_t kBlockBytes = 256 << 10;
    const int depth = packed.seen.taps() * packed.c_in_padded;
    const int block_depth = packed.packing.block_depth;
    const size_t row_bytes =
        static_cast<size_t>(block_depth == 0 ? depth : std::min(depth, block_depth)) *
        std::max<size_t>(sizeof(W), packed.packing.scratch_per_input);
    const int cached = static_cast<int>(std::min<size_t>(kBlockBytes / row_bytes, 384));
    row_block_ = std::max(cached / tile, 4) * tile;
    panel_block_ = panels_;
    if (threads > 1) {
      // About four units a thread: enough to even out, few enough to keep the blocks large.
      const int wanted = 4 * threads;
      const int blocks = ceil_div(rows_, row_block_);
      panel_block_ = std::max(1, panels_ / std::max(1, ceil_div(wanted, blocks)));
      const int units = blocks * ceil_div(panels_, panel_block_);
      if (units < wanted) {
        row_block_ =
            std::max(1, ceil_div(ceil_div(rows_, tile), ceil_div(wanted * blocks, units))) * tile;
      }
    }
    row_block_ = std::min(row_block_, std::max(1, rows_));
    panel_blocks_ = ceil_div(panels_, panel_block_);
  }

  int units() const { return ceil_div(rows_, row_block_) * panel_blocks_; }
  int max_rows() const { return row_block_; }
  int max_panels() const { return panel_block_; }

  ConvUnit unit(int i) const {
    const int row = i / panel_blocks_ * row_block_;
    const int panel = i % panel_blocks_ * panel_block_;
    return {row, std::min(row + row_block_, rows_), panel, std::min(panel + panel_block_, panels_)};
  }

 private:
  static int ceil_div(int a, int b) { return (a + b - 1) / b; }

  int rows_;
  int panels_;
  int row_block_;
  int panel_block_;
  int panel_blocks_;
};

inline size_t to_cache_lines(size_t n) { return (n + 63) / 64 * 64; }

// What the kernel asks for.
template <class W>
size_t kernel_scratch_bytes(const PackedConv<W>& packed, size_t rows) {
  const size_t tile = packed.packing.tile_rows;
  return to_cache_lines(
      (rows + tile - 1) / tile * tile *
      packed.packing.scratch_bytes(static_cast<size_t>(packed.seen.taps()) * packed.c_in_padded));
}

// The scratch of one unit: pointers to its inputs, these copied where the packing asks for it, and
// what the kernel asked for.
template <class T, class W>
class ConvScratch {
 public:
  ConvScratch(const PackedConv<W>& packed, int max_rows)
      : pointers_(to_cache_lines(sizeof(const T*) * max_rows * packed.seen.taps())),
        gathered_(packed.gathers()
                      ? to_cache_lines(sizeof(T) * max_rows * packed.c_in_padded + kReadSlack)
                      : 0),
        kernel_(kernel_scratch_bytes(packed, max_rows)) {}

  size_t bytes() const { return pointers_ + gathered_ + kernel_; }
  const T** pointers(char* scratch) const { return reinterpret_cast<const T**>(scratch); }
  T* gathered(char* scratch) const { return reinterpret_cast<T*>(scratch + pointers_); }
  void* kernel(char* scratch) const { return scratch + pointers_ + gathered_; }

 private:
  size_t pointers_;
  size_t gathered_;
  size_t kernel_;
};

template <class T, class W>
ConvCall<T, W> conv_call(const PackedConv<W>& packed, const T* const* rows, int n_rows,
                         int panel_begin, int panel_end, void* scratch) {
  return {.rows = rows,
          .n_rows = n_rows,
          .taps = packed.seen.taps(),
          .c_in_padded = packed.c_in_padded,
          .weights = packed.weights.data(),
          .panel_begin = panel_begin,
          .panel_end = panel_end,
          .c_out = packed.seen.c_out,
          .paired = packed.paired,
          .paired_blocks = packed.paired_blocks,
          .pairings = packed.pairings,
          .scratch = scratch};
}

// The inputs of output position (t, w), tap by tap: visit(first input, taps) for `taps` that lie
// one after another in memory.
template <class T, class Visit>
void for_each_tap(const ConvShape& shape, const Place& in, int t, int w, const T* zero_row,
                  const Visit& visit) {
  const Axis& width = shape.width;
  const int w_begin = w * width.stride - width.padding;
  const bool inside = w_begin >= 0 && w_begin + width.reach() < in.width;
  const bool adjacent = inside && width.dilation == 1 && in.stride == shape.c_in;
  for (int kt = 0; kt < shape.time.kernel; ++kt) {
    const int source_t = shape.source(shape.time, t, kt, in.length);
    if (source_t < 0) {
      for (int kw = 0; kw < width.kernel; ++kw) visit(zero_row, 1);
      continue;
    }
    const T* frame = in.row<T>(source_t);
    if (adjacent) {
      visit(frame + w_begin * in.stride, width.kernel);
      continue;
    }
    for (int kw = 0; kw < width.kernel; ++kw) {
      const int source_w =
          inside ? w_begin + kw * width.dilation : shape.source(width, w, kw, in.width);
      visit(source_w < 0 ? zero_row : frame + source_w * in.stride, 1);
    }
  }
}

// Input pointers of output positions [row_begin, row_end), counted from time position `first`:
// [rows][taps].
template <class T>
void point_rows(const ConvShape& shape, const Place& in, int width_out, int first, int row_begin,
                int row_end, const T* zero_row, const T** pointers) {
  for (int row = row_begin; row < row_end; ++row) {
    for_each_tap(shape, in, first + row / width_out, row % width_out, zero_row,
                 [&](const T* x, int taps) {
                   for (int tap = 0; tap < taps; ++tap, x += shape.c_in) *pointers++ = x;
                 });
  }
}

// The inputs themselves, of all taps side by side, `stride` from row to row. Bytes are read and
// written up to kReadSlack behind the last; float32 may be the caller's memory.
template <class T>
void gather_rows(const ConvShape& shape, const Place& in, int width_out, int first, int row_begin,
                 int row_end, const T* zero_row, int stride, T* gathered, const T** pointers) {
  for (int row = row_begin; row < row_end; ++row, gathered += stride) {
    *pointers++ = gathered;
    T* to = gathered;
    for_each_tap(shape, in, first + row / width_out, row % width_out, zero_row,
                 [&](const T* x, int taps) {
                   const int n = taps * shape.c_in;
                   if constexpr (sizeof(T) == 1) {
                     for (int i = 0; i < n; i += 16) std::memcpy(to + i, x + i, 16);
                   } else {
                     for (int i = 0; i < n; ++i) to[i] = x[i];
                   }
                   to += n;
                 });
  }
}

// Pointers to what the kernel reads of each row, copied to `gathered` where the packing asks for
// it.
template <class T, class W>
void place_rows(const PackedConv<W>& packed, const Place& in, int width_out, int first,
                int row_begin, int row_end, const T* zero_row, int stride, T* gathered,
                const T** pointers) {
  if (packed.gathers()) {
    gather_rows(packed.shape, in, width_out, first, row_begin, row_end, zero_row, stride, gathered,
                pointers);
  } else {
    point_rows(packed.shape, in, width_out, first, row_begin, row_end, zero_row, pointers);
  }
}

// Calls kernel(call, unit, extra scratch) for every unit of the range, on all threads. `extra`
// bytes for each row and panel of a unit are added to the scratch.
template <class T, class W, class Kernel>
void run_conv(Walk& walk, const PackedConv<W>& packed, const Place& in, int width_out, Range range,
              const T* zero_row, size_t extra_per_output, const Kernel& kernel) {
  const ConvGrid grid(packed, range.size() * width_out, walk.pool->threads());
  const ConvScratch<T, W> layout(packed, grid.max_rows());
  const size_t extra =
      extra_per_output * grid.max_rows() * grid.max_panels() * packed.packing.panel;
  walk.reserve_scratch(layout.bytes() + extra);
  walk.pool->parallel_for(grid.units(), [&](int i, int thread) {
    const ConvUnit unit = grid.unit(i);
    char* scratch = walk.scratch(thread);
    const T** rows = layout.pointers(scratch);
    place_rows(packed, in, width_out, range.begin, unit.row_begin, unit.row_end, zero_row,
               packed.c_in_padded, layout.gathered(scratch), rows);
    const ConvCall<T, W> call = conv_call(packed, rows, unit.row_end - unit.row_begin,
                                          unit.panel_begin, unit.panel_end, layout.kernel(scratch));
    kernel(call, unit, scratch + layout.bytes());
  });
}

}  // namespace earmark
