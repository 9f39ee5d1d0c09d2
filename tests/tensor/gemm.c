/* Products against a scalar chain of fmaf: the avx512 and avx2 paths must give its bits, plain (two roundings) its value,
 * and bf16 the bits of a chain of pairs. A path that this CPU lacks is passed over, and said so. */
#include "tests/support/chains.h"

#include "base/rng.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, RIDES = 64 }; /* words of a block; the largest r of a pair that rides along */

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};

/* A random weight whose data and scales lie one byte off any alignment, but for the data of those 64, 128, ... wide, and end
 * where the allocation ends. */
typedef struct {
    Weight w;
    char *data, *scale; /* allocated */
    float *wide;        /* the same as floats, by weight_read */
    float *codes;       /* FP8 without its factors */
} Test;

static Test test_weight(DType dtype, size_t rows, size_t cols)
{
    size_t bytes = dtype_bytes(dtype), off = cols % 64 > 0, n = rows * cols,
           n_scales = (rows + 127) / 128 * ((cols + 127) / 128);
    Test t = {.data = malloc(n * bytes + off),
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

static void drop(Test *t)
{
    free(t->data);
    free(t->scale);
    free(t->wide);
    free(t->codes);
}

/* ---- what the header of kernel.h promises, element by element -------------------------------------------------- */

/* FP8 codes are multiplied as they are; a block's factor meets the sum over the block. w: codes widened. */
static float chain_of_codes(size_t begin, size_t end, const float *x, float s, const float *w, size_t step,
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

/* The pair's chain goes on from `sum`. Element (t, p) of u at u[t * r + p]; columns a pair does not reach meet zeros. */
static float with_pair(bool transposed, const GemmLora *term, size_t t, size_t j, size_t width, float sum)
{
    bool reached = !transposed || (j >= term->first && j < term->first + term->rows);
    for (size_t p = 0; p < term->r; p++) {
        float u = term->u.data[(term->u.index ? term->u.index[t] : t) * term->u.stride + p] * term->s;
        float m = !reached ? 0 : transposed ? term->M[(j - term->first) * term->r + p] : term->M[p * width + j];
        sum = fmaf(u, m, sum);
    }
    return sum;
}

/* What goes apart is a product of its own: blocks of its chain are added to y. */
static void reference_apart(bool transposed, size_t T, Rows y, const GemmLora *term, size_t width)
{
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < width; j++) {
            GemmLora part = *term;
            if (transposed && (j < term->first || j >= term->first + term->rows)) continue;
            y.data[(y.index ? y.index[t] : t) * y.stride + j] += with_pair(transposed, &part, t, j, width, 0);
        }
}

static void reference(bool transposed, size_t T, Rows y, bool add, float s, Rows x, const Test *w, const GemmLora *term)
{
    size_t inner = transposed ? w->w.cols : w->w.rows, width = transposed ? w->w.rows : w->w.cols;
    bool loras = !strncmp(dispatch_path(), "bf16/", 5) && !weight_is_exact(&w->w);
    size_t block = loras ? 2 * BLOCK : BLOCK;
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < width; j++) {
            float *out = y.data + (y.index ? y.index[t] : t) * y.stride + j;
            const float *in = x.data + (x.index ? x.index[t] : t) * x.stride;
            size_t start = transposed ? j * w->w.cols : j, step = transposed ? 1 : w->w.cols,
                   blocks = (w->w.cols + 127) / 128;
            const char *scales = (const char *)w->w.scale + (transposed ? j / 128 * blocks : j / 128) * 4;
            for (size_t at = 0; at < inner; at += block) {
                size_t end = at + block < inner ? at + block : inner;
                bool codes = loras && w->w.dtype == DTYPE_F8_E4M3, rides = term && term->r <= RIDES && end == inner;
                float sum = !loras  ? chain(at, end, in, s, w->wide + start, step)
                            : codes ? chain_of_codes(at, end, in, s, w->codes + start, step, scales,
                                                     transposed ? 1 : blocks)
                                    : chain_bf16(at, end, in, s, w->wide + start, step);
                if (rides)
                    sum = codes ? sum + with_pair(transposed, term, t, j, width, 0)
                                : with_pair(transposed, term, t, j, width, sum);
                *out = add || at ? *out + sum : sum;
            }
        }
    if (term && term->r > RIDES) reference_apart(transposed, T, y, term, width);
}

static void product(bool transposed, size_t T, Rows y, bool add, float s, Rows x, const Weight *w, const GemmLora *term)
{
    float *scratch = floats(gemm_scratch(T, transposed ? w->cols : w->rows, term ? term->r : 0));
    (transposed ? gemm_nt : gemm_nn)(T, y, add, s, x, w, term, scratch);
    free(scratch);
}

/* A random pair; of nt it leaves some columns out. */
static GemmLora random_pair(bool transposed, size_t T, size_t width, size_t r)
{
    size_t first = transposed ? width / 5 : 0, rows = transposed ? width - first - width / 7 : 0;
    return (GemmLora){r, normal(11, r * (transposed ? rows : width)), first, rows, rows_of(normal(12, T * r), r), 0.6f};
}

static void drop_pair(GemmLora *term)
{
    free((float *)(size_t)term->M);
    free(term->u.data);
}

/* Gathered, scaled, added and scattered, into a y whose other rows must stay as they are; r: of a pair. */
static void check_pair(bool transposed, DType dtype, size_t T, size_t inner, size_t width, bool add, bool indexed,
                       size_t r)
{
    Test w = transposed ? test_weight(dtype, width, inner) : test_weight(dtype, inner, width);
    size_t in_rows = T + 5, out_rows = T + 3, y_stride = width + 2, x_stride = inner + 1;
    uint32_t *from = malloc(T * 4), *to = malloc(T * 4);
    for (size_t t = 0; t < T; t++) {
        from[t] = (uint32_t)rng_below(5, t, in_rows);
        to[t] = (uint32_t)((t * 2 + 1) % (T | 1)); /* odd modulus: a permutation of 0 .. T|1 - 1 */
    }
    float *x = normal(3, in_rows * x_stride), *y = normal(4, out_rows * y_stride), *want = floats(out_rows * y_stride);
    memcpy(want, y, out_rows * y_stride * 4);
    Rows xs = {x, x_stride, indexed ? from : NULL}, ys = {y, y_stride, indexed ? to : NULL}, wants = ys;
    wants.data = want;
    GemmLora term = random_pair(transposed, T, width, r);
    product(transposed, T, ys, add, 0.7f, xs, &w.w, r ? &term : NULL);
    reference(transposed, T, wants, add, 0.7f, xs, &w, r ? &term : NULL);
    char what[120];
    snprintf(what, sizeof what, "%s %s T %zu inner %zu width %zu add %d indexed %d r %zu", transposed ? "nt" : "nn",
             dtype_name(dtype), T, inner, width, add, indexed, r);
    assert_same(what, y, want, out_rows * y_stride);
    drop_pair(&term);
    free(from), free(to), free(x), free(y), free(want);
    drop(&w);
}

static void check(bool transposed, DType dtype, size_t T, size_t inner, size_t width, bool add, bool indexed)
{
    check_pair(transposed, dtype, T, inner, width, add, indexed, 0);
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
            for (size_t q = 0; q < 4; q++, i++) /* strides prime to the lengths: all pairs come by */
                check(i % 2, dtypes[i / 2 % 3], T, inners[i * 5 % n_inners], widths[i * 7 % n_widths], i / 3 % 2,
                      i / 5 % 2);
    }
}

