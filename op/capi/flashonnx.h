/* C interface of flashonnx: run, check and ask about one FlashAttention node. For ctypes, and any language with a C
 * FFI.
 *
 * Tensors and attributes are those of op/contract/flash_attention.json, tensors by their index there. Every function
 * returns 0 if all is well, 1 if the caller's node is at fault, 2 if this machine or build cannot do it; nothing throws
 * or ends the process. Text (a message where it failed, else the answer) goes to `text`, cut to `text_size` bytes with
 * its final zero; `text` may be null. Functions may be called from any thread.
 */
#ifndef FLASHONNX_OP_CAPI_FLASHONNX_H_
#define FLASHONNX_OP_CAPI_FLASHONNX_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FLASHONNX_API __attribute__((visibility("default")))
#else
#define FLASHONNX_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { FLASHONNX_OK = 0, FLASHONNX_INVALID_ARGUMENT = 1, FLASHONNX_UNAVAILABLE = 2 };

typedef struct flashonnx_tensor {
  void* data;             /* not read by functions that only check */
  int32_t dtype;          /* as ONNX's TensorProto.DataType */
  int32_t rank;           /* -1: not known, which only flashonnx_output_shape takes */
  const int64_t* dims;    /* `rank` of them */
  const int64_t* strides; /* in elements; null: contiguous. The last one must be 1, or in attn_mask 0 */
} flashonnx_tensor;

typedef struct flashonnx_attribute {
  const char* name;
  double value;
} flashonnx_attribute;

typedef struct flashonnx_node {
  const flashonnx_tensor* const* inputs; /* null entries, and those past num_inputs, are absent */
  const flashonnx_tensor* const* outputs;
  const flashonnx_attribute* attributes; /* absent ones have their defaults */
  int32_t num_inputs;
  int32_t num_outputs;
  int32_t num_attributes;
} flashonnx_node;

/* As DLPack's DLDeviceType. */
enum { FLASHONNX_CPU = 1, FLASHONNX_CUDA = 2 };

typedef struct flashonnx_device {
  int32_t type;
  int32_t index;              /* which one, of several GPUs */
  int32_t num_threads;        /* CPU: 0 means as many as the machine has */
  int32_t compute_capability; /* flashonnx_plan on CUDA: of a GPU that may be elsewhere, 90 for 9.0; 0: GPU `index` */
  void* stream;               /* CUDA: a cudaStream_t */
} flashonnx_device;

/* Whether the node is one that the op takes. */
FLASHONNX_API int32_t flashonnx_check(const flashonnx_node* node, char* text, size_t text_size);

/* Computes the node's outputs; their tensors have the shapes that flashonnx_output_shape gives. */
FLASHONNX_API int32_t flashonnx_run(const flashonnx_node* node, const flashonnx_device* device, char* text,
                                    size_t text_size);

/* Answers with the kernel that flashonnx_run would take, and why. */
FLASHONNX_API int32_t flashonnx_plan(const flashonnx_node* node, const flashonnx_device* device, char* text,
                                     size_t text_size);

/* The shape of output `index`, whether or not the node has it: *rank dimensions of `dims`, which has room for 4. In the
 * inputs a dimension of -1 is unknown, and any number below is a symbol of the caller's: equal numbers, equal sizes.
 * The answer may hold them too; *rank is -1 where the inputs do not tell it. */
FLASHONNX_API int32_t flashonnx_output_shape(const flashonnx_node* node, int32_t index, int64_t* dims, int32_t* rank,
                                             char* text, size_t text_size);

/* Does at least `flops` floating-point operations, two a multiply-add, on floats that stay in registers, on num_threads
 * threads of the CPU (0: all); *done of them. Timed, it tells the most that a kernel of float could reach here. */
FLASHONNX_API int32_t flashonnx_multiply_add(int64_t flops, int32_t num_threads, int64_t* done, char* text,
                                             size_t text_size);

/* Answers with a JSON object: version, compiler, cpu_kernels (built), cpu_kernels_supported (by this CPU), cpu_kernel
 * (the one in use), cuda. */
FLASHONNX_API int32_t flashonnx_build_info(char* text, size_t text_size);

#ifdef __cplusplus
}
#endif

#endif
