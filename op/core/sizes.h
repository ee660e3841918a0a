// The sizes that a node's tensors share (batch_size, head_size, ...), found by reading shapes against the contract's.
//
// The same reading serves checks, where every dimension is a number, and shape inference, where some are not.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "flashonnx/contract.h"
#include "op/core/status.h"

namespace flashonnx {

// A dimension that is not known. Any number below it stands for a symbol of the caller's: equal numbers, equal sizes.
constexpr int64_t kUnknownSize = -1;

using Shape = std::vector<int64_t>;

std::string to_string(const Shape& shape);
std::string to_string(const contract::ShapeRule& rule);
std::string to_string(const contract::TensorRule& rule);  // all its shapes

// What a message is about, "input 'Q'", put into words only if there is a message: checks are part of every run.
struct Subject {
  const char* kind = "";
  const char* name = "";  // empty: `kind` says it all
};
std::string to_string(const Subject& subject);

class Sizes {
 public:
  // What `source` says of a size. An error if it contradicts what is known already.
  Status set(int size, int64_t value, const Subject& source);

  // Reads `shape` as `rule` names it; the ranks must agree.
  Status read(const contract::ShapeRule& rule, const Shape& shape, const Subject& source);

  // That `shape` broadcasts to `rule`, aligned at the end; its last dimension may also be shorter.
  Status check_broadcast(const contract::ShapeRule& rule, const Shape& shape) const;

  // What no single tensor tells: multiples, and that nothing lies beyond kMaxSize.
  Status check_relations() const;

  int64_t get(int size) const;
  Shape shape(const contract::ShapeRule& rule) const;

 private:
  struct Entry {
    int64_t value = kUnknownSize;
    Subject source;
  };

  int64_t dim(const contract::DimRule& rule) const;

  std::array<Entry, contract::kNumSizes> entries_;
};

}  // namespace flashonnx
