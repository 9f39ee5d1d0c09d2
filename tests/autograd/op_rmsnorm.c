/* RMSNorm and LayerNorm. */
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"

static const struct {
    const char *documents;
    size_t D, col, n;
    double eps, scale;
} cases[] = {
    {"1", 1, 0, 1, 0.1, 1},      {"3 1 | 5 | 2 2", 9, 0, 9, 1e-5, 1}, {"2 | 1 1", 12, 3, 7, 1e-6, 1},
    {"4 | 3", 40, 0, 33, 0, 10}, {"2 | 1", 8, 7, 1, 0.1, 1},          {"2 | 2", 5, 0, 5, 1e-3, 0.01},
};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct {
    size_t col;
    double eps;
    float *weight, *bias;
} NormCase;

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const NormCase *norm = trial->op;
    return op_rmsnorm(tape, call->in[0], norm->col, trial->cols, norm->weight, norm->eps);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const NormCase *norm = trial->op;
    reference_rmsnorm(trial->group.T, trial->in[0].cols, trial->cols, out, in[0], norm->col, norm->weight, norm->eps);
}

static void make(Trial *trial, size_t i)
{
    trial_init(trial, cases[i].documents, build, reference, cases[i].n);
    size_t x = trial_tensor(trial, "x", cases[i].D);
    trial->in[x].values = trial_normal(trial, "x", trial->group.T * cases[i].D, cases[i].scale);
    NormCase *norm = trial_alloc(trial, sizeof *norm);
    *norm = (NormCase){cases[i].col, cases[i].eps, trial_normal(trial, "weight", cases[i].n, 1), NULL};
    trial->op = norm;
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

static void grouping_and_threads_change_no_bit(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_same_bits);
}

/* ---- layer norm ------------------------------------------------------------------------------------------------ */

static Tensor *build_layer(Tape *tape, const Trial *trial, Call *call)
{
    const NormCase *norm = trial->op;
    return op_layernorm(tape, call->in[0], norm->weight, norm->bias, norm->eps);
}

static void reference_layer(const Trial *trial, void *const *in, void *out)
{
    const NormCase *norm = trial->op;
    reference_layernorm(trial->group.T, trial->cols, out, in[0], norm->weight, norm->bias, norm->eps);
}

static void make_layer(Trial *trial, size_t i)
{
    static const size_t widths[] = {2, 7, 128};
    trial_init(trial, "3 1 | 5 | 2 2", build_layer, reference_layer, widths[i]);
    trial_tensor(trial, "x", widths[i]);
    NormCase *norm = trial_alloc(trial, sizeof *norm);
    *norm = (NormCase){0, 1e-6, trial_normal(trial, "weight", widths[i], 1), trial_normal(trial, "bias", widths[i], 1)};
    trial->op = norm;
    trial->forward_within = 5e-6; /* x - mean cancels */
}

static void layer_norm_agrees_with_double(void **state)
{
    (void)state;
    trials_check(make_layer, 3, assert_forward);
    trials_check(make_layer, 3, assert_same_bits);
}

static void layer_norm_has_no_gradient(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[6] = {1, 2, 3, 4, 5, 7}, weight[] = {1, 1}, bias[] = {0, 0};
    tape_begin(&tape, &(Group){.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}}, TAPE_RECORD);
    assert_false(op_layernorm(&tape, tape_leaf(&tape, 3, 2, x, true), weight, bias, 1e-6)->requires_grad);
    assert_int_equal(tape.n_nodes, 0);
    tape_free(&tape);
}

/* ---- what does not fit ----------------------------------------------------------------------------------------- */

static void columns_outside_of_x_are_an_error(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[6] = {0}, weight[2] = {1, 1};
    tape_begin(&tape, &(Group){.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}}, TAPE_RECORD);
    assert_ptr_equal(op_rmsnorm(&tape, tape_leaf(&tape, 3, 2, x, true), 1, 2, weight, 1e-5), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "rmsnorm: columns 1 to 3 of 2");
    tape_free(&tape);
}

static void a_row_of_zeros_stays_zero(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[2] = {0}, weight[] = {2, 3};
    tape_begin(&tape, &(Group){.T = 1, .n_docs = 1, .doc_start = (size_t[]){0, 1}}, TAPE_RECORD);
    Tensor *in = tape_leaf(&tape, 1, 2, x, true), *y = op_rmsnorm(&tape, in, 0, 2, weight, 1e-4);
    assert_true(y->data[0] == 0 && y->data[1] == 0);
    tape_seed(&tape, y)[1] = 1;
    assert_ok(tape_backward(&tape));
    assert_true(in->grad[0] == 0 && in->grad[1] > 299.99f && in->grad[1] < 300.01f); /* w / sqrt(eps) */
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),         cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit), cmocka_unit_test(layer_norm_agrees_with_double),
        cmocka_unit_test(layer_norm_has_no_gradient),         cmocka_unit_test(columns_outside_of_x_are_an_error),
        cmocka_unit_test(a_row_of_zeros_stays_zero),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