static void every_kind_of_weight_and_edge_meets_every_direction(void **state)
{
    (void)state;
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t i = 0; i < 24; i++) {
            check(i % 2, dtypes[i / 2 % 3], 37, 300, 201, i / 6 % 2, i / 12);
            check(i % 2, dtypes[i / 2 % 3], 200, 130, 8, i / 6 % 2, i / 12); /* narrow, more rows than one packing */
            check(i % 2, dtypes[i / 2 % 3], 25, 8, 333, i / 6 % 2, i / 12);  /* short */
            check(true, dtypes[i % 3], 256 + i, 1312 + i, 210 - i, i / 6 % 2, i / 12); /* many rows: W is turned */
            if (i < 6) check(i % 2, dtypes[i / 2 % 3], 9, 64, 1500, false, true); /* short, more columns than a panel */
            for (size_t T = 1; T <= 9; T++)
                check(true, dtypes[i % 3], T, i / 3 % 2 ? 1312 : 2112, i / 6 % 2 ? 160 : 75, i % 2,
                      i / 12); /* few rows */
        }
    }
}

static void a_pair_joins_every_kind_of_product(void **state)
{
    (void)state;
    static const size_t ranks[] = {1, 2, 8, 16, 17, 64, 65, 100}, Ts[] = {1, 5, 8, 9, 17, 50, 200, 260};
    static const size_t widths[] = {1, 17, 96, 97, 200, 385},
                        inners[] = {1, 17, 64, 65, 127, 129, 512, 600, 1024, 1100};
    for (size_t p = 0, i = 0; p < N_PATHS; p++)
        for (size_t r = 0; r < sizeof ranks / sizeof *ranks && has_path(p); r++)
            for (size_t t = 0; t < sizeof Ts / sizeof *Ts; t++)
                for (size_t q = 0; q < 6; q++, i++)
                    check_pair(q % 2, dtypes[q / 2], Ts[t], inners[i * 7 % 10], widths[i * 5 % 6], i / 6 % 2,
                               i / 12 % 2, ranks[r]);
}

