// Random small plans: every op, sizes around the edges of the tiles, values at the ends of their
// ranges.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/check.h"
#include "engine/plan.h"

namespace earmark {

// The standard distributions differ between libraries; these give the same plans everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}

  int below(int n) { return static_cast<int>(bits_() % n); }
  bool one_in(int n) { return below(n) == 0; }
  int pick(std::initializer_list<int> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }
  // Mean 0, standard deviation `scale`, at most 3.5 of them.
  float real(float scale) {
    int sum = 0;
    for (int i = 0; i < 4; ++i) sum += below(4096);
    return static_cast<float>(sum - 8190) / 2365.0f * scale;
  }

 private:
  std::mt19937_64 bits_;
};

// Of a convolution, along time or width.
struct Geometry {
  int kernel = 1, stride = 1, dilation = 1, padding = 0, pad_to = 0;

  int out(int n) const {
    if (pad_to != 0) n = (n / pad_to + 1) * pad_to;
    return (n + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  }
};

struct Frames {
  std::string name;
  int channels, width, length;
};

// Two layers of two convolutions side by side, with a residual or without, now and then the maximum
// over windows behind one; then pooling and a dense layer; all in int8, all in float32, in int8
// with ranges found at run time, or in 8 and 16 bits with fixed ones; the last two with float32
// between layers. Sizes lie around the tiles' edges.
class RandomPlan {
 public:
  enum class Kind { kInt8, kDynamic, kWide, kFloat };

  RandomPlan(uint64_t seed, Kind kind)
      : int8_(kind == Kind::kInt8),
        dynamic_(kind == Kind::kDynamic),
        wide_(kind == Kind::kWide),
        random_(seed) {
    // Small enough for an emulator.
    const int width = random_.pick({1, 1, 1, 3});
    const int frames = random_.pick({1, 5, 6, 7, 11, 12, 13, width == 1 ? 97 : 9});
    const int channels = edge();
    input = {"input", channels, width, frames};
    tensor("input", earmark::Kind::kFrames, DType::kF32, channels).width = width;
    for (int i = 0; i < channels * width * frames; ++i) samples.push_back(random_.real(1));
    Frames x = int8_ ? quantize(input) : input;
    for (int layer = 0; layer < 2; ++layer) {
      x = residual_layer(x);
      if (random_.one_in(3)) x = max_pool(x);
    }
    const std::string pooled = x.width == 1 && !random_.one_in(3) ? attentive_pool(x) : stats(x);
    dense(pooled, "embedding", edge(), 1);
  }

  std::vector<TensorDesc> tensors;
  std::vector<OpDesc> ops;
  std::map<std::string, std::string> kernels;  // by op: the kernel that has to run last in it
  Frames input;
  std::vector<float> samples;
  bool is_exact() const { return integer(); }

 private:
  int edge() { return random_.pick({1, 3, 4, 15, 16, 17, 63, 64, 65, 130}); }
  int zero_point() { return random_.pick({-128, -3, 0, 127}); }
  DType dtype() const { return int8_ ? DType::kS8 : DType::kF32; }
  bool integer() const { return int8_ || dynamic_ || wide_; }
  std::string unique(const char* stem) { return concat(stem, tensors.size()); }

  TensorDesc& tensor(const std::string& name, earmark::Kind kind, DType dtype, int channels) {
    TensorDesc& t = tensors.emplace_back();
    t.name = name;
    t.kind = kind;
    t.dtype = dtype;
    t.channels = channels;
    if (dtype == DType::kS8) t.zero_point = zero_point();
    return t;
  }
  OpDesc& op(const std::string& kind, const std::string& kernel, const std::string& in,
             const std::string& out) {
    OpDesc& o = ops.emplace_back();
    o.op = kind;
    o.name = concat("op", ops.size());
    o.in = in;
    o.out = out;
    kernels[o.name] = kernel;
    return o;
  }
  std::string suffixed(const char* op) const { return concat(op, int8_ ? "_s8" : "_f32"); }

