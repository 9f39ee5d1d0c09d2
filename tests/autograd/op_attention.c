#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/matmul.h"

#include <string.h>

typedef struct {
    AttentionShape shape;
    size_t kr_col;
    Keys *keys; /* of all documents, or NULL */
} Attention;

static const struct {
    const char *documents;
    size_t H, nope, rope, v, krw, kr_col, top_k; /* top_k 0: every key */
} cases[] = {
    {"1", 1, 1, 1, 1, 1, 0, 0},         {"3 1 | 5 | 2 2", 3, 5, 3, 7, 9, 4, 0}, {"3 1 | 5 | 2 2", 2, 4, 2, 1, 3, 1, 2},
    {"1 1 | 1", 2, 3, 2, 3, 2, 0, 0},   {"130 | 64 1 65", 2, 3, 2, 5, 4, 2, 0}, {"70 | 150 2", 2, 3, 2, 5, 4, 2, 9},
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* Up to `top_k` random keys of every query's past, never none; documents not longer than that see everything. */
static Keys *choose(Trial *trial, size_t top_k)
{
    const Group *group = &trial->group;
    Keys *keys = trial_alloc(trial, sizeof *keys);
    *keys = (Keys){group->n_docs, trial_alloc(trial, group->n_docs * sizeof *keys->of)};
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d], words = keys_words(group, d);
        if (n <= top_k) continue;
        keys->of[d] = trial_alloc(trial, n * words * sizeof **keys->of);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < top_k; k++) {
                size_t key = rng_below(rng_key(8, d), i * 100 + k, i + 1);
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
        *keys = (Keys){tape->group->n_docs, a->keys->of + call->doc};
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
    *a = (Attention){{H, nope, rope, v, 0.4f}, cases[i].kr_col, cases[i].top_k ? choose(trial, cases[i].top_k) : NULL};
    trial->op = a;
    trial->samples = 60;
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
    a.keys = choose(&trial, 1);
    const Group *group = &trial.group;
    for (size_t d = 0; d < group->n_docs; d++)
        if (a.keys->of[d])
            memset(a.keys->of[d], 0xff, (group->doc_start[d + 1] - group->doc_start[d]) * keys_words(group, d) * sizeof **a.keys->of);
    trial.op = &a;
    Outcome got = trial_run(&trial, &arena);
    assert_memory_equal(got.out, want.out, trial.group.T * trial.cols * sizeof(float));
    for (size_t i = 0; i < 3; i++) assert_memory_equal(got.grad[i], want.grad[i], trial.group.T * trial.in[i].cols * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

static void the_future_and_other_documents_have_no_say(void **state)
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
    for (size_t h = 0; h < 3; h++) assert_memory_equal(got.out + h * 7, trial.in[1].values + h * 12 + 5, 7 * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    static const size_t shapes[][6] = {
        {3, 9, 3, 10, 3, 4}, {3, 10, 3, 11, 3, 4}, {3, 10, 3, 10, 3, 2}, {3, 10, 2, 10, 3, 4}, {3, 10, 3, 10, 2, 4}, {2, 10, 2, 10, 2, 4}};
    static const char *const parts[] = {"q is [3][9]", "kv [3][11]", "kr [3][2]", "kv [2][10]", "kr [2][4]", "q is [2][10]"};
    Tape tape = {0};
    float x[64] = {0};
    AttentionShape shape = {2, 3, 2, 2, 1};
    Group group = {.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}};
    for (size_t i = 0; i < 6; i++) {
        const size_t *s = shapes[i];
        tape_begin(&tape, &group, TAPE_RECORD);
        assert_ptr_equal(op_attention(&tape, &shape, tape_leaf(&tape, s[0], s[1], x, true), tape_leaf(&tape, s[2], s[3], x, true),
                                      tape_leaf(&tape, s[4], s[5], x, true), 1, NULL), &tape.dummy);
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
        cmocka_unit_test(the_future_and_other_documents_have_no_say),
        cmocka_unit_test(the_first_row_is_its_own_value),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    matmul_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
