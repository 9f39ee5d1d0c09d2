/* The balance losses: their values, gradients and statistics. */
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3 };

typedef struct {
    RouterShape shape;
    BalanceValues coefficient;
    BalanceStep step;
    double *logits[LAYERS]; /* [T][E] of the whole step; the trial's input is layer 0 */
    double *stats;          /* [LAYERS][width] added over micro-batches */
} Balance;

static const struct {
    const char *documents;
    size_t E, K;
    BalanceValues coefficient;
} cases[] = {
    {"1", 1, 1, {1, 1, 1, 1}},
    {"3 1 | 5 | 2 2", 6, 2, {10, 0, 0, 0}}, /* one loss at a time, large enough to stand clear of rounding */
    {"3 1 | 5 | 2 2", 6, 2, {0, 10, 0, 0}},
    {"3 1 | 5 | 2 2", 6, 2, {0, 0, 10, 0}},
    {"3 1 | 5 | 2 2", 6, 2, {0, 0, 0, 10}},
    {"3 1 | 5 | 2 2", 6, 2, {3, -5, 7, 2}},
    {"1 1 | 1", 4, 4, {1, 1, 1, 1}}, /* K = E */
    {"20 1 | 9 | 2 2 | 6", 40, 8, {30, 30, 30, 1}},
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* Statistics of one layer, micro-batches [cut[c], cut[c + 1]) in call c; stats [n_micro_batches][width]. */
static void gather(const Trial *trial, const RouterShape *shape, float *logits, size_t n_calls, const size_t *cut,
                   double *stats)
{
    const Group *whole = &trial->group;
    Tape tape = {0};
    for (size_t c = 0; c < n_calls; c++) {
        size_t docs[TRIAL_DOCUMENTS + 1] = {0}, micros[TRIAL_DOCUMENTS + 1], row = whole->micro_batch_start[cut[c]];
        Group part = {.T = whole->micro_batch_start[cut[c + 1]] - row,
                      .n_micro_batches = cut[c + 1] - cut[c],
                      .doc_start = docs,
                      .micro_batch_start = micros};
        for (size_t d = 0; d < whole->n_docs; d++)
            if (whole->doc_start[d] >= row && whole->doc_start[d] < row + part.T)
                docs[++part.n_docs] = whole->doc_start[d + 1] - row;
        for (size_t m = 0; m <= part.n_micro_batches; m++) micros[m] = whole->micro_batch_start[cut[c] + m] - row;
        tape_begin(&tape, &part, TAPE_OFF);
        Tensor *z = tape_leaf(&tape, part.T, shape->E, logits + row * shape->E, false);
        balance_gather(&tape, shape, z, stats + cut[c] * balance_width(shape->E));
        assert_ok(tape_error(&tape));
    }
    tape_free(&tape);
}

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const Balance *b = trial->op;
    op_balance(tape, call->in[0], &b->shape, &b->coefficient, &b->step);
    return call->in[0];
}

static void reference(const Trial *trial, void *const *in, void *out) /* the values are unchanged */
{
    memcpy(out, in[0], trial->group.T * trial->cols * sizeof(double));
}

static double loss(const Trial *trial, void *const *in)
{
    const Balance *b = trial->op;
    const double *layers[LAYERS] = {in[0], b->logits[1], b->logits[2]};
    BalanceValues c = b->coefficient, v = reference_balance(&trial->group, LAYERS, &b->shape, layers);
    return c.seq_aux_loss * v.seq_aux_loss + c.aux_loss * v.aux_loss + c.load_balancing_loss * v.load_balancing_loss +
           c.z_loss * v.z_loss;
}

