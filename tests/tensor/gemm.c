/* Products against a scalar chain of fmaf. The avx512 and avx2 paths must give its bits, plain (two roundings) nearly
 * its value, and bf16 the bits of a chain of bf16 pairs. A path that this CPU lacks is skipped with a message. */
#include "tests/support/chains.h"

#include "base/rng.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, MAX_FUSED_R = 64 }; /* words of a block; the largest r of a fused LoRA */

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};

/* A random weight. Its data and scales end where their allocations end. They lie one byte off any alignment, except the
 * data of weights 64, 128, ... wide. */
typedef struct {
    Weight w;
    char *data, *scale; /* allocated */
    float *wide;        /* the same as floats, by weight_read */
    float *codes;       /* FP8 without its factors */
} TestWeight;

static TestWeight test_weight(DType dtype, size_t rows, size_t cols)
{
    size_t bytes = dtype_bytes(dtype), off = cols % 64 > 0, n = rows * cols,
           n_scales = (rows + 127) / 128 * ((cols + 127) / 128);
    TestWeight t = {.data = malloc(n * bytes + off),
                    .scale = malloc(n_scales * 4 + 1),
                    .wide = floats(n),
                    .codes = floats(n)};
    for (size_t i = 0; i < n; i++) {
        float x = 4 * rng_uniform(rows * 1000 + cols, i) - 2;
        uint16_t half = bf16_from_f32(x);
        uint8_t byte = f8_e4m3_from_f32(x);
        memcpy(t.data + off + i * bytes,
               dtype == DTYPE_F32    ? (void *)&x
               : dtype == DTYPE_BF16 ? (void *)&half
                                     : &byte,
               bytes);
    }
    if (dtype == DTYPE_F8_E4M3) dtype_widen(n, t.codes, dtype, t.data + off);
    for (size_t i = 0; i < n_scales; i++) {
        float scale = 0.5f + rng_uniform(77, i);
        memcpy(t.scale + 1 + 4 * i, &scale, 4);
    }
    t.w = (Weight){.dtype = dtype, .rows = rows, .cols = cols, .data = t.data + off, .scale = t.scale + 1};
    for (size_t r = 0; r < rows; r++) weight_read(&t.w, r, 0, cols, t.wide + r * cols);
    return t;
}

static void drop(TestWeight *t)
{
    free(t->data);
    free(t->scale);
    free(t->wide);
    free(t->codes);
}

/* ---- what kernel_gemm.h promises, element by element -------------------------------------------------- */

/* FP8 codes are multiplied as they are; a block's factor meets the sum over the block. w: codes widened. */
static float fp8_chain(size_t begin, size_t end, const float *x, float s, const float *w, size_t step,
                       const char *scales, size_t scale_step)
{
    float sum = 0;
    for (size_t at = begin; at < end; at += WEIGHT_BLOCK) {
        float part = chain_bf16(at, at + WEIGHT_BLOCK < end ? at + WEIGHT_BLOCK : end, x, s, w, step), factor;
        memcpy(&factor, scales + at / WEIGHT_BLOCK * scale_step * 4, 4);
        sum = at == begin ? part * factor : fmaf(part, factor, sum);
    }
    return sum;
}

/* The chain of LoRA continues from `sum`. Columns that the LoRA does not reach meet zeros. */
static float with_lora(bool transposed, const GemmLora *lora, size_t t, size_t j, size_t width, float sum)
{
    bool reached = !transposed || (j >= lora->first && j < lora->first + lora->rows);
    for (size_t p = 0; p < lora->r; p++) {
        float u = lora->u.data[(lora->u.index ? lora->u.index[t] : t) * lora->u.stride + p] * lora->s;
        float m = !reached ? 0 : transposed ? lora->M[(j - lora->first) * lora->r + p] : lora->M[p * width + j];
        sum = fmaf(u, m, sum);
    }
    return sum;
}

