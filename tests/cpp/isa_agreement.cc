// Random small plans on every instruction set that this machine has, compared tensor by tensor with the scalar kernels. Needs no
// Python, so that a static build also runs where the package does not: in an emulator of another processor, on a phone.
//
//   isa_agreement [plans] [first seed]
//
// int8 ops have to give the same bits, and the kernels have to say that they are those of the instruction set.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <set>

#include "engine/engine.h"

namespace {

using namespace earmark;

// The sums of float32 layers may be in any order and fused: they may differ by this much of their tensor's largest value.
constexpr double kTolerance = 1e-5;

// The standard distributions differ between libraries; these give the same plans everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}

  int below(int n) { return static_cast<int>(bits_() % n); }
  bool one_in(int n) { return below(n) == 0; }
  int pick(std::initializer_list<int> values) { return values.begin()[below(static_cast<int>(values.size()))]; }
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
  int kernel = 1, stride = 1, dilation = 1, padding = 0;

  int out(int n) const { return (n + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1; }
};

struct Frames {
  std::string name;
  int channels, width, length;
};

// Two layers of two convolutions side by side, with a residual or without, then pooling and a dense layer; all in int8 or all in
// float32. Sizes lie around the tiles' edges.
class RandomPlan {
 public:
  RandomPlan(uint64_t seed, bool int8) : int8_(int8), random_(seed) {
    const int channels = edge(), width = random_.pick({1, 1, 1, 3});
    input = {"input", channels, width, random_.pick({1, 5, 6, 7, 11, 12, 13, 97})};
    tensor("input", Kind::kFrames, DType::kF32, channels).width = width;
    for (int i = 0; i < channels * width * input.length; ++i) samples.push_back(random_.real(1));
    Frames x = int8_ ? quantize(input) : input;
    for (int layer = 0; layer < 2; ++layer) x = residual_layer(x);
    const std::string pooled = x.width == 1 && !random_.one_in(3) ? attentive_pool(x) : stats(x);
    dense(pooled, "embedding", edge(), 1);
  }

  std::vector<TensorDesc> tensors;
  std::vector<OpDesc> ops;
  std::map<std::string, std::string> kernels;  // by op: the kernel that has to run last in it
  Frames input;
  std::vector<float> samples;
  bool is_int8() const { return int8_; }

 private:
  int edge() { return random_.pick({1, 3, 4, 15, 16, 17, 63, 64, 65, 130}); }
  int zero_point() { return random_.pick({-128, -3, 0, 127}); }
  DType dtype() const { return int8_ ? DType::kS8 : DType::kF32; }
  std::string unique(const char* stem) { return std::string(stem) + std::to_string(tensors.size()); }

  TensorDesc& tensor(const std::string& name, Kind kind, DType dtype, int channels) {
    TensorDesc& t = tensors.emplace_back();
    t.name = name;
    t.kind = kind;
    t.dtype = dtype;
    t.channels = channels;
    if (dtype == DType::kS8) t.zero_point = zero_point();
    return t;
  }
  OpDesc& op(const std::string& kind, const std::string& kernel, const std::string& in, const std::string& out) {
    OpDesc& o = ops.emplace_back();
    o.op = kind;
    o.name = "op" + std::to_string(ops.size());
    o.in = in;
    o.out = out;
    kernels[o.name] = kernel;
    return o;
  }
  std::string suffixed(const char* op) const { return std::string(op) + (int8_ ? "_s8" : "_f32"); }

