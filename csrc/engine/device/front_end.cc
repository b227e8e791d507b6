#include "engine/device/front_end.h"

namespace earmark::device {
namespace {

// visit(array, count) for each array of the tables.
template <class Tables, class Visit>
void for_arrays(Tables& t, const Visit& visit) {
  const int n_weights = t.first_weight[t.n_mels];
  visit(t.window, 2 * t.fft);
  visit(t.twiddle, t.fft / 4 * 6);
  for (auto& stage : t.stages) {
    visit(stage.twiddle, stage.length / stage.radix * 2 * (stage.radix - 1));
  }
  visit(t.order, t.fft);
  visit(t.split, t.fft);
  visit(t.first_bin, t.n_mels);
  visit(t.weights, n_weights);
  visit(t.first_weight, t.n_mels + 1);
}

std::vector<char> contents_of(const FrontEnd& front_end) {
  std::vector<char> contents;
  const auto add = [&](const auto* values, size_t count) {
    const auto* bytes = reinterpret_cast<const char*>(values);
    contents.insert(contents.end(), bytes, bytes + count * sizeof *values);
  };
  const FbankTables tables = front_end.tables();
  const FbankNormalization n = front_end.normalization();
  const FbankFrames& f = tables.frames;
  const double numbers[] = {static_cast<double>(f.hop),
                            static_cast<double>(f.first),
                            static_cast<double>(f.reflected),
                            f.emphasis,
                            static_cast<double>(f.each_by_itself),
                            tables.log.offset,
                            tables.log.least,
                            tables.log.unit,
                            static_cast<double>(tables.fft),
                            static_cast<double>(n.kind),
                            n.top,
                            n.floor,
                            n.offset,
                            n.scale,
                            n.min_deviation};
  add(numbers, std::size(numbers));
  for_arrays(tables, add);
  return contents;
}

}  // namespace

DeviceFrontEnd::DeviceFrontEnd(const FrontEnd& front_end)
    : contents_(contents_of(front_end)),
      tables_(front_end.tables()),
      normalization_(front_end.normalization()) {
  tables_.source = nullptr;
  for_arrays(tables_, [&](auto*& array, size_t count) { array = constants_.add(array, count); });
  constants_.finish();
}

bool DeviceFrontEnd::same_as(const FrontEnd& front_end) const {
  return contents_ == contents_of(front_end);
}

cudaError_t DeviceFrontEnd::run(const float* samples, const int64_t* starts,
                                const cuda::Ragged& frames, float* features,
                                const cuda::Launch& launch) const {
  const cudaError_t error = cuda::fbank_f32(
      {.tables = tables_, .samples = samples, .starts = starts, .frames = frames, .out = features},
      launch);
  if (error != cudaSuccess) return error;
  return cuda::normalize_f32(
      {.normalization = normalization_, .n_mels = tables_.n_mels, .frames = frames, .x = features},
      launch);
}

}  // namespace earmark::device