/* A LoRA that is not fused is a product of its own: its sum is added to y. */
static void reference_of_separate_lora(bool transposed, size_t T, Rows y, const GemmLora *lora, size_t width)
{
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < width; j++) {
            if (transposed && (j < lora->first || j >= lora->first + lora->rows)) continue;
            y.data[(y.index ? y.index[t] : t) * y.stride + j] += with_lora(transposed, lora, t, j, width, 0);
        }
}

static void reference(bool transposed, size_t T, Rows y, bool add, float s, Rows x, const TestWeight *w,
                      const GemmLora *lora)
{
    size_t inner = transposed ? w->w.cols : w->w.rows, width = transposed ? w->w.rows : w->w.cols;
    bool bf16 = !strncmp(dispatch_path(), "bf16/", 5) && !weight_is_exact(&w->w);
    size_t block = bf16 ? 2 * BLOCK : BLOCK;
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < width; j++) {
            float *out = y.data + (y.index ? y.index[t] : t) * y.stride + j;
            const float *in = x.data + (x.index ? x.index[t] : t) * x.stride;
            size_t start = transposed ? j * w->w.cols : j, step = transposed ? 1 : w->w.cols,
                   blocks = (w->w.cols + 127) / 128;
            const char *scales = (const char *)w->w.scale + (transposed ? j / 128 * blocks : j / 128) * 4;
            for (size_t at = 0; at < inner; at += block) {
                size_t end = at + block < inner ? at + block : inner;
                bool codes = bf16 && w->w.dtype == DTYPE_F8_E4M3,
                     fused = lora && lora->r <= MAX_FUSED_R && end == inner;
                float sum = !bf16   ? chain(at, end, in, s, w->wide + start, step)
                            : codes ? fp8_chain(at, end, in, s, w->codes + start, step, scales, transposed ? 1 : blocks)
                                    : chain_bf16(at, end, in, s, w->wide + start, step);
                if (fused)
                    sum = codes ? sum + with_lora(transposed, lora, t, j, width, 0)
                                : with_lora(transposed, lora, t, j, width, sum);
                *out = add || at ? *out + sum : sum;
            }
        }
    if (lora && lora->r > MAX_FUSED_R) reference_of_separate_lora(transposed, T, y, lora, width);
}

static void product(bool transposed, size_t T, Rows y, bool add, float s, Rows x, const Weight *w, const GemmLora *lora)
{
    float *scratch = floats(gemm_scratch(T, transposed ? w->cols : w->rows, lora ? lora->r : 0));
    (transposed ? gemm_nt : gemm_nn)(T, y, add, s, x, w, lora, scratch);
    free(scratch);
}

/* A random LoRA; in nt some columns of y are outside of it. */
typedef struct {
    GemmLora lora;
    float *M, *u; /* allocated */
} TestLora;

static TestLora test_lora(bool transposed, size_t T, size_t width, size_t r)
{
    size_t first = transposed ? width / 5 : 0, rows = transposed ? width - first - width / 7 : 0;
    TestLora t = {.M = normal(11, r * (transposed ? rows : width)), .u = normal(12, T * r)};
    t.lora = (GemmLora){r, t.M, first, rows, rows_of(t.u, r), 0.6f};
    return t;
}

static void drop_lora(TestLora *t)
{
    free(t->M);
    free(t->u);
}

typedef struct {
    bool transposed;
    DType dtype;
    size_t T, inner, width;
    bool add, indexed;
    size_t r; /* of a LoRA; 0: none */
} Case;

