/* Causal attention of latent attention's expanded heads, a block of queries against its past at a time:
 *     S = scale (qn kn' + qr kr'),  P = softmax(S) over the chosen keys,  o = P v
 *     dP = do v',  dS = P (dP - rowsum(do o)),  dq = scale dS k,  dk = scale dS' q,  dv = P' do
 * kr is shared by all heads: its gradient is added over heads in their order. A task is one head of one document, so
 * every product's shape is fixed by the document's length.   Source: docs/glm5.md; Dao et al. 2022 (arXiv:2205.14135)
 * for keeping row sums instead of P. */
#include "autograd/op.h"
#include "tensor/matmul.h"
#include "tensor/rows.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { BLOCK = 64 };

typedef struct {
    AttentionShape shape;
    size_t kr_col;
    uint64_t **chosen; /* [n_docs] of bitmaps, entries NULL where every key is seen; the caller's */
    float *lse;        /* [H][T] */
} Kept;

/* One head of one document: where its rows lie, with their strides. */
typedef struct {
    const AttentionShape *shape;
    size_t n, words;
    const float *qn, *qr, *kn, *kr, *v;
    size_t q_stride, kv_stride, kr_stride, o_stride;
    const uint64_t *chosen;
    float *lse;
} Head;

static Head head_of(const Tape *tape, const Kept *kept, Tensor *q, Tensor *kv, Tensor *kr, size_t d, size_t h)
{
    const AttentionShape *s = &kept->shape;
    size_t begin = tape->group->doc_start[d], n = tape->group->doc_start[d + 1] - begin, T = q->shape[0];
    size_t qw = q->shape[1], kvw = kv->shape[1], krw = kr->shape[1];
    const float *q0 = q->data + begin * qw + h * (s->nope + s->rope), *kv0 = kv->data + begin * kvw + h * (s->nope + s->v);
    return (Head){.shape = s, .n = n, .words = keys_words(tape->group, d), .qn = q0, .qr = q0 + s->nope, .kn = kv0,
                  .v = kv0 + s->nope, .kr = kr->data + begin * krw + kept->kr_col, .q_stride = qw, .kv_stride = kvw, .kr_stride = krw,
                  .o_stride = s->n_heads * s->v, .chosen = kept->chosen ? kept->chosen[d] : NULL, .lse = kept->lse + h * T + begin};
}

/* S [m][keys] of queries [at, at + m), keys = at + m; what a query may not see is -infinity. */
static void scores(const Head *head, size_t at, size_t m, float *S)
{
    const AttentionShape *s = head->shape;
    size_t keys = at + m;
    block_nt(m, keys, s->nope, S, keys, false, s->scale, head->qn + at * head->q_stride, head->q_stride, head->kn, head->kv_stride);
    block_nt(m, keys, s->rope, S, keys, true, s->scale, head->qr + at * head->q_stride, head->q_stride, head->kr, head->kr_stride);
    for (size_t i = 0; i < m; i++) {
        float *row = S + i * keys;
        for (size_t t = at + i + 1; t < keys; t++) row[t] = -INFINITY;
        if (!head->chosen) continue;
        const uint64_t *bits = head->chosen + (at + i) * head->words;
        for (size_t t = 0; t < keys; t += 64)
            for (uint64_t hidden = ~bits[t / 64]; hidden; hidden &= hidden - 1) {
                size_t key = t + (size_t)__builtin_ctzll(hidden);
                if (key < keys) row[key] = -INFINITY;
            }
    }
}

static void head_forward(const Head *head, float *o, float *S)
{
    const AttentionShape *s = head->shape;
    for (size_t at = 0; at < head->n; at += BLOCK) {
        size_t m = head->n - at < BLOCK ? head->n - at : BLOCK, keys = at + m;
        scores(head, at, m, S);
        for (size_t i = 0; i < m; i++) head->lse[at + i] = row_softmax(keys, S + i * keys);
        block_nn(m, s->v, keys, o + at * head->o_stride, head->o_stride, false, 1, S, keys, head->v, head->kv_stride);
    }
}

