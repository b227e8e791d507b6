// One launch of the device's walk: an op of the plan, or a few that one kernel does together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/device/walk.h"
#include "engine/op.h"

namespace earmark::device {

class DeviceOp {
 public:
  DeviceOp(std::string name_, std::string kind_) : name(std::move(name_)), kind(std::move(kind_)) {}
  virtual ~DeviceOp() = default;
  DeviceOp(const DeviceOp&) = delete;
  DeviceOp& operator=(const DeviceOp&) = delete;

  std::string name;
  std::string kind;
  std::vector<const Tensor*> reads, writes;
  std::vector<const Op*> host;  // the plan's ops that it does
  int moves = -1;               // base tensor that is elsewhere after it, if any

  virtual cudaError_t launch(const Walk& walk) const = 0;
  virtual size_t workspace_bytes(const Walk&) const { return 0; }
};

using DeviceOpPtr = std::unique_ptr<DeviceOp>;

// The op that `desc` names, its constants on the device. `host` is the same op of the CPU's, which
// has checked all there is to check. Throws std::runtime_error for an op that has no kernel.
DeviceOpPtr make_device_op(const Plan& plan, const OpDesc& desc, const Op& host,
                           Constants& constants);

}  // namespace earmark::device
