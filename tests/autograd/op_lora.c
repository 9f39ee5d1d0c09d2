/* LoRA with a projection: values, gradients, dropout. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Weight W; /* [O][D] that the LoRA is added to */
    size_t col, N, R;
    bool dropout;
    double *keep; /* [T][D] what dropout multiplies with, taken from the operation; NULL: ones */
} Adapted;

static const struct {
    const char *documents;
    size_t D, O, R, col, N;
    float dropout;
} cases[] = {
    {"1", 1, 1, 1, 0, 1, 0},
    {"3 1 | 5 | 2 2", 9, 7, 3, 0, 7, 0},
    {"3 1 | 5 | 2 2", 9, 12, 1, 5, 6, 0},
    {"2 | 3 1", 70, 100, 65, 0, 100, 0},
    {"3 1 | 5 | 2 2", 9, 7, 3, 0, 7, 0.3f},
    {"1 1 | 6", 12, 9, 4, 2, 7, 0.5f},
    {"80 | 30 1", 120, 130, 80, 0, 130, 0.1f}, /* enough work for a team of threads */
};
enum { N_CASES = sizeof cases / sizeof *cases };

static Lora *lora_of(Tape *tape, const Adapted *adapted, Param *A, Param *B)
{
    Lora *lora = tape_alloc(tape, sizeof *lora);
    *lora = (Lora){.A = A, .B = B, .col = adapted->col, .scale = 0.7f, .dropout = adapted->dropout, .key = 12};
    return lora;
}

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const Adapted *adapted = trial->op;
    const Lora *lora = lora_of(tape, adapted, &call->param[1], &call->param[2]);
    return op_linear(tape, call->in[0], 1, (const Weight *[]){&adapted->W}, 1, &lora);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const Adapted *adapted = trial->op;
    size_t T = trial->group.T, D = trial->in[0].cols, O = trial->cols;
    const double *x = in[0];
    const float *W = adapted->W.data;
    double *y = out;
    for (size_t t = 0; t < T; t++)
        for (size_t o = 0; o < O; o++) {
            y[t * O + o] = 0;
            for (size_t d = 0; d < D; d++) y[t * O + o] += x[t * D + d] * (double)W[o * D + d];
        }
    reference_lora(T, D, O, adapted->N, adapted->R, out, adapted->col, (double)0.7f, in[0], adapted->keep, in[1],
                   in[2]);
}

/* The mask is what becomes of ones when A, B and scale are units. */
static double *mask_of(Trial *trial, const Group *group, float p, size_t D, uint64_t key)
{
    Tape tape = {.dropout = p, .dropout_key = 99};
    float *unit = trial_alloc(trial, D * D * sizeof *unit), *ones = trial_alloc(trial, group->T * D * sizeof *ones);
    Weight zero = weight_of("zero", D, D, trial_alloc(trial, D * D * sizeof *unit));
    for (size_t i = 0; i < D; i++) unit[i * D + i] = 1;
    for (size_t i = 0; i < group->T * D; i++) ones[i] = 1;
    Param param = {.name = (char *)"unit", .rows = D, .cols = D, .data = unit};
    Lora lora = {.A = &param, .B = &param, .scale = 1, .dropout = true, .key = key};
    tape_begin(&tape, group, TAPE_OFF);
    Tensor *x = tape_leaf(&tape, group->T, D, ones, false),
           *y = op_linear(&tape, x, 1, (const Weight *[]){&zero}, 1, (const Lora *[]){&lora});
    assert_ok(tape_error(&tape));
    double *keep = trial_alloc(trial, group->T * D * sizeof *keep);
    for (size_t i = 0; i < group->T * D; i++) keep[i] = (double)y->data[i];
    tape_free(&tape);
    return keep;
}

static void make(Trial *trial, size_t i)
{
    trial_init(trial, cases[i].documents, build, reference, cases[i].O);
    trial_tensor(trial, "x", cases[i].D);
    trial_param(trial, "A", cases[i].R, cases[i].D);
    trial_param(trial, "B", cases[i].N, cases[i].R);
    trial->dropout = cases[i].dropout;
    trial->samples = cases[i].D < 100 ? 150 : 10;
    Adapted *adapted = trial_alloc(trial, sizeof *adapted);
    float *W = trial_alloc(trial, cases[i].O * cases[i].D * sizeof *W);
    for (size_t k = 0; k < cases[i].O * cases[i].D; k++) W[k] = (float)(0.3 * rng_normal(17, k));
    *adapted = (Adapted){
        weight_of("W", cases[i].O, cases[i].D, W), cases[i].col, cases[i].N, cases[i].R, cases[i].dropout > 0, NULL};
    if (adapted->dropout) adapted->keep = mask_of(trial, &trial->group, cases[i].dropout, cases[i].D, 12);
    trial->op = adapted;
}

static void forward_agrees_with_double(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_forward);
}

/* Also with dropout: the reference uses the mask of the forward pass, so the backward pass must use the same. */
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

