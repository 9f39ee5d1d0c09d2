#define _GNU_SOURCE /* setenv */
/* Products: how they are cut into panels and blocks (the kernels do the arithmetic), and the only door to OpenBLAS.
 *
 * Narrow products, whose y fits one panel (LoRA's r), are cut by rows instead: each thread packs a few rows of one block
 * at a time, which then stay in cache, and packing needs no pass over memory of its own. */
#include "tensor/matmul.h"

#include "tensor/kernel.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    NARROW_ROWS = 192,      /* rows packed at once: with the panel of W they stay in L2 */
    PACK_ROWS = 3 * LANES,  /* rows that a thread packs at once */
    SUM_CHUNK = 512,        /* rows and columns of G that one call to cblas computes: part of its bits */
    WORTH_A_TEAM = 1 << 20, /* multiply-adds; less than this takes less than waking threads */
};

const Kernels *kernels = &kernels_plain;

static _Thread_local float panel[PANEL_FLOATS] __attribute__((aligned(64)));

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* ---- scratch and packing ------------------------------------------------------------------------------------- */

static size_t lanes_floats(size_t T, size_t K) { return round_up(T, LANES) * K; }
static size_t rows_floats(size_t T, size_t K) { return (T + ROW_TILE) * packed_stride(K) * ((K + BLOCK - 1) / BLOCK); }

size_t rows_scratch(size_t T, size_t K)
{
    size_t lanes = lanes_floats(T, K), rows = rows_floats(T, K);
    return round_up(lanes > rows ? lanes : rows, LANES);
}

/* Where block `at` begins in packed x of T rows. */
static size_t lanes_at(size_t T, size_t at) { return round_up(T, LANES) * at; }
static size_t rows_at(size_t T, size_t at) { return (T + ROW_TILE) * STRIDE * (at / BLOCK); }

static bool as_lanes(bool transposed, size_t inner) { return transposed && inner > SHORT; }

/* What follows packed rows: tiles reach beyond the last one. */
static void zero_tile(size_t n, size_t stride, float *out)
{
    for (size_t t = 0; t < ROW_TILE; t++, out += stride) memset(out, 0, n * sizeof *out);
}

/* Rows [t, t + rows) of block `at` of x into their place. t is a multiple of LANES. */
static void pack_part(bool lanes, size_t T, size_t inner, size_t at, size_t t, size_t rows, float s, Rows x, float *scratch)
{
    size_t n = least(BLOCK, inner - at), stride = packed_stride(inner);
    Rows from = rows_right(rows_from(x, t), at);
    if (lanes) kernels->pack_lanes(rows, n, s, from, scratch + lanes_at(T, at) + t * n);
    else kernels->pack_rows(rows, n, stride, s, from, scratch + rows_at(T, at) + t * stride);
    if (!lanes && t + rows == T) zero_tile(n, stride, scratch + rows_at(T, at) + T * stride);
}

void rows_pack_nn(size_t T, size_t N, float s, Rows x, float *scratch)
{
    for (size_t at = 0; at < N; at += BLOCK) pack_part(false, T, N, at, 0, T, s, x, scratch);
}

void rows_pack_nt(size_t T, size_t K, float s, Rows x, float *scratch)
{
    for (size_t at = 0; at < K; at += BLOCK) pack_part(as_lanes(true, K), T, K, at, 0, T, s, x, scratch);
}

/* ---- slices -------------------------------------------------------------------------------------------------- */

void rows_nt_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end)
{
    size_t K = W->cols, columns = K <= SHORT ? short_columns(K) : ROWS_SLICE;
    for (; begin < end; begin += columns) {
        size_t stop = least(begin + columns, end);
        if (K <= SHORT) kernels->nt_short(T, y, add, packed, W, begin, stop, panel);
        else
            for (size_t at = 0; at < K; at += BLOCK)
                kernels->nt(T, y, add || at, packed + lanes_at(T, at), W, begin, stop, at, least(BLOCK, K - at), panel);
    }
}

