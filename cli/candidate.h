/* What eval, generate and chat open: a model, its tokenizer, and adapters by name.
 *
 *     candidate_open(&candidate, &settings);               // compute path, base model, tokenizer
 *     candidate_fit(&candidate, &settings, &work, &group); // before adapters: from here on the base may be streamed
 *     candidate_add(&candidate, path);                     // or candidate_add_all: those of --adapter */
#ifndef GRAFT_CLI_CANDIDATE_H
#define GRAFT_CLI_CANDIDATE_H

#include "base/options.h"
#include "data/tokenizer/tokenizer.h"
#include "model/model.h"
#include "tensor/dispatch.h"

#include <stddef.h>

typedef struct {
    char *model, *compute, *memory_limit;
    TextList adapter;
} CandidateSettings;

#define CANDIDATE_AT(at, field) (at) + offsetof(CandidateSettings, field)
/* Rows for a table whose struct has a CandidateSettings: what is opened, and how it is computed. */
#define CANDIDATE_OPTIONS(at, adapters)                                               \
    {"model", OPT_TEXT, CANDIDATE_AT(at, model), .help = "a Hugging Face directory"}, \
    {                                                                                 \
        "adapter", OPT_LIST, CANDIDATE_AT(at, adapter), .help = adapters              \
    }
#define CANDIDATE_WORK_OPTIONS(at)                                                                         \
    {"compute",                                                                                            \
     OPT_TEXT,                                                                                             \
     CANDIDATE_AT(at, compute),                                                                            \
     .preset = "auto",                                                                                     \
     .choices = COMPUTE_CHOICES,                                                                           \
     .help = "compute path of the products with frozen weights"},                                          \
    {                                                                                                      \
        "memory_limit", OPT_TEXT, CANDIDATE_AT(at, memory_limit),                                          \
            .help = "for everything, such as 8GiB; default: free memory less a tenth. Never changes a bit" \
    }

typedef struct {
    Model *model;
    Tokenizer *tokenizer;
    size_t n, capacity; /* adapters */
    struct CandidateAdapter {
        char *name; /* as it was given */
        Adapter *adapter;
    } * adapters; /* [n] */
} Candidate;

/* An empty (all zero) Candidate may be closed. */
MUST_USE Err *candidate_open(Candidate *candidate, const CandidateSettings *settings);
void candidate_close(Candidate *candidate);

/* What the work needs besides the weights. */
typedef struct {
    size_t tokens, longest; /* that go through the layers together; of the longest sequence */
    size_t bytes;           /* held for the whole time: data, hidden states, caches */
} CandidateWork;

/* Fit into memory_limit: stream the weights and lower *group_tokens (0: all) if necessary. */
MUST_USE Err *candidate_fit(Candidate *candidate, const CandidateSettings *settings, const CandidateWork *work,
                            int64_t *group_tokens);

MUST_USE Err *candidate_add(Candidate *candidate, const char *path);
MUST_USE Err *candidate_add_all(Candidate *candidate, const CandidateSettings *settings);

/* Variant 0 is the base, variant i the i-th adapter. */
const Adapter *candidate_adapter(const Candidate *candidate, size_t variant); /* NULL: the base */
const char *candidate_name(const Candidate *candidate, size_t variant);       /* "base" */

#endif
