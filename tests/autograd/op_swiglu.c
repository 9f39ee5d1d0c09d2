/* SwiGLU: values, gradients, large gates. */
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    (void)trial;
    return op_swiglu(tape, call->in[0]);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    reference_swiglu(trial->group.T, trial->cols, out, in[0]);
}

static const struct {
    const char *documents;
    size_t F;
} cases[] = {{"1", 1}, {"3 1 | 5 | 2 2", 7}, {"1 1 | 1", 16}, {"2 | 3", 33}};
enum { N_CASES = sizeof cases / sizeof *cases };

static void make(Trial *trial, size_t i)
{
    trial_init(trial, cases[i].documents, build, reference, cases[i].F);
    trial_tensor(trial, "x", 2 * cases[i].F);
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

static void an_odd_width_is_an_error(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[9] = {0};
    tape_begin(&tape, &(Group){.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}}, TAPE_RECORD);
    assert_ptr_equal(op_swiglu(&tape, tape_leaf(&tape, 3, 3, x, true)), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, "swiglu: x is 3 wide");
    tape_free(&tape);
}

static void large_gates_neither_overflow_nor_lose_their_gradient(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[] = {200, -200, 3, 5}, *dx; /* silu(200) = 200, silu(-200) = 0 */
    tape_begin(&tape, &(Group){.T = 1, .n_docs = 1, .doc_start = (size_t[]){0, 1}}, TAPE_RECORD);
    Tensor *in = tape_leaf(&tape, 1, 4, x, true), *a = op_swiglu(&tape, in);
    assert_true(a->data[0] == 600 && a->data[1] == 0);
    tape_seed(&tape, a)[0] = tape_seed(&tape, a)[1] = 1;
    assert_ok(tape_backward(&tape));
    dx = in->grad;
    assert_true(dx[0] == 3 && dx[1] == 0 && dx[2] == 200 && dx[3] == 0);
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(an_odd_width_is_an_error),
        cmocka_unit_test(large_gates_neither_overflow_nor_lose_their_gradient),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
