/* Trials. Gradients are checked on one number: the sum of the result's elements, each times a random weight, plus what
 * the operation adds to the loss itself. Its derivative by each input is compared with a central difference of the
 * reference in double:  (f(x + h) - f(x - h)) / 2h,  h = STEP. Gradients of parameters go through a forest, as in
 * training. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/gemm.h"

#include <ctype.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Errors of a central difference: 1e-10 from the third derivative, 1e-10 from rounding. */
static const double STEP = 1e-5;

/* A gradient of zero may be the difference of numbers near 1. */
static const double NOISE = 5e-7;

/* ---- making ---------------------------------------------------------------------------------------------------- */

void *trial_alloc(Trial *trial, size_t bytes)
{
    void *block = arena_alloc(&trial->arena, bytes);
    assert_non_null(block);
    return memset(block, 0, bytes);
}

Group group_of(Trial *trial, const char *documents)
{
    size_t *docs = trial_alloc(trial, (TRIAL_DOCUMENTS + 1) * sizeof *docs);
    size_t *micro = trial_alloc(trial, (TRIAL_DOCUMENTS + 1) * sizeof *micro);
    Group group = {.doc_start = docs, .micro_batch_start = micro};
    for (const char *at = documents; *at;) {
        char *end;
        if (*at == '|') micro[++group.n_micro_batches] = group.T;
        if (isdigit((unsigned char)*at)) {
            assert_true(group.n_docs < TRIAL_DOCUMENTS);
            group.T += strtoul(at, &end, 10);
            docs[++group.n_docs] = group.T;
            at = end;
        } else {
            at++;
        }
    }
    micro[++group.n_micro_batches] = group.T;
    return group;
}

void trial_init(Trial *trial, const char *documents, TrialBuild *build, TrialReference *reference, size_t cols)
{
    *trial =
        (Trial){.build = build, .reference = reference, .cols = cols, .forward_within = 2e-6, .gradient_within = 1e-5};
    trial->group = group_of(trial, documents);
}

void trial_free(Trial *trial) { arena_free(&trial->arena); }

