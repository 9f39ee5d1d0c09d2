/* Attention of new rows over cached latents, without expanding keys or values:
 *     q_abs = qn Wk,   S = scale (q_abs c' + qr kr'),   P = softmax(S),   o = (P c) Wv'
 * where [Wk; Wv] are one head's rows of kv_up, its LoRA pair included: W + s B A. Equal to the expanded form in real
 * arithmetic.   Source: DeepSeek-V2 report, section 2.1.2 (arXiv:2405.04434); docs/glm5.md. */
#include "autograd/op.h"
#include "tensor/matmul.h"
#include "tensor/rows.h"

#include <math.h>
#include <omp.h>

typedef struct {
    const AttentionShape *shape;
    const Group *group;
    size_t R;
    const Weight *kv_up;
    const Lora *lora;
    const float *const *latent, *const *rotary;
    const Keys *keys;
} Task;

/* W [nope + v][R] of one head, what LoRA adds included. */
static void widen_head(const Task *task, size_t h, float *W)
{
    size_t rows = task->shape->nope + task->shape->v, R = task->R;
    for (size_t i = 0; i < rows; i++) weight_read(task->kv_up, h * rows + i, 0, R, W + i * R);
    if (!task->lora) return;
    const Param *A = task->lora->A, *B = task->lora->B;
    block_nn(rows, R, A->rows, W, R, true, task->lora->scale, B->data + h * rows * A->rows, A->rows, A->data, R);
}

static void hide_unchosen(const Task *task, size_t d, size_t row, size_t keys, float *S)
{
    if (!task->keys || !task->keys->of[d]) return;
    const uint64_t *bits = task->keys->of[d] + row * keys_words(task->group, d);
    for (size_t t = 0; t < keys; t++)
        if (!(bits[t / 64] >> (t % 64) & 1)) S[t] = -INFINITY;
}

/* One head of one document's row: scratch holds q_abs [R], the mix of latents [R] and the scores [keys]. */
static void attend(const Task *task, const float *W, size_t d, size_t row, const float *q, float *o, float *scratch)
{
    const AttentionShape *s = task->shape;
    size_t R = task->R, keys = task->group->doc_past[d] + row + 1;
    float *absorbed = scratch, *mix = scratch + R, *S = scratch + 2 * R;
    block_nn(1, R, s->nope, absorbed, R, false, 1, q, s->nope, W, R);
    block_nt(1, keys, R, S, keys, false, s->scale, absorbed, R, task->latent[d], R);
    block_nt(1, keys, s->rope, S, keys, true, s->scale, q + s->nope, s->rope, task->rotary[d], s->rope);
    hide_unchosen(task, d, row, keys, S);
    row_softmax(keys, S);
    block_nn(1, R, keys, mix, R, false, 1, S, keys, task->latent[d], R);
    block_nt(1, s->v, R, o, s->v, false, 1, mix, R, W + s->nope * R, R);
}

static bool fits(Tape *tape, const AttentionShape *s, const Tensor *q, const Weight *kv_up, const Lora *lora)
{
    const Group *group = tape->group;
    const Param *A = lora ? lora->A : NULL, *B = lora ? lora->B : NULL;
    if (!tape_expect(tape, tape->mode == TAPE_OFF, "attention over a cache has no way back")) return false;
    if (!tape_expect(tape, group->doc_past, "attention over a cache: nothing says how long the past is")) return false;
    if (!tape_expect(tape, q->shape[0] == group->T && q->shape[1] == s->n_heads * (s->nope + s->rope) &&
                         kv_up->rows == s->n_heads * (s->nope + s->v),
                     "attention over a cache: q is [%zu][%zu], kv_up [%zu][%zu], %zu tokens", q->shape[0], q->shape[1],
                     kv_up->rows, kv_up->cols, group->T))
        return false;
    return !lora || tape_expect(tape, A->cols == kv_up->cols && B->cols == A->rows && lora->col == 0 && B->rows == kv_up->rows,
                                "%s: kv_up is [%zu][%zu], A [%zu][%zu], B [%zu][%zu] at column %zu", A->name, kv_up->rows,
                                kv_up->cols, A->rows, A->cols, B->rows, B->cols, lora->col);
}

static const Op attention_cached = {.name = "attention_cached"};

Tensor *op_attention_cached(Tape *tape, const AttentionShape *shape, Tensor *q, const Weight *kv_up, const Lora *lora,
                            const float *const *latent, const float *const *rotary, const Keys *keys)
{
    const Group *group = tape->group;
    size_t T = q->shape[0], H = shape->n_heads, R = kv_up->cols, rows = shape->nope + shape->v, longest = 0;
    Tensor *out = tape_tensor(tape, T, H * shape->v);
    if (!fits(tape, shape, q, kv_up, lora)) return &tape->dummy;
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t n = group->doc_past[d] + group->doc_start[d + 1] - group->doc_start[d];
        if (n > longest) longest = n;
    }
    size_t each = rows * R + 2 * R + longest;
    float *scratch = tape_scratch(tape, (size_t)omp_get_max_threads() * each);
    if (!scratch) return &tape->dummy;
    Task task = {shape, group, R, kv_up, lora, latent, rotary, keys};
#pragma omp parallel for schedule(static)
    for (size_t h = 0; h < H; h++) {
        float *W = scratch + (size_t)omp_get_thread_num() * each;
        widen_head(&task, h, W);
        for (size_t d = 0; d < group->n_docs; d++)
            for (size_t t = group->doc_start[d]; t < group->doc_start[d + 1]; t++)
                attend(&task, W, d, t - group->doc_start[d], q->data + t * q->shape[1] + h * (shape->nope + shape->rope),
                       out->data + t * H * shape->v + h * shape->v, W + rows * R);
    }
    return tape_record(tape, &attention_cached, out, NULL, false, 0, NULL);
}
