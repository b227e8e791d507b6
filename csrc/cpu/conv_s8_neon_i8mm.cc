// USMMLA multiplies 8 unsigned bytes of each of two rows by 8 signed ones of each of two channels:
// twice the products of SDOT. 24 of them for 8 inputs of 6 rows, 8 loads of weights and 6 of
// inputs. Sums are in squares of two rows and two channels until the tile is complete.
#include "cpu/conv_s8_neon.inl"

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN Ints low_halves(Ints a, Ints b) {
  return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
EARMARK_FN Ints high_halves(Ints a, Ints b) {
  return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

// Rows in pairs: where one is missing in the last, the other stands in for it.
template <int kRows>
struct Squares {
  static constexpr int kPairs = (kRows + 1) / 2;
  Ints sum[kPairs][2 * kVectors];
};

struct InPlace {
  static constexpr int kTileRows = EARMARK_ISA_TILES.s8.tile_rows;
  static constexpr int kGroup = 8 * kPanel;  // weights of eight inputs
  const ConvCallS8& call;

  static constexpr int blocks() { return 1; }

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, int /*block*/,
                                      const int32_t* initial) const {
    constexpr int kPairs = Squares<kRows>::kPairs;
    Squares<kRows> squares;
    unroll<kVectors>(EARMARK_UNROLLED(j) {
      const Ints first = load_ints(initial + 4 * j.value);
      unroll<kPairs>(EARMARK_UNROLLED(p) {
        squares.sum[p.value][2 * j.value] = low_halves(first, first);
        squares.sum[p.value][2 * j.value + 1] = high_halves(first, first);
      });
    });
    const uint8_t* const* rows = call.rows + static_cast<ptrdiff_t>(row) * call.taps;
    const int8_t* weights =
        call.weights + static_cast<ptrdiff_t>(panel) * call.taps * call.c_in_padded * kPanel;
    for (int tap = 0; tap < call.taps; ++tap) {
      const uint8_t* in[2 * kPairs];
      unroll<2 * kPairs>(EARMARK_UNROLLED(r) {
        constexpr int from = r.value < kRows ? r.value : kRows - 1;
        in[r.value] = rows[from * call.taps + tap];
      });
      for (int k = 0; k < call.c_in_padded; k += 8, weights += kGroup) {
        uint8x16_t x[kPairs];
        unroll<kPairs>(EARMARK_UNROLLED(p) {
          x[p.value] = vcombine_u8(vld1_u8(in[2 * p.value] + k), vld1_u8(in[2 * p.value + 1] + k));
        });
        unroll<2 * kVectors>(EARMARK_UNROLLED(j) {
          const int8x16_t w = vld1q_s8(weights + 16 * j.value);
          unroll<kPairs>(EARMARK_UNROLLED(p) {
            Ints& sum = squares.sum[p.value][j.value];
            sum = vusmmlaq_s32(sum, x[p.value], w);
          });
        });
      }
    }
    Tile<kRows> tile;
    unroll<kRows>(EARMARK_UNROLLED(r) {
      unroll<kVectors>(EARMARK_UNROLLED(j) {
        const Ints left = squares.sum[r.value / 2][2 * j.value];
        const Ints right = squares.sum[r.value / 2][2 * j.value + 1];
        tile.sum[r.value][j.value] =
            r.value % 2 == 0 ? low_halves(left, right) : high_halves(left, right);
      });
    });
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
