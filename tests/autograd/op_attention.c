/* Attention over expanded heads: values and gradients, documents, chosen keys, every length on every path. */
#include "tests/support/chains.h"
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    AttentionShape shape;
    size_t kr_col;
    Keys *keys; /* of all documents, or NULL */
} Attention;

static const struct {
    const char *documents;
    size_t H, nope, rope, v, krw, kr_col, top_k, recent; /* top_k 0: every key; recent 0: keys of the whole past */
} cases[] = {
    {"1", 1, 1, 1, 1, 1, 0, 0, 0},
    {"3 1 | 5 | 2 2", 3, 5, 3, 7, 9, 4, 0, 0},
    {"3 1 | 5 | 2 2", 2, 4, 2, 1, 3, 1, 2, 0},
    {"1 1 | 1", 2, 3, 2, 3, 2, 0, 0, 0},
    {"130 | 64 1 65", 2, 3, 2, 5, 4, 2, 0, 0},
    {"70 | 150 2", 2, 3, 2, 5, 4, 2, 9, 0},
    {"400 1", 1, 3, 2, 2, 2, 0, 0, 0},
    {"8 | 500 97", 1, 3, 2, 2, 3, 1, 7, 70}, /* tiles in which nobody chose a key */
    {"7 30", 1, 213, 70, 301, 70, 0, 0, 0},  /* wider than a block of words */
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* Up to `top_k` random keys of every query's past, of the last `recent` ones, never none; documents not longer than
 * that see everything. */
static Keys *choose(Trial *trial, size_t top_k, size_t recent)
{
    const Group *group = &trial->group;
    Keys *keys = trial_alloc(trial, sizeof *keys);
    *keys = (Keys){group->n_docs, trial_alloc(trial, group->n_docs * sizeof *keys->of), 0};
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d], words = keys_words(group, d);
        if (n <= top_k) continue;
        keys->of[d] = trial_alloc(trial, n * words * sizeof **keys->of);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < top_k; k++) {
                size_t key = i - rng_below(rng_key(8, d), i * 100 + k, recent && recent <= i ? recent : i + 1);
                keys->of[d][i * words + key / 64] |= (uint64_t)1 << (key % 64);
            }
    }
    return keys;
}

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const Attention *a = trial->op;
    Keys *keys = NULL;
    if (a->keys) {
        keys = tape_alloc(tape, sizeof *keys);
        *keys = (Keys){tape->group->n_docs, a->keys->of + call->doc, 0};
    }
    return op_attention(tape, &a->shape, call->in[0], call->in[1], call->in[2], a->kr_col, keys);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const Attention *a = trial->op;
    reference_attention(&trial->group, &a->shape, trial->in[2].cols, out, in[0], in[1], in[2], a->kr_col, a->keys);
}

static void make(Trial *trial, size_t i)
{
    size_t H = cases[i].H, nope = cases[i].nope, rope = cases[i].rope, v = cases[i].v;
    trial_init(trial, cases[i].documents, build, reference, H * v);
    trial_tensor(trial, "q", H * (nope + rope));
    trial_tensor(trial, "kv", H * (nope + v));
    trial_tensor(trial, "kr", cases[i].krw);
    Attention *a = trial_alloc(trial, sizeof *a);
    *a = (Attention){{H, nope, rope, v, 0.4f, 0},
                     cases[i].kr_col,
                     cases[i].top_k ? choose(trial, cases[i].top_k, cases[i].recent) : NULL};
    trial->op = a;
    trial->samples = trial->group.T < 300 ? 60 : 15;
    if (nope > 200)
        trial->forward_within = 2e-5; /* scores around 7: errors of 2^-24 of their largest sums, in an exponent */
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

static void a_document_alone_equals_the_document_among_others(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_same_bits);
}

