/* Frozen projections, and the trained weight of a router. LoRA is tested in op_lora.c. */
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"
#include "tensor/gemm.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};

typedef struct {
    size_t n;
    const Weight *W[4];
} Frozen;

static const struct {
    const char *documents;
    size_t D, n, O[4];
} cases[] = {
    {"1", 1, 1, {1}},
    {"3 1 | 5 | 2 2", 9, 4, {7, 1, 16, 3}},
    {"2 | 3 1", 70, 2, {130, 5}},
    {"17 | 1 1", 16, 3, {97, 16, 1}},
    {"80 | 30 1", 120, 1, {130}}, /* enough work for a team of threads */
};
enum { N_CASES = 3 * sizeof cases / sizeof *cases };

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const Frozen *frozen = trial->op;
    return op_linear(tape, call->in[0], frozen->n, frozen->W, 0, NULL);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const Frozen *frozen = trial->op;
    size_t T = trial->group.T, D = trial->in[0].cols;
    for (size_t i = 0, col = 0; i < frozen->n; col += frozen->W[i++]->rows)
        for (size_t t = 0; t < T; t++)
            reference_project(1, D, frozen->W[i]->rows, (void *)((double *)out + t * trial->cols + col),
                              (void *)((double *)in[0] + t * D), frozen->W[i]);
}

static void make(Trial *trial, size_t c)
{
    size_t i = c / 3, O = 0;
    static const char *const names[] = {"W0", "W1", "W2", "W3"};
    for (size_t j = 0; j < cases[i].n; j++) O += cases[i].O[j];
    trial_init(trial, cases[i].documents, build, reference, O);
    trial_tensor(trial, "x", cases[i].D);
    Frozen *frozen = trial_alloc(trial, sizeof *frozen);
    frozen->n = cases[i].n;
    for (size_t j = 0; j < cases[i].n; j++)
        frozen->W[j] = trial_weight(trial, names[j], dtypes[(c + j) % 3], cases[i].O[j], cases[i].D);
    trial->op = frozen;
    trial->samples = cases[i].D < 100 ? 40 : 5;
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

/* ---- a trained weight ------------------------------------------------------------------------------------------ */

static Tensor *build_trained(Tape *tape, const Trial *trial, Call *call)
{
    return op_linear_trained(tape, call->in[0], trial->op, &call->param[1]);
}

static void reference_trained(const Trial *trial, void *const *in, void *out)
{
    reference_linear(trial->group.T, trial->in[0].cols, trial->cols, out, in[0], in[1]);
}

static void make_trained(Trial *trial, size_t i)
{
    static const char *const documents[] = {"1", "3 1 | 5 | 2 2 | 1 | 6", "2 | 3 1", "80 | 90 1"};
    static const size_t widths[] = {1, 9, 40, 120}, outputs[] = {1, 5, 100, 130};
    trial_init(trial, documents[i], build_trained, reference_trained, outputs[i]);
    trial_tensor(trial, "x", widths[i]);
    trial_param(trial, "router", outputs[i], widths[i]);
    trial->op = trial_weight(trial, "base", DTYPE_BF16, outputs[i],
                             widths[i]); /* other values: the parameter's count */
    trial->samples = i < 3 ? 200 : 20;
}

static void a_trained_weight_replaces_the_frozen_one(void **state)
{
    (void)state;
    trials_check(make_trained, 4, assert_forward);
}

static void a_trained_weight_and_its_input_match_finite_differences(void **state)
{
    (void)state;
    trials_check(make_trained, 4, assert_gradients);
}

static void grouping_changes_no_bit_of_a_trained_weight(void **state)
{
    (void)state;
    trials_check(make_trained, 4, assert_same_bits);
}

static void without_a_parameter_the_frozen_weight_is_used(void **state)
{
    (void)state;
    Trial trial;
    Tape tape = {0};
    make_trained(&trial, 1);
    tape_begin(&tape, &trial.group, TAPE_RECORD);
    Tensor *x = tape_leaf(&tape, trial.group.T, 9, trial.in[0].values, false);
    Tensor *a = op_linear_trained(&tape, x, trial.op, NULL),
           *b = op_linear(&tape, x, 1, (const Weight *[]){trial.op}, 0, NULL);
    assert_ok(tape_error(&tape));
    assert_memory_equal(a->data, b->data, trial.group.T * 5 * sizeof(float));
    assert_int_equal(tape.n_nodes, 0);
    tape_free(&tape);
    trial_free(&trial);
}

/* ---- what does not fit ----------------------------------------------------------------------------------------- */

static void weights_that_do_not_fit_are_an_error(void **state)
{
    (void)state;
    Tape tape = {0};
    float values[32] = {0}, x[6] = {0};
    Weight right = weight_of("right", 4, 2, values), wrong = weight_of("wrong", 4, 3, values);
    Param param = {.name = (char *)"router", .rows = 3, .cols = 2, .data = values};
    Group group = {.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}};
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_ptr_equal(op_linear(&tape, tape_leaf(&tape, 3, 2, x, true), 2, (const Weight *[]){&right, &wrong}, 0, NULL),
                     &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "linear: x is 2 wide, wrong is [4][3]");
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_ptr_equal(op_linear_trained(&tape, tape_leaf(&tape, 3, 2, x, true), &right, &param), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "linear: right is [4][2], router [3][2]");
    tape_begin(&tape, &group, TAPE_RECORD);
    const Weight *five[] = {&right, &right, &right, &right, &right};
    assert_ptr_equal(op_linear(&tape, tape_leaf(&tape, 3, 2, x, true), 5, five, 0, NULL), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "linear: 5 weights");
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_ptr_equal(op_linear(&tape, tape_leaf(&tape, 3, 2, x, true), 0, NULL, 0, NULL), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "linear: 0 weights");
    tape_free(&tape);
}

static void a_trained_weight_requires_the_rows_of_the_group(void **state)
{
    (void)state;
    Tape tape = {0};
    Forest forest = {0};
    float values[8] = {0}, x[6] = {0};
    Weight base = weight_of("base", 4, 2, values);
    Param param = {.name = (char *)"router", .rows = 4, .cols = 2, .data = values, .forest = &forest};
    Group group = group_init(1, (size_t[]){0, 3}, 1, (size_t[]){0, 3});
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_ptr_equal(op_linear_trained(&tape, tape_leaf(&tape, 2, 2, x, true), &base, &param), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "linear: router: 2 rows, 3 tokens");
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(a_trained_weight_replaces_the_frozen_one),
        cmocka_unit_test(a_trained_weight_and_its_input_match_finite_differences),
        cmocka_unit_test(grouping_changes_no_bit_of_a_trained_weight),
        cmocka_unit_test(without_a_parameter_the_frozen_weight_is_used),
        cmocka_unit_test(weights_that_do_not_fit_are_an_error),
        cmocka_unit_test(a_trained_weight_requires_the_rows_of_the_group),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
