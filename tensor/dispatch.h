/* The compute path: which kernels this process multiplies with, chosen once by CPU and option.
 *
 * A path is named by the precision of products with frozen weights and by the instruction set: "fp32/avx512",
 * "fp32/avx2", "fp32/plain", "bf16/avx512bf16". The path is part of a run's bits (docs/design.md, "The same bits"). */
#ifndef GRAFT_TENSOR_DISPATCH_H
#define GRAFT_TENSOR_DISPATCH_H

#include <stdbool.h>

/* Choose kernels for this CPU. Call it once, before any other function of tensor/ and before any other thread starts.
 *   compute  NULL or "auto"   bf16 where the CPU says that it has AVX512-BF16 and is not Intel's (slower there), else
 *            fp32 "bf16"           bf16, also where a hypervisor hides the instruction but it works: it is tried
 *            "fp32"           the best fp32 path of this CPU
 *            "fp32/avx512", "fp32/avx2", "fp32/plain" (or without "fp32/")   that fp32 path
 *   returns  false where this CPU or build lacks the path; the choice stays what it was */
#define COMPUTE_CHOICES "auto bf16 fp32 fp32/avx512 fp32/avx2 fp32/plain"
bool dispatch_init(const char *compute);

/* The name of the path, as checkpoints record it. Valid after dispatch_init. */
const char *dispatch_path(void);
bool dispatch_is_bf16(void); /* frozen weights are multiplied in bf16 */

#endif
