/* Routed experts: values and gradients; no bit depends on grouping, threads, pieces, batches or chunks. */
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
    size_t in_r, out_r; /* 0: no LoRA */
    size_t up_alone;    /* 1: the LoRA on gate|up adds to up only */
    size_t adapted;     /* experts below it have LoRA */
    size_t idle;        /* experts from this one on get no tokens */
    DType dtype;
} ExpertsCase;

static const ExpertsCase cases[] = {
    {"1", 1, 1, 1, 1, 1, 1, 0, 1, 1, DTYPE_F32},
    {"3 1 | 5 | 2 2", 4, 2, 7, 5, 3, 2, 0, 4, 4, DTYPE_F32},
    {"3 1 | 5 | 2 2", 5, 2, 7, 5, 1, 3, 0, 3, 4, DTYPE_BF16}, /* some without LoRA, one without tokens */
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
    const ExpertsCase *c;
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
    const ExpertsCase *c = x->c;
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

static void add_params(Trial *trial, size_t e, const ExpertsCase *c)
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

static void make_case(Trial *trial, const ExpertsCase *c)
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
    for (size_t t = 0; t < T; t++) { /* K of those with tokens, in order */
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

/* Workspaces of a few rows and a block for one expert only: pieces and batches end inside documents. */
static void pieces_and_batches_change_no_bit(void **state)
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
    ExpertsCase c = cases[2];
    c.adapted = 5;
    make_case(&trial, &c);
    Outcome got = trial_run(&trial, &arena);
    for (size_t i = ((const Experts *)trial.op)->first[4]; i < trial.n_in; i++)
        for (size_t j = 0; j < trial.in[i].rows * trial.in[i].cols; j++) assert_true(got.grad[i][j] == 0);
    arena_free(&arena);
    trial_free(&trial);
}

/* ---- expert chunks ---------------------------------------------------------------------------------- */

/* Weights have data only while their chunk is acquired. */
typedef struct {
    Weight all[16][3], acquired[16][3];
    size_t begin[8], seen[32], n_seen, fails_at;
    bool is_acquired;
    ExpertChunks chunks;
} ChunkStore;

static Err *acquire(void *context, size_t chunk)
{
    ChunkStore *store = context;
    assert_false(store->is_acquired);
    if (store->n_seen == store->fails_at) return err_new(ERR_IO, "shard 7 has gone");
    store->seen[store->n_seen++] = chunk;
    store->is_acquired = true;
    for (size_t e = store->begin[chunk]; e < store->begin[chunk + 1]; e++)
        memcpy(store->acquired[e], store->all[e], sizeof store->acquired[e]);
    return NULL;
}

static void release(void *context, size_t chunk)
{
    ChunkStore *store = context;
    store->is_acquired = false;
    for (size_t e = store->begin[chunk]; e < store->begin[chunk + 1]; e++)
        for (size_t i = 0; i < 3; i++) store->acquired[e][i].data = store->acquired[e][i].scale = NULL;
}

/* The trial's experts in n chunks that begin at begin[]. */
static void divide_into_chunks(ChunkStore *store, Trial *trial, size_t n, const size_t *begin)
{
    Experts *x = trial->op;
    *store = (ChunkStore){.fails_at = SIZE_MAX};
    memcpy(store->begin, begin, (n + 1) * sizeof *begin);
    store->chunks = (ExpertChunks){n, store->begin, acquire, release, store};
    for (size_t e = 0; e < x->c->E; e++) {
        const Weight **all[] = {x->gate, x->up, x->down};
        for (size_t i = 0; i < 3; i++) {
            store->acquired[e][i] = store->all[e][i] = *all[i][e];
            all[i][e] = &store->acquired[e][i];
        }
    }
    for (size_t chunk = 0; chunk < n; chunk++) release(store, chunk);
    x->chunks = &store->chunks;
}

static void chunks_change_no_bit(void **state)
{
    static const struct {
        size_t n, begin[6];
    } divisions[] = {{1, {0, 5}}, {2, {0, 2, 5}}, {3, {0, 1, 4, 5}}, {5, {0, 1, 2, 3, 4, 5}}};
    (void)state;
    Arena arena = {0};
    for (size_t i = 0; i < 2 * sizeof divisions / sizeof *divisions; i++) {
        size_t n = divisions[i / 2].n;
        Trial trial;
        ChunkStore store;
        make_case(&trial, &cases[2]);
        Experts *x = trial.op;
        Outcome want = trial_run(&trial, &arena);
        divide_into_chunks(&store, &trial, n, divisions[i / 2].begin);
        x->recomputing = i % 2; /* then only the backward pass acquires */
        Outcome got = trial_run(&trial, &arena);
        if (!x->recomputing) assert_memory_equal(got.out, want.out, trial.group.T * cases[2].D * sizeof(float));
        for (size_t j = 0; j < trial.n_in; j++)
            assert_memory_equal(got.grad[j], want.grad[j], trial.in[j].rows * trial.in[j].cols * sizeof(float));
        assert_int_equal(store.n_seen, x->recomputing ? n : 2 * n);
        for (size_t chunk = 0; chunk < n; chunk++) {
            if (!x->recomputing) assert_int_equal(store.seen[chunk], chunk);
            assert_int_equal(store.seen[store.n_seen - 1 - chunk], chunk);
        }
        trial_free(&trial);
    }
    arena_free(&arena);
}

static void a_chunk_that_cannot_be_acquired_is_an_error(void **state)
{
    (void)state;
    for (size_t fails_at = 0; fails_at < 4; fails_at++) {
        Trial trial;
        ChunkStore store;
        Tape tape = {0};
        Call call = {0};
        ExpertsCase c = cases[2];
        c.adapted = 0;
        make_case(&trial, &c);
        divide_into_chunks(&store, &trial, 2, (size_t[]){0, 2, 5});
        store.fails_at = fails_at;
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
        assert_false(store.is_acquired);
        tape_free(&tape);
        trial_free(&trial);
    }
}

static void fresh_adapters_change_nothing(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial bare, fresh;
    ExpertsCase c = cases[1];
    make_case(&fresh, &c);
    for (size_t i = 3; i < fresh.n_in; i += 2)
        memset(fresh.in[i].values, 0, fresh.in[i].rows * fresh.in[i].cols * sizeof(float));
    ExpertsCase none = c;
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
    ExpertsCase c = cases[1];
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

/* Expert e becomes E - 1 - e: the sums over experts are added in the opposite order. */
static void the_order_of_experts_changes_no_more_than_rounding(void **state)
{
    (void)state;
    Arena arena = {0};
    Trial trial;
    ExpertsCase c = cases[1];
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_double),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(grouping_and_threads_change_no_bit),
        cmocka_unit_test(chunks_change_no_bit),
        cmocka_unit_test(a_chunk_that_cannot_be_acquired_is_an_error),
        cmocka_unit_test(pieces_and_batches_change_no_bit),
        cmocka_unit_test(an_expert_without_tokens_has_a_gradient_of_zeros),
        cmocka_unit_test(fresh_adapters_change_nothing),
        cmocka_unit_test(the_order_of_rows_changes_no_bit),
        cmocka_unit_test(the_order_of_experts_changes_no_more_than_rounding),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
