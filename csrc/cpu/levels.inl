// Weights from the levels that stand for them; included by kernel_row.cc.

static void restore_levels(const Kernels::Levels& levels, const uint8_t* in, int8_t* out) {
  EARMARK_RAN("restore_levels");
  const int flip = levels.is_signed ? 128 : 0;
  const int zero = levels.zero + flip;
  for (int64_t r = 0; r < levels.rows; ++r) {
    const float step = levels.step[r];
    for (int64_t c = 0; c < levels.columns; ++c) {
      const float v = static_cast<float>((in[c] ^ flip) - zero) * step;
      out[c] = static_cast<int8_t>(round_even(clamp(v, -127.0f, 127.0f)));
    }
    in += levels.columns;
    out += levels.columns;
  }
}
