/* Arithmetic and memory traffic of operations, from their shapes alone. A multiply-add counts 2; bytes are those that
 * must move however well caches serve: every weight, input and gradient once for each time the operation has to see it,
 * fp32 activations. Whoever computes something again does more than is counted here, and shows a lower rate. */
#ifndef GRAFT_MODEL_COUNT_H
#define GRAFT_MODEL_COUNT_H

#include "base/timing.h"
#include "model/model.h"

typedef struct {
    double flop, bytes;
} Cost;

/* y = x W' for T rows; backward: dx += dy W. */
Cost count_linear(size_t T, const Weight *W, TimingPass pass);

/* What a LoRA adds to a linear: y += s (x A') B'; backward: dx, dA and dB. The linear writes y and dx anyhow. */
Cost count_lora(size_t T, size_t in, size_t out, size_t r, TimingPass pass);

/* Query-key scores of a document of n tokens when a query sees its past, or the top_k of it (0: all). */
double count_scores(size_t n, size_t top_k);

/* Two products a score; backward five: scores again, and the gradients of queries, keys, values and probabilities. */
Cost count_attention(size_t T, double scores, const AttentionShape *shape, TimingPass pass);

/* The same over latents of R numbers, with the products that bring queries and results there and back. */
Cost count_attention_latent(size_t T, double scores, const AttentionShape *shape, size_t R, TimingPass pass);

/* One product a score; no backward pass. */
Cost count_index(size_t T, double scores, const IndexShape *shape);

/* T tokens, K experts each, all E experts used; r: of the LoRA on [gate | up] and on down, 0: none. */
Cost count_experts(size_t T, size_t K, size_t E, const Expert *expert, size_t r, TimingPass pass);

/* Logits and, in the same pass, their gradient. */
Cost count_loss(size_t T, const Weight *W);

/* n elements of which `arrays` fp32 numbers are read or written, at `flop` each: a nominal count, such operations wait
 * for memory. */
Cost count_elements(size_t n, double flop, double arrays);

/* Of a token in a step, forward and input gradient of frozen products; once for the indexer, which has no gradient.
 * However often a step really computes them. */
double count_frozen(const Model *model);

/* Of a token in a forward pass alone. */
double count_forward(const Model *model);

/* Forward and backward, and attention's own products of a document of `n` tokens that sees its whole past, index scores
 * included. */
double count_with_attention(const Model *model, size_t n);

/* A step of T tokens: frozen arithmetic, and all weights once in each pass. */
Cost count_step(const Model *model, size_t T);

#endif
