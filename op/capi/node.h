// A C node as the Node that the checks know, and as the Problem that kernels run.
#pragma once

#include "op/capi/flashonnx.h"
#include "op/core/check.h"
#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx::capi {

// dtypes, shapes and attributes; no data.
Status read_node(const flashonnx_node& from, Node* node);

// A problem that can be planned: it tells which tensors there are, not what they hold.
Status read_problem_without_data(const flashonnx_node& from, Problem* problem);

// A problem that is ready to run, with the tensors' data and strides.
Status read_problem(const flashonnx_node& from, Problem* problem);

// Likewise, of tensors that the host cannot read: what only their values tell is left unchecked.
Status read_device_problem(const flashonnx_node& from, Problem* problem);

}  // namespace flashonnx::capi
