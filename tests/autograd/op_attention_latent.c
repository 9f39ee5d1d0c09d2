/* Attention over latents: values and gradients, its independence of grouping and threads, and the expanded form. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    AttentionShape shape;
    size_t R, kr_col;
    const Weight *kv_up;
    Keys keys; /* of all documents */
    bool adapted, dropout;
    double *keep; /* [T][R] what dropout multiplies with; NULL: ones */
} Latent;

/* Documents of `from` tokens and more attend to latents, shorter ones to expanded keys: both kinds meet in a group. */
static const struct {
    const char *documents;
    size_t H, nope, rope, v, R, r, krw, kr_col, top_k, from;
    DType dtype;
    float dropout;
} cases[] = {
    {"2", 1, 1, 1, 1, 1, 1, 1, 0, 1, 2, DTYPE_F32, 0},
    {"9", 2, 4, 2, 3, 6, 0, 3, 1, 4, 5, DTYPE_F32, 0}, /* no pair */
    {"13 1 | 15 | 2 12", 3, 5, 3, 7, 9, 3, 12, 9, 4, 5, DTYPE_F32, 0},
    {"13 1 | 15 | 2 12", 3, 5, 3, 7, 9, 3, 12, 9, 4, 13, DTYPE_BF16, 0},
    {"20 3 | 31", 18, 6, 2, 5, 17, 2, 2, 0, 3, 4, DTYPE_F8_E4M3, 0},
    {"20 3 | 31 6", 3, 6, 2, 5, 12, 4, 2, 0, 3, 4, DTYPE_F32, 0.3f},
    {"300 | 9", 2, 4, 2, 3, 6, 2, 2, 0, 7, 8, DTYPE_F32, 0}, /* more than one block of queries */
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* Up to `top_k` random keys of every query's past, never none; documents not longer than that see everything. */
static Keys choose(Trial *trial, size_t top_k)
{
    const Group *group = &trial->group;
    Keys keys = {group->n_docs, trial_alloc(trial, group->n_docs * sizeof *keys.of), 0};
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d], words = keys_words(group, d);
        if (n <= top_k) continue;
        keys.of[d] = trial_alloc(trial, n * words * sizeof **keys.of);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < top_k; k++) {
                size_t key = rng_below(rng_key(8, d), i * 1000 + k, i + 1);
                keys.of[d][i * words + key / 64] |= (uint64_t)1 << (key % 64);
            }
    }
    return keys;
}

static Lora *lora_of(Tape *tape, Param *A, Param *B, bool dropout)
{
    Lora *lora = tape_alloc(tape, sizeof *lora);
    *lora = (Lora){.A = A, .B = B, .scale = 0.7f, .dropout = dropout, .key = 12};
    return lora;
}

static size_t n_latent(const Latent *a, const Group *group, const Keys *keys)
{
    size_t n = 0;
    for (size_t d = 0; d < group->n_docs; d++) n += attends_latents(&a->shape, group, keys, d);
    return n;
}

/* As model/attention.c does, with both ways wherever both kinds of documents are there. */
static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const Latent *a = trial->op;
    Keys *keys = tape_alloc(tape, sizeof *keys);
    *keys = (Keys){tape->group->n_docs, a->keys.of + call->doc, 0};
    size_t some = n_latent(a, tape->group, keys);
    LatentInputs in = {
        .q = call->in[0], .latent = call->in[1], .kr = call->in[2], .kr_col = a->kr_col, .kv_up = a->kv_up};
    Tensor *kv, *o = NULL;
    if (a->adapted) {
        in.lora = lora_of(tape, &call->param[3], &call->param[4], a->dropout);
        in.B = op_param(tape, in.lora->B);
        in.u = op_lora_A(tape, in.latent, in.lora);
    }
    if (some < tape->group->n_docs) {
        kv = a->adapted ? op_lora_B(tape, in.latent, in.kv_up, in.u, in.lora, in.B)
                        : op_linear(tape, in.latent, 1, &in.kv_up, 0, NULL);
        o = op_attention(tape, &a->shape, in.q, kv, in.kr, in.kr_col, keys);
    }
    return some ? op_attention_latent(tape, &a->shape, &in, keys, o) : o;
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const Latent *a = trial->op;
    size_t T = trial->group.T, O = a->kv_up->rows;
    double *kv = malloc(T * O * sizeof *kv);
    assert_non_null(kv);
    reference_project(T, a->R, O, (void *)kv, in[1], a->kv_up);
    if (a->adapted)
        reference_lora(T, a->R, O, O, trial->in[3].rows, (void *)kv, 0, (double)0.7f, in[1], a->keep, in[3], in[4]);
    reference_attention(&trial->group, &a->shape, trial->in[2].cols, out, in[0], (void *)kv, in[2], a->kr_col,
                        &a->keys);
    free(kv);
}

