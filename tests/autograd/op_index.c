/* The choice of keys by the indexer. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* The rows of some documents: q, k, w and a bitmap for every document. */
typedef struct {
    Trial trial; /* owns all */
    IndexShape shape;
    float *q, *k, *w;
    Keys keys;
} IndexInputs;

static void index_open(IndexInputs *x, const char *documents, size_t n_heads, size_t dim, size_t top_k)
{
    *x = (IndexInputs){.shape = {n_heads, dim, top_k, 1 / sqrtf((float)dim), 1 / sqrtf((float)n_heads)}};
    trial_init(&x->trial, documents, NULL, NULL, 1);
    const Group *group = &x->trial.group;
    x->q = trial_normal(&x->trial, "q", group->T * n_heads * dim, 1);
    x->k = trial_normal(&x->trial, "k", group->T * dim, 1);
    x->w = trial_normal(&x->trial, "w", group->T * n_heads, 1);
    x->keys = (Keys){group->n_docs, trial_alloc(&x->trial, group->n_docs * sizeof *x->keys.of), 0};
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t bytes = (group->doc_start[d + 1] - group->doc_start[d]) * keys_words(group, d) * sizeof **x->keys.of;
        x->keys.of[d] = trial_alloc(&x->trial, bytes);
        memset(x->keys.of[d], 0xa5, bytes); /* must be overwritten */
    }
}

static void run(IndexInputs *x, const Group *group, size_t row, const float *const *past, Keys *keys)
{
    Tape tape = {0};
    size_t n = x->shape.n_heads, dim = x->shape.dim;
    tape_begin(&tape, group, TAPE_OFF);
    op_index(&tape, &x->shape, tape_leaf(&tape, group->T, n * dim, x->q + row * n * dim, false),
             tape_leaf(&tape, group->T, dim, x->k + row * dim, false),
             tape_leaf(&tape, group->T, n, x->w + row * n, false), past, keys);
    assert_ok(tape_error(&tape));
    tape_free(&tape);
}

/* As many as there may be, none of the future, and none of the chosen below one left out: float errors are 1e-5 of the
 * largest scores near 10. Words behind the last key are empty. */
static void assert_best(const IndexInputs *x, const Group *group, size_t row0, size_t first_key, size_t d,
                        const uint64_t *bits)
{
    size_t begin = row0 + group->doc_start[d], n = group->doc_start[d + 1] - group->doc_start[d],
           words = keys_words(group, d);
    size_t past = group->doc_past ? group->doc_past[d] : 0;
    for (size_t i = 0; i < n; i++) {
        size_t seen = past + i + 1, count = 0;
        double worst = INFINITY, best = -INFINITY;
        for (size_t t = 0; t < words * 64; t++) {
            bool chosen = bits[i * words + t / 64] >> (t % 64) & 1;
            count += chosen;
            assert_false(chosen && t >= seen);
            if (t >= seen) continue;
            double score = reference_index(&x->shape, x->q + (begin + i) * x->shape.n_heads * x->shape.dim,
                                           x->k + (first_key + t) * x->shape.dim,
                                           x->w + (begin + i) * x->shape.n_heads);
            if (chosen)
                worst = fmin(worst, score);
            else
                best = fmax(best, score);
        }
        assert_int_equal(count, seen < x->shape.top_k ? seen : x->shape.top_k);
        assert_true(worst >= best - 1e-5);
    }
}

static const struct {
    const char *documents;
    size_t n_heads, dim, top_k;
} cases[] = {{"1", 1, 1, 1},        {"3 1 9 2", 2, 5, 3}, {"100 1 65 64", 4, 16, 20},
             {"33 32 31", 3, 7, 1}, {"130", 1, 8, 64},    {"10 5", 2, 4, 100}};

static void the_best_keys_of_the_past_are_chosen(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        IndexInputs x;
        index_open(&x, cases[i].documents, cases[i].n_heads, cases[i].dim, cases[i].top_k);
        const Group *group = &x.trial.group;
        run(&x, group, 0, NULL, &x.keys);
        for (size_t d = 0; d < group->n_docs; d++) assert_best(&x, group, 0, group->doc_start[d], d, x.keys.of[d]);
        trial_free(&x.trial);
    }
}