static void a_fresh_adapter_changes_nothing(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    make(&trial, 4);
    memset(trial.in[2].values, 0, trial.in[2].rows * trial.in[2].cols * sizeof(float));
    Outcome got = trial_run(&trial, &arena);
    Tape tape = {0};
    tape_begin(&tape, &trial.group, TAPE_OFF);
    Tensor *x = tape_leaf(&tape, trial.group.T, trial.in[0].cols, trial.in[0].values, false);
    Tensor *alone = op_linear(&tape, x, 1, (const Weight *[]){&((const Adapted *)trial.op)->W}, 0, NULL);
    assert_ok(tape_error(&tape));
    for (size_t i = 0; i < trial.group.T * trial.cols; i++) assert_true(got.out[i] == alone->data[i]);
    for (size_t i = 0; i < trial.in[1].rows * trial.in[1].cols; i++) assert_true(got.grad[1][i] == 0);
    tape_free(&tape);
    arena_free(&arena);
    trial_free(&trial);
}

/* Two weights side by side: one pair for both, or one for each. */
static void one_lora_on_both_weights_equals_one_on_each(void **state)
{
    (void)state;
    enum { T = 9, D = 20, F = 33, R = 3 };
    Tape tapes[2] = {0};
    float *values = malloc((F * D * 2 + T * D + R * D + 2 * F * R) * sizeof *values), *x = values + 2 * F * D,
          *a = x + T * D, *b = a + R * D;
    for (size_t i = 0; i < F * D * 2 + T * D + R * D + 2 * F * R; i++) values[i] = (float)rng_normal(5, i);
    Weight gate = weight_of("gate", F, D, values), up = weight_of("up", F, D, values + F * D);
    Param A = {.name = (char *)"A", .rows = R, .cols = D, .data = a},
          B = {.name = (char *)"B", .rows = 2 * F, .cols = R, .data = b};
    Param first = {.name = (char *)"B", .rows = F, .cols = R, .data = b},
          second = {.name = (char *)"B", .rows = F, .cols = R, .data = b + F * R};
    Lora both = {.A = &A, .B = &B, .scale = 0.7f},
         halves[2] = {{.A = &A, .B = &first, .scale = 0.7f}, {.A = &A, .B = &second, .col = F, .scale = 0.7f}};
    Tensor *out[2], *in[2];
    const Group whole = {.T = T, .n_docs = 1, .doc_start = (size_t[]){0, T}};
    for (size_t i = 0; i < 2; i++) {
        tape_begin(&tapes[i], &whole, TAPE_RECORD);
        in[i] = tape_leaf(&tapes[i], T, D, x, true);
        const Lora *loras[] = {i ? &halves[0] : NULL, i ? &halves[1] : &both};
        out[i] = op_linear(&tapes[i], in[i], 2, (const Weight *[]){&gate, &up}, 2, loras);
        memcpy(tape_seed(&tapes[i], out[i]), out[i]->data, T * 2 * F * sizeof(float));
    }
    assert_memory_equal(out[0]->data, out[1]->data, T * 2 * F * sizeof(float));
    for (size_t i = 0; i < 2; i++) assert_ok(tape_backward(&tapes[i]));
    for (size_t i = 0; i < T * D; i++)
        assert_true(fabsf(in[0]->grad[i] - in[1]->grad[i]) <= 1e-4f * (1 + fabsf(in[0]->grad[i])));
    for (size_t i = 0; i < 2; i++) tape_free(&tapes[i]);
    free(values);
}

/* ---- dropout --------------------------------------------------------------------------------------------------- */

static void no_dropout_equals_dropout_of_zero(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) {
        Arena arena = {0};
        Trial trial;
        make(&trial, 1);
        Outcome want = trial_run(&trial, &arena);
        Adapted adapted = *(const Adapted *)trial.op;
        adapted.dropout = way == 0; /* a pair that may drop, p = 0; then p > 0 and a pair that never drops */
        trial.dropout = way == 0 ? 0 : 0.5f;
        trial.op = &adapted;
        Outcome got = trial_run(&trial, &arena);
        assert_memory_equal(got.out, want.out, trial.group.T * trial.cols * sizeof(float));
        for (size_t i = 0; i < 3; i++)
            assert_memory_equal(got.grad[i], want.grad[i], trial.in[i].rows * trial.in[i].cols * sizeof(float));
        arena_free(&arena);
        trial_free(&trial);
    }
}

/* 200 x 101 draws: the share of kept ones has a standard deviation of at most 0.0035, the mean at most 0.011. */
static void the_share_kept_is_one_minus_p_and_the_mean_is_unchanged(void **state)
{
    (void)state;
    static const float ps[] = {0.05f, 0.1f, 0.5f, 0.9f};
    for (size_t i = 0; i < 4; i++) {
        Trial trial;
        trial_init(&trial, "150 | 1 9 40", NULL, NULL, 101);
        double kept = 0, mean = 0, n = 200 * 101, p = (double)ps[i],
               *keep = mask_of(&trial, &trial.group, ps[i], 101, 3);
        for (size_t j = 0; j < 200 * 101; j++) {
            kept += keep[j] != 0;
            mean += keep[j] / n;
            assert_true(keep[j] == 0 || keep[j] == (double)(1 / (1 - ps[i])));
        }
        double deviation = sqrt(p * (1 - p) / n);
        assert_true(fabs(kept / n - (1 - p)) < 5 * deviation);
        assert_true(fabs(mean - 1) < 5 * deviation / (1 - p));
        trial_free(&trial);
    }
}