  void array(OpDesc& o, const char* role, const std::vector<float>& values, std::vector<int64_t> shape = {}) {
    if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
    o.arrays[role] = {floats_.emplace_back(values).data(), DType::kF32, shape};
  }
  void bytes(OpDesc& o, const char* role, int low, const std::vector<int64_t>& shape) {
    std::vector<int8_t>& values = bytes_.emplace_back();
    int64_t size = 1;
    for (const int64_t n : shape) size *= n;
    for (int64_t i = 0; i < size; ++i) {
      values.push_back(static_cast<int8_t>(random_.one_in(5) ? random_.pick({low, 127}) : low + random_.below(128 - low)));
    }
    o.arrays[role] = {values.data(), DType::kS8, shape};
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
    if (int8_) {
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
    if (int8_) row(spread / (6000 * root));
    row(spread / 2);
    if (random_.one_in(2)) {
      row(1);
      row(spread / 2);
    }
    array(o, "epilogue", rows, {count, channels});
  }

  Frames quantize(const Frames& x) {
    const Frames q = {unique("q"), x.channels, x.width, x.length};
    tensor(q.name, Kind::kFrames, DType::kS8, q.channels).width = q.width;
    OpDesc& o = op("quantize_s8", "quantize_s8", x.name, q.name);
    array(o, "multiplier", reals(q.channels, 80, true));
    array(o, "offset", reals(q.channels, 40, true));
    tensor(q.name + ".real", Kind::kFrames, DType::kF32, q.channels).width = q.width;
    array(op("dequantize_f32", "dequantize_f32", q.name, q.name + ".real"), "multiplier", reals(1, 1));
    return q;
  }

  // A vector of the recording, for gates and biases.
  std::string context(const Frames& x, int channels, float scale) {
    const std::string out = unique("context");
    dense(stats(x), out, channels, scale);
    return out;
  }

  std::string stats(const Frames& x) {
    const std::string out = unique("stats");
    tensor(out, Kind::kVector, DType::kF32, 2 * x.channels);
    OpDesc& o = op(suffixed("stats"), suffixed("stats"), x.name, out);
    o.integers["std"] = {1};
    o.numbers["min_variance"] = 0.01;
    if (int8_) array(o, "multiplier", reals(x.channels, 0.02f));
    return out;
  }

  void dense(std::string in, const std::string& out, int channels, float scale) {
    int size = 0;
    for (const TensorDesc& t : tensors) size = t.name == in ? t.channels : size;
    if (int8_) {
      tensor(in + ".s8", Kind::kVector, DType::kS8, size);
      OpDesc& o = op("quantize_s8", "quantize_s8", in, in + ".s8");
      array(o, "multiplier", reals(size, 50, true));
      array(o, "offset", reals(size, 40, true));
      in += ".s8";
    }
    tensor(out, Kind::kVector, DType::kF32, channels);
    OpDesc& o = op(suffixed("dense"), int8_ ? "conv_acc_s8" : "conv_f32", in, out);
    const bool table = int8_ && random_.one_in(2);
    weights(o, {channels, size}, size, table ? 100 : scale);
    if (table) array(o, "table", reals(256, scale));
    if (!int8_ && random_.one_in(2)) o.words["activation"] = random_.one_in(2) ? "relu" : "sigmoid";
    if (int8_) o.integers["relu"] = {random_.below(2)};
  }

  Geometry axis(int size, int kernel) {
    Geometry g = {kernel, random_.pick({1, 1, 2}), 1 + random_.below(4), 0};
    const int reach = g.dilation * (kernel - 1);
    g.padding = random_.pick({reach / 2, reach / 2, reach, 0});
    if (size + 2 * g.padding <= reach) g.padding = reach;
    return g;
  }

  // Writes x through a convolution into the frames tensor `out`, or into channels of it.
  void conv(const Frames& x, const Frames& y, const Geometry& time, const Geometry& width, bool table) {
    const std::string bias = random_.one_in(4) ? context(x, y.channels, int8_ ? 40 : 1) : "";
    const bool tanh = table && !int8_;
    OpDesc& o = op(suffixed("conv"), table && int8_ ? "table_s8" : tanh ? "tanh_f32" : suffixed("conv"), x.name, y.name);
    o.bias = bias;
    o.integers = {{"kernel", {time.kernel, width.kernel}},   {"stride", {time.stride, width.stride}},
                  {"dilation", {time.dilation, width.dilation}}, {"padding", {time.padding, width.padding}},
                  {"relu", {random_.below(2)}}};
    const bool reflect = time.padding < x.length && width.padding < x.width && random_.one_in(2);
    o.words["pad_mode"] = reflect ? "reflect" : "zero";
    const int entries = random_.pick({2, 16, 256, 1024});
    weights(o, {y.channels, time.kernel, width.kernel, x.channels}, time.kernel * width.kernel * x.channels,
            !int8_ ? 1.0f : table ? entries / 3.0f : 80.0f);
    if (table && int8_) bytes(o, "table", -128, {entries});
    if (tanh) o.words["activation"] = "tanh";
    if (int8_ && random_.one_in(2)) bytes(o, "input_zero", -128, {x.channels});
  }

  // Parts side by side show whether a kernel writes past its channels: what stands there is read later.
  Frames residual_layer(const Frames& x) {
    const Geometry time = axis(x.length, random_.pick({1, 3, 5}));
    const Geometry width = axis(x.width, x.width == 1 ? 1 : random_.pick({1, 3}));
    Frames y = {unique("y"), 0, width.out(x.width), time.out(x.length)};
    const int parts[] = {edge(), edge()};
    y.channels = parts[0] + parts[1];
    tensor(y.name, Kind::kFrames, dtype(), y.channels).width = y.width;
    const int first = random_.below(2);
    for (const int part : {first, 1 - first}) {
      const Frames view = {unique("part"), parts[part], y.width, y.length};
      TensorDesc& t = tensor(view.name, Kind::kFrames, dtype(), view.channels);
      t.width = view.width;
      t.of = y.name;
      t.offset = part == 0 ? 0 : parts[0];
      conv(x, view, time, width, random_.one_in(3));
    }
    if (random_.one_in(4)) return y;
    const Frames r = {unique("r"), y.channels, y.width, y.length};
    tensor(r.name, Kind::kFrames, dtype(), r.channels).width = r.width;
    conv(x, r, time, width, false);
    const std::string gate = random_.one_in(2) ? context(y, y.channels, 1) : "";
    const Frames sum = {unique("sum"), y.channels, y.width, y.length};
    TensorDesc& t = tensor(sum.name, Kind::kFrames, dtype(), sum.channels);
    t.width = sum.width;
    if (random_.one_in(2)) t.of = y.name;  // in place
    OpDesc& o = op(suffixed("add"), suffixed("add"), y.name, sum.name);
    o.residual = r.name;
    o.gate = gate;
    if (int8_) {
      array(o, "multiplier", reals(y.channels, 1, true));
      array(o, "residual_multiplier", reals(1, 1));
    }
    return sum;
  }

  std::string attentive_pool(const Frames& x) {
    const Frames hidden = {unique("hidden"), edge(), 1, x.length};
    tensor(hidden.name, Kind::kFrames, dtype(), hidden.channels);
    conv(x, hidden, {}, {}, true);
    const bool pwl = int8_ && random_.one_in(2);
    const std::string out = unique("pool");
    tensor(out, Kind::kVector, DType::kF32, 2 * x.channels);
    OpDesc& o = op(suffixed("attentive_pool"), pwl ? "pwl_moments_s8" : suffixed("softmax_moments"), hidden.name, out);
    o.values = x.name;
    o.numbers["min_variance"] = 0.01;
    const float root = std::sqrt(static_cast<float>(hidden.channels));
    if (!int8_) {
      array(o, "weight", reals(x.channels * hidden.channels, 3 / root), {x.channels, hidden.channels});
      array(o, "epilogue", reals(x.channels, 1), {1, x.channels});
      return out;
    }
    bytes(o, "weight", -127, {x.channels, hidden.channels});
    std::vector<float> multiplier = reals(x.channels, 3 / (6000 * root), true);
    for (float& m : multiplier) m = std::max(std::fabs(m), 0x1p-126f);
    array(o, "multiplier", multiplier);
    array(o, "value_multiplier", reals(x.channels, 0.02f));
    if (!pwl) return out;
    o.words["softmax"] = "pwl";
    array(o, "offset", reals(x.channels, 1));
    // Chords of 2^24 * exp(v - 4), constant outside.
    array(o, "breakpoints", {-4, -1.5f, 0.5f, 2, 4});
    array(o, "slopes", {0, 25007.5f, 217842.6f, 1010535.5f, 7253334.0f, 0});
    array(o, "intercepts", {5628.2f, 105658.3f, 397684.0f, 1.0f, -12236120.0f, 0x1p24f});
    array(o, "bounds", {1, 0x1p24f});
    return out;
  }

  bool int8_;
  Random random_;
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<int8_t>> bytes_;
};

std::string describe(const RandomPlan& plan) {
  std::string text = std::to_string(plan.input.length) + " frames\n";
  for (const OpDesc& o : plan.ops) {
    text += "  " + o.op + " " + o.in + " -> " + o.out;
    for (const auto& [role, name] : {std::pair{"residual", o.residual}, {"gate", o.gate}, {"bias", o.bias}, {"values", o.values}}) {
      if (!name.empty()) text += std::string(" ") + role + "=" + name;
    }
    for (const auto& [name, values] : o.integers) {
      text += " " + name + "=";
      for (size_t i = 0; i < values.size(); ++i) text += (i ? "," : "") + std::to_string(values[i]);
    }
    for (const auto& [name, word] : o.words) text += " " + name + "=" + word;
    for (const auto& [role, array] : o.arrays) {
      text += " " + role + "(";
      for (size_t i = 0; i < array.shape.size(); ++i) text += (i ? "," : "") + std::to_string(array.shape[i]);
      text += ")";
    }
    text += "\n";
  }
  return text;
}

// Empty if the tensors agree.
std::string difference(const TracedTensor& expected, const TracedTensor& actual, bool exact) {
  if (actual.dtype != expected.dtype || actual.shape != expected.shape) return "another type or shape";
  if (actual.data == expected.data) return "";
  const bool real = expected.dtype == DType::kF32;
  const size_t size = expected.data.size() / size_of(expected.dtype);
  const auto value = [&](const TracedTensor& t, size_t i) -> double {
    if (!real) return static_cast<int8_t>(t.data[i]);
    float v;
    std::memcpy(&v, t.data.data() + i * sizeof v, sizeof v);
    return v;
  };
  double largest = 0;
  for (size_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(value(expected, i)));
  for (size_t i = 0; i < size; ++i) {
    const double a = value(expected, i), b = value(actual, i);
    if (exact ? a == b && std::signbit(a) == std::signbit(b) : std::fabs(a - b) <= kTolerance * largest) continue;
    char text[160];
    std::snprintf(text, sizeof text, "element %zu of %zu is %.9g, expected %.9g; the largest is %.9g", i, size, b, a, largest);
    return text;
  }
  return "";
}

struct Count {
  int tensors = 0;
  std::set<std::string> kernels;
};

// Runs the plan on both instruction sets; false, with the reason printed, at the first difference.
bool agree(const RandomPlan& plan, const Engine& scalar, Isa isa, Count& count) {
  const Recording recording = {plan.samples.data(), plan.input.length};
  const Engine engine(plan.tensors, plan.ops, isa, 1);
  std::map<std::string, std::string> ignored, ran;
  const auto expected = scalar.trace(recording, &ignored);
  const auto actual = engine.trace(recording, &ran);
  for (const OpDesc& o : plan.ops) {
    const std::string kernel = plan.kernels.at(o.name);
    std::string wrong;
    if (ran[o.name] != kernel + "/" + isa_name(isa)) {
      wrong = "kernel " + ran[o.name] + " ran instead of " + kernel;
    } else {
      wrong = difference(expected.at(o.out), actual.at(o.out), plan.is_int8());
    }
    if (!wrong.empty()) {
      std::printf("%s: %s '%s': %s\n", isa_name(isa), o.op.c_str(), o.out.c_str(), wrong.c_str());
      return false;
    }
    count.kernels.insert(kernel);
    ++count.tensors;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const int plans = argc > 1 ? std::atoi(argv[1]) : 200;
  const int seed = argc > 2 ? std::atoi(argv[2]) : 1;
  if (plans < 1) {
    std::fprintf(stderr, "usage: isa_agreement [plans] [first seed]\n");
    return 2;
  }
  const std::vector<Isa> isas = available_isas();
  std::map<Isa, Count> counts;
  for (int i = 0; i < plans; ++i) {
    const bool int8 = i % 4 != 3;
    const RandomPlan plan(seed + i, int8);
    try {
      const Engine scalar(plan.tensors, plan.ops, Isa::kScalar, 1);
      for (const Isa isa : isas) {
        if (agree(plan, scalar, isa, counts[isa])) continue;
        std::printf("%s plan of seed %d: %s", int8 ? "int8" : "float32", seed + i, describe(plan).c_str());
        return 1;
      }
    } catch (const std::exception& error) {
      std::printf("plan of seed %d: %s\n%s", seed + i, error.what(), describe(plan).c_str());
      return 1;
    }
  }
  std::printf("compared with scalar: int8 plans bit for bit, float32 plans within %g of each tensor's largest value\n", kTolerance);
  for (const Isa isa : isas) {
    const Count& count = counts[isa];
    std::printf("%s: %d plans, %d tensors equal, by %zu kernels\n", isa_name(isa), plans, count.tensors, count.kernels.size());
  }
  return 0;
}
