/* Products of packed blocks for one instruction set: KERNEL is avx512, avx2, plain, or bf16 (AVX512-BF16). As in
 * kernel_gemm.c, a tile of rows x groups vectors of sums stays in registers while the inner index runs. block.h has the
 * layouts. */
#include "tensor/kernel_words.h"

#include "tensor/block.h"

#if defined KERNEL_avx512 /* and bf16 */
enum { MAX_GROUPS = 3, WIDE_1 = 24, WIDE_2 = 12, WIDE_3 = 8, TAIL = 8 };
#elif defined KERNEL_avx2
enum { MAX_GROUPS = 1, WIDE_1 = 6, TAIL = 4 };
#else
enum { MAX_GROUPS = 1, WIDE_1 = 2, TAIL = 2 };
#endif

/* The tile: n words of each row of A, broadcast to all lanes, times n vectors of B. */
INLINE void tile(size_t rows, size_t groups, bool transposed, size_t n, const float *a, const float *b, size_t step,
                 float *c, size_t ldc, bool add)
{
    size_t row = transposed ? 1 : BLOCK_STRIDE, next = transposed ? BLOCK_STRIDE : 1;
    V sum[WIDE_1][PARTS * MAX_GROUPS];
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = (V){0};
    for (const float *stop = a + n * next; a < stop; a += next, b += LANES) {
        V x[PARTS * MAX_GROUPS];
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++) x[i] = load(b + i / PARTS * step + i % PARTS * W);
#pragma GCC unroll 24
        for (size_t j = 0; j < rows; j++) {
            V y = word_at(a + j * row);
#pragma GCC unroll 4
            for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = add_product(sum[j][i], x[i], y);
        }
    }
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++) {
            float *out = c + j * ldc + i * W;
            store(out, add ? load(out) + sum[j][i] : sum[j][i]);
        }
}

typedef void Tile(size_t n, const float *a, const float *b, size_t step, float *c, size_t ldc, bool add);

#define TILE(name, rows, groups)                                                                                    \
    static void name##_lines(size_t n, const float *a, const float *b, size_t step, float *c, size_t ldc, bool add) \
    {                                                                                                               \
        tile(rows, groups, false, n, a, b, step, c, ldc, add);                                                      \
    }                                                                                                               \
    static void name##_transposed(size_t n, const float *a, const float *b, size_t step, float *c, size_t ldc,      \
                                  bool add)                                                                         \
    {                                                                                                               \
        tile(rows, groups, true, n, a, b, step, c, ldc, add);                                                       \
    }
TILE(wide_1, WIDE_1, 1)
TILE(tail_1, TAIL, 1)
#if defined KERNEL_avx512
TILE(wide_2, WIDE_2, 2)
TILE(tail_2, TAIL, 2)
TILE(wide_3, WIDE_3, 3)
static const size_t wide_rows[] = {WIDE_1, WIDE_2, WIDE_3};
static Tile *const wide[2][MAX_GROUPS] = {{wide_1_lines, wide_2_lines, wide_3_lines},
                                          {wide_1_transposed, wide_2_transposed, wide_3_transposed}};
static Tile *const tail[2][MAX_GROUPS] = {{tail_1_lines, tail_2_lines, wide_3_lines},
                                          {tail_1_transposed, tail_2_transposed, wide_3_transposed}};
#else
static const size_t wide_rows[] = {WIDE_1};
static Tile *const wide[2][MAX_GROUPS] = {{wide_1_lines}, {wide_1_transposed}};
static Tile *const tail[2][MAX_GROUPS] = {{tail_1_lines}, {tail_1_transposed}};
#endif

/* How many groups the next tile takes. Of 4 groups left, 2 + 2 is faster than 3 + 1. */
INLINE size_t take_groups(size_t left) { return MAX_GROUPS == 1 ? 1 : left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1; }

/* The tiles of rows [from, to), over words [begin, end). */
static void run_tiles(const BlockProduct *p, size_t from, size_t to, size_t g, size_t groups, size_t begin, size_t end)
{
    size_t max_rows = wide_rows[groups - 1];
    for (size_t i = from, rows; i < to; i += rows) {
        bool whole = to - i > TAIL && to - i + TAIL > max_rows;
        rows = whole ? max_rows : TAIL;
        const float *a = p->transposed ? p->a + begin * BLOCK_STRIDE + i : p->a + i * BLOCK_STRIDE + begin;
        (whole ? wide : tail)[p->transposed][groups - 1](end - begin, a, p->b + g * p->step + begin * LANES, p->step,
                                                         p->c + i * p->ldc + g * LANES, p->ldc, p->add);
    }
}

static void product(const BlockProduct *p)
{
    size_t all_groups = (p->N + LANES - 1) / LANES, groups;
    for (size_t g = 0; g < all_groups; g += groups) {
        groups = take_groups(all_groups - g);
        for (size_t i = 0; i < p->M; i += BLOCK_BAND) {
            size_t stop = size_min(p->M, i + BLOCK_BAND),
                   beyond = i + BLOCK_BAND + p->diagonal; /* the first key that the band does not see */
            size_t begin = 0, end = p->K;
            if (p->trim == TRIM_SCORES && g * LANES >= beyond) continue;
            if (p->trim == TRIM_QUERIES) end = size_min(end, beyond);
            if (p->trim == TRIM_KEYS && i > p->diagonal) begin = size_min(i - p->diagonal, end) / PER_WORD * PER_WORD;
            run_tiles(p, i, stop, g, groups, begin / PER_WORD, words_of(end));
        }
    }
}

/* Load LANES columns of a row; where fewer are left, zeros follow them. */
INLINE void load_columns(size_t n, const float *x, float s, V out[PARTS])
{
    float rest[LANES] = {0};
    if (n < LANES) x = memcpy(rest, x, n * sizeof *x);
    for (size_t p = 0; p < PARTS; p++) out[p] = load(x + p * W) * all(s);
}

static void pack_columns(size_t K, size_t N, float s, Rows x, float *out, size_t step)
{
    for (size_t k = 0; k < K; k += PER_WORD, out += LANES)
        for (size_t j = 0; j < N; j += LANES) {
            size_t n = size_min(LANES, N - j);
            V first[PARTS];
            load_columns(n, row_of(x, k) + j, s, first);
#if defined KERNEL_bf16
            V second[PARTS] = {{0}};
            if (k + 1 < K) load_columns(n, row_of(x, k + 1) + j, s, second);
            store(out + j / LANES * step, bf16_pairs(first[0], second[0]));
#else
            for (size_t p = 0; p < PARTS; p++) store(out + j / LANES * step + p * W, first[p]);
#endif
        }
}

#if defined KERNEL_bf16
#define SOFTMAX softmax_avx512 /* scores are fp32 on every path */
#else
#define SOFTMAX PASTE(softmax_, KERNEL)
#endif
void SOFTMAX(const ScoreTile *t, float *max, float *sums, float *factor);
void PASTE(softmax_backward_, KERNEL)(const ScoreTile *t, const float *lse, const float *delta);

const BlockKernels PASTE(block_kernels_, KERNEL) = {
    &PASTE(gemm_kernels_, KERNEL), pack_columns, product, SOFTMAX, PASTE(softmax_backward_, KERNEL),
};