/* What becomes of ones when A is a unit. */
static double *mask_of(Trial *trial, float p, size_t D)
{
    Tape tape = {.dropout = p, .dropout_key = 99};
    size_t T = trial->group.T;
    float *unit = trial_alloc(trial, D * D * sizeof *unit), *ones = trial_alloc(trial, T * D * sizeof *ones);
    for (size_t i = 0; i < D; i++) unit[i * D + i] = 1;
    for (size_t i = 0; i < T * D; i++) ones[i] = 1;
    Param A = {.name = (char *)"unit", .rows = D, .cols = D, .data = unit};
    tape_begin(&tape, &trial->group, TAPE_OFF);
    Tensor *u = op_lora_A(&tape, tape_leaf(&tape, T, D, ones, false), &(Lora){.A = &A, .dropout = true, .key = 12});
    assert_ok(tape_error(&tape));
    double *keep = trial_alloc(trial, T * D * sizeof *keep);
    for (size_t i = 0; i < T * D; i++) keep[i] = (double)u->data[i];
    tape_free(&tape);
    return keep;
}

static void make(Trial *trial, size_t i)
{
    size_t H = cases[i].H, nope = cases[i].nope, rope = cases[i].rope, v = cases[i].v, R = cases[i].R,
           O = H * (nope + v);
    trial_init(trial, cases[i].documents, build, reference, H * v);
    trial_tensor(trial, "q", H * (nope + rope));
    trial_tensor(trial, "latent", R);
    trial_tensor(trial, "kr", cases[i].krw);
    if (cases[i].r) {
        trial_param(trial, "A", cases[i].r, R);
        trial_param(trial, "B", O, cases[i].r);
    }
    Latent *a = trial_alloc(trial, sizeof *a);
    *a = (Latent){.shape = {H, nope, rope, v, 0.1f, cases[i].from},
                  .R = R,
                  .kr_col = cases[i].kr_col,
                  .adapted = cases[i].r > 0,
                  .dropout = cases[i].dropout > 0,
                  .kv_up = trial_weight(trial, "kv_up", cases[i].dtype, O, R)};
    a->keys = choose(trial, cases[i].top_k);
    if (a->dropout) a->keep = mask_of(trial, cases[i].dropout, R);
    trial->op = a;
    trial->dropout = cases[i].dropout;
    trial->samples = H * trial->group.T < 500 ? 40 : 10;
    trial->forward_within = 5e-6;
    trial->gradient_within = 3e-5;
}

static void forward_agrees_with_double(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_forward);
}

static void backward_matches_finite_differences(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_gradients);
}

static void documents_grouping_and_threads_change_no_bit(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_same_bits);
}

/* ---- against the expanded form, at sizes that cut runs of keys and groups of heads ----------------------------- */

static void large(Trial *trial)
{
    enum { H = 18, NOPE = 20, ROPE = 6, V = 24, R = 70, r = 5 };
    trial_init(trial, "1100", build, NULL, H * V);
    trial_tensor(trial, "q", H * (NOPE + ROPE));
    trial_tensor(trial, "latent", R);
    trial_tensor(trial, "kr", ROPE);
    trial_param(trial, "A", r, R);
    trial_param(trial, "B", H * (NOPE + V), r);
    for (size_t i = 3; i < 5; i++)
        for (size_t j = 0; j < trial->in[i].rows * trial->in[i].cols; j++) trial->in[i].values[j] *= 0.1f;
    Latent *a = trial_alloc(trial, sizeof *a);
    *a = (Latent){.shape = {H, NOPE, ROPE, V, 0.03f, 2},
                  .R = R,
                  .adapted = true,
                  .kv_up = trial_weight(trial, "kv_up", DTYPE_BF16, H * (NOPE + V), R)};
    a->keys = choose(trial, 900);
    trial->op = a;
}

static double distance(const float *a, const float *b, size_t n)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        off += d * d;
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

