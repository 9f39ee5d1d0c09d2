/* Attention of new rows over cached latents, without expanding keys or values. For each head:
 *     q_abs = qn Wk,   S = scale (q_abs c' + qr kr'),   P = softmax(S),   o = (P c) Wv'
 * qn [1][nope], qr [1][rope], c [keys][R], kr [keys][rope], o [1][v]. [Wk; Wv] [nope + v][R] are the head's rows of
 * kv_up with its LoRA, W + s B A. Equal to the expanded form in real arithmetic. No backward.
 *
 * Three passes, each on all threads:
 *   1. over heads: Wk is converted to float once for all rows; q_abs
 *   2. over rows and blocks of heads: the heads of a block share each key that is read. If the indexer chose keys,
 *   these
 *      are gathered first, so that the cost grows with the choice, not with the past
 *   3. over heads: Wv is converted once; o
 * A row's bits depend on its own past alone: all products are of one row.
 * Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md, section 5. */
#include "autograd/op.h"
#include "base/minmax.h"
#include "tensor/gemm.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

enum { BLOCK_HEADS = 16 };

typedef struct {
    const AttentionShape *shape;
    const Group *group;
    const CachedInputs *in;
    const Keys *keys;
    size_t R;
    const float *q;  /* [T][H * (nope + rope)] */
    float *absorbed; /* [T][H][R]: q_abs, then P c in its place */
    float *out;      /* [T][H * v] */
} CachedAttention;

/* Rows [from, from + n) of one head's W with its LoRA, into W [n][R]. */
static void read_head(const CachedAttention *a, size_t h, size_t from, size_t n, float *W)
{
    size_t first = h * (a->shape->nope + a->shape->v) + from, R = a->R;
    for (size_t i = 0; i < n; i++) weight_read(a->in->kv_up, first + i, 0, R, W + i * R);
    if (!a->in->lora) return;
    const Param *A = a->in->lora->A, *B = a->in->lora->B;
    block_nn(n, R, A->rows, W, R, true, a->in->lora->scale, B->data + first * A->rows, A->rows, A->data, R);
}

/* q_abs of one head; one row at a time, so that its bits depend on nothing else. */
static void absorb(const CachedAttention *a, size_t h, float *W)
{
    const AttentionShape *s = a->shape;
    size_t R = a->R, H = s->n_heads, per_head = s->nope + s->rope;
    read_head(a, h, 0, s->nope, W);
    for (size_t t = 0; t < a->group->T; t++)
        block_nn(1, R, s->nope, a->absorbed + (t * H + h) * R, R, false, 1, a->q + (t * H + h) * per_head, s->nope, W,
                 R);
}

static void project_values(const CachedAttention *a, size_t h, float *W)
{
    const AttentionShape *s = a->shape;
    size_t R = a->R, H = s->n_heads;
    read_head(a, h, s->nope, s->v, W);
    for (size_t t = 0; t < a->group->T; t++)
        block_nt(1, s->v, R, a->out + (t * H + h) * s->v, s->v, false, 1, a->absorbed + (t * H + h) * R, R, W, R);
}

static const uint64_t *chosen_bits(const CachedAttention *a, size_t d, size_t row)
{
    return a->keys && a->keys->of[d] ? a->keys->of[d] + row * keys_words(a->group, d) : NULL;
}

static size_t count_bits(const uint64_t *bits, size_t n)
{
    size_t count = 0;
    for (size_t w = 0; w < (n + 63) / 64; w++) count += (size_t)__builtin_popcountll(bits[w]);
    return count;
}

/* Copy the chosen rows of x [..][width], one after another. */
static void gather(const uint64_t *bits, size_t n, const float *x, size_t width, float *to)
{
    for (size_t w = 0; w < (n + 63) / 64; w++)
        for (uint64_t left = bits[w]; left; left &= left - 1, to += width)
            memcpy(to, x + (w * 64 + (size_t)__builtin_ctzll(left)) * width, width * sizeof *to);
}

/* The keys of one row: pointers into the cache, or, if they were chosen, gathered in scratch. Returns how many. */
static size_t keys_of_row(const CachedAttention *a, size_t d, size_t row, const float **c, const float **kr,
                          float **scratch)
{
    size_t R = a->R, rope = a->shape->rope, n = a->group->doc_past[d] + row + 1;
    const uint64_t *bits = chosen_bits(a, d, row);
    *c = a->in->latent[d];
    *kr = a->in->rotary[d];
    if (!bits) return n;
    size_t count = count_bits(bits, n);
    gather(bits, n, *c, R, *scratch);
    gather(bits, n, *kr, rope, *scratch + count * R);
    *c = *scratch;
    *kr = *scratch + count * R;
    *scratch += count * (R + rope);
    return count;
}