float *trial_normal(Trial *trial, const char *name, size_t n, double scale)
{
    float *x = trial_alloc(trial, n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(scale * rng_normal(rng_name(1, name), i));
    return x;
}

static size_t add_input(Trial *trial, const char *name, size_t rows, size_t cols, bool param)
{
    size_t i = trial->n_in++;
    assert_true(i < TRIAL_INPUTS);
    trial->in[i].name = memcpy(trial_alloc(trial, strlen(name) + 1), name, strlen(name));
    trial->in[i].rows = rows;
    trial->in[i].cols = cols;
    trial->in[i].param = param;
    trial->in[i].values = trial_normal(trial, name, rows * cols, 1);
    return i;
}

size_t trial_tensor(Trial *trial, const char *name, size_t cols)
{
    return add_input(trial, name, trial->group.T, cols, false);
}
size_t trial_param(Trial *trial, const char *name, size_t rows, size_t cols)
{
    return add_input(trial, name, rows, cols, true);
}

Weight *trial_weight(Trial *trial, const char *name, DType dtype, size_t rows, size_t cols)
{
    size_t n = rows * cols,
           n_scales = (rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK * ((cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
    float *values = trial_normal(trial, name, n, 1), *scale = trial_alloc(trial, n_scales * sizeof *scale);
    uint16_t *half = trial_alloc(trial, n * sizeof *half);
    uint8_t *byte = trial_alloc(trial, n);
    for (size_t i = 0; i < n_scales; i++) scale[i] = 0.5f + rng_uniform(77, i);
    for (size_t i = 0; i < n; i++) {
        half[i] = bf16_from_f32(values[i]);
        byte[i] = f8_e4m3_from_f32(values[i]);
    }
    Weight *w = trial_alloc(trial, sizeof *w);
    *w = weight_of(name, rows, cols, values);
    w->dtype = dtype;
    if (dtype == DTYPE_BF16) w->data = half;
    if (dtype == DTYPE_F8_E4M3) w->data = byte;
    w->scale = scale;
    return w;
}

/* ---- running --------------------------------------------------------------------------------------------------- */

typedef struct {
    const Trial *trial;
    const bool *requires_grad; /* [n_in], of tensors; NULL: all */
    Forest *forest;            /* NULL: parameters do not train */
    Outcome to;
} Run;

static bool requires_grad(const Run *run, size_t i) { return !run->requires_grad || run->requires_grad[i]; }

static float weight_of_result(const Trial *trial, size_t i) { return trial->only_loss ? 0 : (float)rng_normal(4, i); }

/* Documents [doc, end) with micro-batches [micro, micro_end); alone: all of them are one micro-batch of their own. */
static Group part_of(const Trial *trial, Arena *arena, size_t doc, size_t end, size_t micro, size_t micro_end,
                     bool alone)
{
    const Group *whole = &trial->group;
    size_t row = whole->doc_start[doc];
    size_t *docs = arena_alloc(arena, (end - doc + 1) * sizeof *docs);
    size_t *micros = arena_alloc(arena, (micro_end - micro + 2) * sizeof *micros);
    for (size_t d = doc; d <= end; d++) docs[d - doc] = whole->doc_start[d] - row;
    for (size_t m = micro; m <= micro_end; m++) micros[m - micro] = whole->micro_batch_start[m] - row;
    Group part = {.T = whole->doc_start[end] - row,
                  .n_docs = end - doc,
                  .first_doc = doc,
                  .doc_start = docs,
                  .n_micro_batches = micro_end - micro,
                  .first_micro_batch = micro,
                  .micro_batch_start = micros};
    if (!alone) return part;
    micros[0] = 0;
    micros[1] = part.T;
    part.n_micro_batches = 1;
    return part;
}

static void fill_call(const Run *run, Tape *tape, Call *call, size_t T)
{
    const Trial *trial = run->trial;
    for (size_t i = 0, offset = 0; i < trial->n_in; i++) {
        size_t cols = trial->in[i].cols, rows = trial->in[i].rows;
        call->in[i] = NULL;
        if (trial->in[i].param) {
            call->param[i] = (Param){.name = trial->in[i].name,
                                     .rows = rows,
                                     .cols = cols,
                                     .offset = offset,
                                     .data = trial->in[i].values,
                                     .forest = run->forest};
            offset += rows * cols;
            continue;
        }
        float *copy = tape_floats(tape, T * cols); /* an operation in place writes to it */
        memcpy(copy, trial->in[i].values + call->row * cols, T * cols * sizeof *copy);
        call->in[i] = tape_leaf(tape, T, cols, copy, requires_grad(run, i));
    }
}

static void run_part(const Run *run, Tape *tape, const Group *part)
{
    const Trial *trial = run->trial;
    Call call = {.row = trial->group.doc_start[part->first_doc], .doc = part->first_doc};
    tape_begin(tape, part, TAPE_RECORD);
    tape->dropout = trial->dropout;
    tape->dropout_key = 99;
    fill_call(run, tape, &call, part->T);
    Tensor *out = trial->build(tape, trial, &call);
    assert_ok(tape_error(tape));
    assert_int_equal(out->shape[0], part->T);
    assert_int_equal(out->shape[1], trial->cols);
    memcpy(run->to.out + call.row * trial->cols, out->data, part->T * trial->cols * sizeof *out->data);
    float *seed = tape_seed(tape, out);
    for (size_t i = 0; i < part->T * trial->cols; i++) seed[i] = weight_of_result(trial, call.row * trial->cols + i);
    assert_ok(tape_backward(tape));
    for (size_t i = 0; i < trial->n_in; i++)
        if (call.in[i] && call.in[i]->grad)
            memcpy(run->to.grad[i] + call.row * trial->in[i].cols, call.in[i]->grad,
                   part->T * trial->in[i].cols * sizeof(float));
}

static size_t params_of(const Trial *trial)
{
    size_t n = 0;
    for (size_t i = 0; i < trial->n_in; i++) n += trial->in[i].param ? trial->in[i].rows * trial->in[i].cols : 0;
    return n;
}

static Outcome outcome_new(const Trial *trial, Arena *arena)
{
    Outcome outcome = {.out = arena_alloc(arena, trial->group.T * trial->cols * sizeof(float))};
    for (size_t i = 0; i < trial->n_in; i++) {
        size_t bytes = trial->in[i].rows * trial->in[i].cols * sizeof(float);
        outcome.grad[i] = arena_alloc(arena, bytes);
        memset(outcome.grad[i], 0, bytes);
    }
    return outcome;
}

/* Micro-batches in n_calls calls, call c from cut[c] to cut[c + 1]. */
static Outcome run_cut(const Trial *trial, Arena *arena, size_t n_calls, const size_t *cut, const bool *who, bool train)
{
    const Group *whole = &trial->group;
    Tape tape = {0};
    Forest forest = {0};
    size_t n_params = params_of(trial), offset = 0, doc = 0;
    Run run = {trial, who, train && n_params ? &forest : NULL, outcome_new(trial, arena)};
    if (run.forest) assert_ok(forest_begin(&forest, n_params, 0, whole->n_micro_batches));
    for (size_t i = 0; run.forest && i < forest.n_subtrees * n_params; i++)
        forest.subtrees[i] = NAN; /* every element of a leaf must be written */
    for (size_t c = 0; c < n_calls; c++) {
        size_t end = doc;
        while (end < whole->n_docs && whole->doc_start[end] < whole->micro_batch_start[cut[c + 1]]) end++;
        Group part = part_of(trial, arena, doc, end, cut[c], cut[c + 1], false);
        run_part(&run, &tape, &part);
        doc = end;
    }
    if (run.forest) forest_total(forest_depth(0, whole->n_micro_batches), n_params, forest.subtrees);
    for (size_t i = 0; i < trial->n_in && run.forest; i++) {
        size_t n = trial->in[i].rows * trial->in[i].cols;
        if (!trial->in[i].param) continue;
        memcpy(run.to.grad[i], forest.subtrees + offset, n * sizeof(float));
        offset += n;
    }
    forest_free(&forest);
    tape_free(&tape);
    return run.to;
}

Outcome trial_run(const Trial *trial, Arena *arena)
{
    return run_cut(trial, arena, 1, (size_t[]){0, trial->group.n_micro_batches}, NULL, true);
}

static Outcome run_documents_alone(const Trial *trial, Arena *arena)
{
    Tape tape = {0};
    Run run = {trial, NULL, NULL, outcome_new(trial, arena)};
    for (size_t d = 0; d < trial->group.n_docs; d++) {
        Group part = part_of(trial, arena, d, d + 1, 0, 0, true);
        run_part(&run, &tape, &part);
    }
    tape_free(&tape);
    return run.to;
}

/* ---- against the reference ------------------------------------------------------------------------------------- */

static double **widen_inputs(const Trial *trial, Arena *arena)
{
    double **in = arena_alloc(arena, TRIAL_INPUTS * sizeof *in);
    for (size_t i = 0; i < trial->n_in; i++) {
        size_t n = trial->in[i].rows * trial->in[i].cols;
        in[i] = arena_alloc(arena, n * sizeof **in);
        for (size_t j = 0; j < n; j++) in[i][j] = (double)trial->in[i].values[j];
    }
    return in;
}

void assert_forward(const Trial *trial)
{
    Arena arena = {0};
    size_t n = trial->group.T * trial->cols;
    double *want = arena_alloc(&arena, n * sizeof *want), size = 0;
    double **in = widen_inputs(trial, &arena);
    Outcome got = trial_run(trial, &arena);
    trial->reference(trial, (void *const *)in, want);
    for (size_t i = 0; i < n; i++) size += want[i] * want[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got.out[i] - want[i]) <= trial->forward_within * (sqrt(size) + fabs(want[i]))))
            fail_msg("result[%zu][%zu] is %.9g, not %.9g", i / trial->cols, i % trial->cols, (double)got.out[i],
                     want[i]);
    arena_free(&arena);
}

static double weighted_sum(const Trial *trial, double **in, double *out)
{
    double sum = trial->loss ? trial->loss(trial, (void *const *)in) : 0;
    if (trial->only_loss) return sum;
    trial->reference(trial, (void *const *)in, out);
    for (size_t i = 0; i < trial->group.T * trial->cols; i++) sum += (double)weight_of_result(trial, i) * out[i];
    return sum;
}

static double difference(const Trial *trial, double **in, double *out, size_t i, size_t j)
{
    double x = in[i][j], up, down;
    in[i][j] = x + STEP;
    up = weighted_sum(trial, in, out);
    in[i][j] = x - STEP;
    down = weighted_sum(trial, in, out);
    in[i][j] = x;
    return (up - down) / (2 * STEP);
}

static void assert_gradient(const Trial *trial, Arena *arena, double **in, double *out, size_t i, const float *got)
{
    size_t n = trial->in[i].rows * trial->in[i].cols,
           checked = trial->samples && trial->samples < n ? trial->samples : n;
    double *want = arena_alloc(arena, checked * sizeof *want), size = 0;
    size_t *at = arena_alloc(arena, checked * sizeof *at);
    for (size_t k = 0; k < checked; k++) {
        at[k] = checked == n ? k : rng_below(5, i * 1000 + k, n);
        want[k] = difference(trial, in, out, i, at[k]);
        size += want[k] * want[k] / (double)checked;
    }
    for (size_t k = 0; k < checked; k++) {
        double x = (double)got[at[k]], within = trial->gradient_within * (sqrt(size) + fabs(want[k])) + NOISE;
        if (!(fabs(x - want[k]) <= within))
            fail_msg("gradient of %s[%zu][%zu] is %.9g, not %.9g (root mean square %.3g)", trial->in[i].name,
                     at[k] / trial->in[i].cols, at[k] % trial->in[i].cols, x, want[k], sqrt(size));
    }
}

void assert_gradients(const Trial *trial)
{
    Arena arena = {0};
    double *out = arena_alloc(&arena, trial->group.T * trial->cols * sizeof *out), **in = widen_inputs(trial, &arena);
    Outcome got = trial_run(trial, &arena);
    for (size_t i = 0; i < trial->n_in; i++) assert_gradient(trial, &arena, in, out, i, got.grad[i]);
    arena_free(&arena);
}

/* ---- the same bits ----------------------------------------------------------------------------------------------- */

static void same(const char *how, const char *what, size_t n, size_t cols, const float *got, const float *want)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, sizeof *got))
            fail_msg("%s: %s[%zu][%zu] is %.9g, not %.9g", how, what, i / cols, i % cols, (double)got[i],
                     (double)want[i]);
}

