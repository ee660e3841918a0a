// Whose threads run a kernel is the caller's business: ONNX Runtime's pool, or ours outside of it.
#pragma once

#include <cstdint>

namespace flashonnx {

class Parallel {
 public:
  using Task = void (*)(void* context, int64_t index);

  // Calls task(context, index) once for each index in [0, count), in any order, and returns when all are done.
  virtual void run(int64_t count, Task task, void* context) const = 0;

  template <typename Function>
  void operator()(int64_t count, Function&& function) const {
    run(count, [](void* context, int64_t index) { (*static_cast<Function*>(context))(index); }, &function);
  }

 protected:
  ~Parallel() = default;
};

}  // namespace flashonnx