/* dqn etc. lie like qn etc.; dkr is this head's own, [n][rope] dense and zeroed. */
static void head_backward(const Head *head, const float *o, const float *d_o, float *dqn, float *dkn, float *dkr, float *P, float *dS)
{
    const AttentionShape *s = head->shape;
    size_t qs = head->q_stride, kvs = head->kv_stride, os = head->o_stride;
    for (size_t at = 0; at < head->n; at += BLOCK) {
        size_t m = head->n - at < BLOCK ? head->n - at : BLOCK, keys = at + m;
        const float *g = d_o + at * os;
        scores(head, at, m, P);
        for (size_t i = 0; i < m; i++) row_exp(keys, P + i * keys, head->lse[at + i]);
        block_nt(m, keys, s->v, dS, keys, false, 1, g, os, head->v, kvs); /* dP */
        for (size_t i = 0; i < m; i++) {
            float delta = row_dot(s->v, g + i * os, o + (at + i) * os), *row = dS + i * keys;
            const float *p = P + i * keys;
            for (size_t t = 0; t < keys; t++) row[t] = p[t] * (row[t] - delta);
        }
        block_nn(m, s->nope, keys, dqn + at * qs, qs, true, s->scale, dS, keys, head->kn, kvs);
        block_nn(m, s->rope, keys, dqn + s->nope + at * qs, qs, true, s->scale, dS, keys, head->kr, head->kr_stride);
        block_tn(keys, s->nope, m, dkn, kvs, true, s->scale, dS, keys, head->qn + at * qs, qs);
        block_tn(keys, s->v, m, dkn + s->nope, kvs, true, 1, P, keys, g, os);
        block_tn(keys, s->rope, m, dkr, s->rope, true, s->scale, dS, keys, head->qr + at * qs, qs);
    }
}

static size_t longest_of(const Group *group)
{
    size_t longest = 0;
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d];
        if (n > longest) longest = n;
    }
    return longest;
}

static void attention_backward(Node *node)
{
    Tape *tape = node->tape;
    const Group *group = tape->group;
    Tensor *q = node->in[0], *kv = node->in[1], *kr = node->in[2], *o = node->out;
    const Kept *kept = node->kept;
    const AttentionShape *s = &kept->shape;
    size_t T = q->shape[0], H = s->n_heads, n_threads = (size_t)omp_get_max_threads(), block = BLOCK * longest_of(group);
    float *dkr = tape_scratch(tape, H * T * s->rope), *scratch = tape_scratch(tape, n_threads * 2 * block);
    float *dq = tape_seed(tape, q), *dkv = tape_seed(tape, kv), *dkr_sum = tape_seed(tape, kr);
    if (tape->err) return;
    memset(dkr, 0, H * T * s->rope * sizeof *dkr);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t d = 0; d < group->n_docs; d++)
        for (size_t h = 0; h < H; h++) {
            Head head = head_of(tape, kept, q, kv, kr, d, h);
            size_t begin = group->doc_start[d], at = begin * head.o_stride + h * s->v;
            float *P = scratch + (size_t)omp_get_thread_num() * 2 * block;
            head_backward(&head, o->data + at, o->grad + at, dq + (head.qn - q->data), dkv + (head.kn - kv->data),
                          dkr + (h * T + begin) * s->rope, P, P + block);
        }
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < H; h++) row_add(s->rope, dkr_sum + t * kr->shape[1] + kept->kr_col, dkr + (h * T + t) * s->rope);
}

static const Op attention = {.name = "attention", .backward = attention_backward};

Tensor *op_attention(Tape *tape, const AttentionShape *shape, Tensor *q, Tensor *kv, Tensor *kr, size_t kr_col, const Keys *keys)
{
    const Group *group = tape->group;
    size_t T = q->shape[0], H = shape->n_heads, n_threads = (size_t)omp_get_max_threads(), block = BLOCK * longest_of(group);
    Tensor *o = tape_tensor(tape, T, H * shape->v);
    Kept *kept = tape_alloc(tape, sizeof *kept);
    float *lse = tape_floats(tape, H * T), *scratch = tape_scratch(tape, n_threads * block);
    if (!tape_expect(tape, q->shape[1] == H * (shape->nope + shape->rope) && kv->shape[1] == H * (shape->nope + shape->v) &&
                         kr_col + shape->rope <= kr->shape[1] && T == group->T && kv->shape[0] == T && kr->shape[0] == T,
                     "attention: q is [%zu][%zu], kv [%zu][%zu], kr [%zu][%zu], %zu tokens", T, q->shape[1], kv->shape[0],
                     kv->shape[1], kr->shape[0], kr->shape[1], group->T))
        return &tape->dummy;
    *kept = (Kept){*shape, kr_col, keys ? keys->of : NULL, lse};
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t d = 0; d < group->n_docs; d++)
        for (size_t h = 0; h < H; h++) {
            Head head = head_of(tape, kept, q, kv, kr, d, h);
            head_forward(&head, o->data + group->doc_start[d] * head.o_stride + h * shape->v, scratch + (size_t)omp_get_thread_num() * block);
        }
    return tape_record(tape, &attention, o, kept, false, 3, (Tensor *[]){q, kv, kr});
}