enum { TENSORS = 1, PARAMS = 2 };

static void same_outcome(const Trial *trial, const char *how, int parts, const Outcome *got, const Outcome *want)
{
    same(how, "result", trial->group.T * trial->cols, trial->cols, got->out, want->out);
    for (size_t i = 0; i < trial->n_in; i++)
        if (parts & (trial->in[i].param ? PARAMS : TENSORS))
            same(how, trial->in[i].name, trial->in[i].rows * trial->in[i].cols, trial->in[i].cols, got->grad[i],
                 want->grad[i]);
}

static void assert_same_in_calls(const Trial *trial, Arena *arena, const Outcome *want)
{
    size_t n = trial->group.n_micro_batches, cut[TRIAL_DOCUMENTS + 1];
    Outcome got;
    for (size_t m = 0; m <= n; m++) cut[m] = m;
    got = run_cut(trial, arena, n, cut, NULL, true);
    same_outcome(trial, "every micro-batch a call", TENSORS | PARAMS, &got, want);
    for (size_t m = 1; m < n; m++) {
        got = run_cut(trial, arena, 2, (size_t[]){0, m, n}, NULL, true);
        same_outcome(trial, "two calls", TENSORS | PARAMS, &got, want);
    }
    got = run_documents_alone(trial, arena);
    same_outcome(trial, "every document alone", TENSORS, &got, want);
}

