/* Attention of new rows over cached latents, without expanding keys or values:
 *     q_abs = qn Wk,   S = scale (q_abs c' + qr kr'),   P = softmax(S),   o = (P c) Wv'
 * where [Wk; Wv] are one head's rows of kv_up, its LoRA pair included: W + s B A. Equal to the expanded form in real
 * arithmetic. Three passes, each on all threads:
 *   1. heads: every Wk is widened once for all rows; q_abs
 *   2. rows and blocks of heads: the heads of a block share each key that is fetched; where the indexer chose, the
 *      chosen keys are gathered first, so that a long past costs what its choice costs
 *   3. heads: every Wv once; o
 * Shapes depend on a row's own past alone.
 * Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md. */
#include "autograd/op.h"
#include "tensor/gemm.h"
#include "tensor/rows.h"

#include <omp.h>
#include <string.h>

enum { HEADS = 16 }; /* of a block */

typedef struct {
    const AttentionShape *shape;
    const Group *group;
    size_t R;
    const Weight *kv_up;
    const Lora *lora;
    const float *const *latent, *const *rotary;
    const Keys *keys;
    const float *q;  /* [T][H * (nope + rope)] */
    float *absorbed; /* [T][H][R]: q_abs, then P c in its place */
    float *out;      /* [T][H * v] */
} Task;

/* Rows [from, from + n) of one head's W, what LoRA adds included, into W [n][R]. */
static void widen_head(const Task *task, size_t h, size_t from, size_t n, float *W)
{
    size_t first = h * (task->shape->nope + task->shape->v) + from, R = task->R;
    for (size_t i = 0; i < n; i++) weight_read(task->kv_up, first + i, 0, R, W + i * R);
    if (!task->lora) return;
    const Param *A = task->lora->A, *B = task->lora->B;
    block_nn(n, R, A->rows, W, R, true, task->lora->scale, B->data + first * A->rows, A->rows, A->data, R);
}

/* One row at a time, so that its bits are its own. */
static void absorb(const Task *task, size_t h, float *W)
{
    const AttentionShape *s = task->shape;
    size_t R = task->R, H = s->n_heads, per_head = s->nope + s->rope;
    widen_head(task, h, 0, s->nope, W);
    for (size_t t = 0; t < task->group->T; t++)
        block_nn(1, R, s->nope, task->absorbed + (t * H + h) * R, R, false, 1, task->q + (t * H + h) * per_head,
                 s->nope, W, R);
}

static void bring_out(const Task *task, size_t h, float *W)
{
    const AttentionShape *s = task->shape;
    size_t R = task->R, H = s->n_heads;
    widen_head(task, h, s->nope, s->v, W);
    for (size_t t = 0; t < task->group->T; t++)
        block_nt(1, s->v, R, task->out + (t * H + h) * s->v, s->v, false, 1, task->absorbed + (t * H + h) * R, R, W, R);
}

static const uint64_t *chosen_bits(const Task *task, size_t d, size_t row)
{
    return task->keys && task->keys->of[d] ? task->keys->of[d] + row * keys_words(task->group, d) : NULL;
}

static size_t count_bits(const uint64_t *bits, size_t n)
{
    size_t count = 0;
    for (size_t w = 0; w < (n + 63) / 64; w++) count += (size_t)__builtin_popcountll(bits[w]);
    return count;
}

/* Chosen rows of x [..][width], one after another. */
static void gather(const uint64_t *bits, size_t n, const float *x, size_t width, float *to)
{
    for (size_t w = 0; w < (n + 63) / 64; w++)
        for (uint64_t left = bits[w]; left; left &= left - 1, to += width)
            memcpy(to, x + (w * 64 + (size_t)__builtin_ctzll(left)) * width, width * sizeof *to);
}

/* The keys of one row: pointers into the cache, or what was gathered into scratch; returns how many. */
static size_t keys_of_row(const Task *task, size_t d, size_t row, const float **c, const float **kr, float **scratch)
{
    size_t R = task->R, rope = task->shape->rope, n = task->group->doc_past[d] + row + 1;
    const uint64_t *bits = chosen_bits(task, d, row);
    *c = task->latent[d];
    *kr = task->rotary[d];
    if (!bits) return n;
    size_t count = count_bits(bits, n);
    gather(bits, n, *c, R, *scratch);
    gather(bits, n, *kr, rope, *scratch + count * R);
    *c = *scratch;
    *kr = *scratch + count * R;
    *scratch += count * (R + rope);
    return count;
}