/* Every micro-batch in a call of its own, then added; `step` as train/ makes it. */
static void fill_step(Trial *trial, Balance *b, float *const logits[LAYERS])
{
    size_t E = b->shape.E, width = balance_width(E), n_micro_batches = trial->group.n_micro_batches,
           cut[TRIAL_DOCUMENTS + 1];
    double *stats = trial_alloc(trial, n_micro_batches * width * sizeof *stats),
           *all = trial_alloc(trial, E * sizeof *all);
    b->stats = trial_alloc(trial, LAYERS * width * sizeof *b->stats);
    for (size_t m = 0; m <= n_micro_batches; m++) cut[m] = m;
    for (size_t l = 0; l < LAYERS; l++) {
        gather(trial, &b->shape, logits[l], n_micro_batches, cut, stats);
        for (size_t i = 0; i < n_micro_batches * width; i++) b->stats[l * width + i % width] += stats[i];
        for (size_t e = 0; e < E; e++) all[e] += b->stats[l * width + 2 * E + e];
    }
    b->step = (BalanceStep){.tokens = trial->group.T,
                            .documents = trial->group.n_docs,
                            .sparse_layers = LAYERS,
                            .load = b->stats + 2 * E,
                            .load_all_layers = all};
}

static void make(Trial *trial, size_t i)
{
    static const char *const names[LAYERS] = {"logits", "logits.1", "logits.2"};
    size_t E = cases[i].E;
    float *logits[LAYERS];
    trial_init(trial, cases[i].documents, build, reference, E);
    trial_tensor(trial, "logits", E);
    trial->loss = loss;
    trial->only_loss = true;
    Balance *b = trial_alloc(trial, sizeof *b);
    b->shape = (RouterShape){E, cases[i].K, 1, 1, true, 2};
    b->coefficient = cases[i].coefficient;
    for (size_t l = 0; l < LAYERS; l++) {
        logits[l] = trial_normal(trial, names[l], trial->group.T * E, 1);
        b->logits[l] = trial_alloc(trial, trial->group.T * E * sizeof *b->logits[l]);
        for (size_t j = 0; j < trial->group.T * E; j++) b->logits[l][j] = (double)logits[l][j];
    }
    fill_step(trial, b, logits);
    trial->op = b;
}

static void logits_are_unchanged(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_forward);
}

static void gradients_of_all_four_losses_match_finite_differences(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_gradients);
}

static void grouping_and_threads_change_no_bit(void **state)
{
    (void)state;
    trials_check(make, N_CASES, assert_same_bits);
}

/* Sums of doubles over sigmoids and softmaxes in float. */
static void assert_close(double got, double want)
{
    if (fabs(got - want) > 1e-6 * (1 + fabs(want))) fail_msg("%.9g, not %.9g", got, want);
}

static void values_of_all_four_losses_agree_with_double(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        Trial trial;
        make(&trial, i);
        const Balance *b = trial.op;
        BalanceValues got = balance_values(LAYERS, b->shape.E, b->shape.K, trial.group.T, trial.group.n_docs, b->stats);
        BalanceValues want = reference_balance(&trial.group, LAYERS, &b->shape, (const double *const *)b->logits);
        assert_close(got.seq_aux_loss, want.seq_aux_loss);
        assert_close(got.aux_loss, want.aux_loss);
        assert_close(got.load_balancing_loss, want.load_balancing_loss);
        assert_close(got.z_loss, want.z_loss);
        trial_free(&trial);
    }
}

/* Even affinity and even load: the auxiliary losses are 1 per layer, load_balancing_loss is K; z_loss is ln(E)^2. */
static void an_even_router_has_the_known_values(void **state)
{
    (void)state;
    Trial trial;
    double stats[14] = {0};
    float logits[16] = {0};
    trial_init(&trial, "4", NULL, NULL, 4);
    for (size_t t = 0; t < 4; t++) logits[t * 4 + t] = logits[t * 4 + (t + 1) % 4] = 1e-6f; /* each chosen twice */
    gather(&trial, &(RouterShape){4, 2, 1, 1, true, 1}, logits, 1, (size_t[]){0, 1}, stats);
    BalanceValues v = balance_values(1, 4, 2, 4, 1, stats);
    assert_true(fabs(v.seq_aux_loss - 1) < 1e-5 && fabs(v.aux_loss - 1) < 1e-5 &&
                fabs(v.load_balancing_loss - 2) < 1e-5);
    assert_true(fabs(v.z_loss - log(4) * log(4)) < 1e-5);
    trial_free(&trial);
}

