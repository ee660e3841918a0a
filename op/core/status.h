// The outcome of a call: fine, or one message for the user.
#pragma once

#include <exception>
#include <new>
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

// Runs `body`, which returns a Status, and lets no exception out.
template <typename Body>
Status guarded(Body&& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Status::error("out of memory");
  } catch (const std::exception& exception) {
    return Status::error(exception.what());
  }
}

}  // namespace flashonnx
