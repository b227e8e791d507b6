// VPDPBUSD multiplies u8 activations by s8 weights; four products are summed without saturation.
// The including file has defined dot(sum, x, w) of that instruction and broadcast_4_bytes(p),
// beside what conv_s8_tile.inl asks for.

namespace earmark::EARMARK_ISA {
namespace {

struct InPlace {
  static constexpr int kTileRows = EARMARK_ISA_TILES.s8.tile_rows;
  const ConvCallS8& call;

  static constexpr int blocks() { return 1; }

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, int /*block*/,
                                      const int32_t* initial) const {
    Tile<kRows> tile = start_at<kRows>(initial, 0);
    constexpr int kGroup = kVectors * sizeof(Ints);  // weights of four inputs
    const uint8_t* const* rows = call.rows + static_cast<ptrdiff_t>(row) * call.taps;
    const int8_t* weights =
        call.weights + static_cast<ptrdiff_t>(panel) * call.taps * call.c_in_padded * kGroup / 4;
    for (int tap = 0; tap < call.taps; ++tap) {
      const uint8_t* in[kRows];
      unroll<kRows>(EARMARK_UNROLLED(r) { in[r.value] = rows[r.value * call.taps + tap]; });
      for (int k = 0; k < call.c_in_padded; k += 4, weights += kGroup) {
        Ints w[kVectors];
        unroll<kVectors>(
            EARMARK_UNROLLED(j) { w[j.value] = load_ints(weights + sizeof(Ints) * j.value); });
        unroll<kRows>(EARMARK_UNROLLED(r) {
          const Ints x = broadcast_4_bytes(in[r.value] + k);
          unroll<kVectors>(EARMARK_UNROLLED(j) {
            tile.sum[r.value][j.value] = dot(tile.sum[r.value][j.value], x, w[j.value]);
          });
        });
      }
    }
    return tile;
  }
};

template <class Body>
EARMARK_FN void with_source(const ConvCallS8& call, const Body& body) {
  body(InPlace{call});
}

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_entry.inl"
