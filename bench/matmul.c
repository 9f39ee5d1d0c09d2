/* Products as shares of the fp32 FMA peak of one core, measured in the same rounds.
 *
 *     make build/bench/matmul
 *     OMP_NUM_THREADS=1 build/bench/matmul [path]
 *
 * Rounds are interleaved, so that a noisy neighbour hits all alike; each number is a median, of processor time. */
#include "base/log.h"
#include "base/peak.h"
#include "tensor/matmul.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 9, MAX_T = 2048 };

typedef struct {
    DType dtype;
    size_t rows, cols;
    bool add;
} Shape;

static const Shape shapes[] = {
    {DTYPE_BF16, 2048, 6144, false}, {DTYPE_F8_E4M3, 2048, 6144, false}, {DTYPE_BF16, 6144, 2048, false},
    {DTYPE_F32, 8, 6144, true},      {DTYPE_F32, 6144, 8, true},         {DTYPE_F32, 16, 6144, true},
    {DTYPE_F32, 6144, 16, true},     {DTYPE_F32, 8, 1024, true},         {DTYPE_F32, 1024, 8, true},
};
static const size_t tokens[] = {1, 16, 64, 256, 2048};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_TOKENS = sizeof tokens / sizeof *tokens };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x)
{
    qsort(x, ROUNDS, sizeof *x, by_value);
    return x[ROUNDS / 2];
}

static float *floats(size_t n)
{
    float *x = aligned_alloc(64, (n * 4 + 63) / 64 * 64);
    for (size_t i = 0; i < n; i++) x[i] = (float)(i * 7919 % 1000) * 0.002f - 1;
    return x;
}

int main(int argc, char **argv)
{
    matmul_prepare(argv);
    if (!matmul_init(argc > 1 ? argv[1] : NULL)) return 1;
    static double share[N_SHAPES][N_TOKENS][2][ROUNDS], rate[ROUNDS];
    float *x = floats((size_t)MAX_T * 6144), *y = floats((size_t)MAX_T * 6144), *scale = floats(48 * 48);
    float *scratch = floats(rows_scratch(MAX_T, 6144));
    unsigned char *data[N_SHAPES];
    for (size_t s = 0; s < N_SHAPES; s++) {
        size_t n = shapes[s].rows * shapes[s].cols;
        float *wide = floats(n);
        data[s] = (unsigned char *)wide;
        for (size_t i = 0; i < n; i++) {
            uint16_t half = bf16_from_f32(wide[i]);
            uint8_t byte = f8_e4m3_from_f32(wide[i]);
            if (shapes[s].dtype == DTYPE_BF16) memcpy(data[s] + 2 * i, &half, 2);
            if (shapes[s].dtype == DTYPE_F8_E4M3) data[s][i] = byte;
        }
    }
    for (int round = 0; round < ROUNDS; round++) {
        rate[round] = peak_of_thread(2000000);
        for (size_t s = 0; s < N_SHAPES; s++)
            for (size_t t = 0; t < N_TOKENS; t++)
                for (int back = 0; back < 2; back++) {
                    Shape shape = shapes[s];
                    Weight w = {.dtype = shape.dtype, .rows = shape.rows, .cols = shape.cols, .data = data[s], .scale = scale};
                    double work = (double)tokens[t] * (double)shape.rows * (double)shape.cols;
                    int calls = work < 5e7 ? (int)(5e7 / work) : 1;
                    double start = log_cpu_seconds();
                    for (int i = 0; i < calls; i++) {
                        if (back) rows_nn(tokens[t], rows_of(y, shape.cols), shape.add, 1, rows_of(x, shape.rows), &w, scratch);
                        else rows_nt(tokens[t], rows_of(y, shape.rows), shape.add, 1, rows_of(x, shape.cols), &w, scratch);
                    }
                    share[s][t][back][round] = work * calls / (log_cpu_seconds() - start) / rate[round];
                }
    }
    printf("%s, %d threads; peak of one core %.1f G multiply-adds/s; shares of it, forward / backward\n", matmul_path(),
           omp_get_max_threads(), median(rate) / 1e9);
    printf("%-22s", "W");
    for (size_t t = 0; t < N_TOKENS; t++) printf("    T=%-8zu", tokens[t]);
    for (size_t s = 0; s < N_SHAPES; s++) {
        printf("\n%-8s %5zu x %-5zu ", dtype_name(shapes[s].dtype), shapes[s].rows, shapes[s].cols);
        for (size_t t = 0; t < N_TOKENS; t++) printf("  %.3f/%.3f", median(share[s][t][0]), median(share[s][t][1]));
    }
    printf("\n");
    return 0;
}
