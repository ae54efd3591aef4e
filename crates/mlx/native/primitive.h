// The generic CPU primitive, with a C signature beside mlx-c.
//
// MLX keeps the graph, the order and the memory; the arithmetic is a C function of the caller's. Nothing here knows what
// a kernel computes. Types of mlx-c are used as they are (`mlx_vector_array`, `mlx_stream`, `mlx_dtype`).

#ifndef OLLMLX_PRIMITIVE_H
#define OLLMLX_PRIMITIVE_H

#include <stddef.h>
#include <stdint.h>

#include "mlx/c/array.h"
#include "mlx/c/stream.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

// One buffer as a kernel sees it. Strides count elements and may be zero or negative. `data` points at the first element
// and is null for an input whose buffer an output took over.
typedef struct ollmlx_buffer_ {
  void* data;
  const int32_t* shape;
  const int64_t* strides;
  size_t ndim;
  size_t size;
  mlx_dtype dtype;
} ollmlx_buffer;

// Runs on the thread of the CPU stream. It cannot fail and must not throw: MLX 0.32.2 loses count of a stream's tasks when
// one throws while more are being added, and waits for ever after the tenth.
typedef void (*ollmlx_kernel)(
    const void* payload,
    const ollmlx_buffer* inputs,
    size_t inputs_num,
    const ollmlx_buffer* outputs,
    size_t outputs_num);

// What an output starts as.
typedef enum ollmlx_origin_ {
  OLLMLX_FRESH, // uninitialised memory
  OLLMLX_DONATED, // the contents of `input`: its own buffer where nobody else holds it, else a copy
  OLLMLX_SHARED // the buffer of `input`, whoever else holds it; for caches that only grow
} ollmlx_origin;

// Donated and shared outputs have the shape and the dtype of their input, and are row contiguous.
typedef struct ollmlx_output_ {
  const int* shape;
  size_t ndim;
  mlx_dtype dtype;
  ollmlx_origin origin;
  size_t input;
} ollmlx_output;

// Adds one call of `kernel` to the graph. `drop(payload)` runs exactly once, also when this fails, on any thread.
int ollmlx_cpu_primitive(
    mlx_vector_array* res,
    const char* name,
    const mlx_vector_array inputs,
    const ollmlx_output* outputs,
    size_t outputs_num,
    ollmlx_kernel kernel,
    void* payload,
    void (*drop)(void*),
    const mlx_stream s);

// An array over memory of the caller's, without a copy where this MLX can. At least 8 readable bytes must lie before
// `data`, and the memory must be writable: MLX may reuse it for a result once nothing else refers to it.
// `drop(payload)` runs exactly once, when the memory is no longer needed. On CUDA the bytes are read when the array is
// computed, straight into the device's memory.
int ollmlx_array_over(
    mlx_array* res,
    void* data,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype,
    void* payload,
    void (*drop)(void*));

// The memory of a dispatched array with a holder of its own: MLX takes it for held by nobody else, so that what may
// write in place does, although work under way still reads. Only for writing where nobody reads. An array that has not
// been dispatched is returned as it is.
int ollmlx_array_sole(mlx_array* res, const mlx_array a);

// The contract between this library and the program that opens it; changes whenever something above changes. What is
// only added is missed by its name.
int ollmlx_native_version(void);

#ifdef __cplusplus
}
#endif

#endif