static void a_row_has_the_same_bits_alone_and_in_company(void **state)
{
    (void)state;
    enum { T = 67, INNER = 700 };
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t i = 0; i < 4; i++) {
            bool transposed = i % 2;
            size_t width = i / 2 ? 150 : 16;
            Test w = transposed ? test_weight(DTYPE_BF16, width, INNER) : test_weight(DTYPE_BF16, INNER, width);
            float *x = normal(8, T * INNER), *y = floats(T * width), *alone = floats(width);
            GemmLora term = random_pair(transposed, T, width, 8), of_row = term;
            product(transposed, T, rows_of(y, width), false, 1, rows_of(x, INNER), &w.w, &term);
            for (size_t t = 0; t < T; t++) {
                of_row.u.data = term.u.data + t * 8;
                product(transposed, 1, rows_of(alone, width), false, 1, rows_of(x + t * INNER, INNER), &w.w, &of_row);
                assert_memory_equal(alone, y + t * width, width * 4);
            }
            drop_pair(&term);
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
        Test w = transposed ? test_weight(DTYPE_BF16, WIDTH, INNER) : test_weight(DTYPE_BF16, INNER, WIDTH);
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
        Test w = transposed ? test_weight(dtype, WIDTH, INNER) : test_weight(dtype, INNER, WIDTH);
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
            Test w = transposed ? test_weight(DTYPE_F8_E4M3, width, inner) : test_weight(DTYPE_F8_E4M3, inner, width);
            float *x = normal(8, T * inner), *scratch = floats(gemm_scratch(T, inner, 100)), *y[4];
            GemmLora term = random_pair(transposed, T, width, i % 3 ? 8 : 100);
            for (int j = 0; j < 4; j++) y[j] = floats(T * width);
            for (int threads = 1; threads <= 3; threads++) {
                omp_set_num_threads(threads);
                product(transposed, T, rows_of(y[threads - 1], width), false, 0.3f, rows_of(x, inner), &w.w, &term);
            }
            omp_set_num_threads(2);
            (transposed ? gemm_pack_nt : gemm_pack_nn)(T, 0.3f, rows_of(x, inner), &w.w, &term, scratch);
            size_t step = (i + 1) % 3 + 1;
#pragma omp parallel for
            for (size_t begin = 0; begin < width; begin += step * GEMM_UNIT) {
                size_t end = begin + step * GEMM_UNIT < width ? begin + step * GEMM_UNIT : width;
                (transposed ? gemm_nt_slice : gemm_nn_slice)(T, rows_of(y[3], width), false, scratch, &w.w, &term,
                                                             begin, end, (GemmNext){&w.w, 0});
            }
            for (int j = 1; j < 4; j++) assert_memory_equal(y[j], y[0], T * width * 4);
            for (int j = 0; j < 4; j++) free(y[j]);
            free(x), free(scratch);
            drop_pair(&term);
            drop(&w);
        }
    }
}

