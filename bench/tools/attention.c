/* Attention forward and backward on both paths, as shares of one core's fp32 and bf16 peak, measured in the same
 * rounds.
 *
 *     make build/bench/tools/attention
 *     OMP_NUM_THREADS=1 build/bench/tools/attention [compute]
 *
 * The multiply-adds that causal attention needs are counted: n (n + 1) / 2 query-key scores per head, two products
 * forward, five backward. In lines with "c" every query has n / 4 chosen keys of its past, as from an indexer; they
 * count as if it had all. Rounds are interleaved, so that other programs disturb all measurements alike; each number
 * is a median of processor time. */
#include "autograd/op.h"
#include "base/log.h"
#include "base/peak.h"
#include "base/rng.h"
#include "bench/sample.h"
#include "tensor/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ATTENTION_ROUNDS = 3, MAX_PATHS = 2, MAX_LENGTH = 2048 };

typedef struct {
    const char *name;
    AttentionShape shape;
} AttentionCase;

static const AttentionCase cases[] = {{"S: 16 heads, 96 + 32, 128", {16, 96, 32, 128, 0.088f, 0}},
                                      {"GLM-5: 64 heads, 192 + 64, 256", {64, 192, 64, 256, 0.0625f, 0}}};
static const size_t lengths[] = {128, 512, 2048};
enum {
    N_ATTENTION_CASES = sizeof cases / sizeof *cases,
    N_LENGTHS = sizeof lengths / sizeof *lengths,
    N_KEY_CHOICES = 2
};

typedef struct {
    const char *compute;
    bool bf16;
    double rate[ATTENTION_ROUNDS],
        share[N_ATTENTION_CASES][N_LENGTHS][N_KEY_CHOICES][2][ATTENTION_ROUNDS]; /* [..][chosen][backward] */
} AttentionPath;

static float *random_floats(size_t n, uint64_t key)
{
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    for (size_t i = 0; i < n; i++) x[i] = 2 * rng_uniform(key, i) - 1;
    return x;
}

typedef struct {
    float *q, *kv, *kr, *d_o;
    uint64_t *bits; /* for MAX_LENGTH rows */
} AttentionInputs;

/* For every query its own position and n / 4 - 1 random keys of its past; fewer if its past is shorter. */
static void choose_keys(size_t n, uint64_t *bits)
{
    size_t words = (n + 63) / 64;
    memset(bits, 0, n * words * sizeof *bits);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n / 4; k++) {
            size_t key = k == 0 ? i : i < n / 4 ? k < i ? k : 0 : rng_below(i, k, i + 1);
            bits[i * words + key / 64] |= (uint64_t)1 << key % 64;
        }
}

static Err *measure_once(Tape *tape, const AttentionShape *s, const AttentionInputs *data, size_t n, bool chosen,
                         double seconds[2])
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

/* Seconds forward and backward: of a single call if that takes long, or else the mean of several calls after a
 * warm-up. */
static Err *measure(Tape *tape, const AttentionShape *s, const AttentionInputs *data, size_t n, bool chosen,
                    double seconds[2])
{
    double work = (double)(n * n * s->n_heads * s->v);
    int calls = work < 2e10 ? (int)(2e9 / work) + 1 : 1;
    if (chosen) choose_keys(n, data->bits);
    for (int i = work < 2e10 ? -1 : 0; i < calls; i++) {
        if (i <= 0) seconds[0] = seconds[1] = 0;
        TRY(measure_once(tape, s, data, n, chosen, seconds));
    }
    seconds[0] /= calls, seconds[1] /= calls;
    return NULL;
}

static Err *measure_round(AttentionPath *path, int round, Tape *tape, const AttentionInputs *data)
{
    dispatch_init(path->compute);
    path->rate[round] = peak_of_thread(path->bf16, 2 * PEAK_ROUNDS);
    for (size_t c = 0; c < N_ATTENTION_CASES; c++)
        for (size_t l = 0; l < N_LENGTHS; l++)
            for (size_t chosen = 0; chosen < N_KEY_CHOICES; chosen++) {
                const AttentionShape *s = &cases[c].shape;
                double n = (double)lengths[l], key = (double)(s->nope + s->rope), v = (double)s->v, seconds[2];
                double work = n * (n + 1) / 2 * (double)s->n_heads / path->rate[round];
                TRY(measure(tape, s, data, lengths[l], chosen, seconds));
                path->share[c][l][chosen][0][round] = work * (key + v) / seconds[0];
                path->share[c][l][chosen][1][round] = work * (3 * key + 2 * v) / seconds[1];
            }
    return NULL;
}

static void print_path(AttentionPath *path)
{
    dispatch_init(path->compute);
    printf("%s, %d threads; %s peak of one core %.1f G multiply-adds/s; shares of it, forward / backward\n%-34s",
           dispatch_path(), omp_get_max_threads(), path->bf16 ? "bf16" : "fp32",
           sample_median(ATTENTION_ROUNDS, path->rate) / 1e9, "attention");
    for (size_t l = 0; l < N_LENGTHS; l++) printf("    n=%-8zu", lengths[l]);
    for (size_t c = 0; c < N_ATTENTION_CASES; c++)
        for (size_t chosen = 0; chosen < N_KEY_CHOICES; chosen++) {
            printf("\n%-32s%s", cases[c].name, chosen ? " c" : "  ");
            for (size_t l = 0; l < N_LENGTHS; l++)
                printf("  %.3f/%.3f", sample_median(ATTENTION_ROUNDS, path->share[c][l][chosen][0]),
                       sample_median(ATTENTION_ROUNDS, path->share[c][l][chosen][1]));
        }
    printf("\n");
}

static Err *measure_all(int argc, char **argv)
{
    static AttentionPath paths[MAX_PATHS];
    const char *const both[] = {"fp32", "bf16"}, *const *asked = argc > 1 ? (const char *const *)argv + 1 : both;
    const AttentionShape *largest = &cases[N_ATTENTION_CASES - 1].shape;
    size_t n_paths = 0, H = largest->n_heads;
    Tape tape = {0};
    AttentionInputs data = {random_floats(MAX_LENGTH * H * (largest->nope + largest->rope), 1),
                            random_floats(MAX_LENGTH * H * (largest->nope + largest->v), 2),
                            random_floats(MAX_LENGTH * largest->rope, 3), random_floats(MAX_LENGTH * H * largest->v, 4),
                            malloc(MAX_LENGTH * MAX_LENGTH / 8)};
    Err *err = NULL;
    for (size_t i = 0; i < (argc > 1 ? 1 : MAX_PATHS); i++)
        if (dispatch_init(asked[i]))
            paths[n_paths++] = (AttentionPath){.compute = asked[i], .bf16 = dispatch_is_bf16()};
    for (int round = 0; round < ATTENTION_ROUNDS; round++)
        for (size_t p = 0; p < n_paths && !err; p++) err = measure_round(&paths[p], round, &tape, &data);
    for (size_t p = 0; p < n_paths && !err; p++) print_path(&paths[p]);
    tape_free(&tape);
    free(data.q), free(data.kv), free(data.kr), free(data.d_o), free(data.bits);
    return err;
}

int main(int argc, char **argv) { return err_report("attention", measure_all(argc, argv)); }