static void a_bitmap_of_all_keys_equals_none(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    make(&trial, 4);
    Outcome want = trial_run(&trial, &arena);
    Attention a = *(const Attention *)trial.op;
    a.keys = choose(&trial, 1, 0);
    const Group *group = &trial.group;
    for (size_t d = 0; d < group->n_docs; d++)
        if (a.keys->of[d])
            memset(a.keys->of[d], 0xff,
                   (group->doc_start[d + 1] - group->doc_start[d]) * keys_words(group, d) * sizeof **a.keys->of);
    trial.op = &a;
    Outcome got = trial_run(&trial, &arena);
    assert_memory_equal(got.out, want.out, trial.group.T * trial.cols * sizeof(float));
    for (size_t i = 0; i < 3; i++)
        assert_memory_equal(got.grad[i], want.grad[i], trial.group.T * trial.in[i].cols * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

static void the_future_and_other_documents_change_nothing(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    make(&trial, 1);
    Outcome want = trial_run(&trial, &arena);
    for (size_t i = 0; i < 3; i++) /* the last row of the document 4 .. 8, and everything behind */
        for (size_t j = 8 * trial.in[i].cols; j < trial.group.T * trial.in[i].cols; j++) trial.in[i].values[j] = 1e6f;
    Outcome got = trial_run(&trial, &arena);
    assert_memory_equal(got.out, want.out, 8 * trial.cols * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

static void the_first_row_is_its_own_value(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    make(&trial, 1);
    Outcome got = trial_run(&trial, &arena);
    for (size_t h = 0; h < 3; h++)
        assert_memory_equal(got.out + h * 7, trial.in[1].values + h * 12 + 5, 7 * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

/* One document alone: random inputs and gradient of the result; what the operation makes of them. */
typedef struct {
    AttentionShape s;
    size_t n, width[4]; /* of q, kv, kr, o */
    float *in[4];       /* q, kv, kr, do */
    float *out[4];      /* dq, dkv, dkr: the tape's; o */
} SingleHead;

static SingleHead single_new(size_t n, AttentionShape s)
{
    SingleHead x = {
        s, n, {s.n_heads * (s.nope + s.rope), s.n_heads * (s.nope + s.v), s.rope, s.n_heads * s.v}, {NULL}, {NULL}};
    for (size_t i = 0; i < 4; i++) x.in[i] = normal(i + 1, n * x.width[i]);
    x.out[3] = normal(0, n * x.width[3]);
    return x;
}

static void single_free(SingleHead *x)
{
    for (size_t i = 0; i < 4; i++) free(x->in[i]);
    free(x->out[3]);
}

static void single_run(SingleHead *x, Tape *tape)
{
    const Group group = {.T = x->n, .n_docs = 1, .doc_start = (size_t[]){0, x->n}};
    Tensor *in[3];
    tape_begin(tape, &group, TAPE_RECORD);
    for (size_t i = 0; i < 3; i++) in[i] = tape_leaf(tape, x->n, x->width[i], x->in[i], true);
    Tensor *o = op_attention(tape, &x->s, in[0], in[1], in[2], 0, NULL);
    memcpy(x->out[3], o->data, x->n * x->width[3] * sizeof(float));
    memcpy(tape_seed(tape, o), x->in[3], x->n * x->width[3] * sizeof(float));
    assert_ok(tape_backward(tape));
    for (size_t i = 0; i < 3; i++) x->out[i] = in[i]->grad;
}

/* The equations as loops, in double: want[0 .. 3] are dq, dkv, dkr, o, zeroed. */
static void single_plainly(const SingleHead *x, double *const want[4])
{
    const AttentionShape *s = &x->s;
    double *P = calloc(x->n, sizeof *P), *dP = calloc(x->n, sizeof *dP);
    for (size_t h = 0; h < s->n_heads; h++)
        for (size_t i = 0; i < x->n; i++) {
            size_t q = i * x->width[0] + h * (s->nope + s->rope), o = (i * s->n_heads + h) * s->v;
            double sum = 0, delta = 0;
            for (size_t t = 0; t <= i; t++) {
                size_t kv = t * x->width[1] + h * (s->nope + s->v);
                P[t] = dP[t] = 0;
                for (size_t c = 0; c < s->nope; c++) P[t] += (double)x->in[0][q + c] * (double)x->in[1][kv + c];
                for (size_t c = 0; c < s->rope; c++)
                    P[t] += (double)x->in[0][q + s->nope + c] * (double)x->in[2][t * s->rope + c];
                for (size_t c = 0; c < s->v; c++) dP[t] += (double)x->in[3][o + c] * (double)x->in[1][kv + s->nope + c];
                sum += P[t] = exp((double)s->scale * P[t]);
            }
            for (size_t t = 0; t <= i; t++) delta += (P[t] /= sum) * dP[t];
            for (size_t t = 0; t <= i; t++) {
                size_t kv = t * x->width[1] + h * (s->nope + s->v);
                double dS = (double)s->scale * P[t] * (dP[t] - delta);
                for (size_t c = 0; c < s->nope; c++) want[0][q + c] += dS * (double)x->in[1][kv + c];
                for (size_t c = 0; c < s->nope; c++) want[1][kv + c] += dS * (double)x->in[0][q + c];
                for (size_t c = 0; c < s->rope; c++) want[0][q + s->nope + c] += dS * (double)x->in[2][t * s->rope + c];
                for (size_t c = 0; c < s->rope; c++) want[2][t * s->rope + c] += dS * (double)x->in[0][q + s->nope + c];
                for (size_t c = 0; c < s->v; c++) want[1][kv + s->nope + c] += P[t] * (double)x->in[3][o + c];
                for (size_t c = 0; c < s->v; c++) want[3][o + c] += P[t] * (double)x->in[1][kv + s->nope + c];
            }
        }
    free(P), free(dP);
}

/* Differences as a share of the largest element: rounding of fp32 sums; of factors to bf16 (2^-9 each) where gradients
 * are products of factors rounded to bf16. */
static void assert_plain(const SingleHead *x)
{
    static const char *const name[4] = {"dq", "dkv", "dkr", "o"};
    bool bf16 = strncmp(dispatch_path(), "bf16/", 5) == 0;
    double *want[4];
    for (size_t i = 0; i < 4; i++) want[i] = calloc(x->n * x->width[i], sizeof *want[i]);
    single_plainly(x, want);
    for (size_t i = 0; i < 4; i++) {
        double max = 1e-3, worst = 0;
        for (size_t k = 0; k < x->n * x->width[i]; k++) {
            max = fmax(max, fabs(want[i][k]));
            worst = fmax(worst, fabs(want[i][k] - (double)x->out[i][k]));
        }
        if (!(worst <= max * (bf16 && i < 3 ? 1e-2 : 3e-6)))
            fail_msg("%s: %s of %zu tokens, heads %zu: %zu %zu %zu, is off by %g of %g", dispatch_path(), name[i], x->n,
                     x->s.n_heads, x->s.nope, x->s.rope, x->s.v, worst, max);
    }
    for (size_t i = 0; i < 4; i++) free(want[i]);
}

static void every_length_agrees_with_plain_loops_on_every_path(void **state)
{
    (void)state;
    static const size_t odd[] = {1, 3, 7, 15, 17, 33, 49};
    Tape tape = {0};
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t n = 1; n <= 130; n++) {
            SingleHead x = single_new(n,
                                      (AttentionShape){1 + n % 3, odd[n % 7], odd[n / 2 % 5], odd[n / 3 % 7], 0.3f, 0});
            single_run(&x, &tape);
            assert_plain(&x);
            single_free(&x);
        }
    }
    tape_free(&tape);
    dispatch_init("fp32");
}

/* avx2 and avx512 give the same bits; bf16 changes gradients only. */
static void paths_differ_only_where_they_may(void **state)
{
    (void)state;
    static Tape tapes[N_PATHS];
    SingleHead of[N_PATHS];
    bool has[N_PATHS];
    for (size_t p = 0; p < N_PATHS; p++) {
        of[p] = single_new(230, (AttentionShape){2, 13, 6, 21, 0.3f, 0});
        if ((has[p] = has_path(p))) single_run(&of[p], &tapes[p]);
    }
    for (size_t i = 0; i < 4; i++) {
        size_t bytes = of[0].n * of[0].width[i] * sizeof(float);
        if (has[1] && has[2]) assert_memory_equal(of[1].out[i], of[2].out[i], bytes);
        if (has[2] && has[3] && i < 3) assert_memory_not_equal(of[2].out[i], of[3].out[i], bytes);
        if (has[2] && has[3] && i == 3) assert_memory_equal(of[2].out[i], of[3].out[i], bytes);
    }
    for (size_t p = 0; p < N_PATHS; p++) {
        tape_free(&tapes[p]);
        single_free(&of[p]);
    }
    dispatch_init("fp32");
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    static const size_t shapes[][6] = {{3, 9, 3, 10, 3, 4},  {3, 10, 3, 11, 3, 4}, {3, 10, 3, 10, 3, 2},
                                       {3, 10, 2, 10, 3, 4}, {3, 10, 3, 10, 2, 4}, {2, 10, 2, 10, 2, 4}};
    static const char *const parts[] = {"q is [3][9]", "kv [3][11]", "kr [3][2]",
                                        "kv [2][10]",  "kr [2][4]",  "q is [2][10]"};
    Tape tape = {0};
    float x[64] = {0};
    AttentionShape shape = {2, 3, 2, 2, 1, 0};
    Group group = {.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}};
    for (size_t i = 0; i < 6; i++) {
        const size_t *s = shapes[i];
        tape_begin(&tape, &group, TAPE_RECORD);
        assert_ptr_equal(op_attention(&tape, &shape, tape_leaf(&tape, s[0], s[1], x, true),
                                      tape_leaf(&tape, s[2], s[3], x, true), tape_leaf(&tape, s[4], s[5], x, true), 1,
                                      NULL),
                         &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT, parts[i]);
    }
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(a_document_alone_equals_the_document_among_others),
        cmocka_unit_test(a_bitmap_of_all_keys_equals_none),
        cmocka_unit_test(the_future_and_other_documents_change_nothing),
        cmocka_unit_test(the_first_row_is_its_own_value),
        cmocka_unit_test(every_length_agrees_with_plain_loops_on_every_path),
        cmocka_unit_test(paths_differ_only_where_they_may),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