static void statistics_of_a_micro_batch_do_not_depend_on_the_call(void **state)
{
    (void)state;
    Trial trial;
    make(&trial, 7);
    const Balance *b = trial.op;
    size_t n = trial.group.n_micro_batches, width = balance_width(40), bytes = n * width * sizeof(double), cut[5];
    double *want = trial_alloc(&trial, bytes), *got = trial_alloc(&trial, bytes);
    for (size_t m = 0; m <= n; m++) cut[m] = m;
    gather(&trial, &b->shape, trial.in[0].values, n, cut, want);
    for (size_t m = 0; m < n; m++) {
        memset(got, 0xff, bytes);
        if (m)
            gather(&trial, &b->shape, trial.in[0].values, 2, (size_t[]){0, m, n}, got);
        else
            gather(&trial, &b->shape, trial.in[0].values, 1, (size_t[]){0, n}, got);
        assert_memory_equal(got, want, bytes);
    }
    trial_free(&trial);
}

static void the_step_is_read_in_the_backward_pass(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    Tape tape = {0};
    make(&trial, 5);
    Balance *b = trial.op;
    Outcome want = trial_run(&trial, &arena);
    BalanceStep step = b->step, late = {0};
    tape_begin(&tape, &trial.group, TAPE_RECORD);
    Tensor *z = tape_leaf(&tape, trial.group.T, 6, trial.in[0].values, true);
    op_balance(&tape, z, &b->shape, &b->coefficient, &late);
    late = step;
    assert_ok(tape_backward(&tape));
    assert_memory_equal(z->grad, want.grad[0], trial.group.T * 6 * sizeof(float));
    tape_free(&tape);
    arena_free(&arena);
    trial_free(&trial);
}

static void coefficients_of_zero_leave_the_gradient_alone(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    make(&trial, 1);
    ((Balance *)trial.op)->coefficient = (BalanceValues){0};
    Outcome got = trial_run(&trial, &arena);
    for (size_t i = 0; i < trial.group.T * 6; i++) assert_true(got.grad[0][i] == 0);
    arena_free(&arena);
    trial_free(&trial);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    static const struct {
        size_t rows, cols, E, K;
        const char *part;
    } wrong[] = {{3, 5, 4, 2, "balance: logits are [3][5], 4 experts, 2 chosen, 3 tokens"},
                 {2, 4, 4, 2, "balance: logits are [2][4]"},
                 {3, 4, 4, 5, "5 chosen"}};
    Tape tape = {0};
    float x[20] = {0};
    double stats[20];
    Group group = {.T = 3,
                   .n_docs = 1,
                   .doc_start = (size_t[]){0, 3},
                   .n_micro_batches = 1,
                   .micro_batch_start = (size_t[]){0, 3}};
    for (size_t i = 0; i < 6; i++) {
        RouterShape shape = {wrong[i / 2].E, wrong[i / 2].K, 1, 1, true, 1};
        tape_begin(&tape, &group, TAPE_RECORD);
        Tensor *z = tape_leaf(&tape, wrong[i / 2].rows, wrong[i / 2].cols, x, true);
        if (i % 2)
            balance_gather(&tape, &shape, z, stats);
        else
            op_balance(&tape, z, &shape, &(BalanceValues){0}, &(BalanceStep){0});
        assert_fails(tape_error(&tape), ERR_FORMAT, wrong[i / 2].part);
    }
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_unchanged),
        cmocka_unit_test(gradients_of_all_four_losses_match_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(values_of_all_four_losses_agree_with_double),
        cmocka_unit_test(an_even_router_has_the_known_values),
        cmocka_unit_test(statistics_of_a_micro_batch_do_not_depend_on_the_call),
        cmocka_unit_test(the_step_is_read_in_the_backward_pass),
        cmocka_unit_test(coefficients_of_zero_leave_the_gradient_alone),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
