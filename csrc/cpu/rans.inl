// Decoding of stored weights; included by kernel_row.cc. Lane i holds the bytes i, i + 16, ... of a
// row. Whatever the stream holds, no read leaves it and every byte of `out` is written or the
// result is false.

struct RansStream {
  const uint8_t* at;
  const uint8_t* end;
};

// `n` bytes of one row from their column on, lane by lane.
static bool decode_lanes(const RansTables& tables, const uint8_t* column_level, int row_level,
                         int n, uint32_t* states, RansStream& stream, uint8_t* out) {
  for (int i = 0; i < n; ++i) {
    const int level = row_level + column_level[i];
    const int table = level < tables.n_tables ? level : tables.n_tables - 1;
    const uint32_t x = states[i];
    const uint32_t place =
        tables.places[static_cast<ptrdiff_t>(table) * kRansTotal + (x & (kRansTotal - 1))];
    out[i] = static_cast<uint8_t>(place);
    states[i] = (((place >> 8) & (kRansTotal - 1)) + 1) * (x >> kRansBits) + (place >> 20);
    if (states[i] < kRansLow) {
      if (stream.end - stream.at < 2) return false;
      states[i] = states[i] << 16 | stream.at[0] | static_cast<uint32_t>(stream.at[1]) << 8;
      stream.at += 2;
    }
  }
  return true;
}

#if defined(__AVX2__)

// For each set of lanes that take in words: which of the next words a lane takes.
struct RansLanes {
  uint8_t word[256][8];
};

static constexpr RansLanes rans_lanes() {
  RansLanes lanes = {};
  for (int set = 0; set < 256; ++set) {
    for (int lane = 0, word = 0; lane < 8; ++lane) {
      if (set >> lane & 1) lanes.word[set][lane] = static_cast<uint8_t>(word++);
    }
  }
  return lanes;
}

alignas(64) static constexpr RansLanes kRansWords = rans_lanes();

// Eight lanes' bytes, in the low bytes; the states move on.
EARMARK_FN __m256i decode_eight(const RansTables& tables, __m256i level, __m256i& x,
                                const uint8_t*& at) {
  const __m256i total = _mm256_set1_epi32(kRansTotal - 1);
  const __m256i index =
      _mm256_add_epi32(_mm256_slli_epi32(level, kRansBits), _mm256_and_si256(x, total));
  const __m256i place =
      _mm256_i32gather_epi32(reinterpret_cast<const int*>(tables.places), index, 4);
  const __m256i frequency =
      _mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(place, 8), total), _mm256_set1_epi32(1));
  x = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, kRansBits)),
                       _mm256_srli_epi32(place, 20));
  const __m256i takes = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
  const int set = _mm256_movemask_ps(_mm256_castsi256_ps(takes));
  const __m256i words =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRansWords.word[set])));
  const __m256i taken =
      _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(words, order));
  x = _mm256_blendv_epi8(x, taken, takes);
  at += 2 * __builtin_popcount(static_cast<unsigned>(set));
  return _mm256_and_si256(place, _mm256_set1_epi32(255));
}

// Whole groups of lanes of one row, as far as the stream surely lasts; returns how many bytes.
static int64_t decode_groups(const RansTables& tables, const uint8_t* column_level, int row_level,
                             int64_t n, uint32_t* states, RansStream& stream, uint8_t* out) {
  __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states));
  __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states + 8));
  const __m256i row = _mm256_set1_epi32(row_level);
  const __m256i last = _mm256_set1_epi32(tables.n_tables - 1);
  const uint8_t* at = stream.at;
  int64_t done = 0;
  for (; done + kRansLanes <= n && stream.end - at >= 2 * kRansLanes; done += kRansLanes) {
    const __m128i columns = _mm_loadu_si128(reinterpret_cast<const __m128i*>(column_level + done));
    const __m256i level_low =
        _mm256_min_epi32(_mm256_add_epi32(_mm256_cvtepu8_epi32(columns), row), last);
    const __m256i level_high = _mm256_min_epi32(
        _mm256_add_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(columns, 8)), row), last);
    const __m256i bytes_low = decode_eight(tables, level_low, low, at);
    const __m256i bytes_high = decode_eight(tables, level_high, high, at);
    const __m256i words =
        _mm256_permute4x64_epi64(_mm256_packus_epi32(bytes_low, bytes_high), 0xd8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(out + done),
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  stream.at = at;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(states), low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8), high);
  return done;
}

#else

static int64_t decode_groups(const RansTables&, const uint8_t*, int, int64_t, uint32_t*,
                             RansStream&, uint8_t*) {
  return 0;
}

#endif

static bool decode_rans(const RansTables& tables, const RansMatrix& matrix, const uint8_t* begin,
                        const uint8_t* end, uint8_t* out) {
  EARMARK_RAN("decode_rans");
  uint32_t states[kRansLanes];
  if (end - begin < static_cast<ptrdiff_t>(sizeof states)) return false;
  for (int i = 0; i < kRansLanes; ++i) {
    const uint8_t* state = begin + 4 * i;
    states[i] = state[0] | state[1] << 8 | state[2] << 16 | static_cast<uint32_t>(state[3]) << 24;
  }
  RansStream stream = {begin + sizeof states, end};
  for (int64_t r = 0; r < matrix.rows; ++r, out += matrix.columns) {
    const int level = matrix.row_level[r];
    int64_t c = 0;
    while (c < matrix.columns) {
      c += decode_groups(tables, matrix.column_level + c, level, matrix.columns - c, states, stream,
                         out + c);
      const int64_t left = matrix.columns - c;
      const int n = static_cast<int>(left < kRansLanes ? left : kRansLanes);
      if (!decode_lanes(tables, matrix.column_level + c, level, n, states, stream, out + c)) {
        return false;
      }
      c += n;
    }
  }
  // Back where the encoder began, with nothing left over.
  for (const uint32_t state : states) {
    if (state != kRansLow) return false;
  }
  return stream.at == stream.end;
}
