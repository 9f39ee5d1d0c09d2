/* Measures GFLOP/s of products with frozen weights, for the plan of a run. Every thread multiplies matrices of its own,
 * which together are larger than its caches, so weights come from memory as they do in a run. */
#include "tensor/rates.h"

#include "base/memory.h"
#include "base/peak.h"
#include "tensor/gemm.h"

#include <stdlib.h>

enum { OUT = 1024, IN = 2048, MATRICES = 8 };

/* What one thread multiplies. */
typedef struct {
    char *bytes;
    float *x, *y, *pack;
} Trial;

static Err *trial_new(Trial *b, size_t n)
{
    TRY(mem_new(&b->bytes, (size_t)MATRICES * OUT * IN, dtype_bytes(DTYPE_BF16)));
    TRY(mem_new(&b->x, n * IN, sizeof *b->x));
    TRY(mem_new(&b->y, n * IN, sizeof *b->y));
    return mem_new(&b->pack, gemm_scratch(n, IN, 0), sizeof *b->pack);
}

static void trial_free(Trial *b)
{
    free(b->bytes);
    free(b->x);
    free(b->y);
    free(b->pack);
}

/* GFLOP/s of the calling thread with a mean of `mean` rows: from half to one and a half times as many, as experts have.
 * */
static double rate_of(const Trial *b, size_t mean)
{
    const double min_seconds = 0.05;
    double began = peak_clock(), spent = 0, flops = 0;
    for (size_t i = 0; spent < min_seconds; i = (i + 1) % MATRICES, spent = peak_clock() - began) {
        Weight W = {.name = "trial",
                    .dtype = DTYPE_BF16,
                    .rows = OUT,
                    .cols = IN,
                    .data = b->bytes + i * OUT * IN * dtype_bytes(DTYPE_BF16)};
        size_t n = mean / 2 + mean * (i % 5) / 4;
        gemm_nt(n, rows_of(b->y, OUT), false, 1, rows_of(b->x, IN), &W, NULL, b->pack);
        gemm_nn(n, rows_of(b->x, IN), false, 1, rows_of(b->y, OUT), &W, NULL, b->pack);
        flops += 4.0 * (double)n * OUT * IN;
    }
    return 1e-9 * flops / spent;
}

Err *rates_measure(double gflops[MACHINE_ROWS])
{
    Err *err = NULL;
    double sum[MACHINE_ROWS] = {0};
#pragma omp parallel reduction(+ : sum[:MACHINE_ROWS])
    {
        Trial trial = {0};
        Err *failed = trial_new(&trial, machine_rows[MACHINE_ROWS - 1] * 3 / 2);
        for (size_t i = 0; i < MACHINE_ROWS; i++) {
#pragma omp barrier
            if (!failed) sum[i] += rate_of(&trial, machine_rows[i]);
        }
        trial_free(&trial);
#pragma omp critical
        err = err_first(err, failed);
    }
    for (size_t i = 0; i < MACHINE_ROWS; i++) gflops[i] = sum[i];
    return err;
}
