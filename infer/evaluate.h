/* Base and adapters on the same documents, over one reading of the weights: layers outermost, and each layer is run for
 * every variant before the next is touched. A variant is the base (adapter NULL) or an adapter; variant 0 is the one
 * that the others are compared with. */
#ifndef GRAFT_INFER_EVALUATE_H
#define GRAFT_INFER_EVALUATE_H

#include "data/records/dataset.h"
#include "model/model.h"

/* Sums over one document's tokens in the loss, in nats. */
typedef struct {
    double nll;
    double right;   /* tokens whose best guess is the target */
    double kl;      /* KL(this variant || variant 0) of the next token's distribution */
    double kl_back; /* KL(variant 0 || this variant) */
} DocumentScore;

typedef struct {
    DocumentScore *documents; /* [n_documents] */
    uint64_t *load;           /* [n_layers][E] tokens that chose each expert; zeros in dense layers */
    uint64_t *changed;        /* [n_layers] tokens whose set of experts is not variant 0's */
} VariantScore;

typedef struct {
    size_t n_variants, n_documents, n_layers, n_experts;
    uint64_t tokens; /* of all documents */
    size_t readings; /* how often the weights were read: 1, unless the hidden states would not fit */
    VariantScore *variants;
} Scores;

typedef struct {
    size_t group_tokens;                   /* run through a layer together; 0: all. Never changes a bit */
    size_t hidden_bytes;                   /* the most that hidden states of all variants may take; 0: no limit */
    Err *(*between_layers)(void *context); /* called before each layer, its error ends the evaluation; NULL: nobody */
    void *context;
} EvaluateConfig;

/* Without documents the weights are read all the same: ranks of one host read together.
 * Owner: the caller, scores_free. Documents are borrowed while it runs. */
MUST_USE Err *evaluate(Scores *scores, Model *model, size_t n_variants, const Adapter *const *adapters,
                       size_t n_documents, const Document *const *documents, const EvaluateConfig *config);
void scores_free(Scores *scores);

/* What a layer's load says: entropy over log E (1: even), and the maximum load over the mean. */
typedef struct {
    double changed; /* share of tokens */
    double entropy, max_over_mean;
} RoutingShift;
RoutingShift scores_routing(const Scores *scores, size_t variant, size_t l);

#endif
