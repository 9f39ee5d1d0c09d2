/* One element of a product at a time, in the order that every kernel must keep. */
#include "tests/support/chains.h"

#include "base/rng.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const paths[N_PATHS] = {"plain", "avx2", "avx512", "bf16"};

bool has_path(size_t p)
{
    static bool printed[N_PATHS];
    bool has = dispatch_init(paths[p]);
    if (!has && !printed[p]) print_message("           skipped: this CPU has no %s\n", paths[p]);
    printed[p] = true;
    return has;
}

float *floats(size_t n)
{
    float *x = NULL;
    assert_int_equal(posix_memalign((void **)&x, 64, (n + 16) * sizeof *x), 0);
    return x;
}

float *normal(uint64_t key, size_t n)
{
    float *x = floats(n);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_normal(key, i);
    return x;
}

float *exact_normal(uint64_t key, size_t n)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_normal(key, i);
    return x;
}

/* A subnormal number becomes zero. */
static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

float rounded(float x) { return bf16_to_f32(bf16_from_f32(flushed(x))); }

/* One lane of VDPBF16PS: two fused multiply-adds, each rounded to nearest, the upper half of the bf16 pair first;
 * subnormal inputs and results are zeros. Source: Intel SDM vol. 2, VDPBF16PS, operation; the order of the two was
 * found by trying six on 4 million random bf16 pairs, a quarter of them near the smallest number: only this one
 * differed nowhere. */
static float add_bf16_pair(float sum, const float x[2], const float y[2])
{
    for (int i = 1; i >= 0; i--) sum = flushed(fmaf(flushed(x[i]), flushed(y[i]), flushed(sum)));
    return sum;
}

float chain_bf16(size_t begin, size_t end, const float *x, float s, const float *w, size_t step)
{
    float sum = 0;
    for (size_t k = begin; k < end; k += 2) {
        float a[2] = {rounded(x[k] * s)}, b[2] = {rounded(w[k * step])};
        if (k + 1 < end) a[1] = rounded(x[k + 1] * s), b[1] = rounded(w[(k + 1) * step]);
        sum = add_bf16_pair(sum, a, b);
    }
    return sum;
}

float chain(size_t begin, size_t end, const float *x, float s, const float *w, size_t step)
{
    float sum = 0;
    for (size_t k = begin; k < end; k++) sum = fmaf(x[k] * s, w[k * step], sum);
    return sum;
}

void assert_same(const char *what, const float *got, const float *want, size_t n)
{
    bool exact = strncmp(dispatch_path(), "fp32/plain", 10) != 0;
    for (size_t i = 0; i < n; i++) {
        /* the plain path rounds products, too: at most 2 n 2^-24 sum|x w| apart, here well below 1e-4 of the largest
         * element */
        bool same = exact ? !memcmp(got + i, want + i, 4) : fabsf(got[i] - want[i]) <= 1e-4f * (10 + fabsf(want[i]));
        if (!same)
            fail_msg("%s, %s: element %zu is %.9g, not %.9g", dispatch_path(), what, i, (double)got[i],
                     (double)want[i]);
    }
}

void assert_element(const char *what, size_t i, float got, float want, float size)
{
    bool exact = strncmp(dispatch_path(), "fp32/plain", 10) != 0;
    if (exact ? memcmp(&got, &want, sizeof got) != 0 : !(fabsf(got - want) <= 1e-5f * (1 + size)))
        fail_msg("%s, %s: element %zu is %.9g, not %.9g", dispatch_path(), what, i, (double)got, (double)want);
}
