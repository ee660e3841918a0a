// Scratch memory, by a table of functions in ONNX Runtime's place: where it comes from, that it is aligned, that it
// goes back.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "op/ort/workspace.h"

namespace flashonnx::ort {
namespace {

// What was called, in order; ONNX Runtime's functions have no place for a context of ours.
std::string calls;

constexpr uintptr_t kOdd = 8;  // what is given is aligned to no more than this
void* block = nullptr;

OrtStatusPtr ORT_API_CALL get_allocator(const OrtKernelContext*, const OrtMemoryInfo*, OrtAllocator** out) noexcept {
  calls += "allocator ";
  *out = reinterpret_cast<OrtAllocator*>(&calls);
  return nullptr;
}

void* give(size_t size) {
  block = std::malloc(size + kOdd);
  return static_cast<char*>(block) + kOdd;
}

OrtStatusPtr ORT_API_CALL alloc(OrtAllocator*, size_t size, void** out) noexcept {
  calls += "alloc ";
  *out = give(size);
  return nullptr;
}

OrtStatusPtr ORT_API_CALL get_scratch(const OrtKernelContext*, const OrtMemoryInfo*, size_t size, void** out) noexcept {
  calls += "scratch ";
  *out = give(size);
  return nullptr;
}

OrtStatusPtr ORT_API_CALL free_block(OrtAllocator* allocator, void* memory) noexcept {
  calls += "free ";
  EXPECT_EQ(allocator, reinterpret_cast<OrtAllocator*>(&calls));
  EXPECT_EQ(memory, static_cast<char*>(block) + kOdd);
  std::free(block);
  return nullptr;
}

void ORT_API_CALL release_allocator(OrtAllocator*) noexcept { calls += "release"; }

OrtApi make_api() {
  calls.clear();
  OrtApi api{};
  api.KernelContext_GetAllocator = get_allocator;
  api.KernelContext_GetScratchBuffer = get_scratch;
  api.AllocatorAlloc = alloc;
  api.AllocatorFree = free_block;
  api.ReleaseAllocator = release_allocator;
  return api;
}

TEST(Workspace, OfTheCpuComesFromTheAllocator) {
  const OrtApi api = make_api();
  {
    Workspace workspace(&api);
    ASSERT_TRUE(workspace.allocate(nullptr, nullptr, 1000).ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(workspace.data()) % 256, 0u);
  }
  EXPECT_EQ(calls, "allocator alloc free release");
}

TEST(Workspace, OfAStreamIsScratchOfTheRun) {
  const OrtApi api = make_api();
  {
    Workspace workspace(&api);
    ASSERT_TRUE(workspace.allocate_on_stream(nullptr, nullptr, 1000).ok());
    auto* const data = static_cast<char*>(workspace.data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 256, 0u);
    data[0] = data[999] = 1;  // within the block, as AddressSanitizer knows
  }
  EXPECT_EQ(calls, "allocator scratch free release");
}

TEST(Workspace, OfNoBytesAsksForNothing) {
  const OrtApi api = make_api();
  {
    Workspace workspace(&api);
    ASSERT_TRUE(workspace.allocate(nullptr, nullptr, 0).ok());
    ASSERT_TRUE(workspace.allocate_on_stream(nullptr, nullptr, 0).ok());
    EXPECT_EQ(workspace.data(), nullptr);
  }
  EXPECT_EQ(calls, "");
}

}  // namespace
}  // namespace flashonnx::ort