/* Shares of equal decisions of two masks with p = 1/2: 1/2 when they know nothing of each other. */
static double agreement(const double *a, const double *b, size_t n)
{
    size_t same = 0;
    for (size_t i = 0; i < n; i++) same += (a[i] != 0) == (b[i] != 0);
    return (double)same / (double)n;
}

static void documents_modules_rows_and_columns_have_masks_of_their_own(void **state)
{
    (void)state;
    enum { D = 100, ROWS = 50 };
    Trial trial;
    trial_init(&trial, "50 50", NULL, NULL, D);
    double *keep = mask_of(&trial, &trial.group, 0.5f, D, 3), *other = mask_of(&trial, &trial.group, 0.5f, D, 4);
    double within = 5 * 0.5 / sqrt(ROWS * D - D);
    assert_true(fabs(agreement(keep, keep + ROWS * D, ROWS * D) - 0.5) < within); /* documents */
    assert_true(fabs(agreement(keep, other, ROWS * D) - 0.5) < within);           /* modules */
    assert_true(fabs(agreement(keep, keep + D, ROWS * D - D) - 0.5) < within);    /* rows */
    assert_true(fabs(agreement(keep, keep + 1, ROWS * D - D) - 0.5) < within); /* columns, also the two of one draw */
    assert_true(fabs(agreement(keep, keep + 2, ROWS * D - D) - 0.5) < within);
    trial_free(&trial);
}

static void the_mask_follows_the_number_of_the_document(void **state)
{
    (void)state;
    enum { D = 9 };
    Trial trial;
    trial_init(&trial, "3 1 | 5 | 2 2", NULL, NULL, D);
    double *keep = mask_of(&trial, &trial.group, 0.5f, D, 3);
    Group later = {.T = 7,
                   .n_docs = 2,
                   .first_doc = 2,
                   .doc_start = (size_t[]){0, 5, 7},
                   .n_micro_batches = 1,
                   .micro_batch_start = (size_t[]){0, 7}};
    assert_memory_equal(mask_of(&trial, &later, 0.5f, D, 3), keep + 4 * D, 7 * D * sizeof *keep);
    later.first_doc = 3;
    assert_true(memcmp(mask_of(&trial, &later, 0.5f, D, 3), keep + 4 * D, 7 * D * sizeof *keep) != 0);
    trial_free(&trial);
}

/* ---- what does not fit ----------------------------------------------------------------------------------------- */

static void refused(size_t rows, size_t D, size_t O, size_t col, const char *part)
{
    Tape tape = {0};
    float values[64] = {0};
    Param A = {.name = (char *)"q.lora_A", .rows = 2, .cols = 3, .data = values};
    Param B = {.name = (char *)"q.lora_B", .rows = 4, .cols = 2, .data = values};
    Lora lora = {.A = &A, .B = &B, .col = col, .scale = 1};
    Group group = group_init(1, (size_t[]){0, 3}, 1, (size_t[]){0, 3});
    tape_begin(&tape, &group, TAPE_RECORD);
    Weight W = weight_of("W", O, D, values);
    assert_ptr_equal(op_linear(&tape, tape_leaf(&tape, rows, D, values, true), 1, (const Weight *[]){&W}, 1,
                               (const Lora *[]){&lora}),
                     &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, part);
    B.cols = 5;
    W = weight_of("W", 4, 3, values);
    tape_begin(&tape, &group, TAPE_RECORD);
    op_linear(&tape, tape_leaf(&tape, 3, 3, values, true), 1, (const Weight *[]){&W}, 1, (const Lora *[]){&lora});
    assert_fails(tape_error(&tape), ERR_FORMAT, "B [4][5]");
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error_that_names_the_lora(void **state)
{
    (void)state;
    refused(3, 2, 4, 0, "q.lora_A: x is [3][2], y [3][4], A [2][3], B [4][2] at column 0");
    refused(3, 3, 3, 0, "q.lora_A: x is [3][3], y [3][3]");
    refused(3, 3, 5, 2, "B [4][2] at column 2");
    refused(2, 3, 4, 0, "q.lora_A: 2 rows, 3 tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(a_fresh_adapter_changes_nothing),
        cmocka_unit_test(one_lora_on_both_weights_equals_one_on_each),
        cmocka_unit_test(no_dropout_equals_dropout_of_zero),
        cmocka_unit_test(the_share_kept_is_one_minus_p_and_the_mean_is_unchanged),
        cmocka_unit_test(documents_modules_rows_and_columns_have_masks_of_their_own),
        cmocka_unit_test(the_mask_follows_the_number_of_the_document),
        cmocka_unit_test(what_does_not_fit_is_an_error_that_names_the_lora),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
