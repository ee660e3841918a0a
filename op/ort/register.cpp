// RegisterCustomOps: the symbol that SessionOptions.register_custom_ops_library looks for.
#include <map>
#include <mutex>

#include "flashonnx/contract.h"
#include "op/cuda/flash_attention.h"
#include "op/ort/cpu_kernel.h"
#include "op/ort/cuda_kernel.h"
#include "op/ort/custom_op.h"

namespace flashonnx::ort {
namespace {

// Ops and their domain for one ONNX Runtime in the process. Sessions keep pointers to both, so they are never freed.
struct Registration {
  FlashAttentionOp cpu_op;
  FlashAttentionOp cuda_op;
  OrtCustomOpDomain* domain = nullptr;

  explicit Registration(const Api& api) : cpu_op(api, cpu_kernel()), cuda_op(api, cuda_kernel()) {}

  // One op of one name; where a node runs, and so which kernel it gets, is decided when a session is made. An ONNX
  // Runtime without the CUDA provider has no use for its kernel, and keeps it unused.
  Status fill() {
    const OrtApi* api = cpu_op.api.functions;
    Status status = from_ort(api, api->CreateCustomOpDomain(contract::kDomain, &domain));
    if (status.ok()) status = from_ort(api, api->CustomOpDomain_Add(domain, &cpu_op));
    if (status.ok() && cuda::is_built()) status = from_ort(api, api->CustomOpDomain_Add(domain, &cuda_op));
    return status;
  }
};

Status registration_for(const Api& api, const Registration** registration) {
  static std::mutex mutex;
  static auto& registrations = *new std::map<const OrtApi*, Registration*>();
  const std::lock_guard<std::mutex> lock(mutex);
  Registration*& known = registrations[api.functions];
  if (known == nullptr) {
    auto fresh = std::make_unique<Registration>(api);
    Status status = fresh->fill();
    if (!status.ok()) return status;
    known = fresh.release();
  }
  *registration = known;
  return {};
}

Status register_ops(OrtSessionOptions* options, const Api& api) {
  // Options that make several sessions are often registered with for each, and ONNX Runtime refuses a domain it knows.
  constexpr const char* kRegisteredKey = "flashonnx.registered";
  int is_registered = 0;
  Status status = from_ort(api.functions, api->HasSessionConfigEntry(options, kRegisteredKey, &is_registered));
  if (!status.ok() || is_registered) return status;
  const Registration* registration = nullptr;
  status = registration_for(api, &registration);
  if (status.ok()) status = from_ort(api.functions, api->AddCustomOpDomain(options, registration->domain));
  if (!status.ok()) return status;
  return from_ort(api.functions, api->AddSessionConfigEntry(options, kRegisteredKey, "1"));
}

}  // namespace
}  // namespace flashonnx::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  using namespace flashonnx::ort;
  Api api;
  const flashonnx::Status found = find_api(base, &api);
  // Every version of the API begins alike, so the oldest can say what is wrong.
  if (!found.ok()) return to_ort(base->GetApi(1), "flashonnx", found);
  return to_ort(api.functions, "flashonnx", flashonnx::guarded([&] { return register_ops(options, api); }));
}
