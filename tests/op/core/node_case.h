// One row of tests/cases/nodes.json.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "op/core/check.h"

namespace flashonnx {

struct NodeCase {
  std::string name;
  std::string error;  // a part of the message; empty where the node is accepted
  Node node;
  std::vector<int64_t> nonpad;  // data of nonpad_kv_seqlen
  std::map<int, Shape> shapes;  // by index of the output
};

// How GoogleTest names a case.
inline std::string case_name(const testing::TestParamInfo<NodeCase>& info) { return info.param.name; }
inline void PrintTo(const NodeCase& c, std::ostream* out) { *out << c.name; }

}  // namespace flashonnx