/* Heads [h, h + n) of row t of document d. scratch: gathered keys, then scores [n][keys]. */
static void attend_row(const CachedAttention *a, size_t d, size_t t, size_t h, size_t n, float *scratch)
{
    const AttentionShape *s = a->shape;
    size_t R = a->R, H = s->n_heads, per_head = s->nope + s->rope;
    const float *c, *kr;
    size_t keys = keys_of_row(a, d, t - a->group->doc_start[d], &c, &kr, &scratch);
    float *S = scratch, *absorbed = a->absorbed + (t * H + h) * R;
    block_nt(n, keys, R, S, keys, false, s->scale, absorbed, R, c, R);
    block_nt(n, keys, s->rope, S, keys, true, s->scale, a->q + (t * H + h) * per_head + s->nope, per_head, kr, s->rope);
    for (size_t i = 0; i < n; i++) row_softmax(keys, S + i * keys);
    block_nn(n, R, keys, absorbed, R, false, 1, S, keys, c, R);
}

/* The largest scratch that a row needs, in floats. */
static size_t row_scratch(const CachedAttention *a)
{
    size_t max = 0;
    for (size_t d = 0; d < a->group->n_docs; d++) {
        size_t rows = a->group->doc_start[d + 1] - a->group->doc_start[d];
        for (size_t row = 0; row < rows; row++) {
            const uint64_t *bits = chosen_bits(a, d, row);
            size_t n = a->group->doc_past[d] + row + 1, keys = bits ? count_bits(bits, n) : n;
            size_t need = keys * BLOCK_HEADS + (bits ? keys * (a->R + a->shape->rope) : 0);
            max = size_max(max, need);
        }
    }
    return max;
}

static size_t document_of(const Group *group, size_t t)
{
    size_t low = 0, high = group->n_docs;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (group->doc_start[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static const Op attention_cached = {.name = "attention_cached"};

static bool fits(Tape *tape, const AttentionShape *s, const CachedInputs *in)
{
    const Group *group = tape->group;
    const Tensor *q = in->q;
    const Weight *kv_up = in->kv_up;
    const Lora *lora = in->lora;
    const Param *A = lora ? lora->A : NULL, *B = lora ? lora->B : NULL;
    if (!tape_expect(tape, tape->mode == TAPE_OFF, "attention over a cache has no backward pass")) return false;
    if (!tape_expect(tape, group->doc_past, "attention over a cache: the group has no doc_past")) return false;
    if (!tape_expect(tape,
                     q->shape[0] == group->T && q->shape[1] == s->n_heads * (s->nope + s->rope) &&
                         kv_up->rows == s->n_heads * (s->nope + s->v),
                     "attention over a cache: q is [%zu][%zu], kv_up [%zu][%zu], %zu tokens", q->shape[0], q->shape[1],
                     kv_up->rows, kv_up->cols, group->T))
        return false;
    return !lora ||
           tape_expect(tape, A->cols == kv_up->cols && B->cols == A->rows && lora->col == 0 && B->rows == kv_up->rows,
                       "%s: kv_up is [%zu][%zu], A [%zu][%zu], B [%zu][%zu] at column %zu", A->name, kv_up->rows,
                       kv_up->cols, A->rows, A->cols, B->rows, B->cols, lora->col);
}

Tensor *op_attention_cached(Tape *tape, const AttentionShape *shape, const CachedInputs *in, const Keys *keys)
{
    const Group *group = tape->group;
    if (!fits(tape, shape, in)) return &tape->dummy;
    size_t T = group->T, H = shape->n_heads, R = in->kv_up->cols, blocks = (H + BLOCK_HEADS - 1) / BLOCK_HEADS;
    Tensor *out = tape_tensor(tape, T, H * shape->v);
    float *absorbed = tape_scratch(tape, T * H * R);
    CachedAttention a = {shape, group, in, keys, R, in->q->data, absorbed, out->data};
    if (tape->err) return &tape->dummy;
    size_t scratch_step = size_max(row_scratch(&a), size_max(shape->nope, shape->v) * R);
    float *scratch = tape_scratch(tape, (size_t)omp_get_max_threads() * scratch_step);
    if (tape->err) return &tape->dummy;
#pragma omp parallel
    {
        float *my_scratch = scratch + (size_t)omp_get_thread_num() * scratch_step;
#pragma omp for schedule(static)
        for (size_t h = 0; h < H; h++) absorb(&a, h, my_scratch);
#pragma omp for schedule(dynamic) collapse(2)
        for (size_t t = 0; t < T; t++)
            for (size_t b = 0; b < blocks; b++)
                attend_row(&a, document_of(group, t), t, b * BLOCK_HEADS, size_min(H - b * BLOCK_HEADS, BLOCK_HEADS),
                           my_scratch);
#pragma omp for schedule(static)
        for (size_t h = 0; h < H; h++) project_values(&a, h, my_scratch);
    }
    return tape_record(tape, &attention_cached, out, NULL, false, 0, NULL);
}
