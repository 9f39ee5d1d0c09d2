/* Rotary positions: rotation, its gradient, positions after a cache. */
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"

#include <math.h>
#include <string.h>

enum { POSITIONS = 80 };

typedef struct {
    RopeTable table;
    size_t col, heads, stride;
    bool interleaved;
} RopeCase;

static const struct {
    const char *documents;
    size_t D, dim, col, heads, stride;
    bool interleaved;
} cases[] = {
    {"1", 2, 2, 0, 1, 2, true},       {"3 1 | 5 | 2 2", 21, 4, 3, 3, 7, true}, {"3 1 | 5 | 2 2", 21, 4, 3, 3, 7, false},
    {"70 | 1", 11, 6, 5, 1, 6, true}, {"2 2", 12, 6, 0, 2, 6, false},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const RopeCase *rope = trial->op;
    return op_rope(tape, call->in[0], &rope->table, rope->col, rope->heads, rope->stride, rope->interleaved);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const RopeCase *rope = trial->op;
    memcpy(out, in[0], trial->group.T * trial->cols * sizeof(double));
    reference_rope(&trial->group, trial->cols, out, &rope->table, rope->col, rope->heads, rope->stride,
                   rope->interleaved);
}

static void make(Trial *trial, size_t i)
{
    size_t half = cases[i].dim / 2;
    trial_init(trial, cases[i].documents, build, reference, cases[i].D);
    trial_tensor(trial, "x", cases[i].D);
    float *c = trial_alloc(trial, POSITIONS * half * sizeof *c), *s = trial_alloc(trial, POSITIONS * half * sizeof *s);
    for (size_t p = 0; p < POSITIONS; p++)
        for (size_t j = 0; j < half; j++) {
            c[p * half + j] = cosf((float)p / (float)(1 + 10 * j));
            s[p * half + j] = sinf((float)p / (float)(1 + 10 * j));
        }
    RopeCase *rope = trial_alloc(trial, sizeof *rope);
    *rope = (RopeCase){
        {POSITIONS, cases[i].dim, c, s}, cases[i].col, cases[i].heads, cases[i].stride, cases[i].interleaved};
    trial->op = rope;
    trial->samples = 200;
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

static void positions_continue_after_a_cache(void **state)
{
    (void)state;
    Trial trial;
    make(&trial, 1);
    const RopeCase *rope = trial.op;
    Tape tape = {0};
    float first[21], later[5 * 21];
    memcpy(first, trial.in[0].values, sizeof first);
    memcpy(later + 4 * 21, first, sizeof first);
    memset(later, 0, 4 * 21 * sizeof *later);
    Group one = {.T = 1, .n_docs = 1, .doc_start = (size_t[]){0, 1}, .doc_past = (size_t[]){4}};
    Group five = {.T = 5, .n_docs = 1, .doc_start = (size_t[]){0, 5}};
    tape_begin(&tape, &one, TAPE_OFF);
    op_rope(&tape, tape_leaf(&tape, 1, 21, first, false), &rope->table, 3, 3, 7, true);
    tape_begin(&tape, &five, TAPE_OFF);
    op_rope(&tape, tape_leaf(&tape, 5, 21, later, false), &rope->table, 3, 3, 7, true);
    assert_ok(tape_error(&tape));
    assert_memory_equal(first, later + 4 * 21, sizeof first);
    tape_free(&tape);
    trial_free(&trial);
}

static void refused(const RopeTable *table, size_t rows, size_t col, size_t heads, size_t stride, const char *part)
{
    Tape tape = {0};
    float x[3 * 8] = {0};
    Group group = {.T = 3, .n_docs = 1, .doc_start = (size_t[]){0, 3}};
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_ptr_equal(op_rope(&tape, tape_leaf(&tape, rows, 8, x, true), table, col, heads, stride, true), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, part);
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    const float one[6] = {1, 1, 1, 1, 1, 1};
    RopeTable brief = {2, 4, one, one}, table = {3, 4, one, one};
    refused(&brief, 3, 0, 1, 4, "a document has 3 tokens; the rotary table has 2 positions");
    refused(&table, 3, 5, 1, 4, "rope: columns 5 to 9 of 8");
    refused(&table, 3, 0, 3, 4, "rope: columns 0 to 12 of 8");
    refused(&table, 2, 0, 1, 4, "rope: 2 rows, 3 tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),         cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit), cmocka_unit_test(positions_continue_after_a_cache),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
