// SDOT multiplies signed bytes, four products a lane, and takes the inputs of a row by lane: 96 of
// them for 16 inputs of 6 rows, 16 loads of weights and 6 of inputs. An input u = q + 128 becomes q
// in the register; what the sums lack by that lies before a panel's weights
// (Packing::signed_inputs).
#include <cstring>

#include "cpu/conv_s8_neon.inl"

namespace earmark::EARMARK_ISA {
namespace {

static_assert(EARMARK_ISA_TILES.s8.signed_inputs);

struct InPlace {
  static constexpr int kTileRows = EARMARK_ISA_TILES.s8.tile_rows;
  static constexpr int kGroup = 4 * kPanel;  // weights of four inputs
  const ConvCallS8& call;

  static constexpr int blocks() { return 1; }

  // 4 * kGroups inputs.
  template <int kGroups, int kRows>
  EARMARK_MEMBER static void add_products(const uint8_t* const (&in)[kRows], int k,
                                          const int8_t* weights, Tile<kRows>& tile) {
    int8x16_t x[kRows];
    unroll<kRows>(EARMARK_UNROLLED(r) {
      x[r.value] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(in[r.value] + k), vdupq_n_u8(0x80)));
    });
    unroll<kGroups>(EARMARK_UNROLLED(g) {
      unroll<kVectors>(EARMARK_UNROLLED(j) {
        const int8x16_t w = vld1q_s8(weights + kGroup * g.value + 16 * j.value);
        unroll<kRows>(EARMARK_UNROLLED(r) {
          Ints& sum = tile.sum[r.value][j.value];
          sum = vdotq_laneq_s32(sum, w, x[r.value], g.value);
        });
      });
    });
  }

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, int /*block*/,
                                      const int32_t* initial) const {
    const ptrdiff_t panel_bytes = panel_head(EARMARK_ISA_TILES.s8) +
                                  static_cast<ptrdiff_t>(call.taps) * call.c_in_padded * kPanel;
    const int8_t* weights = call.weights + panel * panel_bytes;
    int32_t first[kPanel];
    std::memcpy(first, weights, sizeof first);
    for (int c = 0; c < kPanel; ++c) first[c] += initial[c];
    weights += sizeof first;
    Tile<kRows> tile = start_at<kRows>(first, 0);
    const uint8_t* const* rows = call.rows + static_cast<ptrdiff_t>(row) * call.taps;
    for (int tap = 0; tap < call.taps; ++tap) {
      const uint8_t* in[kRows];
      unroll<kRows>(EARMARK_UNROLLED(r) { in[r.value] = rows[r.value * call.taps + tap]; });
      int k = 0;
      for (; k + 16 <= call.c_in_padded; k += 16, weights += 4 * kGroup) {
        add_products<4>(in, k, weights, tile);
      }
      for (; k < call.c_in_padded; k += 4, weights += kGroup) {
        add_products<1>(in, k, weights, tile);
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