static void assert_near_expanded(const char *path, double within)
{
    Arena arena = {0};
    Trial trial;
    large(&trial);
    Latent dense = *(const Latent *)trial.op;
    void *latent = trial.op;
    dense.shape.latent_from = 0;
    trial.op = &dense;
    assert_true(dispatch_init("fp32"));
    Outcome want = trial_run(&trial, &arena);
    trial.op = latent;
    assert_true(dispatch_init(path));
    Outcome got = trial_run(&trial, &arena);
    assert_true(distance(got.out, want.out, trial.group.T * trial.cols) < within);
    for (size_t i = 0; i < trial.n_in; i++)
        assert_true(distance(got.grad[i], want.grad[i], trial.in[i].rows * trial.in[i].cols) < within);
    assert_true(dispatch_init("fp32"));
    arena_free(&arena);
    trial_free(&trial);
}

static void it_equals_the_expanded_form_to_rounding(void **state)
{
    (void)state;
    assert_near_expanded("fp32", 5e-6);
    assert_near_expanded("fp32/plain", 5e-6);
    if (dispatch_init("fp32/avx2")) assert_near_expanded("fp32/avx2", 5e-6);
}

static void rounding_to_bf16_costs_less_than_a_hundredth(void **state)
{
    (void)state;
    if (!dispatch_init("bf16")) skip();
    assert_near_expanded("bf16", 1e-2);
}

static void avx2_has_the_bits_of_avx512(void **state)
{
    (void)state;
    if (!dispatch_init("fp32/avx512")) skip();
    for (size_t i = 0; i < N_CASES; i++) {
        Arena arena = {0};
        Trial trial;
        make(&trial, i);
        assert_true(dispatch_init("fp32/avx512"));
        Outcome want = trial_run(&trial, &arena);
        assert_true(dispatch_init("fp32/avx2"));
        Outcome got = trial_run(&trial, &arena);
        assert_memory_equal(got.out, want.out, trial.group.T * trial.cols * sizeof(float));
        for (size_t j = 0; j < trial.n_in; j++)
            assert_memory_equal(got.grad[j], want.grad[j], trial.in[j].rows * trial.in[j].cols * sizeof(float));
        arena_free(&arena);
        trial_free(&trial);
    }
    assert_true(dispatch_init("fp32"));
}

/* ---- what does not fit ----------------------------------------------------------------------------------------- */

static void refused(size_t qw, size_t latent, size_t krw, size_t ow, size_t low, const char *part)
{
    Tape tape = {0};
    float x[64] = {0};
    uint64_t bits[3] = {1, 1, 1};
    Group group = {.T = 3,
                   .n_docs = 1,
                   .doc_start = (size_t[]){0, 3},
                   .n_micro_batches = 1,
                   .micro_batch_start = (size_t[]){0, 3}};
    AttentionShape shape = {2, 3, 2, 2, 1, 2};
    Param A = {.name = (char *)"kv.lora_A", .rows = 2, .cols = 4, .data = x},
          B = {.name = (char *)"kv.lora_B", .rows = 10, .cols = 2, .data = x};
    Weight up = weight_of("kv_up", 10, 4, x);
    Lora lora = {.A = &A, .B = &B, .scale = 1};
    tape_begin(&tape, &group, TAPE_RECORD);
    LatentInputs in = {.q = tape_leaf(&tape, 3, qw, x, true),
                       .latent = tape_leaf(&tape, 3, latent, x, true),
                       .kr = tape_leaf(&tape, 3, krw, x, true),
                       .kr_col = 1,
                       .kv_up = &up,
                       .lora = &lora,
                       .u = tape_leaf(&tape, 3, low, x, true),
                       .B = op_param(&tape, &B)};
    Tensor *o = tape_leaf(&tape, 3, ow, x, true);
    assert_ptr_equal(op_attention_latent(&tape, &shape, &in, &(Keys){1, (uint64_t *[]){bits}, 0}, o), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, part);
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    refused(9, 4, 3, 4, 2, "q is [3][9]");
    refused(10, 3, 3, 4, 2, "latent [3][3]");
    refused(10, 4, 2, 4, 2, "kr [3][2]");
    refused(10, 4, 3, 5, 2, "o is [3][5]");
    refused(10, 4, 3, 4, 3, "kv.lora_B: kv_up is [10][4], B [10][2] at column 0, u [3][3]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(documents_grouping_and_threads_change_no_bit),
        cmocka_unit_test(it_equals_the_expanded_form_to_rounding),
        cmocka_unit_test(rounding_to_bf16_costs_less_than_a_hundredth),
        cmocka_unit_test(avx2_has_the_bits_of_avx512),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