/* Gathered, scaled, added and scattered, into a y whose other rows must not change. */
static void check(Case c)
{
    TestWeight w = c.transposed ? test_weight(c.dtype, c.width, c.inner) : test_weight(c.dtype, c.inner, c.width);
    TestLora test = test_lora(c.transposed, c.T, c.width, c.r);
    size_t in_rows = c.T + 5, out_rows = c.T + 3, y_stride = c.width + 2, x_stride = c.inner + 1;
    uint32_t *from = malloc(c.T * 4), *to = malloc(c.T * 4);
    for (size_t t = 0; t < c.T; t++) {
        from[t] = (uint32_t)rng_below(5, t, in_rows);
        to[t] = (uint32_t)((t * 2 + 1) % (c.T | 1)); /* odd modulus: a permutation of 0 .. T|1 - 1 */
    }
    float *x = normal(3, in_rows * x_stride), *y = normal(4, out_rows * y_stride), *want = floats(out_rows * y_stride);
    memcpy(want, y, out_rows * y_stride * 4);
    Rows xs = {x, x_stride, c.indexed ? from : NULL}, ys = {y, y_stride, c.indexed ? to : NULL}, want_rows = ys;
    want_rows.data = want;
    product(c.transposed, c.T, ys, c.add, 0.7f, xs, &w.w, c.r ? &test.lora : NULL);
    reference(c.transposed, c.T, want_rows, c.add, 0.7f, xs, &w, c.r ? &test.lora : NULL);
    char what[120];
    snprintf(what, sizeof what, "%s %s T %zu inner %zu width %zu add %d indexed %d r %zu", c.transposed ? "nt" : "nn",
             dtype_name(c.dtype), c.T, c.inner, c.width, c.add, c.indexed, c.r);
    assert_same(what, y, want, out_rows * y_stride);
    free(from), free(to), free(x), free(y), free(want);
    drop_lora(&test);
    drop(&w);
}

static void every_size_gives_the_bits_of_a_scalar_chain(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 63, 64, 65, 95, 97, 129, 193, 200, 385};
    static const size_t inners[] = {1, 3, 16, 17, 63, 64, 65, 127, 129, 511, 513, 640, 1023, 1025, 2050};
    size_t n_widths = sizeof widths / sizeof *widths, n_inners = sizeof inners / sizeof *inners, i = 0;
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t T = 1; T <= 70; T++)
            for (size_t q = 0; q < 4; q++, i++) /* strides prime to the lengths: all combinations come up */
                check((Case){i % 2, dtypes[i / 2 % 3], T, inners[i * 5 % n_inners], widths[i * 7 % n_widths], i / 3 % 2,
                             i / 5 % 2, 0});
    }
}

static void every_kind_of_weight_and_edge_meets_every_direction(void **state)
{
    (void)state;
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t i = 0; i < 24; i++) {
            bool nt = i % 2, add = i / 6 % 2, indexed = i / 12;
            DType dtype = dtypes[i / 2 % 3];
            check((Case){nt, dtype, 37, 300, 201, add, indexed, 0});
            check((Case){nt, dtype, 200, 130, 8, add, indexed, 0}); /* few columns, more rows than one packing */
            check((Case){nt, dtype, 25, 8, 333, add, indexed, 0});  /* short */
            if (i < 6) check((Case){nt, dtype, 9, 64, 1500, false, true, 0}); /* short, more columns than a panel */
            /* many rows: W is transposed */
            check((Case){true, dtypes[i % 3], 256 + i, 1312 + i, 210 - i, add, indexed, 0});
            for (size_t T = 1; T <= 9; T++) /* few rows */
                check((Case){true, dtypes[i % 3], T, i / 3 % 2 ? 1312 : 2112, add ? 160 : 75, nt, indexed, 0});
        }
    }
}

static void lora_joins_every_kind_of_product(void **state)
{
    (void)state;
    static const size_t ranks[] = {1, 2, 8, 16, 17, 64, 65, 100}, Ts[] = {1, 5, 8, 9, 17, 50, 200, 260};
    static const size_t widths[] = {1, 17, 96, 97, 200, 385},
                        inners[] = {1, 17, 64, 65, 127, 129, 512, 600, 1024, 1100};
    for (size_t p = 0, i = 0; p < N_PATHS; p++)
        for (size_t r = 0; r < sizeof ranks / sizeof *ranks && has_path(p); r++)
            for (size_t t = 0; t < sizeof Ts / sizeof *Ts; t++)
                for (size_t q = 0; q < 6; q++, i++)
                    check((Case){q % 2, dtypes[q / 2], Ts[t], inners[i * 7 % 10], widths[i * 5 % 6], i / 6 % 2,
                                 i / 12 % 2, ranks[r]});
}

