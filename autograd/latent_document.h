/* One document for op_attention_latent: its packed keys, and the workspace of a block of its queries. For
 * op_attention_latent.c only. */
#ifndef GRAFT_AUTOGRAD_LATENT_DOCUMENT_H
#define GRAFT_AUTOGRAD_LATENT_DOCUMENT_H

#include "autograd/op.h"
#include "base/minmax.h"
#include "tensor/latent.h"

#include <omp.h>

/* Saved for backward. */
typedef struct {
    AttentionShape shape;
    LatentInputs in;
    Keys keys;
    float *lse; /* [T][H] logsumexp of the scores */
    float *zu;  /* [T][H][r]; NULL: no LoRA */
} LatentState;

/* Columns of a key: c, u, kr, each part padded to an even width. A block is a number of consecutive queries. */
typedef struct {
    const AttentionShape *shape;
    const LatentInputs *in;
    size_t R, r, u_col, kr_col;
    LatentKeys exact, keys; /* in fp32; in the words of the path, for backward's sums */
    size_t first, n;        /* rows of the document: [first, first + n) */
    size_t words, max_keys; /* words of a row of `chosen`; the largest number of keys of a query */
    const uint64_t *chosen;
    size_t block_queries;    /* queries of a block */
    size_t q_width, z_width; /* floats of a row of q_h and z, [query][head][..] */
    float *q, *z, *dq;       /* of a block; dz lies in z */
    float *dkey;             /* [n][q_width] */
    uint32_t *ids;           /* [query][max_keys] keys of each query of a block */
    size_t *n_ids;           /* [query] */
    float *state;            /* [query][state_floats] of latent_backward, for latent_scatter */
    size_t state_floats;
    float *scratch; /* [thread][scratch_floats] */
    size_t scratch_floats;
} LatentDocument;

static inline size_t latent_round_up(size_t n) { return round_up(n, LANES); }

static inline float *latent_scratch_of_thread(const LatentDocument *doc)
{
    return doc->scratch + (size_t)omp_get_thread_num() * doc->scratch_floats;
}

/* Document d in scratch of the tape, its keys packed. A block has as many queries as its memory limit allows. False if
 * nothing is to be computed.
 * Fails: through the tape. */
bool latent_document_init(LatentDocument *doc, Tape *tape, const LatentState *state, size_t d, bool backward);

#endif
