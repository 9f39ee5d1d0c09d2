/* The lightning indexer's choice of keys:
 *     I[s,t] = sum_h (w[s,h] H^-1/2) ReLU(q[s,h] . k[t] d^-1/2),   t <= s;   the top_k largest of each row.
 * Blocks of queries against their whole past: the shapes of the products depend on the document alone.
 * Source: DeepSeek-V3.2 report, section 2.1; transformers 5.23.0, modeling_glm_moe_dsa.py, GlmMoeDsaIndexer. */
#include "autograd/op.h"
#include "tensor/matmul.h"
#include "tensor/rows.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { BLOCK = 32 };

typedef struct {
    const IndexShape *shape;
    const float *q, *w; /* of the document's first new row */
    const float *k;     /* of the whole document */
    size_t past, n;     /* keys before the new rows, new rows */
    size_t words;
    uint64_t *chosen;
} Document;

/* Score the queries [begin, begin + n) of a document and choose. score [BLOCK][keys], dots [BLOCK][keys]. */
static void choose_block(const Document *doc, size_t begin, size_t n, float *score, float *dots, uint32_t *scratch)
{
    const IndexShape *s = doc->shape;
    size_t keys = doc->past + begin + n, width = s->n_heads * s->dim;
    memset(score, 0, n * keys * sizeof *score);
    for (size_t h = 0; h < s->n_heads; h++) {
        block_nt(n, keys, s->dim, dots, keys, false, s->scale, doc->q + begin * width + h * s->dim, width, doc->k, s->dim);
        for (size_t i = 0; i < n; i++) {
            float w = doc->w[(begin + i) * s->n_heads + h] * s->head_scale, *to = score + i * keys;
            const float *dot = dots + i * keys;
#pragma omp simd
            for (size_t t = 0; t < keys; t++) to[t] += w * (dot[t] > 0 ? dot[t] : 0);
        }
    }
    for (size_t i = 0; i < n; i++) {
        size_t seen = doc->past + begin + i + 1; /* its own position is the last it sees */
        uint64_t *row = doc->chosen + (begin + i) * doc->words;
        memset(row, 0, doc->words * sizeof *row);
        row_top_k_set(seen, seen < s->top_k ? seen : s->top_k, row, score + i * keys, scratch);
    }
}

void op_index(Tape *tape, const IndexShape *shape, Tensor *q, Tensor *k, Tensor *w, const float *const *past, Keys *keys)
{
    const Group *group = tape->group;
    size_t longest = 0, n_threads = (size_t)omp_get_max_threads(), width = shape->n_heads * shape->dim;
    for (size_t d = 0; d < group->n_docs; d++)
        if (keys->of[d] && keys_words(group, d) * 64 > longest) longest = keys_words(group, d) * 64;
    if (longest == 0) return;
    size_t each = 2 * BLOCK * longest + longest; /* scores, dots, and the choice's scratch */
    float *scratch = tape_scratch(tape, n_threads * each);
    if (!tape_expect(tape, q->shape[1] == width && k->shape[1] == shape->dim && w->shape[1] == shape->n_heads &&
                         q->shape[0] == group->T && k->shape[0] == group->T && w->shape[0] == group->T,
                     "index: q is [%zu][%zu], k [%zu][%zu], w [%zu][%zu], %zu tokens", q->shape[0], q->shape[1], k->shape[0],
                     k->shape[1], w->shape[0], w->shape[1], group->T))
        return;
    for (size_t d = 0; d < group->n_docs; d++) {
        if (!keys->of[d]) continue;
        size_t begin = group->doc_start[d], n = group->doc_start[d + 1] - begin;
        Document doc = {.shape = shape, .q = q->data + begin * width, .w = w->data + begin * shape->n_heads, .n = n,
                        .k = past ? past[d] : k->data + begin * shape->dim, .past = group->doc_past ? group->doc_past[d] : 0,
                        .words = keys_words(group, d), .chosen = keys->of[d]};
        size_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic)
        for (size_t b = blocks; b > 0; b--) { /* the longest rows first */
            float *mine = scratch + (size_t)omp_get_thread_num() * each;
            size_t at = (b - 1) * BLOCK, rows = n - at < BLOCK ? n - at : BLOCK;
            choose_block(&doc, at, rows, mine, mine + BLOCK * longest, (uint32_t *)(void *)(mine + 2 * BLOCK * longest));
        }
    }
    tape_scratch_reset(tape);
    profile_note(tape->profile, "index", PROFILE_UP);
}