static void a_row_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    enum { T = 67, INNER = 700 };
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t i = 0; i < 4; i++) {
            bool transposed = i % 2;
            size_t width = i / 2 ? 150 : 16;
            TestWeight w = transposed ? test_weight(DTYPE_BF16, width, INNER) : test_weight(DTYPE_BF16, INNER, width);
            float *x = normal(8, T * INNER), *y = floats(T * width), *alone = floats(width);
            TestLora test = test_lora(transposed, T, width, 8);
            GemmLora of_row = test.lora;
            product(transposed, T, rows_of(y, width), false, 1, rows_of(x, INNER), &w.w, &test.lora);
            for (size_t t = 0; t < T; t++) {
                of_row.u.data = test.u + t * 8;
                product(transposed, 1, rows_of(alone, width), false, 1, rows_of(x + t * INNER, INNER), &w.w, &of_row);
                assert_memory_equal(alone, y + t * width, width * 4);
            }
            drop_lora(&test);
            free(x), free(y), free(alone);
            drop(&w);
        }
    }
}

/* Sums and factors around the smallest numbers, and beyond the largest. */
static void tiny_and_huge_numbers_follow_the_instruction(void **state)
{
    (void)state;
    enum { T = 19, INNER = 77, WIDTH = 130 };
    static const float sizes[] = {0x1p-126f, 0x1p-64f, 0x1p-62f, 0x1p63f};
    if (!has_path(N_PATHS - 1)) skip();
    for (size_t i = 0; i < 8; i++) {
        bool transposed = i % 2;
        TestWeight w = transposed ? test_weight(DTYPE_BF16, WIDTH, INNER) : test_weight(DTYPE_BF16, INNER, WIDTH);
        float *x = normal(i, T * INNER), *y = floats(T * WIDTH), *want = floats(T * WIDTH);
        for (size_t k = 0; k < WIDTH * INNER; k++) {
            uint16_t half = bf16_from_f32(w.wide[k] * (i / 2 ? sizes[i / 2] : 1));
            memcpy(w.data + 1 + 2 * k, &half, 2);
            w.wide[k] = bf16_to_f32(half);
        }
        for (size_t k = 0; k < T * INNER; k++) x[k] *= sizes[i / 2];
        product(transposed, T, rows_of(y, WIDTH), false, 1, rows_of(x, INNER), &w.w, NULL);
        reference(transposed, T, rows_of(want, WIDTH), false, 1, rows_of(x, INNER), &w, NULL);
        assert_same("tiny and huge", y, want, T * WIDTH);
        free(x), free(y), free(want);
        drop(&w);
    }
}

static void an_exact_weight_is_multiplied_in_fp32_on_every_path(void **state)
{
    (void)state;
    enum { T = 21, INNER = 1100, WIDTH = 140 };
    if (!has_path(N_PATHS - 1)) skip();
    for (size_t i = 0; i < 4; i++) {
        bool transposed = i % 2;
        DType dtype = i / 2 ? DTYPE_F8_E4M3 : DTYPE_BF16;
        TestWeight w = transposed ? test_weight(dtype, WIDTH, INNER) : test_weight(dtype, INNER, WIDTH);
        float *x = normal(i, T * INNER), *y[3];
        for (size_t k = 0; k < 3; k++) { /* bf16; bf16, exact; fp32 */
            y[k] = floats(T * WIDTH);
            w.w.exact = k == 1;
            dispatch_init(k < 2 ? "bf16" : "fp32");
            product(transposed, T, rows_of(y[k], WIDTH), false, 1, rows_of(x, INNER), &w.w, NULL);
        }
        assert_memory_equal(y[1], y[2], T * WIDTH * 4);
        assert_memory_not_equal(y[0], y[1], T * WIDTH * 4);
        dispatch_init("bf16");
        Weight frozen = w.w, exact = w.w;
        exact.exact = true;
        assert_true(gemm_pack_serves(&frozen, &w.w));
        assert_false(gemm_pack_serves(&frozen, &exact));
        dispatch_init("fp32");
        assert_true(gemm_pack_serves(&frozen, &exact));
        for (size_t k = 0; k < 3; k++) free(y[k]);
        free(x);
        drop(&w);
    }
}