  void array(OpDesc& o, const char* role, const std::vector<float>& values,
             std::vector<int64_t> shape = {}) {
    if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
    o.arrays[role] = {floats_.emplace_back(values).data(), DType::kF32, shape};
  }
  // From `low` to 127: of any size, with many at the ends, or bell-shaped.
  void bytes(OpDesc& o, const char* role, int low, const std::vector<int64_t>& shape) {
    std::vector<int8_t>& values = bytes_.emplace_back();
    int64_t size = 1;
    for (const int64_t n : shape) size *= n;
    const bool bell = random_.one_in(2);
    for (int64_t i = 0; i < size; ++i) {
      const int v = bell                ? static_cast<int>(random_.real(30))
                    : random_.one_in(5) ? random_.pick({low, 127})
                                        : low + random_.below(128 - low);
      values.push_back(static_cast<int8_t>(v));
    }
    o.arrays[role] = {values.data(), DType::kS8, shape};
  }
  // int16 weights, of any size, with many at the ends.
  void words(OpDesc& o, const char* role, const std::vector<int64_t>& shape) {
    std::vector<int16_t>& values = words_.emplace_back();
    int64_t size = 1;
    for (const int64_t n : shape) size *= n;
    for (int64_t i = 0; i < size; ++i) {
      const int sign = random_.one_in(2) ? 1 : -1;
      const int v = random_.one_in(5) ? kMaxWeightS16 : random_.below(kMaxWeightS16);
      values.push_back(static_cast<int16_t>(sign * v));
    }
    o.arrays[role] = {values.data(), DType::kS16, shape};
  }
  std::vector<float> reals(int n, float scale, bool extremes = false) {
    std::vector<float> values;
    for (int i = 0; i < n; ++i) values.push_back(random_.real(scale));
    // The ends of what may be stored.
    const float ends[] = {0x1p-126f, -0x1p-126f, 0x1p40f, -0x1p40f, 0.0f};
    for (float& v : values) {
      if (extremes && random_.one_in(12)) v = ends[random_.below(5)];
    }
    return values;
  }
  // Weights and epilogue of a layer whose sums of `depth` products should come to about `spread`.
  void weights(OpDesc& o, const std::vector<int64_t>& shape, int depth, float spread) {
    const int channels = static_cast<int>(shape[0]);
    const float root = std::sqrt(static_cast<float>(depth));
    const bool words_here = wide_ && random_.one_in(2);
    if (words_here) {
      words(o, "weight", shape);
    } else if (integer()) {
      bytes(o, "weight", -127, shape);
    } else {
      array(o, "weight", reals(channels * depth, spread / root), shape);
    }
    std::vector<float> rows;
    int count = 0;
    const auto row = [&](float scale) {
      const std::vector<float> values = reals(channels, scale, int8_);
      rows.insert(rows.end(), values.begin(), values.end());
      ++count;
    };
    // A step that is found is about a fortieth.
    float unit = (dynamic_ ? 40 : 1) * spread / (6000 * root);
    if (words_here) unit /= 256;
    if (is_wide(o.in)) unit /= 100;
    if (integer()) row(unit);
    row(spread / 2);
    if (random_.one_in(2)) {
      row(1);
      row(spread / 2);
    }
    array(o, "epilogue", rows, {count, channels});
  }

  bool is_wide(const std::string& name) const {
    return std::any_of(tensors.begin(), tensors.end(), [&](const TensorDesc& t) {
      return t.name == name && t.dtype == DType::kS16;
    });
  }

  Frames quantize(const Frames& x) {
    const Frames q = {unique("q"), x.channels, x.width, x.length};
    tensor(q.name, earmark::Kind::kFrames, DType::kS8, q.channels).width = q.width;
    OpDesc& o = op("quantize_s8", "quantize_s8", x.name, q.name);
    array(o, "multiplier", reals(q.channels, 80, true));
    array(o, "offset", reals(q.channels, 40, true));
    tensor(q.name + ".real", earmark::Kind::kFrames, DType::kF32, q.channels).width = q.width;
    array(op("dequantize_f32", "dequantize_f32", q.name, q.name + ".real"), "multiplier",
          reals(1, 1));
    return q;
  }

