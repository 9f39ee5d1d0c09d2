/* Attention forward and backward on both paths, as shares of one core's fp32 and bf16 peak, measured in the same rounds.
 *
 *     make build/bench/tools/attention
 *     OMP_NUM_THREADS=1 build/bench/tools/attention [compute]
 *
 * Counted are the multiply-adds that causal attention needs: n (n + 1) / 2 scores of a head, two products forward, five
 * backward. "chosen": every query sees n / 4 keys of its past, as an indexer chooses them; counted as if it saw all.
 * Rounds are interleaved, so that a noisy neighbour hits all alike; each number is a median, of processor time. */
#include "autograd/op.h"
#include "base/log.h"
#include "base/peak.h"
#include "base/rng.h"
#include "tensor/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 3, N_PATHS = 2, MOST = 2048 };

typedef struct {
    const char *name;
    AttentionShape shape;
} Case;

static const Case cases[] = {{"S: 16 heads, 96 + 32, 128", {16, 96, 32, 128, 0.088f, 0}},
                             {"GLM-5: 64 heads, 192 + 64, 256", {64, 192, 64, 256, 0.0625f, 0}}};
static const size_t lengths[] = {128, 512, 2048};
enum { N_CASES = sizeof cases / sizeof *cases, N_LENGTHS = sizeof lengths / sizeof *lengths, N_WAYS = 2 };

typedef struct {
    const char *compute;
    bool bf16;
    double rate[ROUNDS], share[N_CASES][N_LENGTHS][N_WAYS][2][ROUNDS]; /* [..][chosen][backward] */
} Path;

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

static float *normal(size_t n, uint64_t key)
{
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    for (size_t i = 0; i < n; i++) x[i] = 2 * rng_uniform(key, i) - 1;
    return x;
}

typedef struct {
    float *q, *kv, *kr, *d_o;
    uint64_t *bits; /* for MOST rows */
} Data;

/* Its own position and n / 4 - 1 random keys of its past, where it is as long. */
static void choose(size_t n, uint64_t *bits)
{
    size_t words = (n + 63) / 64;
    memset(bits, 0, n * words * sizeof *bits);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n / 4; k++) {
            size_t key = k == 0 ? i : i < n / 4 ? k < i ? k : 0 : rng_below(i, k, i + 1);
            bits[i * words + key / 64] |= (uint64_t)1 << key % 64;
        }
}

static Err *once(Tape *tape, const AttentionShape *s, const Data *data, size_t n, bool chosen, double seconds[2])
{
    size_t H = s->n_heads;
    const Group group = {.T = n, .n_docs = 1, .doc_start = (size_t[]){0, n}};
    Keys keys = {1, (uint64_t *[]){data->bits}, 0};
    tape_begin(tape, &group, TAPE_RECORD);
    Tensor *in[] = {tape_leaf(tape, n, H * (s->nope + s->rope), data->q, true),
                    tape_leaf(tape, n, H * (s->nope + s->v), data->kv, true),
                    tape_leaf(tape, n, s->rope, data->kr, true)};
    for (size_t i = 0; i < 3; i++) tape_seed(tape, in[i]);
    double start = log_cpu_seconds();
    Tensor *o = op_attention(tape, s, in[0], in[1], in[2], 0, chosen ? &keys : NULL);
    seconds[0] += log_cpu_seconds() - start;
    TRY(tape_error(tape));
    memcpy(tape_seed(tape, o), data->d_o, n * H * s->v * sizeof(float));
    start = log_cpu_seconds();
    TRY(tape_backward(tape));
    seconds[1] += log_cpu_seconds() - start;
    return NULL;
}

/* Seconds forward and backward: once where it takes long, else the mean of some calls after one to warm up. */
static Err *measure(Tape *tape, const AttentionShape *s, const Data *data, size_t n, bool chosen, double seconds[2])
{
    double work = (double)(n * n * s->n_heads * s->v);
    int calls = work < 2e10 ? (int)(2e9 / work) + 1 : 1;
    if (chosen) choose(n, data->bits);
    for (int i = work < 2e10 ? -1 : 0; i < calls; i++) {
        if (i <= 0) seconds[0] = seconds[1] = 0;
        TRY(once(tape, s, data, n, chosen, seconds));
    }
    seconds[0] /= calls, seconds[1] /= calls;
    return NULL;
}

static Err *round_of(Path *path, int round, Tape *tape, const Data *data)
{
    dispatch_init(path->compute);
    path->rate[round] = peak_of_thread(path->bf16, 2 * PEAK_ROUNDS);
    for (size_t c = 0; c < N_CASES; c++)
        for (size_t l = 0; l < N_LENGTHS; l++)
            for (size_t chosen = 0; chosen < N_WAYS; chosen++) {
                const AttentionShape *s = &cases[c].shape;
                double n = (double)lengths[l], key = (double)(s->nope + s->rope), v = (double)s->v, seconds[2];
                double work = n * (n + 1) / 2 * (double)s->n_heads / path->rate[round];
                TRY(measure(tape, s, data, lengths[l], chosen, seconds));
                path->share[c][l][chosen][0][round] = work * (key + v) / seconds[0];
                path->share[c][l][chosen][1][round] = work * (3 * key + 2 * v) / seconds[1];
            }
    return NULL;
}

static void print(Path *path)
{
    dispatch_init(path->compute);
    printf("%s, %d threads; %s peak of one core %.1f G multiply-adds/s; shares of it, forward / backward\n%-34s",
           dispatch_path(), omp_get_max_threads(), path->bf16 ? "bf16" : "fp32", median(path->rate) / 1e9, "attention");
    for (size_t l = 0; l < N_LENGTHS; l++) printf("    n=%-8zu", lengths[l]);
    for (size_t c = 0; c < N_CASES; c++)
        for (size_t chosen = 0; chosen < N_WAYS; chosen++) {
            printf("\n%-32s%s", cases[c].name, chosen ? " c" : "  ");
            for (size_t l = 0; l < N_LENGTHS; l++)
                printf("  %.3f/%.3f", median(path->share[c][l][chosen][0]), median(path->share[c][l][chosen][1]));
        }
    printf("\n");
}

static Err *run(int argc, char **argv)
{
    static Path paths[N_PATHS];
    const char *const both[] = {"fp32", "bf16"}, *const *asked = argc > 1 ? (const char *const *)argv + 1 : both;
    const AttentionShape *most = &cases[N_CASES - 1].shape;
    size_t n_paths = 0, H = most->n_heads;
    Tape tape = {0};
    Data data = {normal(MOST * H * (most->nope + most->rope), 1), normal(MOST * H * (most->nope + most->v), 2),
                 normal(MOST * most->rope, 3), normal(MOST * H * most->v, 4), malloc(MOST * MOST / 8)};
    Err *err = NULL;
    for (size_t i = 0; i < (argc > 1 ? 1 : N_PATHS); i++)
        if (dispatch_init(asked[i]))
            paths[n_paths++] = (Path){.compute = asked[i], .bf16 = !strncmp(dispatch_path(), "bf16/", 5)};
    for (int round = 0; round < ROUNDS; round++)
        for (size_t p = 0; p < n_paths && !err; p++) err = round_of(&paths[p], round, &tape, &data);
    for (size_t p = 0; p < n_paths && !err; p++) print(&paths[p]);
    tape_free(&tape);
    free(data.q), free(data.kv), free(data.kr), free(data.d_o), free(data.bits);
    return err;
}

int main(int argc, char **argv) { return err_report("attention", run(argc, argv)); }
