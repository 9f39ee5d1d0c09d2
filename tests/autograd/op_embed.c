/* Rows of the embedding table, and the residual addition. */
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <string.h>

static Tensor *build_add(Tape *tape, const Trial *trial, Call *call)
{
    (void)trial;
    return op_add(tape, call->in[0], call->in[1]);
}

static void reference_add(const Trial *trial, void *const *in, void *out)
{
    const double *y = in[0], *x = in[1];
    double *sum = out;
    for (size_t i = 0; i < trial->group.T * trial->cols; i++) sum[i] = y[i] + x[i];
}

static void make_add(Trial *trial, size_t i)
{
    static const size_t widths[] = {1, 7, 40};
    trial_init(trial, i ? "3 1 | 5 | 2 2" : "1", build_add, reference_add, widths[i]);
    trial_tensor(trial, "y", widths[i]);
    trial_tensor(trial, "x", widths[i]);
}

static void adding_agrees_with_double(void **state)
{
    (void)state;
    trials_check(make_add, 3, assert_forward);
}

static void backward_matches_finite_differences(void **state)
{
    (void)state;
    trials_check(make_add, 3, assert_gradients);
}

static void grouping_and_threads_change_no_bit(void **state)
{
    (void)state;
    trials_check(make_add, 3, assert_same_bits);
}

static void rows_of_the_table_are_converted_and_never_trained(void **state)
{
    (void)state;
    static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};
    static const int32_t ids[] = {4, 0, 4, 2};
    for (size_t i = 0; i < 3; i++) {
        Trial trial;
        Tape tape = {0};
        trial_init(&trial, "3 1", NULL, NULL, 7);
        const Weight *table = trial_weight(&trial, "table", dtypes[i], 5, 7);
        tape_begin(&tape, &trial.group, TAPE_RECORD);
        Tensor *y = op_embed(&tape, table, ids);
        assert_ok(tape_error(&tape));
        assert_true(y->shape[0] == 4 && y->shape[1] == 7 && !y->requires_grad && tape.n_nodes == 0);
        for (size_t t = 0; t < 4; t++)
            for (size_t d = 0; d < 7; d++)
                assert_true((double)y->data[t * 7 + d] == reference_at(table, (size_t)ids[t], d));
        tape_free(&tape);
        trial_free(&trial);
    }
}

static void a_token_outside_of_the_vocabulary_is_an_error(void **state)
{
    (void)state;
    static const int32_t ids[][4] = {{1, 5, 9, 2}, {1, 2, -1, 2}};
    static const char *const messages[] = {"token id 5 is not in the vocabulary of 5",
                                           "token id -1 is not in the vocabulary of 5"};
    for (size_t i = 0; i < 2; i++) {
        Trial trial;
        Tape tape = {0};
        trial_init(&trial, "3 1", NULL, NULL, 7);
        tape_begin(&tape, &trial.group, TAPE_RECORD);
        assert_ptr_equal(op_embed(&tape, trial_weight(&trial, "table", DTYPE_F32, 5, 7), ids[i]), &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT, messages[i]);
        tape_free(&tape);
        trial_free(&trial);
    }
}

static void adding_tensors_of_two_shapes_is_an_error(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[12] = {0};
    Group group = {.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}};
    for (size_t i = 0; i < 2; i++) {
        tape_begin(&tape, &group, TAPE_RECORD);
        assert_ptr_equal(op_add(&tape, tape_leaf(&tape, 3, 4, x, true),
                                tape_leaf(&tape, i ? 3 : 2, i ? 3 : 4, x, true)),
                         &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT,
                     i ? "add: y is [3][4], x is [3][3]" : "add: y is [3][4], x is [2][4]");
    }
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adding_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(rows_of_the_table_are_converted_and_never_trained),
        cmocka_unit_test(a_token_outside_of_the_vocabulary_is_an_error),
        cmocka_unit_test(adding_tensors_of_two_shapes_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
