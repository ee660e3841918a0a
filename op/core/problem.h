// One attention problem, as every kernel sees it: sizes, scalars, pointers and strides.
//
// `make_problem` (check.h) is the only place that fills sizes and scalars from a node, so a kernel may rely on
// everything that it checks. Letters as in the ONNX Attention text: query i, key j, and
// total_sequence_length = past_sequence_length + kv_sequence_length keys in all, the past ones first.
#pragma once

#include <cstdint>

namespace flashonnx {

// Numbered as ONNX's TensorProto.DataType (and ORT's ONNXTensorElementDataType) are.
enum class DType : int32_t {
  kUndefined = 0,
  kFloat = 1,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kBFloat16 = 16,
};

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::kBool:
      return 1;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat:
      return 4;
    case DType::kDouble:
    case DType::kInt64:
      return 8;
    case DType::kUndefined:
      break;
  }
  return 0;
}

// A (batch, head, row, column) view of Q, K, V, Y or a cache. Strides count elements; columns are contiguous.
template <typename Pointer>
struct View {
  Pointer data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
};
using Input = View<const void*>;
using Output = View<void*>;

// attn_mask, broadcast by zero strides to (batch, q head, query, key); keys at and past `length` are disallowed.
struct Mask {
  const void* data = nullptr;
  DType dtype = DType::kUndefined;  // kBool (true: may attend) or the problem's dtype (added to the score)
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
  int64_t key_stride = 0;  // 1, or 0 where one value serves every key
  int64_t length = 0;      // min(total_sequence_length, last dimension), or total_sequence_length if key_stride is 0

  explicit operator bool() const { return data != nullptr; }
};

// Values of qk_matmul_output_mode.
enum class QkOutput : int32_t { kScores = 0, kAfterSoftcap = 1, kAfterMask = 2, kProbabilities = 3 };

struct Problem {
  DType dtype = DType::kUndefined;  // of Q, K, V, caches, Y and qk_matmul_output
  int64_t batch_size = 0;
  int64_t q_num_heads = 0;
  int64_t kv_num_heads = 0;  // divides q_num_heads; q head h reads kv head h / group_size()
  int64_t q_sequence_length = 0;
  int64_t kv_sequence_length = 0;    // rows of K and V: the new keys
  int64_t past_sequence_length = 0;  // rows of past_key and past_value
  int64_t head_size = 0;
  int64_t v_head_size = 0;

  double scale = 0;
  double softcap = 0;  // 0: none
  bool is_causal = false;
  int64_t left_window_size = -1;   // -1: unbounded
  int64_t right_window_size = -1;  // -1: unbounded
  bool mean_without_keys = false;  // rows of Y without any allowed key are the mean of V, else 0

  Input q, k, v;
  Input past_key, past_value;         // without data: no past
  Output y;                           //
  Output present_key, present_value;  // past rows, then new rows; without data: not asked for
  Mask mask;
  const int64_t* nonpad_kv_seqlen = nullptr;  // (batch)
  const float* sinks = nullptr;               // (q_num_heads)
  const float* alibi_slopes = nullptr;        // (q_num_heads), plus batch * alibi_batch_stride
  int64_t alibi_batch_stride = 0;
  void* qk_matmul_output = nullptr;  // (batch, q head, query, key), contiguous; naive kernels only
  QkOutput qk_matmul_output_mode = QkOutput::kScores;
  float* lse = nullptr;  // (batch, q head, query), contiguous

  int64_t total_sequence_length() const { return past_sequence_length + kv_sequence_length; }
  int64_t group_size() const { return q_num_heads / kv_num_heads; }
};

}  // namespace flashonnx