  // An integer copy of a float32 tensor, and the vector of its quantization if it is found.
  struct Found {
    std::string copy, quantization;
  };
  Found find(const std::string& x) {
    const auto source = std::find_if(tensors.begin(), tensors.end(),
                                     [&](const TensorDesc& t) { return t.name == x; });
    const TensorDesc like = *source;  // the list moves when it grows
    if (wide_) {
      const bool words_here = random_.one_in(2);
      const Found fixed = {unique("fixed"), ""};
      TensorDesc& t =
          tensor(fixed.copy, like.kind, words_here ? DType::kS16 : DType::kS8, like.channels);
      t.width = like.width;
      if (words_here) t.zero_point = random_.pick({-32768, -300, 0, 32767});
      const char* kind = words_here ? "quantize_s16" : "quantize_s8";
      OpDesc& o = op(kind, kind, x, fixed.copy);
      array(o, "multiplier", reals(like.channels, words_here ? 8000 : 80, true));
      array(o, "offset", reals(like.channels, words_here ? 4000 : 40, true));
      return fixed;
    }
    const Found found = {unique("found"), unique("quantization")};
    tensor(found.quantization, earmark::Kind::kVector, DType::kF32, kFoundSize);
    op("range_f32", "range_f32", x, found.quantization);
    tensor(found.copy, like.kind, DType::kS8, like.channels).width = like.width;
    op("quantize_s8", "quantize_s8", x, found.copy).quantization = found.quantization;
    return found;
  }

  // A vector of the recording, for gates and biases.
  std::string context(const Frames& x, int channels, float scale) {
    const std::string out = unique("context");
    dense(stats(x), out, channels, scale);
    return out;
  }

  // Now and then no more frames count than the input has.
  std::string valid(const Frames& x) {
    return input.length <= x.length && random_.one_in(2) ? input.name : "";
  }

  std::string stats(const Frames& x) {
    const std::string out = unique("stats");
    tensor(out, earmark::Kind::kVector, DType::kF32, 2 * x.channels);
    OpDesc& o = op(suffixed("stats"), suffixed("stats"), x.name, out);
    o.integers["std"] = {1};
    o.numbers["min_variance"] = 0.01;
    o.valid = valid(x);
    if (int8_) array(o, "multiplier", reals(x.channels, 0.02f));
    return out;
  }

  void dense(std::string in, const std::string& out, int channels, float scale) {
    int size = 0;
    for (const TensorDesc& t : tensors) size = t.name == in ? t.channels : size;
    if (int8_) {
      tensor(in + ".s8", earmark::Kind::kVector, DType::kS8, size);
      OpDesc& o = op("quantize_s8", "quantize_s8", in, in + ".s8");
      array(o, "multiplier", reals(size, 50, true));
      array(o, "offset", reals(size, 40, true));
      in += ".s8";
    }
    Found found;
    if (dynamic_ || wide_) {
      if (random_.one_in(2)) {
        tensor(in + ".alike", earmark::Kind::kVector, DType::kF32, size);
        OpDesc& o = op("affine_f32", "affine_f32", in, in + ".alike");
        array(o, "multiplier", reals(size, 1));
        array(o, "offset", reals(size, 1));
        in += ".alike";
      }
      found = find(in);
      in = found.copy;
    }
    tensor(out, earmark::Kind::kVector, DType::kF32, channels);
    OpDesc& o = op(wide_       ? "dense_s16"
                   : integer() ? "dense_s8"
                               : "dense_f32",
                   wide_       ? "combine_s16"
                   : integer() ? "conv_acc_s8"
                               : "conv_f32",
                   in, out);
    o.quantization = found.quantization;
    const bool table = integer() && random_.one_in(2);
    weights(o, {channels, size}, size, table ? 100 : scale);
    if (table) array(o, "table", reals(256, scale));
    if (!integer() && random_.one_in(2))
      o.words["activation"] = random_.one_in(2) ? "relu" : "sigmoid";
    if (integer()) o.integers["relu"] = {random_.below(2)};
  }

  Geometry axis(int size, int kernel) {
    Geometry g = {kernel, random_.pick({1, 1, 2}), 1 + random_.below(4), 0};
    const int reach = g.dilation * (kernel - 1);
    g.padding = random_.pick({reach / 2, reach / 2, reach, 0});
    if (size + 2 * g.padding <= reach) g.padding = reach;
    return g;
  }

