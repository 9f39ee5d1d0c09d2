/* y = x W' (gemm_nt) and dx = dy W (gemm_nn) of weights in bf16, FP8 and float32, with shapes of GLM-5 and of shape
 * S, on one thread. Every round measures all shapes, numbers of rows, passes and paths, and before them the peak of
 * each path, so that a disturbance affects all of them; a result is the median over the rounds. */
#include "bench/products.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/peak.h"
#include "bench/sample.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <stdio.h>
#include <stdlib.h>

enum { PRODUCT_ROUNDS = 7, MAX_ROWS = 1024, MAX_COLS = 6144, MAX_PATHS = 2 };

typedef struct {
    DType dtype;
    size_t rows, cols;
    bool add; /* y += x W', as for LoRA */
} ProductShape;

static const ProductShape shapes[] = {
    {DTYPE_BF16, 2048, 6144, false}, {DTYPE_F8_E4M3, 2048, 6144, false},
    {DTYPE_BF16, 6144, 2048, false},                                 /* GLM-5's expert */
    {DTYPE_BF16, 576, 6144, false},  {DTYPE_BF16, 384, 1024, false}, /* its kv_a_proj_with_mqa; an expert of shape S */
    {DTYPE_F32, 8, 1024, true},      {DTYPE_F32, 1024, 8, true},
    {DTYPE_F32, 16, 6144, true},     {DTYPE_F32, 6144, 16, true},
};
static const size_t tokens[] = {1, 16, 64, 256, MAX_ROWS};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_TOKENS = sizeof tokens / sizeof *tokens };

typedef struct {
    const char *compute;
    bool bf16;
    double seconds[N_SHAPES][N_TOKENS][TIMING_PASSES][PRODUCT_ROUNDS], peak[PRODUCT_ROUNDS];
} ProductPath;

typedef struct {
    size_t n_paths;
    ProductPath paths[MAX_PATHS];
    float *x, *y, *scratch, *scale;
    unsigned char *data[N_SHAPES];
} ProductBench;

static float value_at(size_t i) { return (float)(i * 7919 % 1000) * 0.002f - 1; }

static Err *fill_weight(unsigned char **data, const ProductShape *shape)
{
    size_t n = shape->rows * shape->cols, size = dtype_bytes(shape->dtype);
    TRY(mem_new(data, n, size));
    for (size_t i = 0; i < n; i++) {
        float value = value_at(i);
        uint16_t half = bf16_from_f32(value);
        uint8_t byte = f8_e4m3_from_f32(value);
        memcpy(*data + i * size,
               shape->dtype == DTYPE_BF16  ? (void *)&half
               : shape->dtype == DTYPE_F32 ? (void *)&value
                                           : (void *)&byte,
               size);
    }
    return NULL;
}

static Err *fill_inputs(ProductBench *p)
{
    size_t n = (size_t)MAX_ROWS * MAX_COLS, blocks = MAX_COLS / WEIGHT_BLOCK * (MAX_COLS / WEIGHT_BLOCK);
    TRY(mem_new(&p->x, n, sizeof *p->x));
    TRY(mem_new(&p->y, n, sizeof *p->y));
    TRY(mem_new(&p->scratch, gemm_scratch(MAX_ROWS, MAX_COLS, 0), sizeof *p->scratch));
    TRY(mem_new(&p->scale, blocks, sizeof *p->scale));
    for (size_t i = 0; i < n; i++) p->x[i] = value_at(i);
    for (size_t i = 0; i < blocks; i++) p->scale[i] = 1;
    for (size_t s = 0; s < N_SHAPES; s++) TRY(fill_weight(&p->data[s], &shapes[s]));
    return NULL;
}

static Weight weight_at(const ProductBench *p, size_t s)
{
    return (Weight){.dtype = shapes[s].dtype,
                    .rows = shapes[s].rows,
                    .cols = shapes[s].cols,
                    .data = p->data[s],
                    .scale = p->scale};
}

/* Seconds for one product; small ones are repeated. */
static double measure_product(const ProductBench *p, size_t s, size_t T, TimingPass pass)
{
    Weight w = weight_at(p, s);
    double work = (double)T * (double)w.rows * (double)w.cols;
    int calls = work < 5e7 ? (int)(5e7 / work) : 1;
    double start = log_cpu_seconds();
    for (int i = 0; i < calls; i++) {
        if (pass == TIMING_BACKWARD)
            gemm_nn(T, rows_of(p->y, w.cols), shapes[s].add, 1, rows_of(p->x, w.rows), &w, NULL, p->scratch);
        else
            gemm_nt(T, rows_of(p->y, w.rows), shapes[s].add, 1, rows_of(p->x, w.cols), &w, NULL, p->scratch);
    }
    return (log_cpu_seconds() - start) / calls;
}