void rows_nn_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end)
{
    size_t N = W->rows, columns = N <= SHORT ? short_columns(N) : NN_COLUMNS;
    for (; begin < end; begin += columns)
        for (size_t at = 0; at < N; at += BLOCK)
            kernels->nn(T, y, add || at, packed + rows_at(T, at), W, begin, least(begin + columns, end), at,
                        least(BLOCK, N - at), panel);
}

/* ---- whole products ------------------------------------------------------------------------------------------ */

typedef struct {
    bool transposed; /* nt */
    size_t T, inner, width;
    Rows y, x;
    bool add;
    float s;
    const Weight *W;
} Product;

/* Part i of n of a length, in whole units. */
static size_t part(size_t length, size_t unit, size_t i, size_t n)
{
    size_t units = (length + unit - 1) / unit;
    return least(length, units * i / n * unit);
}

/* Rows [begin, end) of a narrow product, block by block through a scratch of NARROW_ROWS rows or fewer. */
static void narrow_rows(const Product *p, size_t begin, size_t end, float *scratch)
{
    size_t T = end - begin;
    Rows x = rows_from(p->x, begin), y = rows_from(p->y, begin);
    for (size_t at = 0; at < p->inner; at += BLOCK) {
        size_t n = least(BLOCK, p->inner - at);
        if (as_lanes(p->transposed, p->inner)) {
            kernels->pack_lanes(T, n, p->s, rows_right(x, at), scratch);
            kernels->nt(T, y, p->add || at, scratch, p->W, 0, p->width, at, n, panel);
        } else {
            size_t stride = packed_stride(p->inner);
            kernels->pack_rows(T, n, stride, p->s, rows_right(x, at), scratch);
            zero_tile(n, stride, scratch + T * stride);
            if (p->transposed) kernels->nt_short(T, y, p->add, scratch, p->W, 0, p->width, panel);
            else kernels->nn(T, y, p->add || at, scratch, p->W, 0, p->width, at, n, panel);
        }
    }
}

static void narrow_part(const Product *p, size_t i, size_t n)
{
    static _Thread_local float packed[(NARROW_ROWS + ROW_TILE) * STRIDE] __attribute__((aligned(64)));
    size_t begin = part(p->T, 3 * LANES, i, n), end = part(p->T, 3 * LANES, i + 1, n);
    for (; begin < end; begin += NARROW_ROWS) narrow_rows(p, begin, least(begin + NARROW_ROWS, end), packed);
}

/* The team packs together. */
static void pack_all(const Product *p, float *scratch)
{
    size_t blocks = (p->inner + BLOCK - 1) / BLOCK, runs = (p->T + PACK_ROWS - 1) / PACK_ROWS;
#pragma omp for schedule(static)
    for (size_t i = 0; i < blocks * runs; i++) {
        size_t t = i % runs * PACK_ROWS;
        pack_part(as_lanes(p->transposed, p->inner), p->T, p->inner, i / runs * BLOCK, t, least(PACK_ROWS, p->T - t), p->s, p->x, scratch);
    }
}

static void wide_part(const Product *p, size_t i, size_t n, const float *packed)
{
    size_t begin = part(p->width, ROWS_SLICE, i, n), end = part(p->width, ROWS_SLICE, i + 1, n);
    (p->transposed ? rows_nt_slice : rows_nn_slice)(p->T, p->y, p->add, packed, p->W, begin, end);
}

static void product(const Product *p, float *scratch)
{
    bool team = !omp_in_parallel() && p->T * p->inner * p->width >= WORTH_A_TEAM;
#pragma omp parallel if (team)
    {
        size_t i = team ? (size_t)omp_get_thread_num() : 0, n = team ? (size_t)omp_get_num_threads() : 1;
        if (p->width <= ROWS_SLICE) narrow_part(p, i, n);
        else {
            pack_all(p, scratch);
            wide_part(p, i, n, scratch);
        }
    }
}

