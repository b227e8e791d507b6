// max_pool_s8 and max_pool_f32: the largest value of each channel under a window.
#include "engine/ops/ops.h"
#include "engine/ops/windowed.h"

namespace earmark {
namespace {

// There are no weights whose size in the file would bound the window; far above any network.
constexpr int kMaxTaps = 1 << 8;
constexpr int kTapsPerUnit = 1 << 12;

class MaxPool : public Windowed {
 public:
  MaxPool(const OpArgs& args, const OpDesc& desc, DType dtype)
      : Windowed(args, desc, dtype, dtype) {
    args.check(out->channels == in_->channels, "out '", out->name, "' has ", out->channels,
               " channels, expected ", in_->channels);
    args.check(shape_.time.dilation == 1 && shape_.width.dilation == 1, "'dilation' is not 1");
    args.check(shape_.pad_mode == PadMode::kZero, "'pad_mode' is reflect");
    args.check(shape_.time.pad_to == 0, "'pad_to' is of convolutions");
    args.check(shape_.taps() <= kMaxTaps, "a window of ", shape_.taps(), " positions, at most ",
               kMaxTaps, " are allowed");
    args.check(dtype == DType::kF32 || in_->zero_point == out->zero_point, "zero points ",
               in_->zero_point, " and ", out->zero_point, " differ");
  }

 protected:
  // kernel(input pointers [rows][taps], output row, rows) over the range, on all threads.
  template <class T, class Kernel>
  void run_rows(Walk& walk, Range range, const Kernel& kernel) const {
    const Place& x = walk[*in_];
    const Place& y = walk[*out];
    const int taps = shape_.taps();
    const int rows = range.size() * y.width;
    const int block = kTapsPerUnit / taps;
    walk.reserve_scratch(sizeof(const T*) * block * taps);
    walk.pool->parallel_for((rows + block - 1) / block, [&](int unit, int thread) {
      const int begin = unit * block;
      const int end = std::min(begin + block, rows);
      auto* const inputs = reinterpret_cast<const T**>(walk.scratch(thread));
      const T** next = inputs;
      for (int row = begin; row < end; ++row) {
        const int t = range.begin + row / y.width;
        const int w = row % y.width;
        for (int kt = 0; kt < shape_.time.kernel; ++kt) {
          const T* frame = x.row<T>(nearest(shape_.time, t, kt, x.length));
          for (int kw = 0; kw < shape_.width.kernel; ++kw) {
            *next++ = frame + nearest(shape_.width, w, kw, x.width) * x.stride;
          }
        }
      }
      kernel(inputs, y.row<T>(range.begin) + begin * y.stride, end - begin);
    });
  }

 private:
  // A tap in the padding reads the nearest position of the input. Without dilation and with less
  // padding than the window is wide, that one lies in the window too, so that nothing changes.
  static ptrdiff_t nearest(const Axis& axis, int out, int k, int size_in) {
    return std::clamp(out * axis.stride + k - axis.padding, 0, size_in - 1);
  }
};

class MaxPoolS8 final : public MaxPool {
 public:
  MaxPoolS8(const OpArgs& args, const OpDesc& desc) : MaxPool(args, desc, DType::kS8) {}

  void run(Walk& walk, Range range) const override {
    const ptrdiff_t stride = walk[*out].stride;
    run_rows<uint8_t>(walk, range, [&](const uint8_t* const* x, uint8_t* y, int rows) {
      walk.kernels->max_pool_s8(x, shape_.taps(), y, stride, rows, in_->channels);
    });
  }
};

class MaxPoolF32 final : public MaxPool {
 public:
  MaxPoolF32(const OpArgs& args, const OpDesc& desc) : MaxPool(args, desc, DType::kF32) {}

  void run(Walk& walk, Range range) const override {
    const ptrdiff_t stride = walk[*out].stride;
    run_rows<float>(walk, range, [&](const float* const* x, float* y, int rows) {
      walk.kernels->max_pool_f32(x, shape_.taps(), y, stride, rows, in_->channels);
    });
  }
};

}  // namespace

OpPtr make_max_pool_s8(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<MaxPoolS8>(args, desc);
}

OpPtr make_max_pool_f32(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<MaxPoolF32>(args, desc);
}

}  // namespace earmark