static void documents_and_threads_change_no_choice(void **state)
{
    (void)state;
    IndexInputs x, alone;
    index_open(&x, "100 1 65 64", 4, 16, 20);
    index_open(&alone, "100 1 65 64", 4, 16, 20);
    const Group *group = &x.trial.group;
    omp_set_num_threads(3);
    run(&x, group, 0, NULL, &x.keys);
    omp_set_num_threads(1);
    for (size_t d = 0; d < 4; d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d];
        Group one = {.T = n, .n_docs = 1, .doc_start = (size_t[]){0, n}};
        run(&alone, &one, group->doc_start[d], NULL, &(Keys){1, alone.keys.of + d, 0});
        assert_memory_equal(alone.keys.of[d], x.keys.of[d], n * keys_words(group, d) * sizeof **x.keys.of);
    }
    omp_set_num_threads(2);
    trial_free(&x.trial), trial_free(&alone.trial);
}

static void equal_scores_go_to_the_lower_position(void **state)
{
    (void)state;
    IndexInputs x;
    index_open(&x, "150", 2, 4, 70);
    for (size_t i = 0; i < 150 * 8; i++) x.q[i] = -fabsf(x.q[i]);
    for (size_t i = 0; i < 150 * 4; i++) x.k[i] = fabsf(x.k[i]); /* every ReLU is zero */
    run(&x, &x.trial.group, 0, NULL, &x.keys);
    for (size_t i = 0; i < 150; i++)
        for (size_t t = 0; t < 192; t++)
            assert_int_equal(x.keys.of[0][i * 3 + t / 64] >> (t % 64) & 1, t <= i && t < 70);
    trial_free(&x.trial);
}

static void documents_without_a_bitmap_are_left_out(void **state)
{
    (void)state;
    IndexInputs x;
    index_open(&x, "3 9 2", 2, 5, 3);
    x.keys.of[0] = x.keys.of[2] = NULL;
    run(&x, &x.trial.group, 0, NULL, &x.keys);
    assert_best(&x, &x.trial.group, 0, 3, 1, x.keys.of[1]);
    x.keys.of[1] = NULL;
    run(&x, &x.trial.group, 0, NULL, &x.keys);
    trial_free(&x.trial);
}

static void new_rows_choose_among_cached_keys(void **state)
{
    (void)state;
    IndexInputs x;
    index_open(&x, "90 40", 2, 5, 7);
    const float *past[] = {x.k, x.k + 90 * 5};
    uint64_t first[3 * 2], second[1];
    /* Rows 87 .. 89 of the first document and row 0 of the second lie side by side in k's order. */
    Group group = {.T = 4, .n_docs = 2, .doc_start = (size_t[]){0, 3, 4}, .doc_past = (size_t[]){87, 0}};
    run(&x, &group, 87, past, &(Keys){2, (uint64_t *[]){first, second}, 0});
    assert_best(&x, &group, 87, 0, 0, first);
    assert_int_equal(second[0], 1);
    trial_free(&x.trial);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    static const size_t shapes[][4] = {{3, 9, 5, 2}, {3, 10, 4, 2}, {3, 10, 5, 3}, {2, 10, 5, 2}};
    static const char *const parts[] = {"q is [3][9]", "k [3][4]", "w [3][3]",
                                        "index: q is [2][10], k [2][5], w [2][2], 3 tokens"};
    Tape tape = {0};
    float x[64] = {0};
    uint64_t bits[3];
    Group group = {.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}};
    for (size_t i = 0; i < 4; i++) {
        const size_t *s = shapes[i];
        tape_begin(&tape, &group, TAPE_OFF);
        op_index(&tape, &(IndexShape){2, 5, 1, 1, 1}, tape_leaf(&tape, s[0], s[1], x, false),
                 tape_leaf(&tape, s[0], s[2], x, false), tape_leaf(&tape, s[0], s[3], x, false), NULL,
                 &(Keys){1, (uint64_t *[]){bits}, 0});
        assert_fails(tape_error(&tape), ERR_FORMAT, parts[i]);
    }
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_keys_of_the_past_are_chosen),
        cmocka_unit_test(documents_and_threads_change_no_choice),
        cmocka_unit_test(equal_scores_go_to_the_lower_position),
        cmocka_unit_test(documents_without_a_bitmap_are_left_out),
        cmocka_unit_test(new_rows_choose_among_cached_keys),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