void rows_nt(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, float *scratch)
{
    product(&(Product){true, T, W->cols, W->rows, y, x, add, s, W}, scratch);
}

void rows_nn(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, float *scratch)
{
    product(&(Product){false, T, W->rows, W->cols, y, x, add, s, W}, scratch);
}

/* ---- OpenBLAS ------------------------------------------------------------------------------------------------ */

static void gemm(CBLAS_TRANSPOSE a, CBLAS_TRANSPOSE b, size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s,
                 const float *A, size_t lda, const float *B, size_t ldb)
{
    cblas_sgemm(CblasRowMajor, a, b, (blasint)M, (blasint)N, (blasint)K, s, A, (blasint)lda, B, (blasint)ldb,
                add ? 1.0f : 0.0f, C, (blasint)ldc);
}

void sum_tn(size_t T, size_t M, size_t N, float *G, float s, const float *a, size_t lda, const float *b, size_t ldb)
{
    size_t across = (N + SUM_CHUNK - 1) / SUM_CHUNK, chunks = (M + SUM_CHUNK - 1) / SUM_CHUNK * across;
    if (T == 0) memset(G, 0, M * N * sizeof *G);
    if (T == 0) return;
#pragma omp parallel for schedule(dynamic) if (!omp_in_parallel() && T * M * N >= WORTH_A_TEAM)
    for (size_t i = 0; i < chunks; i++) {
        size_t m = i / across * SUM_CHUNK, n = i % across * SUM_CHUNK;
        gemm(CblasTrans, CblasNoTrans, least(SUM_CHUNK, M - m), least(SUM_CHUNK, N - n), T, G + m * N + n, N, false, s,
             a + m, lda, b + n, ldb);
    }
}

void block_nt(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda, const float *B, size_t ldb)
{
    gemm(CblasNoTrans, CblasTrans, M, N, K, C, ldc, add, s, A, lda, B, ldb);
}

void block_nn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda, const float *B, size_t ldb)
{
    gemm(CblasNoTrans, CblasNoTrans, M, N, K, C, ldc, add, s, A, lda, B, ldb);
}

void block_tn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda, const float *B, size_t ldb)
{
    gemm(CblasTrans, CblasNoTrans, M, N, K, C, ldc, add, s, A, lda, B, ldb);
}

/* ---- the path ------------------------------------------------------------------------------------------------ */

static char path[96];

/* The best kernels of this CPU, or those of that name; NULL when it has none. */
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

/* The kernels that OpenBLAS should have chosen, or NULL when its choice is good. */
static const char *better_core(void)
{
#if defined __x86_64__
    static const char *const old[] = {"Prescott", "Core2", "Penryn", "Dunnington", "Atom", "Nehalem", "Opteron", "Barcelona"};
    const char *core = openblas_get_corename();
    __builtin_cpu_init();
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcmp(core, old[i]) == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") ? "SkylakeX" : "Haswell";
#endif
    return NULL;
}

void matmul_prepare(char **argv)
{
    const char *core = getenv("OPENBLAS_CORETYPE") ? NULL : better_core();
    bool spins = !getenv("GOMP_SPINCOUNT") && !getenv("OMP_WAIT_POLICY");
    if (core) setenv("OPENBLAS_CORETYPE", core, 1);
    if (spins) setenv("GOMP_SPINCOUNT", "1000", 1);
    if (core || spins) execv("/proc/self/exe", argv); /* on failure all is as it was, only slower */
}

bool matmul_init(const char *force)
{
    const Kernels *found = find_kernels(force);
    if (!found) return false;
    kernels = found;
    openblas_set_num_threads(1);
    snprintf(path, sizeof path, "fp32/%s openblas/%s", found->name, openblas_get_corename());
    return true;
}

const char *matmul_path(void) { return path; }
