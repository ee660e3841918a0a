// The shared cases of tests/cases/nodes.json, and what only C++ can see: strides, limits, unknown ranks.
#include "op/core/check.h"

#include <gtest/gtest.h>

#include "flashonnx/node_cases.h"

namespace flashonnx {
namespace {

using testing::IsSubstring;

class AcceptedNode : public testing::TestWithParam<NodeCase> {};

TEST_P(AcceptedNode, GivesAProblemWithTheOutputsShapes) {
  const NodeCase& c = GetParam();
  Problem problem;
  const Status status = make_problem(c.node, &problem);
  ASSERT_TRUE(status.ok()) << status.message();
  const int q_rank = static_cast<int>(c.node.inputs[contract::Input::kQ]->dims.size());
  for (const auto& [output, shape] : c.shapes) EXPECT_EQ(output_dims(problem, output, q_rank), shape) << output;
}

TEST_P(AcceptedNode, InfersTheSameShapes) {
  const NodeCase& c = GetParam();
  Sizes sizes;
  ASSERT_TRUE(check_node(c.node, &sizes).ok());
  for (const auto& [output, shape] : c.shapes) EXPECT_EQ(infer_output(c.node, sizes, output).dims, shape) << output;
}

INSTANTIATE_TEST_SUITE_P(Cases, AcceptedNode, testing::ValuesIn(accepted_nodes()), case_name);

class SymbolicNode : public testing::TestWithParam<NodeCase> {};

TEST_P(SymbolicNode, KeepsSymbols) {
  const NodeCase& c = GetParam();
  Sizes sizes;
  const Status status = check_node(c.node, &sizes);
  ASSERT_TRUE(status.ok()) << status.message();
  for (const auto& [output, shape] : c.shapes) EXPECT_EQ(infer_output(c.node, sizes, output).dims, shape) << output;
}

TEST_P(SymbolicNode, IsNoProblemYet) {
  Problem problem;
  EXPECT_PRED_FORMAT2(IsSubstring, "every dimension must be known", make_problem(GetParam().node, &problem).message());
}

INSTANTIATE_TEST_SUITE_P(Cases, SymbolicNode, testing::ValuesIn(symbolic_nodes()), case_name);

class RefusedNode : public testing::TestWithParam<NodeCase> {};

TEST_P(RefusedNode, SaysWhatIsWrongAndWhatIsAllowed) {
  Problem problem;
  EXPECT_PRED_FORMAT2(IsSubstring, GetParam().error, make_problem(GetParam().node, &problem).message());
}

INSTANTIATE_TEST_SUITE_P(Cases, RefusedNode, testing::ValuesIn(refused_nodes()), case_name);

class RefusedValues : public testing::TestWithParam<NodeCase> {};

TEST_P(RefusedValues, PassesTheShapesAndFailsTheData) {
  Problem problem;
  const Status status = make_problem(GetParam().node, &problem);
  ASSERT_TRUE(status.ok()) << status.message();
  problem.nonpad_kv_seqlen = GetParam().nonpad.data();
  EXPECT_PRED_FORMAT2(IsSubstring, GetParam().error, check_values(problem).message());
}

INSTANTIATE_TEST_SUITE_P(Cases, RefusedValues, testing::ValuesIn(refused_value_nodes()), case_name);

Node rank4_node() { return accepted_nodes().front().node; }

Problem problem_of(const Node& node) {
  Problem problem;
  const Status status = make_problem(node, &problem);
  EXPECT_TRUE(status.ok()) << status.message();
  return problem;
}

TensorDesc floats(Shape dims) { return {DType::kFloat, std::move(dims)}; }

TEST(Problem, HasHeadsBeforeRowsAtRank4) {
  const Problem p = problem_of(rank4_node());  // Q (2, 4, 3, 8)
  EXPECT_EQ(p.q.batch_stride, 4 * 3 * 8);
  EXPECT_EQ(p.q.head_stride, 3 * 8);
  EXPECT_EQ(p.q.row_stride, 8);
}

TEST(Problem, HasRowsBeforeHeadsAtRank3) {
  const Problem p = problem_of(accepted_nodes()[1].node);  // V (2, 5, 2 * 6)
  EXPECT_EQ(p.v.batch_stride, 5 * 12);
  EXPECT_EQ(p.v.head_stride, 6);
  EXPECT_EQ(p.v.row_stride, 12);
}

TEST(Problem, BroadcastsTheMaskByZeroStrides) {
  Node node = rank4_node();
  node.inputs[contract::Input::kAttnMask] = TensorDesc{DType::kBool, {2, 1, 1, 5}};
  const Mask mask = problem_of(node).mask;
  EXPECT_EQ(mask.batch_stride, 5);
  EXPECT_EQ(mask.head_stride, 0);
  EXPECT_EQ(mask.row_stride, 0);
  EXPECT_EQ(mask.key_stride, 1);
  EXPECT_EQ(mask.length, 5);
}

TEST(Problem, TakesOneMaskValueForEveryKey) {
  Node node = rank4_node();
  node.inputs[contract::Input::kAttnMask] = TensorDesc{DType::kBool, {3, 1}};
  const Mask mask = problem_of(node).mask;
  EXPECT_EQ(mask.row_stride, 1);
  EXPECT_EQ(mask.key_stride, 0);
  EXPECT_EQ(mask.length, 5);
}

TEST(Problem, LeavesKeysBeyondAShortMaskOut) {
  Node node = rank4_node();
  node.inputs[contract::Input::kAttnMask] = TensorDesc{DType::kBool, {3, 4}};
  EXPECT_EQ(problem_of(node).mask.length, 4);
}

TEST(Problem, ScalesByTheRootOfTheHeadSizeUnlessTold) {
  Node node = rank4_node();
  EXPECT_DOUBLE_EQ(problem_of(node).scale, 1 / std::sqrt(8.0));
  node.attributes.scale = 0.25;
  EXPECT_DOUBLE_EQ(problem_of(node).scale, 0.25);
}

TEST(Problem, RefusesMoreElementsThanAnyOffsetCanReach) {
  Node node = rank4_node();
  const int64_t huge = contract::kMaxSize;
  node.inputs[contract::Input::kQ] = floats({0, huge, huge, huge});
  node.inputs[contract::Input::kK] = floats({0, 1, 5, huge});
  node.inputs[contract::Input::kV] = floats({0, 1, 5, 6});
  Problem problem;
  EXPECT_PRED_FORMAT2(IsSubstring, "allowed: at most 2^59 elements", make_problem(node, &problem).message());
}

TEST(Problem, RefusesSizesBeyondTheLimit) {
  Node node = rank4_node();
  node.inputs[contract::Input::kQ] = floats({2, 4, contract::kMaxSize + 1, 8});
  Problem problem;
  EXPECT_PRED_FORMAT2(IsSubstring, "q_sequence_length is 2147483648; allowed: 0 to",
                      make_problem(node, &problem).message());
}

TEST(Problem, RefusesATotalLengthBeyondTheLimit) {
  Node node = rank4_node();
  node.inputs[contract::Input::kPastKey] = floats({2, 2, contract::kMaxSize, 8});
  node.inputs[contract::Input::kPastValue] = floats({2, 2, contract::kMaxSize, 6});
  Problem problem;
  EXPECT_PRED_FORMAT2(IsSubstring, "total_sequence_length is 2147483652", make_problem(node, &problem).message());
}

TEST(Inference, TakesTheRankOfYFromTheAttributesWhereQHasNone) {
  Node node = rank4_node();
  node.inputs[contract::Input::kQ]->has_shape = false;
  node.inputs[contract::Input::kQ]->dims.clear();
  Sizes sizes;
  ASSERT_TRUE(check_node(node, &sizes).ok());
  EXPECT_EQ(infer_output(node, sizes, contract::Output::kY).dims, (Shape{2, kUnknownSize, kUnknownSize, 6}));
  node.attributes.q_num_heads = 4;
  EXPECT_EQ(infer_output(node, sizes, contract::Output::kY).dims.size(), 3u);
  const TensorDesc lse = infer_output(node, sizes, contract::Output::kLse);
  EXPECT_EQ(lse.dims, (Shape{2, kUnknownSize, kUnknownSize}));
  EXPECT_EQ(lse.dtype, DType::kFloat);
}

TEST(Inference, TakesTheTypeFromAnyTensorOfThatType) {
  Node node = rank4_node();
  node.inputs[contract::Input::kQ]->dtype = DType::kUndefined;
  Sizes sizes;
  ASSERT_TRUE(check_node(node, &sizes).ok());
  EXPECT_EQ(infer_output(node, sizes, contract::Output::kY).dtype, DType::kFloat);
}

}  // namespace
}  // namespace flashonnx
