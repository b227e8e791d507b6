// Front ends: from a waveform to the normalised features that a family's networks were trained on.
//
// A front end is one stem here, with its tables and its kernel calls. It holds no state of a
// recording and is thread-safe. Features have the same bits on every ISA and with any number of
// threads.
#pragma once

#include <cstdint>

#include "core/fbank.h"
#include "cpu/kernels.h"
#include "engine/thread_pool.h"

namespace earmark {

// Mono samples, contiguous.
struct Waveform {
  const float* samples;
  int64_t count;
};

class FrontEnd {
 public:
  virtual ~FrontEnd() = default;

  virtual int n_features() const = 0;  // a frame
  // Samples of the shortest waveform, at least 1.
  virtual int64_t min_samples() const = 0;
  // Frames made of that many samples: at least 1 of min_samples() and more, 0 of fewer.
  virtual int64_t frames(int64_t samples) const = 0;
  // Fewest samples that give at least that many frames.
  virtual int64_t samples_of_frames(int64_t frames) const = 0;
  // features: frames(waveform.count) x n_features(), of finite samples.
  virtual void run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                   float* features) const = 0;
  // What another device needs for the same features: the filterbank's tables, which live as long as
  // the front end, and what is done with its values.
  virtual FbankTables tables() const = 0;
  virtual FbankNormalization normalization() const = 0;

  // Throws std::invalid_argument, naming the value, for a waveform that is too short, too long, or
  // has samples that are NaN or Inf, which are not looked for where they are not in the host's
  // memory. Returns its frames.
  int checked_frames(const Waveform& waveform, bool samples_are_here = true) const;
};

}  // namespace earmark
