// The three kernels of the table. The including file has defined, on top of conv_s8_tile.inl,
// with_source(call, body), which calls body(source). source.multiply<kRows>(row, panel, block,
// initial) returns the sums of kRows rows and a panel; they are complete after the last of
// source.blocks() blocks of inputs, and until then the source's to keep.
#include <type_traits>

namespace earmark::EARMARK_ISA {
namespace {

// Calls tile.run<kRows>(source, first row, panel, block) for all rows, panels and blocks, whole
// tiles first.
template <class TileBody>
EARMARK_FN void for_each_tile(const ConvCallS8& call, const TileBody& tile) {
  with_source(
      call, EARMARK_UNROLLED(source) {
        constexpr int kTile = std::remove_reference_t<decltype(source)>::kTileRows;
        for (int panel = call.panel_begin; panel < call.panel_end; ++panel) {
          for (int block = 0; block < source.blocks(); ++block) {
            int row = 0;
            for (; row + kTile <= call.n_rows; row += kTile) {
              tile.template run<kTile>(source, row, panel, block);
            }
            with_index<kTile - 1>(
                call.n_rows - row, EARMARK_UNROLLED(rest) {
                  tile.template run<rest.value>(source, row, panel, block);
                });
          }
        }
      });
}

// Classes, not lambdas: with lambdas in their place GCC 12 keeps the accumulators twice.
struct RequantizedTile {
  const ConvCallS8& call;
  const EpilogueS8& epilogue;
  uint8_t* out;
  ptrdiff_t out_stride;

  template <int kRows, class Source>
  EARMARK_MEMBER void run(const Source& source, int row, int panel, int block) const {
    const int channel = panel * kPanel;
    const Tile<kRows> tile =
        source.template multiply<kRows>(row, panel, block, epilogue.initial + channel);
    if (block + 1 < source.blocks()) return;
    requantize<kRows>(epilogue, channel, call.c_out, tile, out + row * out_stride, out_stride);
  }
};

struct RealTile {
  const ConvCallS8& call;
  const EpilogueS8& epilogue;
  float* out;
  ptrdiff_t out_stride;

  template <int kRows, class Source>
  EARMARK_MEMBER void run(const Source& source, int row, int panel, int block) const {
    const int channel = panel * kPanel;
    const Tile<kRows> tile =
        source.template multiply<kRows>(row, panel, block, epilogue.initial + channel);
    if (block + 1 < source.blocks()) return;
    store_real<kRows>(epilogue, channel, call.c_out, tile, out + row * out_stride, out_stride);
  }
};

struct AccumulatorTile {
  const ConvCallS8& call;
  const int32_t* initial;
  int32_t* acc;
  ptrdiff_t acc_stride;

  template <int kRows, class Source>
  EARMARK_MEMBER void run(const Source& source, int row, int panel, int block) const {
    const Tile<kRows> tile =
        source.template multiply<kRows>(row, panel, block, initial + panel * kPanel);
    if (block + 1 < source.blocks()) return;
    store_tile(tile, acc + row * acc_stride + (panel - call.panel_begin) * kPanel, acc_stride);
  }
};

}  // namespace

void conv_s8(const ConvCallS8& call, const EpilogueS8& epilogue, uint8_t* out,
             ptrdiff_t out_stride) {
  last_kernel =
      call.paired == nullptr ? "conv_s8/" EARMARK_ISA_NAME : "conv_s8_paired/" EARMARK_ISA_NAME;
  for_each_tile(call, RequantizedTile{call, epilogue, out, out_stride});
}

void conv_s8_f32(const ConvCallS8& call, const EpilogueS8& epilogue, float* out,
                 ptrdiff_t out_stride) {
  last_kernel = call.paired == nullptr ? "conv_s8_f32/" EARMARK_ISA_NAME
                                       : "conv_s8_f32_paired/" EARMARK_ISA_NAME;
  for_each_tile(call, RealTile{call, epilogue, out, out_stride});
}

void conv_acc_s8(const ConvCallS8& call, const int32_t* initial, int32_t* acc,
                 ptrdiff_t acc_stride) {
  last_kernel = call.paired == nullptr ? "conv_acc_s8/" EARMARK_ISA_NAME
                                       : "conv_acc_s8_paired/" EARMARK_ISA_NAME;
  for_each_tile(call, AccumulatorTile{call, initial, acc, acc_stride});
}

}  // namespace earmark::EARMARK_ISA