/* Every code as a weight, NaN too. */
static void every_code_of_fp8_has_its_value(void **state)
{
    (void)state;
    float one = 1, y[256], scale = 0.3f;
    unsigned char codes[256];
    for (int i = 0; i < 256; i++) codes[i] = (unsigned char)i;
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (int transposed = 0; transposed < 2; transposed++) {
            float scales[2] = {scale, scale};
            Weight w = {.dtype = DTYPE_F8_E4M3,
                        .rows = transposed ? 256 : 1,
                        .cols = transposed ? 1 : 256,
                        .data = codes,
                        .scale = scales};
            product(transposed, 1, rows_of(y, 256), false, 1, rows_of(&one, 1), &w, NULL);
            for (int i = 0; i < 256; i++) {
                float want = f8_e4m3_to_f32((uint8_t)i) * scale;
                assert_true(isnan(want) ? isnan(y[i]) : y[i] == want);
            }
        }
    }
}

static void threads_and_slices_change_no_bit(void **state)
{
    (void)state;
    enum { T = 130, INNER = 777, WIDE = 500 };
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t i = 0; i < 8; i++) {
            bool transposed = i % 2;
            size_t width = i / 2 % 2 ? WIDE : 24, inner = i / 4 ? INNER : 33;
            TestWeight w = transposed ? test_weight(DTYPE_F8_E4M3, width, inner)
                                      : test_weight(DTYPE_F8_E4M3, inner, width);
            float *x = normal(8, T * inner), *scratch = floats(gemm_scratch(T, inner, 100)), *y[4];
            TestLora test = test_lora(transposed, T, width, i % 3 ? 8 : 100);
            for (int j = 0; j < 4; j++) y[j] = floats(T * width);
            for (int threads = 1; threads <= 3; threads++) {
                omp_set_num_threads(threads);
                product(transposed, T, rows_of(y[threads - 1], width), false, 0.3f, rows_of(x, inner), &w.w,
                        &test.lora);
            }
            omp_set_num_threads(2);
            (transposed ? gemm_pack_nt : gemm_pack_nn)(T, 0.3f, rows_of(x, inner), &w.w, &test.lora, scratch);
            size_t step = (i + 1) % 3 + 1;
#pragma omp parallel for
            for (size_t begin = 0; begin < width; begin += step * GEMM_UNIT) {
                size_t end = begin + step * GEMM_UNIT < width ? begin + step * GEMM_UNIT : width;
                (transposed ? gemm_nt_slice : gemm_nn_slice)(T, rows_of(y[3], width), false, scratch, &w.w, &test.lora,
                                                             begin, end, (GemmNext){&w.w, 0});
            }
            for (int j = 1; j < 4; j++) assert_memory_equal(y[j], y[0], T * width * 4);
            for (int j = 0; j < 4; j++) free(y[j]);
            free(x), free(scratch);
            drop_lora(&test);
            drop(&w);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_gives_the_bits_of_a_scalar_chain),
        cmocka_unit_test(every_kind_of_weight_and_edge_meets_every_direction),
        cmocka_unit_test(lora_joins_every_kind_of_product),
        cmocka_unit_test(tiny_and_huge_numbers_follow_the_instruction),
        cmocka_unit_test(an_exact_weight_is_multiplied_in_fp32_on_every_path),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(every_code_of_fp8_has_its_value),
        cmocka_unit_test(threads_and_slices_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
