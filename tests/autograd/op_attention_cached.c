/* Attention from cached latents, against attention over what the latents expand to. */
#include "tests/support/gradients.h"

#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    H = 3,
    NOPE = 5,
    ROPE = 4,
    VALUE = 3,
    R = 9,
    QW = H * (NOPE + ROPE),
    KVW = H * (NOPE + VALUE),
    N_DOCS = 3,
    LORA_R = 2
};
static const size_t lengths[N_DOCS] = {1, 70, 6};

/* Three documents as a cache holds them in the end, and the outputs of every row, both ways. */
typedef struct {
    Trial trial; /* of the whole documents; owns all */
    AttentionShape shape;
    const Weight *kv_up;
    Param A, B;
    Lora lora;
    bool adapted;
    float *q, *latent, *rotary; /* [T][..] */
    Keys *keys;
    double *want;    /* [T][H * VALUE] */
    float *expanded; /* the same by op_attention */
} Cached;

static Keys *choose(Trial *trial, size_t top_k)
{
    Keys *keys = trial_alloc(trial, sizeof *keys);
    *keys = (Keys){N_DOCS, trial_alloc(trial, N_DOCS * sizeof *keys->of), 0};
    for (size_t d = 0; d < N_DOCS; d++) {
        size_t words = keys_words(&trial->group, d);
        if (lengths[d] <= top_k) continue;
        keys->of[d] = trial_alloc(trial, lengths[d] * words * sizeof **keys->of);
        for (size_t i = 0; i < lengths[d] * top_k; i++) {
            size_t key = rng_below(8, i, i / top_k + 1);
            keys->of[d][i / top_k * words + key / 64] |= (uint64_t)1 << (key % 64);
        }
    }
    return keys;
}

static void reference_rows(Cached *c)
{
    size_t T = c->trial.group.T;
    double *q = trial_alloc(&c->trial, T * QW * sizeof *q), *latent = trial_alloc(&c->trial, T * R * sizeof *latent);
    double *kr = trial_alloc(&c->trial, T * ROPE * sizeof *kr), *kv = trial_alloc(&c->trial, T * KVW * sizeof *kv);
    double A[LORA_R * R], B[KVW * LORA_R];
    for (size_t i = 0; i < T * QW; i++) q[i] = (double)c->q[i];
    for (size_t i = 0; i < T * R; i++) latent[i] = (double)c->latent[i];
    for (size_t i = 0; i < T * ROPE; i++) kr[i] = (double)c->rotary[i];
    for (size_t i = 0; i < LORA_R * R; i++) A[i] = (double)c->A.data[i];
    for (size_t i = 0; i < KVW * LORA_R; i++) B[i] = (double)c->B.data[i];
    reference_project(T, R, KVW, (void *)kv, (void *)latent, c->kv_up);
    if (c->adapted)
        reference_lora(T, R, KVW, KVW, LORA_R, (void *)kv, 0, (double)c->lora.scale, (void *)latent, NULL, (void *)A,
                       (void *)B);
    c->want = trial_alloc(&c->trial, T * H * VALUE * sizeof *c->want);
    reference_attention(&c->trial.group, &c->shape, ROPE, (void *)c->want, (void *)q, (void *)kv, (void *)kr, 0,
                        c->keys);
}

static void expanded_rows(Cached *c)
{
    Tape tape = {0};
    const Group *group = &c->trial.group;
    tape_begin(&tape, group, TAPE_OFF);
    Tensor *latent = tape_leaf(&tape, group->T, R, c->latent, false);
    Tensor *kv = op_linear(&tape, latent, 1, &c->kv_up, 1, (const Lora *[]){c->adapted ? &c->lora : NULL});
    Tensor *q = tape_leaf(&tape, group->T, QW, c->q, false), *kr = tape_leaf(&tape, group->T, ROPE, c->rotary, false);
    Tensor *o = op_attention(&tape, &c->shape, q, kv, kr, 0, c->keys);
    assert_ok(tape_error(&tape));
    c->expanded = trial_alloc(&c->trial, group->T * H * VALUE * sizeof *c->expanded);
    memcpy(c->expanded, o->data, group->T * H * VALUE * sizeof *c->expanded);
    tape_free(&tape);
}