static void a_sum_over_rows_is_the_sum_and_none_gives_zeros(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1}, {3, 8, 1100}, {70, 1030, 8}, {33, 600, 513}, {0, 5, 7}};
    dispatch_init(NULL);
    for (size_t c = 0; c < 5; c++) {
        size_t T = shapes[c][0], M = shapes[c][1], N = shapes[c][2];
        float *a = normal(1, T * (M + 1)), *b = normal(2, T * (N + 2)), *G = floats(M * N), *again = floats(M * N);
        for (size_t i = 0; i < M * N; i++) G[i] = NAN;
        omp_set_num_threads(2);
        gemm_tn(T, M, N, G, false, 0.5f, rows_of(a, M + 1), rows_of(b, N + 2));
        omp_set_num_threads(1);
        gemm_tn(T, M, N, again, false, 0.5f, rows_of(a, M + 1), rows_of(b, N + 2));
        assert_memory_equal(G, again, M * N * 4);
        for (size_t m = 0; m < M; m++)
            for (size_t n = 0; n < N; n++) {
                double sum = 0;
                for (size_t t = 0; t < T; t++) sum += (double)a[t * (M + 1) + m] * (double)b[t * (N + 2) + n];
                assert_true(fabs((double)G[m * N + n] - 0.5 * sum) <= 1e-5 * (1 + fabs(sum))); /* T 2^-24, T <= 70 */
            }
        free(a), free(b), free(G), free(again);
    }
    omp_set_num_threads(2);
}

/* C and its surroundings; A and B with strides wider than they are. */
static void check_block(int way, bool add, size_t M, size_t N, size_t K)
{
    bool tn = way == 2, nt = way == 0;
    size_t lda = (tn ? M : K) + 1, ldb = (nt ? K : N) + 2, ldc = N + 3, n = (M + 1) * ldc;
    float *A = normal(1, (tn ? K : M) * lda), *B = normal(2, (nt ? N : K) * ldb), *C = normal(3, n),
          *before = normal(3, n);
    (nt ? block_nt : tn ? block_tn : block_nn)(M, N, K, C, ldc, add, 2, A, lda, B, ldb);
    for (size_t i = 0; i <= M; i++)
        for (size_t j = 0; j < ldc; j++) {
            double want = add || i == M || j >= N ? (double)before[i * ldc + j] : 0;
            for (size_t k = 0; i < M && j < N && k < K; k++)
                want += 2.0 * (double)A[tn ? k * lda + i : i * lda + k] * (double)B[nt ? j * ldb + k : k * ldb + j];
            if (!(fabs(want - (double)C[i * ldc + j]) < 1e-5 * (10 + (double)K)))
                fail_msg("%s: way %d, %zu x %zu x %zu, (%zu, %zu) is %g, not %g", dispatch_path(), way, M, N, K, i, j,
                         (double)C[i * ldc + j], want);
        }
    free(A), free(B), free(C), free(before);
}

static void blocks_multiply_in_three_directions(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 4, 5, 15, 17, 33, 48, 49, 64, 97, 130, 193, 200, 257, 300};
    size_t n = sizeof sizes / sizeof *sizes, i = 0;
    for (size_t p = 0; p < N_PATHS; p++)
        for (size_t m = 0; has_path(p) && m < n; m++)
            for (int way = 0; way < 6; way++, i++)
                check_block(way % 3, way / 3, sizes[m], sizes[i * 5 % n], sizes[i * 7 % n]);
}

static void the_path_is_named_and_an_unknown_one_refused(void **state)
{
    (void)state;
    assert_true(dispatch_init("plain"));
    assert_string_equal(dispatch_path(), "fp32/plain");
    assert_false(dispatch_init("abacus"));
    assert_false(dispatch_init("fp32/abacus"));
    assert_string_equal(dispatch_path(), "fp32/plain");
    assert_true(dispatch_init("fp32"));
    assert_int_equal(strncmp(dispatch_path(), "fp32/", 5), 0);
    assert_true(dispatch_init("fp32/plain"));
    assert_string_equal(dispatch_path(), "fp32/plain");
    if (has_path(N_PATHS - 1)) assert_string_equal(dispatch_path(), "bf16/avx512bf16");
    assert_true(dispatch_init("auto"));
    assert_true(dispatch_init(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_gives_the_bits_of_a_scalar_chain),
        cmocka_unit_test(every_kind_of_weight_and_edge_meets_every_direction),
        cmocka_unit_test(a_pair_joins_every_kind_of_product),
        cmocka_unit_test(tiny_and_huge_numbers_follow_the_instruction),
        cmocka_unit_test(an_exact_weight_is_multiplied_in_fp32_on_every_path),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_company),
        cmocka_unit_test(every_code_of_fp8_has_its_value),
        cmocka_unit_test(threads_and_slices_change_no_bit),
        cmocka_unit_test(a_sum_over_rows_is_the_sum_and_none_gives_zeros),
        cmocka_unit_test(blocks_multiply_in_three_directions),
        cmocka_unit_test(the_path_is_named_and_an_unknown_one_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
