/* Products on both paths, as shares of the fp32 FMA peak of one core and of its bf16 peak, measured in the same rounds.
 *
 *     make build/bench/matmul
 *     OMP_NUM_THREADS=1 build/bench/matmul [compute]
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

typedef struct {
    const char *compute;
    bool bf16;
    double share[N_SHAPES][N_TOKENS][2][ROUNDS], rate[ROUNDS];
} Path;

/* Seconds for one product; small ones are repeated. */
static double seconds_of(const Weight *w, size_t T, bool back, bool add, float *y, float *x, float *scratch)
{
    double work = (double)T * (double)w->rows * (double)w->cols;
    int calls = work < 5e7 ? (int)(5e7 / work) : 1;
    double start = log_cpu_seconds();
    for (int i = 0; i < calls; i++) {
        if (back) rows_nn(T, rows_of(y, w->cols), add, 1, rows_of(x, w->rows), w, scratch);
        else rows_nt(T, rows_of(y, w->rows), add, 1, rows_of(x, w->cols), w, scratch);
    }
    return (log_cpu_seconds() - start) / calls;
}

static void print(Path *path)
{
    matmul_init(path->compute);
    printf("%s, %d threads; %s peak of one core %.1f G multiply-adds/s; shares of it, forward / backward\n", matmul_path(),
           omp_get_max_threads(), path->bf16 ? "bf16" : "fp32", median(path->rate) / 1e9);
    printf("%-22s", "W");
    for (size_t t = 0; t < N_TOKENS; t++) printf("    T=%-8zu", tokens[t]);
    for (size_t s = 0; s < N_SHAPES; s++) {
        if (path->bf16 && shapes[s].dtype == DTYPE_F32) continue; /* the same as fp32 */
        printf("\n%-8s %5zu x %-5zu ", dtype_name(shapes[s].dtype), shapes[s].rows, shapes[s].cols);
        for (size_t t = 0; t < N_TOKENS; t++) printf("  %.3f/%.3f", median(path->share[s][t][0]), median(path->share[s][t][1]));
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    static Path paths[2];
    const char *const both[] = {"fp32", "bf16"}, *const *asked = argc > 1 ? (const char *const *)argv + 1 : both;
    size_t n_paths = 0;
    matmul_prepare(argv);
    for (size_t i = 0; i < (argc > 1 ? 1 : 2); i++)
        if (matmul_init(asked[i])) paths[n_paths++] = (Path){.compute = asked[i], .bf16 = !strncmp(matmul_path(), "bf16/", 5)};
    if (n_paths == 0) return 1;
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
        for (size_t p = 0; p < n_paths; p++) paths[p].rate[round] = peak_of_thread(paths[p].bf16, 2000000);
        for (size_t s = 0; s < N_SHAPES; s++)
            for (size_t t = 0; t < N_TOKENS; t++)
                for (size_t back = 0; back < 2; back++)
                    for (size_t p = 0; p < n_paths; p++) {
                        Shape shape = shapes[s];
                        Weight w = {.dtype = shape.dtype, .rows = shape.rows, .cols = shape.cols, .data = data[s], .scale = scale};
                        if (paths[p].bf16 && shape.dtype == DTYPE_F32) continue;
                        matmul_init(paths[p].compute);
                        double work = (double)tokens[t] * (double)shape.rows * (double)shape.cols;
                        paths[p].share[s][t][back][round] = work / seconds_of(&w, tokens[t], back, shape.add, y, x, scratch) / paths[p].rate[round];
                    }
    }
    for (size_t p = 0; p < n_paths; p++) print(&paths[p]);
    return 0;
}
