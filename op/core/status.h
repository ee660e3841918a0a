// The outcome of a call: fine, or one message for the user.
#pragma once

#include <string>
#include <utility>

namespace flashonnx {

class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status error(std::string message) {
    Status status;
    status.message_ = std::move(message);
    return status;
  }

  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

}  // namespace flashonnx