  // Writes x through a convolution into the frames tensor `out`, or into channels of it. A table of
  // an integer layer makes int8.
  void conv(const Frames& x, const Frames& y, const Geometry& time, const Geometry& width,
            bool table) {
    const std::string bias = random_.one_in(4) ? context(x, y.channels, int8_ ? 40 : 1) : "";
    const bool tanh = table && !integer();
    const Found found = dynamic_ || wide_ ? find(x.name) : Found{x.name, ""};
    OpDesc& o = op(wide_       ? "conv_s16"
                   : integer() ? "conv_s8"
                               : "conv_f32",
                   tanh         ? "tanh_f32"
                   : wide_      ? "combine_s16"
                   : !integer() ? "conv_f32"
                   : table      ? "table_s8"
                   : dynamic_   ? "conv_s8_f32"
                                : "conv_s8",
                   found.copy, y.name);
    o.quantization = found.quantization;
    o.bias = bias;
    o.integers = {{"kernel", {time.kernel, width.kernel}},
                  {"stride", {time.stride, width.stride}},
                  {"dilation", {time.dilation, width.dilation}},
                  {"padding", {time.padding, width.padding}},
                  {"relu", {random_.below(2)}}};
    if (time.pad_to != 0) o.integers["pad_to"] = {time.pad_to};
    const bool reflect =
        time.pad_to == 0 && time.padding < x.length && width.padding < x.width && random_.one_in(2);
    o.words["pad_mode"] = reflect ? "reflect" : "zero";
    const int entries = random_.pick({2, 16, 256, 1024});
    weights(o, {y.channels, time.kernel, width.kernel, x.channels},
            time.kernel * width.kernel * x.channels,
            table && integer() ? entries / 3.0f
            : int8_            ? 80.0f
                               : 1.0f);
    if (table && wide_) {
      array(o, "table", reals(entries, 1));
    } else if (table && integer()) {
      bytes(o, "table", -128, {entries});
    }
    if (tanh) o.words["activation"] = "tanh";
    if (int8_ && random_.one_in(2)) bytes(o, "input_zero", -128, {x.channels});
  }

  // Parts side by side show whether a kernel writes past its channels: what stands there is read
  // later.
  Frames residual_layer(const Frames& x) {
    Geometry time = axis(x.length, random_.pick({1, 3, 5}));
    if (random_.one_in(4)) time.pad_to = random_.pick({1, 4, 16});
    const Geometry width = axis(x.width, x.width == 1 ? 1 : random_.pick({1, 3}));
    Frames y = {unique("y"), 0, width.out(x.width), time.out(x.length)};
    const int parts[] = {edge(), edge()};
    y.channels = parts[0] + parts[1];
    tensor(y.name, earmark::Kind::kFrames, dtype(), y.channels).width = y.width;
    const int first = random_.below(2);
    for (const int part : {first, 1 - first}) {
      const Frames view = {unique("part"), parts[part], y.width, y.length};
      TensorDesc& t = tensor(view.name, earmark::Kind::kFrames, dtype(), view.channels);
      t.width = view.width;
      t.of = y.name;
      t.offset = part == 0 ? 0 : parts[0];
      conv(x, view, time, width, !dynamic_ && random_.one_in(3));
    }
    if (random_.one_in(4)) return y;
    const Frames r = {unique("r"), y.channels, y.width, y.length};
    tensor(r.name, earmark::Kind::kFrames, dtype(), r.channels).width = r.width;
    conv(x, r, time, width, false);
    const std::string gate = random_.one_in(2) ? context(y, y.channels, 1) : "";
    const Frames sum = {unique("sum"), y.channels, y.width, y.length};
    TensorDesc& t = tensor(sum.name, earmark::Kind::kFrames, dtype(), sum.channels);
    t.width = sum.width;
    if (random_.one_in(2)) t.of = y.name;  // in place
    OpDesc& o = op(suffixed("add"), suffixed("add"), y.name, sum.name);
    o.residual = r.name;
    o.gate = gate;
    o.integers["relu"] = {random_.below(2)};
    if (int8_) {
      array(o, "multiplier", reals(y.channels, 1, true));
      array(o, "residual_multiplier", reals(1, 1));
    }
    return sum;
  }

  Geometry pool_axis(int size) {
    Geometry g = {random_.pick({1, 2, 3}), random_.pick({1, 2}), 1, 0};
    g.padding = random_.below(g.kernel);
    if (size + 2 * g.padding < g.kernel) g.padding = g.kernel - 1;
    return g;
  }

