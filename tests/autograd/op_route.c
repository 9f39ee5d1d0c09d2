/* The router: the choice, its ties and groups, the weights and their gradient. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <string.h>

typedef struct {
    RouterShape shape;
    float *bias;
    int32_t *ids; /* [T][K] of the reference */
} RouterCase;

static const struct {
    const char *documents;
    RouterShape shape;
} cases[] = {
    {"1", {1, 1, 1, 1, true, 1}},
    {"3 1 | 5 | 2 2", {8, 3, 1, 1, true, 2.5f}},
    {"3 1 | 5 | 2 2", {8, 3, 1, 1, false, 2.5f}},
    {"2 | 3 1", {5, 5, 1, 1, true, 1}},
    {"7 | 1 1", {12, 4, 4, 2, true, 1.5f}},
    {"7 | 1 1", {12, 2, 12, 5, true, 1.5f}}, /* groups of one expert */
    {"4 | 2", {9, 1, 3, 3, true, 2}},        /* K 1, normalised: the weight is a constant */
    {"40", {64, 6, 8, 3, true, 1}},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const RouterCase *router = trial->op;
    size_t K = router->shape.K;
    int32_t *ids = tape_alloc(tape, tape->group->T * K * sizeof *ids);
    Route route = op_route(tape, call->in[0], router->bias, &router->shape, ids, false);
    assert_ptr_equal(route.ids, ids);
    assert_memory_equal(ids, router->ids + call->row * K, tape->group->T * K * sizeof *ids);
    return route.weights;
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const RouterCase *router = trial->op;
    reference_route(trial->group.T, &router->shape, out, in[0], router->ids);
}

static void make(Trial *trial, size_t i)
{
    const RouterShape *shape = &cases[i].shape;
    trial_init(trial, cases[i].documents, build, reference, shape->K);
    trial_tensor(trial, "logits", shape->E);
    RouterCase *router = trial_alloc(trial, sizeof *router);
    *router = (RouterCase){*shape, trial_normal(trial, "bias", shape->E, 0.3), NULL};
    router->ids = trial_alloc(trial, trial->group.T * shape->K * sizeof *router->ids);
    double *logits = trial_alloc(trial, shape->E * sizeof *logits);
    for (size_t t = 0; t < trial->group.T; t++) {
        for (size_t e = 0; e < shape->E; e++) logits[e] = (double)trial->in[0].values[t * shape->E + e];
        reference_choose(shape, logits, router->bias, router->ids + t * shape->K);
    }
    trial->op = router;
}

static void experts_and_weights_agree_with_double(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_forward);
}

static void backward_matches_finite_differences(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_gradients);
}

static void grouping_and_threads_change_no_bit(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_same_bits);
}

/* Ids of one token. */
static void choose(const RouterShape *shape, float *logits, const float *bias, int32_t *ids, float *weights)
{
    Tape tape = {0};
    tape_begin(&tape, &(Group){.T = 1, .n_docs = 1, .doc_start = (size_t[]){0, 1}}, TAPE_OFF);
    Route route = op_route(&tape, tape_leaf(&tape, 1, shape->E, logits, false), bias, shape, ids, false);
    assert_ok(tape_error(&tape));
    if (weights) memcpy(weights, route.weights->data, shape->K * sizeof *weights);
    tape_free(&tape);
}

static void ties_go_to_the_lower_id(void **state)
{
    (void)state;
    RouterShape shape = {8, 3, 1, 1, true, 1};
    float logits[8] = {0}, bias[8] = {0};
    int32_t ids[3];
    choose(&shape, logits, bias, ids, NULL);
    assert_memory_equal(ids, ((int32_t[]){0, 1, 2}), sizeof ids);
    logits[5] = 1;
    logits[2] = logits[7] = -1;
    choose(&shape, logits, bias, ids, NULL);
    assert_memory_equal(ids, ((int32_t[]){0, 1, 5}), sizeof ids);
}

static void equal_groups_go_to_the_lower_one(void **state)
{
    (void)state;
    RouterShape shape = {8, 2, 4, 2, true, 1};
    float logits[8] = {0, 1, 2, 0, 0, 2, 2, 0}, bias[8] = {0};
    int32_t ids[2];
    choose(&shape, logits, bias, ids, NULL); /* groups 1, 2 and 3 add up to the same */
    assert_memory_equal(ids, ((int32_t[]){2, 5}), sizeof ids);
}

/* The best expert of all stands in a group whose two best together are weak. */
static void a_group_counts_by_its_two_best_experts(void **state)
{
    (void)state;
    RouterShape shape = {6, 2, 2, 1, true, 1};
    float logits[6] = {3, -9, -9, 2, 2, -1}, bias[6] = {0};
    int32_t ids[2];
    choose(&shape, logits, bias, ids, NULL);
    assert_memory_equal(ids, ((int32_t[]){3, 4}), sizeof ids);
    shape.topk_group = 2;
    choose(&shape, logits, bias, ids, NULL);
    assert_memory_equal(ids, ((int32_t[]){0, 3}), sizeof ids);
}

