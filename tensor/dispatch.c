/* Choice of kernels: by what CPUID says, by the path that the caller names, and for bf16 by trying the instruction.
 *
 * What always holds: `kernels` is a complete fp32 table. `bf16_kernels` is NULL on fp32 paths; on the bf16 path it
 * serves only frozen weights that need not be exact, and `kernels` does the rest. */
#include "tensor/dispatch.h"

#include "tensor/block.h"
#include "tensor/latent.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

const Kernels *kernels = &kernels_plain;
const GemmKernels *bf16_kernels;

static char path[96];

/* The best fp32 kernels of this CPU, or those of that name; NULL when it has none. */
static const Kernels *find_kernels(const char *name)
{
#if defined __x86_64__
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && (!name || !strcmp(name, "avx512"))) return &kernels_avx512;
    if (avx2 && (!name || !strcmp(name, "avx2"))) return &kernels_avx2;
#endif
    return !name || !strcmp(name, "plain") ? &kernels_plain : NULL;
}

#if defined __x86_64__
static sigjmp_buf refusal;

static void refuse(int number)
{
    (void)number;
    siglongjmp(refusal, 1);
}

/* Hypervisors hide instructions that work, so multiply 1 x 2 by 2 x 1 and see. Before any other thread starts. */
static bool bf16_works(void)
{
    static const uint16_t three[2] = {0x4040, 0x4040};
    static float panel[PANEL_FLOATS] __attribute__((aligned(64)));
    struct sigaction trap = {.sa_handler = refuse}, before;
    float x[2] = {1, 2}, y = 0, packed[(1 + ROW_TILE) * SHORT_STRIDE] = {0};
    Weight W = {.dtype = DTYPE_BF16, .rows = 1, .cols = 2, .data = three};
    if (sigaction(SIGILL, &trap, &before)) return false;
    if (sigsetjmp(refusal, 1) == 0) {
        gemm_kernels_bf16.pack_rows(1, 2, SHORT_STRIDE, 1, rows_of(x, 2), packed);
        gemm_kernels_bf16.nt_transposed(1, rows_of(&y, 1), false, packed, &W, 0, 1, 0, 2, NULL, panel, (Prefetch){0});
    }
    sigaction(SIGILL, &before, NULL);
    return *(volatile float *)&y == 9;
}

/* asked: by name, so that a hidden instruction is tried. Otherwise only where bf16 is faster: Intel's cores begin one
 * VDPBF16PS every other cycle, but two fp32 multiply-adds in every cycle (measured on Emerald Rapids: 44 against 88 G
 * multiply-adds/s). */
static const GemmKernels *find_bf16(bool asked)
{
    if (find_kernels(NULL) != &kernels_avx512) return NULL;
    bool has = __builtin_cpu_supports("avx512bf16");
    return (asked ? has || bf16_works() : has && !__builtin_cpu_is("intel")) ? &gemm_kernels_bf16 : NULL;
}
#else
static const GemmKernels *find_bf16(bool asked)
{
    (void)asked;
    return NULL;
}
#endif

bool dispatch_init(const char *compute)
{
    bool any = !compute || !strcmp(compute, "auto"), bf16 = !any && !strcmp(compute, "bf16");
    const char *name = any || bf16 || !strcmp(compute, "fp32") ? NULL
                       : strncmp(compute, "fp32/", 5)          ? compute
                                                               : compute + 5;
    const GemmKernels *found_bf16 = any || bf16 ? find_bf16(bf16) : NULL;
    const Kernels *found = find_kernels(name);
    if (!found || (bf16 && !found_bf16)) return false;
    kernels = found;
    bf16_kernels = found_bf16;
    snprintf(path, sizeof path, "%s%s", found_bf16 ? "bf16/" : "fp32/", found_bf16 ? "avx512bf16" : found->name);
    return true;
}

const char *dispatch_path(void) { return path; }

bool dispatch_is_bf16(void) { return bf16_kernels != NULL; }

#if defined __x86_64__
const LatentKernels *latent_kernels(bool bf16) { return bf16_kernels && bf16 ? &latent_kernels_bf16 : kernels->latent; }
const BlockKernels *block_kernels(bool bf16) { return bf16_kernels && bf16 ? &block_kernels_bf16 : kernels->block; }
#else
const LatentKernels *latent_kernels(bool bf16) { return (void)bf16, kernels->latent; }
const BlockKernels *block_kernels(bool bf16) { return (void)bf16, kernels->block; }
#endif