/* Heads [h, h + n) of one row. scratch: gathered keys, scores [n][keys]. */
static void attend(const Task *task, size_t d, size_t t, size_t h, size_t n, float *scratch)
{
    const AttentionShape *s = task->shape;
    size_t R = task->R, H = s->n_heads, per_head = s->nope + s->rope;
    const float *c, *kr;
    size_t keys = keys_of_row(task, d, t - task->group->doc_start[d], &c, &kr, &scratch);
    float *S = scratch, *absorbed = task->absorbed + (t * H + h) * R;
    block_nt(n, keys, R, S, keys, false, s->scale, absorbed, R, c, R);
    block_nt(n, keys, s->rope, S, keys, true, s->scale, task->q + (t * H + h) * per_head + s->nope, per_head, kr,
             s->rope);
    for (size_t i = 0; i < n; i++) row_softmax(keys, S + i * keys);
    block_nn(n, R, keys, absorbed, R, false, 1, S, keys, c, R);
}

/* Scratch of the row that needs most, in floats. */
static size_t row_scratch(const Task *task)
{
    size_t most = 0;
    for (size_t d = 0; d < task->group->n_docs; d++) {
        size_t rows = task->group->doc_start[d + 1] - task->group->doc_start[d];
        for (size_t row = 0; row < rows; row++) {
            const uint64_t *bits = chosen_bits(task, d, row);
            size_t n = task->group->doc_past[d] + row + 1, keys = bits ? count_bits(bits, n) : n;
            size_t need = keys * HEADS + (bits ? keys * (task->R + task->shape->rope) : 0);
            if (need > most) most = need;
        }
    }
    return most;
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

static bool fits(Tape *tape, const AttentionShape *s, const Tensor *q, const Weight *kv_up, const Lora *lora)
{
    const Group *group = tape->group;
    const Param *A = lora ? lora->A : NULL, *B = lora ? lora->B : NULL;
    if (!tape_expect(tape, tape->mode == TAPE_OFF, "attention over a cache has no way back")) return false;
    if (!tape_expect(tape, group->doc_past, "attention over a cache: nothing says how long the past is")) return false;
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

Tensor *op_attention_cached(Tape *tape, const AttentionShape *shape, Tensor *q, const Weight *kv_up, const Lora *lora,
                            const float *const *latent, const float *const *rotary, const Keys *keys)
{
    const Group *group = tape->group;
    if (!fits(tape, shape, q, kv_up, lora)) return &tape->dummy;
    size_t T = q->shape[0], H = shape->n_heads, R = kv_up->cols, blocks = (H + HEADS - 1) / HEADS;
    Tensor *out = tape_tensor(tape, T, H * shape->v);
    float *absorbed = tape_scratch(tape, T * H * R);
    Task task = {shape, group, R, kv_up, lora, latent, rotary, keys, q->data, absorbed, out->data};
    if (tape->err) return &tape->dummy;
    size_t each = row_scratch(&task), wide = (shape->nope > shape->v ? shape->nope : shape->v) * R;
    if (each < wide) each = wide;
    float *scratch = tape_scratch(tape, (size_t)omp_get_max_threads() * each);
    if (tape->err) return &tape->dummy;
#pragma omp parallel
    {
        float *mine = scratch + (size_t)omp_get_thread_num() * each;
#pragma omp for schedule(static)
        for (size_t h = 0; h < H; h++) absorb(&task, h, mine);
#pragma omp for schedule(dynamic) collapse(2)
        for (size_t t = 0; t < T; t++)
            for (size_t b = 0; b < blocks; b++)
                attend(&task, document_of(group, t), t, b * HEADS, H - b * HEADS < HEADS ? H - b * HEADS : HEADS, mine);
#pragma omp for schedule(static)
        for (size_t h = 0; h < H; h++) bring_out(&task, h, mine);
    }
    return tape_record(tape, &attention_cached, out, NULL, false, 0, NULL);
}