static void assert_same_for_any_gradients(const Trial *trial, Arena *arena, const Outcome *want)
{
    size_t n = trial->group.n_micro_batches;
    bool who[TRIAL_INPUTS] = {false};
    Outcome got = run_cut(trial, arena, 1, (size_t[]){0, n}, NULL, false);
    same_outcome(trial, "parameters do not train", TENSORS, &got, want);
    got = run_cut(trial, arena, 1, (size_t[]){0, n}, who, true);
    same_outcome(trial, "only parameters train", PARAMS, &got, want);
    for (size_t i = 0; i < trial->n_in; i++) {
        if (trial->in[i].param) continue;
        who[i] = true;
        got = run_cut(trial, arena, 1, (size_t[]){0, n}, who, false);
        who[i] = false;
        same("one tensor requires a gradient", trial->in[i].name, trial->in[i].rows * trial->in[i].cols,
             trial->in[i].cols, got.grad[i], want->grad[i]);
    }
}

void assert_same_bits(const Trial *trial)
{
    Arena arena = {0};
    int threads = omp_get_max_threads();
    omp_set_num_threads(2);
    Outcome want = trial_run(trial, &arena), got;
    assert_same_in_calls(trial, &arena, &want);
    assert_same_for_any_gradients(trial, &arena, &want);
    for (int n = 1; n <= 3; n += 2) {
        omp_set_num_threads(n);
        got = trial_run(trial, &arena);
        same_outcome(trial, n == 1 ? "one thread" : "three threads", TENSORS | PARAMS, &got, &want);
    }
    omp_set_num_threads(threads);
    arena_free(&arena);
}

void trials_check(TrialMake *make, size_t n, TrialCheck *check)
{
    for (size_t i = 0; i < n; i++) {
        Trial trial;
        make(&trial, i);
        check(&trial);
        trial_free(&trial);
    }
}