static void cached_open(Cached *c, DType dtype, bool adapted, size_t top_k)
{
    Trial *trial = &c->trial;
    *c = (Cached){.shape = {H, NOPE, ROPE, VALUE, 0.3f, 0}, .adapted = adapted};
    trial_init(trial, "1 70 6", NULL, NULL, H * VALUE);
    size_t T = trial->group.T;
    c->kv_up = trial_weight(trial, "kv_up", dtype, KVW, R);
    c->A = (Param){.name = (char *)"A", .rows = LORA_R, .cols = R, .data = trial_normal(trial, "A", LORA_R * R, 1)};
    c->B = (Param){.name = (char *)"B", .rows = KVW, .cols = LORA_R, .data = trial_normal(trial, "B", KVW * LORA_R, 1)};
    c->lora = (Lora){.A = &c->A, .B = &c->B, .scale = 0.5f};
    c->q = trial_normal(trial, "q", T * QW, 1);
    c->latent = trial_normal(trial, "latent", T * R, 1);
    c->rotary = trial_normal(trial, "rotary", T * ROPE, 1);
    if (top_k) c->keys = choose(trial, top_k);
    reference_rows(c);
    expanded_rows(c);
}

/* The rows [past, past + n) of document d by op_attention_cached; out [n][H * VALUE]. */
static void attend(Cached *c, size_t d, size_t past, size_t n, float *out)
{
    Tape tape = {0};
    size_t begin = c->trial.group.doc_start[d], words = (past + n + 63) / 64;
    uint64_t bits[70 * 2], *of[1] = {c->keys && c->keys->of[d] ? bits : NULL};
    Keys keys = {1, of, 0};
    Group group = {.T = n, .n_docs = 1, .doc_start = (size_t[]){0, n}, .doc_past = &past};
    for (size_t i = 0; i < n && of[0]; i++) /* the same choice, in words of the shorter past */
        memcpy(bits + i * words, c->keys->of[d] + (past + i) * keys_words(&c->trial.group, d), words * sizeof *bits);
    tape_begin(&tape, &group, TAPE_OFF);
    CachedInputs in = {.q = tape_leaf(&tape, n, QW, c->q + (begin + past) * QW, false),
                       .kv_up = c->kv_up,
                       .lora = c->adapted ? &c->lora : NULL,
                       .latent = (const float *[]){c->latent + begin * R},
                       .rotary = (const float *[]){c->rotary + begin * ROPE}};
    Tensor *o = op_attention_cached(&tape, &c->shape, &in, c->keys ? &keys : NULL);
    assert_ok(tape_error(&tape));
    memcpy(out, o->data, n * H * VALUE * sizeof *out);
    tape_free(&tape);
}

/* The absorbed form adds in another order, over R instead of NOPE numbers: a few 2^-24 of numbers near 1 more. */
static void assert_rows(const Cached *c, size_t row, size_t n, const float *got)
{
    for (size_t i = 0; i < n * H * VALUE; i++) {
        double want = c->want[row * H * VALUE + i], expanded = (double)c->expanded[row * H * VALUE + i];
        assert_true(fabs((double)got[i] - want) <= 1e-5 * (1 + fabs(want)));
        assert_true(fabs((double)got[i] - expanded) <= 1e-5 * (1 + fabs(want)));
    }
}

static const struct {
    DType dtype;
    bool adapted;
    size_t top_k;
} cases[] = {{DTYPE_F32, false, 0}, {DTYPE_BF16, true, 0}, {DTYPE_F8_E4M3, true, 5}, {DTYPE_F32, true, 3}};

static void one_token_at_a_time_equals_the_whole_document(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        Cached c;
        float out[H * VALUE];
        cached_open(&c, cases[i].dtype, cases[i].adapted, cases[i].top_k);
        for (size_t d = 0; d < N_DOCS; d++)
            for (size_t t = 0; t < lengths[d]; t++) {
                attend(&c, d, t, 1, out);
                assert_rows(&c, c.trial.group.doc_start[d] + t, 1, out);
            }
        trial_free(&c.trial);
    }
}

