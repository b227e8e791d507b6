// Which ops of a plan one kernel can do together, with the same bits: the chain of a Res2 block
// (cuda/res2_s8.h) and squeeze-excitation (cuda/squeeze_excitation_s8.h). The plan is not told.
#pragma once

#include "engine/device/device_op.h"

namespace earmark::device {

// The ops in their order, runs of them replaced by what `fused` keeps.
std::vector<const DeviceOp*> fuse(const Plan& plan, const std::vector<DeviceOpPtr>& ops, int input,
                                  int output, const cuda::Device& device,
                                  std::vector<DeviceOpPtr>& fused);

}  // namespace earmark::device
