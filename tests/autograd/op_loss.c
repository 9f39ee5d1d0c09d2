/* Cross-entropy: values, gradients, rows in several blocks, large logits. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Weight *W;
    int32_t *targets;
} LossCase;

static const struct {
    const char *documents;
    DType dtype;
    size_t D, V;
} cases[] = {
    {"1", DTYPE_F32, 1, 1},
    {"3 1 | 5 | 2 2", DTYPE_BF16, 9, 31},
    {"2 | 3 1", DTYPE_F8_E4M3, 20, 200},
    {"40 | 1", DTYPE_F32, 5, 17},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const LossCase *head = trial->op;
    return op_loss(tape, call->in[0], head->W, head->targets + call->row);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const LossCase *head = trial->op;
    reference_loss(trial->group.T, trial->in[0].cols, out, in[0], head->W, head->targets);
}

static void make_head(Trial *trial, const char *documents, DType dtype, size_t D, size_t V)
{
    trial_init(trial, documents, build, reference, 1);
    trial_tensor(trial, "x", D);
    LossCase *head = trial_alloc(trial, sizeof *head);
    head->W = trial_weight(trial, "lm_head", dtype, V, D);
    head->targets = trial_alloc(trial, trial->group.T * sizeof *head->targets);
    for (size_t t = 0; t < trial->group.T; t++) head->targets[t] = (int32_t)rng_below(3, t, V);
    trial->op = head;
}

static void make(Trial *trial, size_t i)
{
    make_head(trial, cases[i].documents, cases[i].dtype, cases[i].D, cases[i].V);
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

/* 2^22 logits at once are 64 rows of 2^16: 88 rows come in two pieces; beyond 2^18 tokens, 16 rows. */
static void rows_in_several_pieces_are_the_same(void **state)
{
    (void)state;
    static const char *const documents[] = {"50 | 37 1", "10 | 9"};
    static const size_t vocabulary[] = {65536, 300001};
    for (size_t i = 0; i < 2; i++) {
        Trial trial;
        make_head(&trial, documents[i], DTYPE_BF16, 2, vocabulary[i]);
        assert_forward(&trial);
        assert_same_bits(&trial);
        trial_free(&trial);
    }
}

static void without_a_gradient_the_value_is_the_same_to_the_bit(void **state)
{
    (void)state;
    Trial trial;
    Tape tape = {0};
    make(&trial, 2);
    const LossCase *head = trial.op;
    float nll[2][6];
    for (int off = 0; off < 2; off++) {
        tape_begin(&tape, &trial.group, off ? TAPE_OFF : TAPE_RECORD);
        Tensor *y = op_loss(&tape, tape_leaf(&tape, 6, 20, trial.in[0].values, true), head->W, head->targets);
        assert_ok(tape_error(&tape));
        assert_int_equal(tape.n_nodes, !off);
        memcpy(nll[off], y->data, sizeof nll[off]);
    }
    assert_memory_equal(nll[0], nll[1], sizeof nll[0]);
    tape_free(&tape);
    trial_free(&trial);
}

static void large_logits_keep_a_finite_loss_and_gradient(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[] = {1000, -1000}, values[] = {1, 0, -1};
    Weight W = weight_of("lm_head", 3, 1, values);
    tape_begin(&tape, &(Group){.T = 2, .n_docs = 1, .doc_start = (size_t[]){0, 2}}, TAPE_RECORD);
    Tensor *in = tape_leaf(&tape, 2, 1, x, true), *nll = op_loss(&tape, in, &W, (int32_t[]){0, 0});
    assert_true(nll->data[0] == 0 && nll->data[1] == 2000);
    tape_seed(&tape, nll)[0] = tape_seed(&tape, nll)[1] = 1;
    assert_ok(tape_backward(&tape));
    assert_true(in->grad[0] == 0 && in->grad[1] == -2); /* the winner's row minus the target's */
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    static const struct {
        int32_t target;
        size_t D;
        const char *part;
    } wrong[] = {{5, 2, "loss: target 5 is not in the vocabulary of 5"},
                 {-100, 2, "loss: target -100"},
                 {0, 3, "loss: x is 3 wide, lm_head is [5][2]"}};
    Tape tape = {0};
    float x[6] = {0}, values[10] = {0};
    Weight W = weight_of("lm_head", 5, 2, values);
    Group group = {.T = 2, .n_docs = 1, .doc_start = (size_t[]){0, 2}};
    for (size_t i = 0; i < 3; i++) {
        tape_begin(&tape, &group, TAPE_RECORD);
        Tensor *in = tape_leaf(&tape, 2, wrong[i].D, x, true);
        assert_ptr_equal(op_loss(&tape, in, &W, (int32_t[]){0, wrong[i].target}), &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT, wrong[i].part);
    }
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(rows_in_several_pieces_are_the_same),
        cmocka_unit_test(without_a_gradient_the_value_is_the_same_to_the_bit),
        cmocka_unit_test(large_logits_keep_a_finite_loss_and_gradient),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
