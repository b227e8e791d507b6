// A tile of int8 convolutions of the vector ISAs: kTileRows rows x kVectors vectors of channels,
// and its epilogue. The including file names the vector type of floats (EARMARK_VECTOR) and the
// intrinsics' prefix (EARMARK_V), and has defined in this namespace
//   Ints                       a vector of int32
//   load_ints, store_ints      of unaligned memory
//   to_ints(v)                 float32 to int32, to nearest even
//   kStored                    vectors that are stored together
//   store_bytes(out, q, z, n)  q + z of so many vectors, the first n lanes as bytes
//   store_floats(out, v, n)    the first n lanes
// What follows it (conv_s8_entry.inl) wants to know how tiles are multiplied.
//
// All loops over the accumulators, zeroing and epilogue too, go through unroll.h, or they land on
// the stack.
namespace earmark::EARMARK_ISA {
namespace {

constexpr int kPanel = EARMARK_ISA_TILES.s8.panel;
constexpr int kLanes = sizeof(Ints) / sizeof(int32_t);
constexpr int kVectors = kPanel / kLanes;

template <int kRows>
struct Tile {
  Ints sum[kRows][kVectors];
};

// With a stride of 0 all rows start at the same sums.
template <int kRows>
EARMARK_FN Tile<kRows> start_at(const int32_t* sums, ptrdiff_t stride) {
  Tile<kRows> tile;
  unroll<kRows>(EARMARK_UNROLLED(r) {
    unroll<kVectors>(EARMARK_UNROLLED(j) {
      tile.sum[r.value][j.value] = load_ints(sums + r.value * stride + kLanes * j.value);
    });
  });
  return tile;
}

template <int kRows>
EARMARK_FN void store_tile(const Tile<kRows>& tile, int32_t* to, ptrdiff_t stride) {
  unroll<kRows>(EARMARK_UNROLLED(r) {
    unroll<kVectors>(EARMARK_UNROLLED(j) {
      store_ints(to + r.value * stride + kLanes * j.value, tile.sum[r.value][j.value]);
    });
  });
}

// One vector of channels' constants. Without ReLU the floor is -Inf.
struct ChannelRows {
  EARMARK_VECTOR multiplier, offset, floor, gain, shift;
};

template <bool kAffine>
EARMARK_FN ChannelRows channel_rows(const EpilogueS8& e, int c) {
  ChannelRows rows;
  rows.multiplier = EARMARK_V(loadu_ps)(e.multiplier + c);
  rows.offset = EARMARK_V(loadu_ps)(e.offset + c);
  rows.floor = EARMARK_V(set1_ps)(e.relu ? 0.0f : -__builtin_inff());
  if constexpr (kAffine) {
    rows.gain = EARMARK_V(loadu_ps)(e.gain + c);
    rows.shift = EARMARK_V(loadu_ps)(e.shift + c);
  }
  return rows;
}

template <bool kAffine>
EARMARK_FN EARMARK_VECTOR real_values(const ChannelRows& rows, Ints sum) {
  EARMARK_VECTOR v = EARMARK_V(mul_ps)(EARMARK_V(cvtepi32_ps)(sum), rows.multiplier);
  v = EARMARK_V(max_ps)(EARMARK_V(add_ps)(v, rows.offset), rows.floor);
  if constexpr (kAffine) v = EARMARK_V(add_ps)(EARMARK_V(mul_ps)(v, rows.gain), rows.shift);
  return v;
}

template <bool kAffine, int kRows>
EARMARK_FN void requantize_rows(const EpilogueS8& e, int channel, int n, const Tile<kRows>& tile,
                                uint8_t* out, ptrdiff_t out_stride) {
  EARMARK_VECTOR low = EARMARK_V(set1_ps)(static_cast<float>(-e.zero_u8));
  const EARMARK_VECTOR high = EARMARK_V(set1_ps)(static_cast<float>(255 - e.zero_u8));
  unroll<kVectors / kStored>(EARMARK_UNROLLED(stored) {
    constexpr int first = stored.value * kStored;
    ChannelRows rows[kStored];
    unroll<kStored>(EARMARK_UNROLLED(j) {
      rows[j.value] = channel_rows<kAffine>(e, channel + kLanes * (first + j.value));
      if constexpr (!kAffine) {  // one bound is both
        rows[j.value].floor = EARMARK_V(max_ps)(rows[j.value].floor, low);
      }
    });
    unroll<kRows>(EARMARK_UNROLLED(r) {
      Ints q[kStored];
      unroll<kStored>(EARMARK_UNROLLED(j) {
        EARMARK_VECTOR v = real_values<kAffine>(rows[j.value], tile.sum[r.value][first + j.value]);
        if constexpr (kAffine) v = EARMARK_V(max_ps)(v, low);
        q[j.value] = to_ints(EARMARK_V(min_ps)(v, high));
      });
      store_bytes(out + r.value * out_stride + kLanes * first, q, e.zero_u8, n - kLanes * first);
    });
  });
}

template <int kRows>
EARMARK_FN void requantize(const EpilogueS8& e, int channel, int c_out, const Tile<kRows>& tile,
                           uint8_t* out, ptrdiff_t out_stride) {
  if (e.gain == nullptr) {
    requantize_rows<false>(e, channel, c_out - channel, tile, out + channel, out_stride);
  } else {
    requantize_rows<true>(e, channel, c_out - channel, tile, out + channel, out_stride);
  }
}

template <bool kAffine, int kRows>
EARMARK_FN void store_real_rows(const EpilogueS8& e, int channel, int c_out,
                                const Tile<kRows>& tile, float* out, ptrdiff_t out_stride) {
  unroll<kVectors>(EARMARK_UNROLLED(j) {
    const int c = channel + kLanes * j.value;
    const ChannelRows rows = channel_rows<kAffine>(e, c);
    unroll<kRows>(EARMARK_UNROLLED(r) {
      store_floats(out + r.value * out_stride + c,
                   real_values<kAffine>(rows, tile.sum[r.value][j.value]), c_out - c);
    });
  });
}

template <int kRows>
EARMARK_FN void store_real(const EpilogueS8& e, int channel, int c_out, const Tile<kRows>& tile,
                           float* out, ptrdiff_t out_stride) {
  if (e.gain == nullptr) {
    store_real_rows<false>(e, channel, c_out, tile, out, out_stride);
  } else {
    store_real_rows<true>(e, channel, c_out, tile, out, out_stride);
  }
}

}  // namespace
}  // namespace earmark::EARMARK_ISA
