#include "tests/op/cpu/attention_case.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "op/cpu/convert.h"

namespace flashonnx::testing {
namespace {

using contract::Input;
using contract::Output;

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(engine_); }
  // Nearly normal, and quick: the sum of the four quarters of one number, variance 1.
  double normal() {
    const uint64_t bits = engine_();
    double sum = 0;
    for (int shift = 0; shift < 64; shift += 16) sum += static_cast<double>(bits >> shift & 0xffff) / 65536;
    return (sum - 2) * 1.7320508075688772;
  }
  double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  template <typename T>
  T one_of(std::initializer_list<T> items) {
    return items.begin()[between(0, static_cast<int64_t>(items.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

DType mask_dtype(const Case& c) { return c.mask == MaskKind::kBool ? DType::kBool : c.dtype; }

int64_t elements(const Shape& dims) {
  int64_t count = 1;
  for (const int64_t dim : dims) count *= dim;
  return count;
}

DType output_dtype(const Case& c, int index) { return index == Output::kLse ? DType::kFloat : c.dtype; }

void store_mask(DType dtype, void* data, int64_t index, bool live, double value) {
  if (dtype == DType::kBool) {
    static_cast<uint8_t*>(data)[index] = live;
  } else {
    cpu::store(dtype, data, index, live ? value : -std::numeric_limits<double>::infinity());
  }
}

// Often allowed, sometimes not, and some rows not at all.
void fill_mask(Random& random, DType dtype, const Shape& dims, void* data) {
  const int64_t columns = dims.back();
  const int64_t rows = columns == 0 ? 0 : elements(dims) / columns;
  for (int64_t i = 0; i < rows; ++i) {
    const double allowed = random.chance(0.1) ? 0.0 : random.chance(0.2) ? 1.0 : 0.7;
    for (int64_t j = 0; j < columns; ++j) {
      const bool live = random.chance(allowed);
      store_mask(dtype, data, i * columns + j, live, dtype != DType::kBool && live ? random.normal() : 0);
    }
  }
}

// Larger than a kernel's blocks: in turns they forbid all keys, allow them unchanged, and are mixed.
void fill_mask_in_blocks(Random& random, DType dtype, const Shape& dims, void* data) {
  constexpr int64_t kRows = 50, kKeys = 230;
  const int64_t columns = dims.back();
  for (int64_t i = 0; i < elements(dims) / columns; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t kind = (i / kRows + j / kKeys) % 3;
      const bool live = kind == 1 || (kind == 2 && random.chance(0.7));
      store_mask(dtype, data, i * columns + j, live, kind == 2 ? random.normal() : 0);
    }
  }
}

}  // namespace

Case random_case(unsigned seed) {
  Random random(seed * 2654435761u + 1);
  const auto size = [&random] {
    return random.chance(0.5) ? random.between(1, 40) : random.chance(0.8) ? random.between(1, 150) : 300;
  };
  Case c;
  c.seed = seed;
  c.dtype = random.one_of({DType::kFloat, DType::kFloat, DType::kFloat16, DType::kBFloat16});
  c.batch_size = random.between(1, 2);
  c.kv_num_heads = random.between(1, 3);
  c.q_num_heads = c.kv_num_heads * random.one_of<int64_t>({1, 1, 2, 3, 4});
  c.q_sequence_length = random.chance(0.2) ? random.between(1, 3) : size();
  c.kv_sequence_length = random.chance(0.05) ? random.between(600, 1500) : size();
  c.head_size = random.chance(0.3) ? random.one_of<int64_t>({32, 64, 128}) : size();
  c.v_head_size = random.chance(0.6) ? c.head_size : size();
  c.rank3 = random.chance(0.4);
  c.is_causal = random.chance(0.4);
  if (random.chance(0.25)) c.left_window_size = random.between(0, 40);
  if (random.chance(0.25)) c.right_window_size = random.between(0, 40);
  if (random.chance(0.2)) c.softcap = random.uniform(0.5, 30);
  if (random.chance(0.3)) c.scale = random.uniform(0.05, 0.5);
  if (random.chance(0.3)) {
    c.nonpad = true;
  } else if (random.chance(0.4)) {
    c.past_sequence_length = size();
    c.present = random.chance(0.7);
  } else {
    c.present = random.chance(0.2);
  }
  if (random.chance(0.5)) {
    c.mask = random.one_of({MaskKind::kBool, MaskKind::kFloat});
    const int64_t total = c.past_sequence_length + c.kv_sequence_length;
    const int64_t keys = random.chance(0.1) ? 1 : random.chance(0.2) ? random.between(1, total) : total;
    c.mask_dims = {random.one_of({c.batch_size, int64_t{1}}), random.one_of({c.q_num_heads, int64_t{1}}),
                   random.one_of({c.q_sequence_length, int64_t{1}}), keys};
    while (c.mask_dims.front() == 1 && c.mask_dims.size() > 1 && random.chance(0.5)) {
      c.mask_dims.erase(c.mask_dims.begin());
    }
  }
  c.sinks = random.chance(0.15);
  if (random.chance(0.15)) c.alibi_rank = static_cast<int>(random.between(1, 2));
  c.mean_without_keys = random.chance(0.3);
  return c;
}

std::string to_string(const Case& c) {
  std::ostringstream text;
  text << "seed " << c.seed << ": dtype " << static_cast<int>(c.dtype) << ", B " << c.batch_size << ", Hq "
       << c.q_num_heads << ", Hkv " << c.kv_num_heads << ", Sq " << c.q_sequence_length << ", Skv "
       << c.kv_sequence_length << ", past " << c.past_sequence_length << ", D " << c.head_size << ", Dv "
       << c.v_head_size << ", rank " << (c.rank3 ? 3 : 4) << ", causal " << c.is_causal << ", window "
       << c.left_window_size << " " << c.right_window_size << ", softcap " << c.softcap << ", scale " << c.scale
       << ", mask " << static_cast<int>(c.mask) << " " << flashonnx::to_string(c.mask_dims) << ", nonpad " << c.nonpad
       << ", sinks " << c.sinks << ", alibi " << c.alibi_rank << ", present " << c.present << ", mean "
       << c.mean_without_keys;
  return text.str();
}

Buffer::Buffer(int64_t bytes) : bytes_(static_cast<size_t>(bytes + 2 * kGuard), kCanary) {}

bool Buffer::canaries_live() const {
  const auto live = [](char c) { return c == kCanary; };
  return std::all_of(bytes_.begin(), bytes_.begin() + kGuard, live) &&
         std::all_of(bytes_.end() - kGuard, bytes_.end(), live);
}

Instance::Instance(const Case& c) : case_(c) {
  const auto shape = [&](int64_t heads, int64_t rows, int64_t columns) {
    return c.rank3 ? Shape{c.batch_size, rows, heads * columns} : Shape{c.batch_size, heads, rows, columns};
  };
  add_input(Input::kQ, c.dtype, shape(c.q_num_heads, c.q_sequence_length, c.head_size));
  add_input(Input::kK, c.dtype, shape(c.kv_num_heads, c.kv_sequence_length, c.head_size));
  add_input(Input::kV, c.dtype, shape(c.kv_num_heads, c.kv_sequence_length, c.v_head_size));
  if (c.mask != MaskKind::kNone) add_input(Input::kAttnMask, mask_dtype(c), c.mask_dims);
  if (c.past_sequence_length > 0) {
    add_input(Input::kPastKey, c.dtype, {c.batch_size, c.kv_num_heads, c.past_sequence_length, c.head_size});
    add_input(Input::kPastValue, c.dtype, {c.batch_size, c.kv_num_heads, c.past_sequence_length, c.v_head_size});
  }
  if (c.nonpad) add_input(Input::kNonpadKvSeqlen, DType::kInt64, {c.batch_size});
  if (c.sinks) add_input(Input::kSinks, DType::kFloat, {c.q_num_heads});
  if (c.alibi_rank == 1) add_input(Input::kAlibiSlopes, DType::kFloat, {c.q_num_heads});
  if (c.alibi_rank == 2) add_input(Input::kAlibiSlopes, DType::kFloat, {c.batch_size, c.q_num_heads});

  Attributes& attributes = node_.attributes;
  attributes.is_causal = c.is_causal;
  attributes.left_window_size = c.left_window_size;
  attributes.right_window_size = c.right_window_size;
  attributes.softcap = c.softcap;
  attributes.mean_without_keys = c.mean_without_keys;
  if (c.scale != 0) attributes.scale = c.scale;
  if (c.rank3) attributes.q_num_heads = c.q_num_heads;
  if (c.rank3) attributes.kv_num_heads = c.kv_num_heads;
  node_.outputs[Output::kY] = node_.outputs[Output::kLse] = true;
  node_.outputs[Output::kPresentKey] = node_.outputs[Output::kPresentValue] = c.present;

  const Status status = make_problem(node_, &problem_);
  if (!status.ok()) throw std::invalid_argument(to_string(c) + ": " + status.message());
  fill();
}

void Instance::add_input(int index, DType dtype, const Shape& dims) {
  node_.inputs[static_cast<size_t>(index)] = TensorDesc{dtype, dims};
}

void Instance::fill() {
  Random random(case_.seed);
  TensorData data;
  inputs_.reserve(contract::kNumInputs);
  outputs_.reserve(contract::kNumOutputs);
  for (size_t i = 0; i < data.inputs.size(); ++i) {
    if (!node_.inputs[i]) continue;
    const TensorDesc& desc = *node_.inputs[i];
    inputs_.emplace_back(elements(desc.dims) * size_of(desc.dtype));
    void* values = inputs_.back().data();
    data.inputs[i] = values;
    if (i == Input::kAttnMask) {
      (case_.mask_in_blocks ? fill_mask_in_blocks : fill_mask)(random, desc.dtype, desc.dims, values);
      continue;
    }
    for (int64_t e = 0; e < elements(desc.dims); ++e) {
      if (i == Input::kNonpadKvSeqlen) {
        static_cast<int64_t*>(values)[e] = random.between(0, case_.kv_sequence_length);
      } else {
        cpu::store(desc.dtype, values, e, i == Input::kAlibiSlopes ? random.uniform(0, 0.5) : random.normal());
      }
    }
  }
  output_dims_.resize(contract::kNumOutputs);
  for (size_t i = 0; i < data.outputs.size(); ++i) {
    const int index = static_cast<int>(i);
    output_dims_[i] = output_dims(problem_, index, case_.rank3 ? 3 : 4);
    outputs_.emplace_back(has_output(index) ? elements(output_dims_[i]) * size_of(output_dtype(case_, index)) : 0);
    if (has_output(index)) data.outputs[i] = outputs_.back().data();
  }
  set_data(data, &problem_);
}

void Instance::spoil_outputs() {
  for (Buffer& buffer : outputs_) std::memset(buffer.data(), 0x7b, static_cast<size_t>(buffer.size()));
}

std::vector<double> Instance::output(int index) const {
  const DType dtype = output_dtype(case_, index);
  Buffer& buffer = outputs_[static_cast<size_t>(index)];
  std::vector<double> values(static_cast<size_t>(buffer.size() / size_of(dtype)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = cpu::load(dtype, buffer.data(), static_cast<int64_t>(i));
  return values;
}

std::string Instance::output_bytes(int index) const {
  Buffer& buffer = outputs_[static_cast<size_t>(index)];
  return std::string(static_cast<const char*>(buffer.data()), static_cast<size_t>(buffer.size()));
}

bool Instance::canaries_live() const {
  const auto live = [](const Buffer& buffer) { return buffer.canaries_live(); };
  return std::all_of(inputs_.begin(), inputs_.end(), live) && std::all_of(outputs_.begin(), outputs_.end(), live);
}

}  // namespace flashonnx::testing
