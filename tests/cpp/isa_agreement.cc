// Random small plans and waveforms on every instruction set that this machine has, compared tensor
// by tensor with the scalar kernels. Needs no Python, so that a static build also runs where the
// package does not: in an emulator of another processor, on a phone.
//
//   isa_agreement [plans] [first seed]
//
// Integer ops, what they leave in float32, and front ends have to give the same bits, and the
// kernels have to say that they are those of the instruction set.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "core/check.h"
#include "engine/engine.h"
#include "engine/kaldi_fbank.h"
#include "engine/log_mel.h"
#include "engine/nemo_fbank.h"
#include "engine/speechbrain_fbank.h"
#include "engine/taoruijie_fbank.h"
#include "random_plan.h"

namespace {

using namespace earmark;

// The sums of float32 layers may be in any order and fused: they may differ by this much of their
// tensor's largest value, or of 1, which is the size that the plans give to values.
constexpr double kTolerance = 1e-5;

template <class Values>
std::string list(const Values& values) {
  std::string text;
  for (const auto value : values) text += concat(text.empty() ? "" : ",", value);
  return text;
}

std::string describe(const RandomPlan& plan) {
  std::string text = concat(plan.input.length, " frames\n");
  for (const OpDesc& o : plan.ops) {
    text += concat("  ", o.op, " ", o.in, " -> ", o.out);
    const std::pair<const char*, std::string> more[] = {
        {"residual", o.residual},
        {"gate", o.gate},
        {"bias", o.bias},
        {"values", o.values},
        {"quantization", o.quantization},
        {"values_quantization", o.values_quantization}};
    for (const auto& [role, name] : more) {
      if (!name.empty()) text += concat(" ", role, "=", name);
    }
    for (const auto& [name, values] : o.integers) text += concat(" ", name, "=", list(values));
    for (const auto& [name, word] : o.words) text += concat(" ", name, "=", word);
    for (const auto& [role, array] : o.arrays)
      text += concat(" ", role, "[", list(array.shape), "]");
    text += "\n";
  }
  return text;
}

// Empty if the tensors agree.
std::string difference(const TracedTensor& expected, const TracedTensor& actual, bool exact) {
  if (actual.dtype != expected.dtype || actual.shape != expected.shape)
    return "another type or shape";
  if (actual.data == expected.data) return "";
  const bool real = expected.dtype == DType::kF32;
  const size_t size = expected.data.size() / size_of(expected.dtype);
  const auto value = [&](const TracedTensor& t, size_t i) -> double {
    if (!real) return static_cast<int8_t>(t.data[i]);
    float v;
    std::memcpy(&v, t.data.data() + i * sizeof v, sizeof v);
    return v;
  };
  double largest = 1;
  for (size_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(value(expected, i)));
  for (size_t i = 0; i < size; ++i) {
    const double a = value(expected, i), b = value(actual, i);
    if (exact ? a == b && std::signbit(a) == std::signbit(b)
              : std::fabs(a - b) <= kTolerance * largest)
      continue;
    char text[160];
    std::snprintf(text, sizeof text, "element %zu of %zu is %.9g, expected %.9g", i, size, b, a);
    return text;
  }
  return "";
}

struct Trace {
  std::map<std::string, TracedTensor> tensors;
  std::map<std::string, std::string> kernels;  // by op: the one that ran last
};

Trace run(const RandomPlan& plan, Isa isa) {
  const Engine engine(plan.tensors, plan.ops, isa, 1);
  Trace trace;
  trace.tensors =
      engine.trace({plan.samples.data(), plan.input.length, DType::kF32}, &trace.kernels);
  return trace;
}

// FNV-1a over what has the same bits on every machine, so that two machines' runs can be compared.
uint64_t digest = 0xcbf29ce484222325;

void add_to_digest(const void* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    digest = (digest ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  }
}

struct Count {
  int tensors = 0;
  std::set<std::string> kernels;
};

// The first op that another kernel ran in, or whose result is another; empty if there is none.
std::string disagreement(const RandomPlan& plan, const Trace& expected, const Trace& actual,
                         Isa isa, Count& count) {
  for (const OpDesc& o : plan.ops) {
    const std::string kernel = plan.kernels.at(o.name);
    const std::string& ran = actual.kernels.at(o.name);
    // Two kernels of AVX2, between which the weights decide.
    const bool paired = isa == Isa::kAvx2 && ran == concat(kernel, "_paired/avx2");
    if (!paired && ran != concat(kernel, "/", isa_name(isa))) {
      return concat(o.op, " '", o.out, "': kernel ", ran, " ran instead of ", kernel);
    }
    const std::string wrong =
        difference(expected.tensors.at(o.out), actual.tensors.at(o.out), plan.is_exact());
    if (!wrong.empty()) return concat(o.op, " '", o.out, "': ", wrong);
    count.kernels.insert(ran);
    ++count.tensors;
  }
  return "";
}

// Features of a random waveform; empty if they agree.
std::string front_end_disagreement(int seed, Isa isa, Count& count) {
  Random random(seed);
  const int n_mels = random.pick({1, 17, 80, 400});
  const SpeechBrainFbank decibels(n_mels);
  const LogMel scaled(n_mels);
  const KaldiFbank kaldi(n_mels, random.one_in(2) ? "povey" : "hamming", 1);
  const TaoRuijieFbank reflected(n_mels);
  const NemoFbank standardized(n_mels);
  const std::pair<const FrontEnd&, const char*> front_ends[] = {{decibels, "center_f32"},
                                                                {scaled, "scale_f32"},
                                                                {kaldi, "center_f32"},
                                                                {reflected, "center_f32"},
                                                                {standardized, "standardize_f32"}};
  const auto& [front_end, kernel] = front_ends[random.below(std::size(front_ends))];
  std::vector<float> samples(front_end.min_samples() +
                             random.pick({0, 1, 159, 160, 1279, 1280, 5000}));
  const float scale = random.one_in(2) ? 1e-4f : 0.3f;
  for (float& sample : samples) sample = random.real(scale);
  const Waveform waveform = {samples.data(), static_cast<int64_t>(samples.size())};
  const auto features = [&, &front_end = front_end](Isa which) {
    std::vector<float> out(front_end.frames(waveform.count) * front_end.n_features());
    ThreadPool caller(1);
    front_end.run(kernels(which), caller, waveform, out.data());
    return out;
  };
  const std::vector<float> expected = features(Isa::kScalar), actual = features(isa);
  if (isa == Isa::kScalar) add_to_digest(expected.data(), expected.size() * sizeof(float));
  if (last_kernel != concat(kernel, "/", isa_name(isa))) return concat(last_kernel, " ran");
  if (std::memcmp(expected.data(), actual.data(), expected.size() * sizeof(float)) != 0)
    return "other features";
  count.kernels.insert({"fbank_f32", kernel});
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  const int plans = argc > 1 ? std::atoi(argv[1]) : 200;
  const int first_seed = argc > 2 ? std::atoi(argv[2]) : 1;
  if (plans < 1) {
    std::fprintf(stderr, "usage: isa_agreement [plans] [first seed]\n");
    return 2;
  }
  const std::vector<Isa> isas = available_isas();
  std::map<Isa, Count> counts;
  for (int seed = first_seed; seed < first_seed + plans; ++seed) {
    using Kind = RandomPlan::Kind;
    const RandomPlan plan(
        seed, std::array{Kind::kFloat, Kind::kInt8, Kind::kDynamic, Kind::kWide}[seed % 4]);
    for (Trace expected; const Isa isa : isas) {
      std::string wrong;
      try {
        if (isa == isas.front()) {
          expected = run(plan, Isa::kScalar);
          for (const auto& [name, tensor] : expected.tensors) {
            if (plan.is_exact()) add_to_digest(tensor.data.data(), tensor.data.size());
          }
        }
        const Trace& actual = isa == Isa::kScalar ? expected : run(plan, isa);
        wrong = disagreement(plan, expected, actual, isa, counts[isa]);
        if (wrong.empty()) wrong = front_end_disagreement(seed, isa, counts[isa]);
      } catch (const std::exception& error) {
        wrong = error.what();
      }
      if (wrong.empty()) continue;
      std::printf("%s: seed %d: %s\n%s", isa_name(isa), seed, wrong.c_str(),
                  describe(plan).c_str());
      return 1;
    }
  }
  std::printf("integer plans and features bit for bit, float32 plans within %g\n", kTolerance);
  std::printf("digest of the former: %016llx\n", static_cast<unsigned long long>(digest));
  for (const Isa isa : isas) {
    const Count& count = counts[isa];
    std::printf("%s: %d plans, %d tensors equal, by %zu kernels\n", isa_name(isa), plans,
                count.tensors, count.kernels.size());
  }
  return 0;
}