/* Products of float32 weights are the same on both paths. */
static bool is_measured(const ProductPath *path, size_t s) { return !path->bf16 || shapes[s].dtype != DTYPE_F32; }

static void measure_round(ProductBench *p, int round)
{
    for (size_t k = 0; k < p->n_paths; k++) p->paths[k].peak[round] = 2 * peak_of_thread(p->paths[k].bf16, PEAK_ROUNDS);
    for (size_t s = 0; s < N_SHAPES; s++)
        for (size_t t = 0; t < N_TOKENS; t++)
            for (TimingPass pass = 0; pass < TIMING_PASSES; pass++)
                for (size_t k = 0; k < p->n_paths; k++) {
                    if (!is_measured(&p->paths[k], s)) continue;
                    dispatch_init(p->paths[k].compute);
                    p->paths[k].seconds[s][t][pass][round] = measure_product(p, s, tokens[t], pass);
                }
}

static Err *add_product_record(BenchReport *report, const ProductShape *shape, size_t T, TimingPass pass, Cost cost,
                               double seconds, double peak)
{
    Json *record = report_record("product");
    json_add_string(record, "dtype", dtype_name(shape->dtype));
    json_add_number(record, "rows", (double)shape->rows);
    json_add_number(record, "cols", (double)shape->cols);
    json_add_number(record, "tokens", (double)T);
    json_add_string(record, "way", report_pass(pass));
    json_add_string(record, "path", dispatch_path());
    json_add_number(record, "threads", 1);
    report_measure(record, cost, seconds, peak);
    return report_add(report, record);
}

static Err *report_shape(ProductBench *p, ProductPath *path, size_t s, double peak, BenchReport *report)
{
    Weight w = weight_at(p, s);
    printf("\n%-8s %5zu x %-5zu ", dtype_name(w.dtype), w.rows, w.cols);
    for (size_t t = 0; t < N_TOKENS; t++) {
        double share[TIMING_PASSES];
        for (TimingPass pass = 0; pass < TIMING_PASSES; pass++) {
            Cost cost = count_linear(tokens[t], &w, TIMING_FORWARD); /* dx, not accumulated, moves as many bytes as y */
            double seconds = sample_median(PRODUCT_ROUNDS, path->seconds[s][t][pass]);
            share[pass] = cost.flop / seconds / peak;
            TRY(add_product_record(report, &shapes[s], tokens[t], pass, cost, seconds, peak));
        }
        printf("  %.3f/%.3f", share[TIMING_FORWARD], share[TIMING_BACKWARD]);
    }
    return NULL;
}

static Err *report_path(ProductBench *p, ProductPath *path, BenchReport *report)
{
    double peak = sample_median(PRODUCT_ROUNDS, path->peak);
    dispatch_init(path->compute);
    printf("Products, one thread, %s: shares of the %.0f GFLOP/s that one core can do in %s, forward / backward\n%-22s",
           dispatch_path(), 1e-9 * peak, path->bf16 ? "bf16" : "fp32", "W, x rows");
    for (size_t t = 0; t < N_TOKENS; t++) printf("    %-9zu", tokens[t]);
    for (size_t s = 0; s < N_SHAPES; s++)
        if (is_measured(path, s)) TRY(report_shape(p, path, s, peak, report));
    printf("\n\n");
    fflush(stdout);
    return NULL;
}

static Err *measure(ProductBench *p, BenchReport *report)
{
    TRY(fill_inputs(p));
    for (int round = 0; round < PRODUCT_ROUNDS; round++) measure_round(p, round);
    for (size_t k = 0; k < p->n_paths; k++) TRY(report_path(p, &p->paths[k], report));
    return NULL;
}

static void choose_paths(ProductBench *p, const char *compute)
{
    const char *const both[] = {"bf16", "fp32"};
    for (size_t i = 0; i < (compute ? 1 : MAX_PATHS); i++) {
        const char *asked = compute ? compute : both[i];
        if (dispatch_init(asked)) p->paths[p->n_paths++] = (ProductPath){.compute = asked, .bf16 = dispatch_is_bf16()};
    }
}

Err *products_measure(BenchReport *report, const char *compute)
{
    ProductBench *p;
    int threads = omp_get_max_threads();
    TRY(mem_new(&p, 1, sizeof *p));
    omp_set_num_threads(1);
    choose_paths(p, compute);
    Err *err = measure(p, report);
    omp_set_num_threads(threads);
    dispatch_init(compute);
    void *owned[] = {p->x, p->y, p->scratch, p->scale};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    for (size_t s = 0; s < N_SHAPES; s++) free(p->data[s]);
    free(p);
    return err_wrap(err, "measure products");
}
