// Ops whose launch is one call struct.
#pragma once

#include <functional>

#include "engine/device/device_op.h"

namespace earmark::device {

// By the launcher's own function, where it has one.
template <class Call>
size_t workspace_of(const Call& call, const cuda::Device& device) {
  if constexpr (requires { workspace_bytes(call, device); }) return workspace_bytes(call, device);
  return 0;
}

// `fill` makes the struct for a walk.
template <class Call, cudaError_t (*kLaunch)(const Call&, const cuda::Launch&)>
class CallOp final : public DeviceOp {
 public:
  using Fill = std::function<Call(const Walk&)>;
  CallOp(const OpDesc& desc, Fill fill) : DeviceOp(desc.name, desc.op), fill_(std::move(fill)) {}

  cudaError_t launch(const Walk& walk) const override { return kLaunch(fill_(walk), walk.launch); }
  size_t workspace_bytes(const Walk& walk) const override {
    return workspace_of(fill_(walk), *walk.launch.device);
  }

 private:
  Fill fill_;
};

template <auto kLaunch, class Fill>
DeviceOpPtr call_op(const OpDesc& desc, Fill fill) {
  using Call = std::invoke_result_t<Fill, const Walk&>;
  return std::make_unique<CallOp<Call, kLaunch>>(desc, std::move(fill));
}

}  // namespace earmark::device
