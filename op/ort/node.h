// What a kernel knows of its node from the start, and what each run adds: the same for every execution provider.
#pragma once

#include <string>

#include "op/core/check.h"
#include "op/ort/api.h"

namespace flashonnx::ort {

// The parts of a node that do not change between runs: attributes and which optional tensors there are.
class NodeInfo {
 public:
  // Checks what is known when the session is made, so that a wrong model fails to load instead of failing to run.
  static Status read(const OrtApi* api, const OrtKernelInfo* info, NodeInfo* node);

  // The op and the node's name, for messages.
  std::string where() const;

  // Inputs and outputs of one run: shapes checked, outputs allocated, data set. No input's data is read.
  Status make_problem(const OrtApi* api, OrtKernelContext* context, Problem* problem) const;

 private:
  std::string name_;
  Node node_;
};

}  // namespace flashonnx::ort
