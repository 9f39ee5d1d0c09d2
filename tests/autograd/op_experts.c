#include "autograd/expert_schedule.h"
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *documents;
    size_t E, K, D, F;
    size_t in_r, out_r; /* 0: no pair */
    size_t up_alone;    /* 1: the pair on gate|up reaches up only */
    size_t adapted;     /* experts below it have pairs */
    size_t idle;        /* experts from this one on get no token */
    DType dtype;
} Case;

static const Case cases[] = {
    {"1", 1, 1, 1, 1, 1, 1, 0, 1, 1, DTYPE_F32},
    {"3 1 | 5 | 2 2", 4, 2, 7, 5, 3, 2, 0, 4, 4, DTYPE_F32},
    {"3 1 | 5 | 2 2", 5, 2, 7, 5, 1, 3, 0, 3, 4, DTYPE_BF16}, /* some without pairs, one without tokens */
    {"2 | 3 1", 3, 3, 9, 4, 2, 2, 1, 3, 3, DTYPE_F8_E4M3},    /* K = E; up alone */
    {"1 1 | 1 1 1", 3, 1, 5, 2, 6, 7, 0, 3, 2, DTYPE_F32},    /* r larger than gate|up together */
    {"3 1 | 5", 3, 2, 6, 3, 0, 2, 0, 3, 3, DTYPE_F32},
    {"3 1 | 5", 3, 2, 6, 3, 2, 0, 0, 3, 3, DTYPE_F32},
    {"17 | 18 2", 3, 2, 200, 70, 4, 5, 0, 2, 3, DTYPE_BF16}, /* several slices of columns, long inner sums */
    {"3 1 | 2", 4, 2, 7, 5, 0, 0, 0, 0, 3, DTYPE_F8_E4M3},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static const float in_scale = 0.6f, out_scale = -1.3f;

typedef struct {
    const Case *c;
    int32_t *ids; /* [T][K] ascending */
    const Weight **gate, **up, **down;
    size_t first[16]; /* the number of an expert's first parameter */
    const ExpertChunks *chunks;
    bool recomputing;
} Experts;

static Lora *lora_new(Tape *tape, Param *A, Param *B, size_t col, float scale)
{
    Lora *lora = tape_alloc(tape, sizeof *lora);
    *lora = (Lora){.A = A, .B = B, .col = col, .scale = scale};
    return lora;
}

static Expert *experts_on(Tape *tape, const Experts *x, Call *call)
{
    Expert *experts = tape_alloc(tape, x->c->E * sizeof *experts);
    for (size_t e = 0; e < x->c->E; e++) {
        size_t at = x->first[e];
        experts[e] = (Expert){x->gate[e], x->up[e], x->down[e], NULL, NULL};
        if (e >= x->c->adapted) continue;
        if (x->c->in_r) {
            experts[e].lora_gate_up = lora_new(tape, &call->param[at], &call->param[at + 1], x->c->up_alone * x->c->F,
                                               in_scale);
            at += 2;
        }
        if (x->c->out_r) experts[e].lora_down = lora_new(tape, &call->param[at], &call->param[at + 1], 0, out_scale);
    }
    return experts;
}

static Tensor *build(Tape *tape, const Trial *trial, Call *call)
{
    const Experts *x = trial->op;
    Route route = {x->ids + call->row * x->c->K, call->in[1]};
    tape->recomputing = x->recomputing;
    return op_experts(tape, call->in[0], route, x->c->E, experts_on(tape, x, call), x->chunks);
}

static void reference(const Trial *trial, void *const *in, void *out)
{
    const Experts *x = trial->op;
    const Case *c = x->c;
    ReferenceExpert experts[16] = {0};
    for (size_t e = 0; e < c->E; e++) {
        size_t at = x->first[e];
        ReferenceExpert *expert = &experts[e];
        *expert = (ReferenceExpert){.gate = x->gate[e],
                                    .up = x->up[e],
                                    .down = x->down[e],
                                    .in_rows = c->up_alone ? c->F : 2 * c->F,
                                    .in_col = c->up_alone * c->F,
                                    .in_scale = (double)in_scale,
                                    .out_scale = (double)out_scale};
        if (e >= c->adapted) continue;
        expert->in_r = c->in_r;
        expert->out_r = c->out_r;
        if (c->in_r) {
            expert->in_A = in[at++];
            expert->in_B = in[at++];
        }
        if (c->out_r) {
            expert->out_A = in[at++];
            expert->out_B = in[at++];
        }
    }
    reference_experts(trial->group.T, c->D, c->K, out, in[0], in[1], x->ids, experts);
}

static const char *name_of(Trial *trial, size_t e, const char *what)
{
    char *name = trial_alloc(trial, 48);
    snprintf(name, 48, "experts.%zu.%s", e, what);
    return name;
}

static void add_params(Trial *trial, size_t e, const Case *c)
{
    if (c->in_r) {
        trial_param(trial, name_of(trial, e, "in.A"), c->in_r, c->D);
        trial_param(trial, name_of(trial, e, "in.B"), c->up_alone ? c->F : 2 * c->F, c->in_r);
    }
    if (c->out_r) {
        trial_param(trial, name_of(trial, e, "out.A"), c->out_r, c->F);
        trial_param(trial, name_of(trial, e, "out.B"), c->D, c->out_r);
    }
}

static void make_case(Trial *trial, const Case *c)
{
    trial_init(trial, c->documents, build, reference, c->D);
    size_t T = trial->group.T;
    trial_tensor(trial, "x", c->D);
    trial_tensor(trial, "weights", c->K);
    Experts *x = trial_alloc(trial, sizeof *x);
    *x = (Experts){.c = c,
                   .ids = trial_alloc(trial, T * c->K * sizeof *x->ids),
                   .gate = trial_alloc(trial, c->E * sizeof *x->gate),
                   .up = trial_alloc(trial, c->E * sizeof *x->up),
                   .down = trial_alloc(trial, c->E * sizeof *x->down)};
    for (size_t e = 0; e < c->E; e++) {
        x->gate[e] = trial_weight(trial, name_of(trial, e, "gate"), c->dtype, c->F, c->D);
        x->up[e] = trial_weight(trial, name_of(trial, e, "up"), c->dtype, c->F, c->D);
        x->down[e] = trial_weight(trial, name_of(trial, e, "down"), c->dtype, c->D, c->F);
        x->first[e] = trial->n_in;
        if (e < c->adapted) add_params(trial, e, c);
    }
    for (size_t t = 0; t < T; t++) { /* K of the busy ones, in order */
        size_t left = c->K;
        for (size_t e = 0; e < c->idle && left; e++)
            if (c->idle - e == left || rng_below(6, t * 16 + e, c->idle) < c->K)
                x->ids[t * c->K + c->K - left--] = (int32_t)e;
    }
    trial->op = x;
    trial->samples = c->D > 100 ? 10 : 60;
    trial->gradient_within = 2e-5; /* a chain of three products, the last of sums that cancel */
    trial->forward_within = 5e-6;
}

static void make(Trial *trial, size_t i) { make_case(trial, &cases[i]); }

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

/* Benches of a few rows and a block for one expert only: pieces and laps, cut across documents and micro-batches. */
static void pieces_and_laps_change_no_bit(void **state)
{
    (void)state;
    Arena arena = {0};
    const ExpertLimits usual = expert_limits;
    for (size_t i = 0; i < N_CASES; i++)
        for (size_t rows = 1; rows <= 7; rows += 2) {
            Trial trial;
            make(&trial, i);
            Outcome want = trial_run(&trial, &arena);
            expert_limits = (ExpertLimits){.min_piece_rows = rows};
            Outcome got = trial_run(&trial, &arena);
            expert_limits = usual;
            assert_memory_equal(got.out, want.out, trial.group.T * trial.cols * sizeof(float));
            for (size_t j = 0; j < trial.n_in; j++)
                assert_memory_equal(got.grad[j], want.grad[j], trial.in[j].rows * trial.in[j].cols * sizeof(float));
            trial_free(&trial);
        }
    arena_free(&arena);
}

static void an_expert_without_tokens_has_a_gradient_of_zeros(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    Case c = cases[2];
    c.adapted = 5;
    make_case(&trial, &c);
    Outcome got = trial_run(&trial, &arena);
    for (size_t i = ((const Experts *)trial.op)->first[4]; i < trial.n_in; i++)
        for (size_t j = 0; j < trial.in[i].rows * trial.in[i].cols; j++) assert_true(got.grad[i][j] == 0);
    arena_free(&arena);
    trial_free(&trial);
}

/* ---- experts that come and go ---------------------------------------------------------------------------------- */

/* Weights have data only while their run is borrowed. */
typedef struct {
    Weight there[16][3], lent[16][3];
    size_t begin[8], seen[32], n_seen, fails_at;
    bool held;
    ExpertChunks chunks;
} ChunkLender;

static Err *lend(void *context, size_t run)
{
    ChunkLender *lender = context;
    assert_false(lender->held);
    if (lender->n_seen == lender->fails_at) return err_new(ERR_IO, "shard 7 has gone");
    lender->seen[lender->n_seen++] = run;
    lender->held = true;
    for (size_t e = lender->begin[run]; e < lender->begin[run + 1]; e++)
        memcpy(lender->lent[e], lender->there[e], sizeof lender->lent[e]);
    return NULL;
}

static void take_back(void *context, size_t run)
{
    ChunkLender *lender = context;
    lender->held = false;
    for (size_t e = lender->begin[run]; e < lender->begin[run + 1]; e++)
        for (size_t i = 0; i < 3; i++) lender->lent[e][i].data = lender->lent[e][i].scale = NULL;
}

/* Lend the trial's experts in the runs that begin at begin[]. */
static void lend_in_chunks(ChunkLender *lender, Trial *trial, size_t n, const size_t *begin)
{
    Experts *x = trial->op;
    *lender = (ChunkLender){.fails_at = SIZE_MAX};
    memcpy(lender->begin, begin, (n + 1) * sizeof *begin);
    lender->chunks = (ExpertChunks){n, lender->begin, lend, take_back, lender};
    for (size_t e = 0; e < x->c->E; e++) {
        const Weight **all[] = {x->gate, x->up, x->down};
        for (size_t i = 0; i < 3; i++) {
            lender->lent[e][i] = lender->there[e][i] = *all[i][e];
            all[i][e] = &lender->lent[e][i];
        }
    }
    for (size_t run = 0; run < n; run++) take_back(lender, run);
    x->chunks = &lender->chunks;
}

static void experts_that_come_and_go_change_no_bit(void **state)
{
    static const struct {
        size_t n, begin[6];
    } ways[] = {{1, {0, 5}}, {2, {0, 2, 5}}, {3, {0, 1, 4, 5}}, {5, {0, 1, 2, 3, 4, 5}}};
    (void)state;
    Arena arena = {0};
    for (size_t i = 0; i < 2 * sizeof ways / sizeof *ways; i++) {
        size_t n = ways[i / 2].n;
        Trial trial;
        ChunkLender lender;
        make_case(&trial, &cases[2]);
        Experts *x = trial.op;
        Outcome want = trial_run(&trial, &arena);
        lend_in_chunks(&lender, &trial, n, ways[i / 2].begin);
        x->recomputing = i % 2; /* then only the way back borrows */
        Outcome got = trial_run(&trial, &arena);
        if (!x->recomputing) assert_memory_equal(got.out, want.out, trial.group.T * cases[2].D * sizeof(float));
        for (size_t j = 0; j < trial.n_in; j++)
            assert_memory_equal(got.grad[j], want.grad[j], trial.in[j].rows * trial.in[j].cols * sizeof(float));
        assert_int_equal(lender.n_seen, x->recomputing ? n : 2 * n);
        for (size_t run = 0; run < n; run++) {
            if (!x->recomputing) assert_int_equal(lender.seen[run], run);
            assert_int_equal(lender.seen[lender.n_seen - 1 - run], run);
        }
        trial_free(&trial);
    }
    arena_free(&arena);
}

static void experts_that_do_not_come_are_an_error(void **state)
{
    (void)state;
    for (size_t fails_at = 0; fails_at < 4; fails_at++) {
        Trial trial;
        ChunkLender lender;
        Tape tape = {0};
        Call call = {0};
        Case c = cases[2];
        c.adapted = 0;
        make_case(&trial, &c);
        lend_in_chunks(&lender, &trial, 2, (size_t[]){0, 2, 5});
        lender.fails_at = fails_at;
        tape_begin(&tape, &trial.group, TAPE_RECORD);
        for (size_t i = 0; i < 2; i++)
            call.in[i] = tape_leaf(&tape, trial.in[i].rows, trial.in[i].cols, trial.in[i].values, true);
        Tensor *y = build(&tape, &trial, &call);
        Err *err = tape_error(&tape);
        assert_int_equal(err != NULL, fails_at < 2);
        if (!err) {
            tape_seed(&tape, y);
            err = tape_backward(&tape);
        }
        assert_fails(err, ERR_IO, "shard 7 has gone");
        assert_false(lender.held);
        tape_free(&tape);
        trial_free(&trial);
    }
}

static void fresh_adapters_change_nothing(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial bare, fresh;
    Case c = cases[1];
    make_case(&fresh, &c);
    for (size_t i = 3; i < fresh.n_in; i += 2)
        memset(fresh.in[i].values, 0, fresh.in[i].rows * fresh.in[i].cols * sizeof(float));
    Case none = c;
    none.adapted = 0;
    make_case(&bare, &none);
    Outcome a = trial_run(&fresh, &arena), b = trial_run(&bare, &arena);
    assert_memory_equal(a.out, b.out, bare.group.T * c.D * sizeof(float));
    assert_memory_equal(a.grad[0], b.grad[0], bare.group.T * c.D * sizeof(float));
    assert_memory_equal(a.grad[1], b.grad[1], bare.group.T * c.K * sizeof(float));
    arena_free(&arena);
    trial_free(&fresh), trial_free(&bare);
}

static void shuffle_rows(size_t T, size_t width_bytes, void *rows, const uint64_t *order)
{
    char copy[20 * 64], *to = rows;
    assert_true(T * width_bytes <= sizeof copy);
    memcpy(copy, rows, T * width_bytes);
    for (size_t t = 0; t < T; t++) memcpy(to + t * width_bytes, copy + order[t] * width_bytes, width_bytes);
}

static void the_order_of_rows_changes_no_bit(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    Case c = cases[1];
    uint64_t order[13];
    make_case(&trial, &c);
    Experts *x = trial.op;
    Outcome want = trial_run(&trial, &arena);
    rng_shuffle(7, 13, order);
    shuffle_rows(13, c.D * sizeof(float), trial.in[0].values, order);
    shuffle_rows(13, c.K * sizeof(float), trial.in[1].values, order);
    shuffle_rows(13, c.K * sizeof *x->ids, x->ids, order);
    Outcome got = trial_run(&trial, &arena);
    shuffle_rows(13, c.D * sizeof(float), want.out, order);
    assert_memory_equal(got.out, want.out, 13 * c.D * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

/* Expert e becomes E - 1 - e: the sums over experts are added the other way round. */
static void the_order_of_experts_changes_no_more_than_rounding(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    Case c = cases[1];
    make_case(&trial, &c);
    Experts *x = trial.op;
    Outcome want = trial_run(&trial, &arena);
    for (size_t i = 0; i < 13 * c.K; i++) x->ids[i] = (int32_t)c.E - 1 - x->ids[i];
    for (size_t e = 0; e < c.E / 2; e++) {
        const Weight **all[] = {x->gate, x->up, x->down};
        size_t other = c.E - 1 - e, first = x->first[e];
        for (size_t i = 0; i < 3; i++) {
            const Weight *w = all[i][e];
            all[i][e] = all[i][other];
            all[i][other] = w;
        }
        x->first[e] = x->first[other];
        x->first[other] = first;
    }
    Outcome got = trial_run(&trial, &arena);
    for (size_t i = 0; i < 13 * c.D; i++) {
        assert_true(fabsf(got.out[i] - want.out[i]) <= 1e-5f * (1 + fabsf(want.out[i])));
        assert_true(fabsf(got.grad[0][i] - want.grad[0][i]) <= 1e-5f * (1 + fabsf(want.grad[0][i])));
    }
    for (size_t i = 2; i < trial.n_in; i++)
        assert_memory_equal(got.grad[i], want.grad[i], trial.in[i].rows * trial.in[i].cols * sizeof(float));
    arena_free(&arena);
    trial_free(&trial);
}

/* ---- what does not fit ----------------------------------------------------------------------------------------- */

/* Two experts that fit x [3][4], their pairs, and one thing made wrong. */
typedef struct {
    float values[64];
    Weight gate, up, down;
    Param A, B, C, D;
    Lora in, out;
    Expert experts[2];
    int32_t ids[6];
    size_t rows, cols, weight_rows, E;
} Misfit;

static void misfit_init(Misfit *m)
{
    *m = (Misfit){.ids = {0, 1, 0, 1, 0, 1}, .rows = 3, .cols = 4, .weight_rows = 3, .E = 2};
    m->gate = weight_of("gate", 5, 4, m->values);
    m->up = weight_of("up", 5, 4, m->values);
    m->down = weight_of("down", 4, 5, m->values);
    m->A = (Param){.name = (char *)"in.A", .rows = 2, .cols = 4, .data = m->values};
    m->B = (Param){.name = (char *)"in.B", .rows = 10, .cols = 2, .data = m->values};
    m->C = (Param){.name = (char *)"out.A", .rows = 2, .cols = 5, .data = m->values};
    m->D = (Param){.name = (char *)"out.B", .rows = 4, .cols = 2, .data = m->values};
    m->in = (Lora){.A = &m->A, .B = &m->B};
    m->out = (Lora){.A = &m->C, .B = &m->D};
    m->experts[0] = m->experts[1] = (Expert){&m->gate, &m->up, &m->down, &m->in, &m->out};
}

static void refused(Misfit *m, const char *part)
{
    Tape tape = {0};
    Group group = {.T = 3,
                   .n_docs = 1,
                   .doc_start = (size_t[]){0, 3},
                   .n_micro_batches = 1,
                   .micro_batch_start = (size_t[]){0, 3}};
    tape_begin(&tape, &group, TAPE_RECORD);
    Tensor *x = tape_leaf(&tape, m->rows, m->cols, m->values, true),
           *w = tape_leaf(&tape, m->weight_rows, 2, m->values, true);
    Tensor *y = op_experts(&tape, x, (Route){m->ids, w}, m->E, m->experts, NULL);
    if (!part)
        assert_ok(tape_error(&tape));
    else {
        assert_ptr_equal(y, &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT, part);
    }
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    Misfit m;
    Weight wrong;
    misfit_init(&m);
    refused(&m, NULL);
    m.cols = 3, refused(&m, "experts: x is [3][3], gate [5][4]"), misfit_init(&m);
    m.weight_rows = 2, refused(&m, "2 rows of weights"), misfit_init(&m);
    m.rows = m.weight_rows = 2, refused(&m, "experts: 2 rows, 3 tokens"), misfit_init(&m);
    m.E = 0, refused(&m, "experts: there are none"), misfit_init(&m);
    for (size_t e = 0; e < 2; e++) { /* any expert may be the one */
        wrong = weight_of("wrong", 4, 6, m.values);
        m.experts[e].down = &wrong, refused(&m, "down [4][6]"), misfit_init(&m);
        wrong = weight_of("wrong", 6, 4, m.values);
        m.experts[e].up = &wrong, refused(&m, "up [6][4]"), misfit_init(&m);
        wrong = weight_of("wrong", 5, 3, m.values);
        m.experts[e].gate = &wrong, refused(&m, "gate [5][3]"), misfit_init(&m);
    }
    m.in.col = 1, refused(&m, "in.A: A [2][4], B [10][2] at column 1"), misfit_init(&m);
    m.A.cols = 3, refused(&m, "in.A: A [2][3], B [10][2]"), misfit_init(&m);
    m.B.cols = 3, refused(&m, "in.A: A [2][4], B [10][3]"), misfit_init(&m);
    m.C.cols = 6, refused(&m, "out.A: A [2][6], B [4][2]"), misfit_init(&m);
    m.D.rows = 5, refused(&m, "out.A: A [2][5], B [5][2]"), misfit_init(&m);
    m.out.col = 1, refused(&m, "out.A: A [2][5], B [4][2] at column 1"), misfit_init(&m);
    m.ids[3] = 2, refused(&m, "experts: id 2 of 2"), misfit_init(&m);
    m.ids[0] = -1, refused(&m, "experts: id -1 of 2"), misfit_init(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(experts_that_come_and_go_change_no_bit),
        cmocka_unit_test(experts_that_do_not_come_are_an_error),
        cmocka_unit_test(pieces_and_laps_change_no_bit),
        cmocka_unit_test(an_expert_without_tokens_has_a_gradient_of_zeros),
        cmocka_unit_test(fresh_adapters_change_nothing),
        cmocka_unit_test(the_order_of_rows_changes_no_bit),
        cmocka_unit_test(the_order_of_experts_changes_no_more_than_rounding),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