  Frames max_pool(const Frames& x) {
    const Geometry time = pool_axis(x.length), width = pool_axis(x.width);
    const Frames y = {unique("max"), x.channels, width.out(x.width), time.out(x.length)};
    int zero = 0;
    for (const TensorDesc& t : tensors) zero = t.name == x.name ? t.zero_point : zero;
    TensorDesc& t = tensor(y.name, earmark::Kind::kFrames, dtype(), y.channels);
    t.width = y.width;
    t.zero_point = zero;
    OpDesc& o = op(suffixed("max_pool"), suffixed("max_pool"), x.name, y.name);
    o.integers = {{"kernel", {time.kernel, width.kernel}},
                  {"stride", {time.stride, width.stride}},
                  {"padding", {time.padding, width.padding}}};
    return y;
  }

  std::string attentive_pool(const Frames& x) {
    const Frames hidden = {unique("hidden"), edge(), 1, x.length};
    tensor(hidden.name, earmark::Kind::kFrames, integer() && !wide_ ? DType::kS8 : DType::kF32,
           hidden.channels);
    conv(x, hidden, {}, {}, true);
    const Found logits = wide_ ? find(hidden.name) : Found{hidden.name, ""};
    const Found values = dynamic_ ? find(x.name) : Found{x.name, ""};
    const int choice = integer() ? random_.below(3) : 0;
    const char* softmax = std::array{"exact", "pwl", "table"}[choice];
    const char* stem = std::array{"softmax_moments", "pwl_moments", "table_moments"}[choice];
    const std::string out = unique("pool");
    tensor(out, earmark::Kind::kVector, DType::kF32, 2 * x.channels);
    const char* suffix = wide_ ? "_s16" : integer() ? "_s8" : "_f32";
    OpDesc& o = op(concat("attentive_pool", suffix), concat(stem, suffix), logits.copy, out);
    o.values = values.copy;
    o.values_quantization = values.quantization;
    o.numbers["min_variance"] = 0.01;
    o.valid = valid(x);
    const float root = std::sqrt(static_cast<float>(hidden.channels));
    if (!integer()) {
      array(o, "weight", reals(x.channels * hidden.channels, 3 / root),
            {x.channels, hidden.channels});
      array(o, "epilogue", reals(x.channels, 1), {1, x.channels});
      return out;
    }
    o.words["softmax"] = softmax;
    if (wide_) {
      words(o, "weight", {x.channels, hidden.channels});
      std::vector<float> rows = reals(x.channels, (is_wide(o.in) ? 0.01f : 1) / (3e5f * root));
      const std::vector<float> offsets = reals(x.channels, 1);
      rows.insert(rows.end(), offsets.begin(), offsets.end());
      array(o, "epilogue", rows, {2, x.channels});
    } else {
      bytes(o, "weight", -127, {x.channels, hidden.channels});
      std::vector<float> multiplier = reals(x.channels, 3 / (6000 * root), true);
      for (float& m : multiplier) m = std::max(std::fabs(m), 0x1p-126f);
      array(o, "multiplier", multiplier);
      if (!dynamic_) array(o, "value_multiplier", reals(x.channels, 0.02f));
      if (choice != 0) array(o, "offset", reals(x.channels, 1));
    }
    if (choice == 0) return out;
    if (choice == 2) {
      array(o, "table", {1, 50, 3000, 2e5f, 0x1p24f});
      return out;
    }
    // Chords of 2^24 * exp(v - 4), constant outside.
    const std::vector<float> points = {-4, -1.5f, 0.5f, 2, 4};
    const auto height = [](float v) { return 0x1p24f * std::exp(v - 4); };
    std::vector<float> slopes = {0}, intercepts = {height(points[0])};
    for (size_t i = 0; i + 1 < points.size(); ++i) {
      slopes.push_back((height(points[i + 1]) - height(points[i])) / (points[i + 1] - points[i]));
      intercepts.push_back(height(points[i]) - slopes.back() * points[i]);
    }
    slopes.push_back(0);
    intercepts.push_back(0x1p24f);
    array(o, "breakpoints", points);
    array(o, "slopes", slopes);
    array(o, "intercepts", intercepts);
    array(o, "bounds", {1, 0x1p24f});
    return out;
  }

  bool int8_, dynamic_, wide_;
  Random random_;
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<int8_t>> bytes_;
  std::deque<std::vector<int16_t>> words_;
};

}  // namespace earmark