static void many_new_rows_equal_one_at_a_time_to_the_bit(void **state)
{
    (void)state;
    Cached c;
    float out[70 * H * VALUE], one[H * VALUE];
    cached_open(&c, DTYPE_BF16, true, 5);
    for (size_t past = 0; past < 70; past += 23) {
        attend(&c, 1, past, 70 - past, out);
        for (size_t t = past; t < 70; t++) {
            attend(&c, 1, t, 1, one);
            assert_memory_equal(one, out + (t - past) * H * VALUE, sizeof one);
        }
    }
    trial_free(&c.trial);
}

static void documents_and_threads_change_no_bit(void **state)
{
    (void)state;
    Cached c;
    Tape tape = {0};
    float alone[H * VALUE], q[3 * QW];
    cached_open(&c, DTYPE_F32, true, 0);
    const size_t *start = c.trial.group.doc_start, past[] = {0, 69, 5};
    const float *latent[N_DOCS], *rotary[N_DOCS];
    for (size_t d = 0; d < N_DOCS; d++) {
        latent[d] = c.latent + start[d] * R;
        rotary[d] = c.rotary + start[d] * ROPE;
        memcpy(q + d * QW, c.q + (start[d] + past[d]) * QW, QW * sizeof *q);
    }
    Group group = {.T = 3, .n_docs = 3, .doc_start = (size_t[]){0, 1, 2, 3}, .doc_past = past};
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        tape_begin(&tape, &group, TAPE_OFF);
        CachedInputs in = {tape_leaf(&tape, 3, QW, q, false), c.kv_up, &c.lora, latent, rotary};
        Tensor *o = op_attention_cached(&tape, &c.shape, &in, NULL);
        assert_ok(tape_error(&tape));
        for (size_t d = 0; d < N_DOCS; d++) {
            attend(&c, d, past[d], 1, alone);
            assert_memory_equal(alone, o->data + d * H * VALUE, sizeof alone);
        }
    }
    omp_set_num_threads(2);
    tape_free(&tape);
    trial_free(&c.trial);
}

static void refused(TapeMode mode, size_t rows, size_t q_width, const Weight *kv_up, const Lora *lora, bool past,
                    const char *part)
{
    Tape tape = {0};
    float x[256] = {0};
    AttentionShape shape = {H, NOPE, ROPE, VALUE, 1, 0};
    Group group = {.T = 2, .n_docs = 1, .doc_start = (size_t[]){0, 2}, .doc_past = past ? (size_t[]){3} : NULL};
    tape_begin(&tape, &group, mode);
    Tensor *q = tape_leaf(&tape, rows, q_width, x, false);
    CachedInputs in = {q, kv_up, lora, (const float *[]){x}, (const float *[]){x}};
    assert_ptr_equal(op_attention_cached(&tape, &shape, &in, NULL), &tape.dummy);
    assert_fails(tape_error(&tape), ERR_FORMAT, part);
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    Cached c;
    cached_open(&c, DTYPE_F32, true, 0);
    Weight low = *c.kv_up;
    low.rows--;
    Param narrow = c.A, brief = c.B;
    narrow.cols--;
    brief.rows--;
    refused(TAPE_RECORD, 2, QW, c.kv_up, NULL, true, "attention over a cache has no backward pass");
    refused(TAPE_OFF, 2, QW - 1, c.kv_up, NULL, true, "q is [2][26]");
    refused(TAPE_OFF, 1, QW, c.kv_up, NULL, true, "q is [1][27], kv_up [24][9], 2 tokens");
    refused(TAPE_OFF, 2, QW, &low, NULL, true, "kv_up [23][9]");
    refused(TAPE_OFF, 2, QW, c.kv_up, NULL, false, "attention over a cache: the group has no doc_past");
    refused(TAPE_OFF, 2, QW, c.kv_up, &(Lora){.A = &narrow, .B = &c.B}, true, "A [2][8], B [24][2]");
    refused(TAPE_OFF, 2, QW, c.kv_up, &(Lora){.A = &c.A, .B = &brief}, true, "A [2][9], B [23][2]");
    trial_free(&c.trial);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_token_at_a_time_equals_the_whole_document),
        cmocka_unit_test(many_new_rows_equal_one_at_a_time_to_the_bit),
        cmocka_unit_test(documents_and_threads_change_no_bit),
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
