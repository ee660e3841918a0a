// How the one block of device memory that a plan asks for is divided, and where K and V then lie.
#pragma once

#include "op/core/problem.h"
#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {

struct Workspace {
  int64_t scratch = 0;  // offset of the kernel's own part: tile counter or partial results
  int64_t key = 0;      // offsets of past and new rows joined, where the caller asked for no present_key
  int64_t value = 0;
  int64_t mask = 0;  // offset of the copy of attn_mask
  int64_t lse = 0;   // offset of lse
  int64_t bytes = 0;

  bool copies_mask = false;  // attn_mask is to be written to `aligned_mask`, as the kernel cannot read it where it is
  Mask aligned_mask;         // whose rows start at multiples of 16 bytes; without data

  bool keeps_lse = false;  // for mean_without_keys, where the caller does not ask for it

  bool appends = false;               // past and new rows are to be written to `present_key` and `present_value`,
  Output present_key, present_value;  // whose data are null where they lie in the workspace
  Input k, v;                         // total_sequence_length rows, as the kernels read them; null data likewise
};

Workspace workspace(const Problem& problem, const Plan& plan);

// Elements of one row of attn_mask's copy.
int64_t aligned_mask_columns(const Problem& problem);

// Of one query row's partial result, with its statistics.
int64_t partial_row_bytes(const Problem& problem);

}  // namespace flashonnx::cuda
