// A plan: named tensors and a flat list of ops over them, as read from a model file
// (docs/file-format.md). Nothing in it is trusted: Plan checks names and views, each op checks its
// own shapes and values when it is built.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace earmark {

enum class Kind { kFrames, kVector };
// A position of an s16 tensor is two planes of bytes, u = q + 32768: the high bytes of all
// channels, then the low ones.
enum class DType { kS8, kS16, kF32 };

inline size_t size_of(DType dtype) {
  return dtype == DType::kS8 ? 1 : dtype == DType::kS16 ? 2 : sizeof(float);
}
// In a plan.
inline const char* name_of(DType dtype) {
  return dtype == DType::kS8 ? "s8" : dtype == DType::kS16 ? "s16" : "f32";
}

struct TensorDesc {
  std::string name;
  Kind kind = Kind::kFrames;
  DType dtype = DType::kS8;
  int channels = 0;
  int width = 1;
  int zero_point = 0;  // of int8 and int16 tensors
  double scale = 0;    // of an int8 input or output; 0 where the plan does not say
  std::string of;      // base tensor of a view
  int offset = 0;      // its first channel there
  std::string over;    // tensor whose memory it may take

  int zero_u8() const { return zero_point + 128; }
  int zero_u16() const { return zero_point + 32768; }
  // Whether a row of features, (width * channels), can be read as this tensor's frame.
  bool flat() const { return width == 1 || channels == 1; }
};

// An array stored in the model file; the plan keeps it alive only until the ops are built.
struct ArrayView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

struct OpDesc {
  std::string op;
  std::string name;
  std::string in;
  std::string out;
  std::string residual;                              // add: second operand
  std::string gate;                                  // add: vector of multipliers
  std::string bias;                                  // conv: vector of offsets
  std::string values;                                // attentive pooling: the pooled frames
  std::string valid;                                 // pooling: frames of which so many count
  std::string quantization;                          // of `in`, where it is found at run time
  std::string values_quantization;                   // of `values`, likewise
  std::map<std::string, std::vector<int>> integers;  // kernel, ..., pad_to, relu, std
  std::map<std::string, std::string> words;          // pad_mode, activation, softmax
  std::map<std::string, double> numbers;             // min_variance, added_variance
  std::map<std::string, ArrayView> arrays;
};

struct Tensor : TensorDesc {
  int id = 0;
  int base = 0;      // itself, or the tensor it is a view of
  int overlay = -1;  // base tensor whose memory it may take

  bool overlaps(const Tensor& other) const {
    return base == other.base && offset < other.offset + other.channels &&
           other.offset < offset + channels;
  }
};

class Plan {
 public:
  // Throws std::invalid_argument where the tensors contradict each other.
  explicit Plan(const std::vector<TensorDesc>& tensors);

  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor& tensor(int id) const { return tensors_[id]; }
  bool has(const std::string& name) const { return ids_.count(name) != 0; }
  const Tensor& base_of(const Tensor& t) const { return tensors_[t.base]; }

  // The tensor called `name`; `role` and `op` are for the error's text.
  const Tensor& find(const OpDesc& op, const char* role, const std::string& name) const;

 private:
  std::vector<Tensor> tensors_;
  std::map<std::string, int> ids_;
};

}  // namespace earmark