static void the_bias_steers_the_choice_but_not_the_weights(void **state)
{
    (void)state;
    RouterShape shape = {4, 2, 1, 1, true, 2};
    float logits[4] = {2, 1, 0, -1}, bias[4] = {-3, -2, 0, 5}, weights[2];
    int32_t ids[2];
    choose(&shape, logits, bias, ids, weights);
    assert_memory_equal(ids, ((int32_t[]){2, 3}), sizeof ids);
    double a = reference_sigmoid(0), b = reference_sigmoid(-1);
    assert_true(fabs((double)weights[0] - 2 * a / (a + b)) < 1e-6 && fabs((double)weights[1] - 2 * b / (a + b)) < 1e-6);
}

static void a_negative_bias_does_not_choose_an_excluded_group(void **state)
{
    (void)state;
    RouterShape shape = {6, 3, 2, 1, true, 1};
    float logits[6] = {0, 0, 0, 0, 0, 0}, bias[6] = {-9, -9, -9, -10, -10, -10}; /* every choice score is below zero */
    int32_t ids[3];
    choose(&shape, logits, bias, ids, NULL);
    assert_memory_equal(ids, ((int32_t[]){0, 1, 2}), sizeof ids);
}

static void given_ids_are_used_as_they_are(void **state)
{
    (void)state;
    Tape tape = {0};
    RouterShape shape = {4, 2, 1, 1, true, 1};
    float logits[8] = {9, 8, 0, 1, 9, 8, 0, 1}, bias[4] = {0};
    int32_t ids[4] = {2, 3, 0, 2}, before[4];
    memcpy(before, ids, sizeof ids);
    tape_begin(&tape, &(Group){.T = 2, .n_docs = 1, .doc_start = (size_t[]){0, 2}}, TAPE_RECORD);
    Tensor *z = tape_leaf(&tape, 2, 4, logits, true);
    Route route = op_route(&tape, z, bias, &shape, ids, true);
    assert_memory_equal(ids, before, sizeof ids);
    double a = 0.5, b = reference_sigmoid(1);
    assert_true(fabs((double)route.weights->data[0] - a / (a + b)) < 1e-6);
    tape_seed(&tape, route.weights)[0] = 1;
    assert_ok(tape_backward(&tape));
    assert_true(z->grad[0] == 0 && z->grad[1] == 0 && z->grad[2] > 0 && z->grad[3] < 0);
    tape_free(&tape);
}

static void a_chosen_expert_with_a_score_of_zero_has_a_finite_weight(void **state)
{
    (void)state;
    RouterShape shape = {3, 2, 1, 1, true, 1};
    float logits[3] = {-200, -200, -300}, bias[3] = {0}, weights[2];
    int32_t ids[2];
    choose(&shape, logits, bias, ids, weights);
    assert_true(weights[0] == 0 && weights[1] == 0); /* 0 / (0 + 1e-20) */
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    static const struct {
        size_t rows, cols;
        RouterShape shape;
        const char *part;
    } wrong[] = {
        {2, 5, {4, 2, 1, 1, true, 1}, "route: 5 logits, 4 experts"},
        {2, 4, {4, 5, 1, 1, true, 1}, "5 chosen"},
        {2, 4, {4, 0, 1, 1, true, 1}, "0 chosen"},
        {2, 4, {4, 2, 3, 1, true, 1}, "from 1 of 3 groups"},
        {2, 4, {4, 2, 0, 1, true, 1}, "from 1 of 0 groups"},
        {2, 4, {4, 2, 2, 3, true, 1}, "from 3 of 2 groups"},
        {2, 4, {4, 2, 2, 0, true, 1}, "from 0 of 2 groups"},
        {2, 4, {4, 3, 2, 1, true, 1}, "3 chosen from 1 of 2 groups"}, /* of two experts each */
        {3, 4, {4, 2, 1, 1, true, 1}, "3 rows of logits, 2 tokens"},
    };
    Tape tape = {0};
    float x[16] = {0};
    int32_t ids[16] = {0};
    Group group = {.T = 2, .n_docs = 1, .doc_start = (size_t[]){0, 2}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tape_begin(&tape, &group, TAPE_RECORD);
        Route route = op_route(&tape, tape_leaf(&tape, wrong[i].rows, wrong[i].cols, x, true), x, &wrong[i].shape, ids,
                               false);
        assert_ptr_equal(route.weights, &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT, wrong[i].part);
    }
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_and_weights_agree_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(ties_go_to_the_lower_id),
        cmocka_unit_test(equal_groups_go_to_the_lower_one),
        cmocka_unit_test(a_group_counts_by_its_two_best_experts),
        cmocka_unit_test(the_bias_steers_the_choice_but_not_the_weights),
        cmocka_unit_test(a_negative_bias_does_not_choose_an_excluded_group),
        cmocka_unit_test(given_ids_are_used_as_they_are),
        cmocka_unit_test(a_chosen_expert_with_a_score_of_zero_has_a_finite_weight),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
