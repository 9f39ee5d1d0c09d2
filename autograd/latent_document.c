/* Packs the keys of a document and lays out the memory of a block.
 *
 * What always holds: a key is [c | u | kr] with zeros behind an odd part; columns between parts of q and z stay zero;
 * the size of a block changes no bit, for each query has sums of its own and each key adds queries in order. */
#include "autograd/latent_document.h"

#include "tensor/gemm.h"

#include <string.h>

enum { MAX_BLOCK_QUERIES = 256, MAX_BLOCK_BYTES = 32 << 20, PACK_ROWS = 256 };

static size_t even(size_t n) { return n + n % 2; }

static size_t max_keys(const uint64_t *chosen, size_t n, size_t words)
{
    size_t max = 1;
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        for (size_t word = 0; word < words; word++) count += (size_t)__builtin_popcountll(chosen[i * words + word]);
        max = size_max(max, count);
    }
    return max;
}

static void pack_keys(const LatentDocument *doc, const LatentKeys *keys)
{
    const LatentInputs *in = doc->in;
    size_t n_blocks = (doc->n + PACK_ROWS - 1) / PACK_ROWS, kr_width = in->kr->shape[1];
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n_blocks; i++) {
        size_t at = i * PACK_ROWS, n = size_min(PACK_ROWS, doc->n - at), row = doc->first + at;
        latent_pack(keys, at, n, 0, doc->R, rows_of(in->latent->data + row * doc->R, doc->R));
        if (doc->r) latent_pack(keys, at, n, doc->u_col, doc->r, rows_of(in->u->data + row * doc->r, doc->r));
        latent_pack(keys, at, n, doc->kr_col, doc->shape->rope,
                    rows_of(in->kr->data + row * kr_width + in->kr_col, kr_width));
    }
}

bool latent_document_init(LatentDocument *doc, Tape *tape, const LatentState *state, size_t d, bool backward)
{
    const LatentInputs *in = &state->in;
    const AttentionShape *s = &state->shape;
    const Group *group = tape->group;
    size_t R = in->kv_up->cols, r = in->lora ? in->lora->B->cols : 0, H = s->n_heads, n_threads = tape_threads(tape);
    *doc = (LatentDocument){.shape = s,
                            .in = in,
                            .R = R,
                            .r = r,
                            .u_col = even(R),
                            .kr_col = even(R) + even(r),
                            .first = group->doc_start[d],
                            .n = group->doc_start[d + 1] - group->doc_start[d],
                            .words = keys_words(group, d),
                            .chosen = state->keys.of[d]};
    doc->exact = doc->keys = (LatentKeys){.kernels = latent_kernels(false),
                                          .n_heads = H,
                                          .K = doc->kr_col + even(s->rope),
                                          .C = doc->kr_col};
    if (backward) doc->keys.kernels = latent_kernels(true);
    doc->exact.stride = latent_stride(&doc->exact);
    doc->keys.stride = latent_stride(&doc->keys);
    doc->max_keys = state->keys.max_keys ? size_min(doc->n, state->keys.max_keys)
                                         : max_keys(doc->chosen, doc->n, doc->words);
    doc->q_width = latent_round_up(doc->keys.K);
    doc->z_width = latent_round_up(doc->keys.C);
    doc->state_floats = backward ? latent_state(&doc->keys, doc->max_keys) : 0;
    size_t each = (H * (doc->q_width * (backward ? 2 : 1) + doc->z_width) + doc->state_floats + doc->max_keys) *
                  sizeof(float);
    doc->block_queries = size_min(size_min(doc->n, MAX_BLOCK_QUERIES), MAX_BLOCK_BYTES / each + 1);
    size_t widest = size_max(s->nope, s->v), copy = latent_round_up(widest * R);
    size_t product = copy + gemm_scratch(doc->block_queries, size_max(widest, doc->q_width), doc->r),
           attend = size_max(latent_scratch(&doc->exact, doc->max_keys), latent_scratch(&doc->keys, doc->max_keys));
    doc->scratch_floats = latent_round_up(size_max(size_max(product, attend), widest * r));
    doc->exact.keys = tape_scratch(tape, doc->n * doc->exact.stride + LANES);
    doc->keys.keys = doc->keys.kernels == doc->exact.kernels ? doc->exact.keys
                                                             : tape_scratch(tape, doc->n * doc->keys.stride + LANES);
    doc->q = tape_scratch(tape, doc->block_queries * H * doc->q_width);
    doc->z = tape_scratch(tape, doc->block_queries * H * doc->z_width);
    doc->dq = tape_scratch(tape, backward ? doc->block_queries * H * doc->q_width : 1);
    doc->dkey = tape_scratch(tape, backward ? doc->n * doc->q_width : 1);
    doc->ids = (uint32_t *)(void *)tape_scratch(tape, doc->block_queries * doc->max_keys);
    doc->n_ids = (size_t *)(void *)tape_scratch(tape, doc->block_queries * sizeof(size_t) / sizeof(float));
    doc->state = tape_scratch(tape, doc->block_queries * doc->state_floats + 1);
    doc->scratch = tape_scratch(tape, n_threads * doc->scratch_floats);
    if (!tape_computes(tape)) return false;
    memset(doc->q, 0, doc->block_queries * H * doc->q_width * sizeof *doc->q); /* columns between parts stay zero */
    memset(doc->z, 0, doc->block_queries * H * doc->z_width * sizeof *doc->z);
    pack_keys(doc, &doc->exact);
    if (doc->keys.keys != doc->exact.keys) pack_keys(doc, &doc->keys);
    return true;
}
