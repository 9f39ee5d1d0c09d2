/* What eval, generate and chat all open: a model, its tokenizer, and adapters by name.
 *
 *     candidate_open(&subject, &settings);                 // the arithmetic, the base, its tokenizer
 *     candidate_fit(&subject, &settings, &work, &group);   // before adapters: the base may be streamed from here on
 *     candidate_add(&subject, path);                       // or candidate_add_all: those of --adapter */
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
/* Rows of a table whose struct has a CandidateSettings: the first of them, and some of those about the work. */
#define CANDIDATE_OPTIONS(at, adapters)                                               \
    {"model", OPT_TEXT, CANDIDATE_AT(at, model), .help = "a Hugging Face directory"}, \
    {                                                                                 \
        "adapter", OPT_LIST, CANDIDATE_AT(at, adapter), .help = adapters              \
    }
#define CANDIDATE_WORK_OPTIONS(at)                                                                        \
    {"compute",                                                                                           \
     OPT_TEXT,                                                                                            \
     CANDIDATE_AT(at, compute),                                                                           \
     .preset = "auto",                                                                                    \
     .choices = COMPUTE_CHOICES,                                                                          \
     .help = "arithmetic of the frozen products"},                                                        \
    {                                                                                                     \
        "memory_limit", OPT_TEXT, CANDIDATE_AT(at, memory_limit),                                         \
            .help = "for everything: 8GiB; what is free less a tenth when not given. Never changes a bit" \
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

/* An empty (all zero) Subject may be closed. */
MUST_USE Err *candidate_open(Candidate *candidate, const CandidateSettings *settings);
void candidate_close(Candidate *candidate);

/* What the work takes besides weights. */
typedef struct {
    size_t tokens, longest; /* that go through a layer in a step; of one text */
    size_t bytes;           /* held all the while: data, hidden states, caches */
} CandidateWork;

/* Keep memory_limit: weights are streamed, and group_tokens (0: all) lessened, when they must be. */
MUST_USE Err *candidate_fit(Candidate *candidate, const CandidateSettings *settings, const CandidateWork *work,
                            int64_t *group_tokens);

MUST_USE Err *candidate_add(Candidate *candidate, const char *path);
MUST_USE Err *candidate_add_all(Candidate *candidate, const CandidateSettings *settings);

/* Variant 0 is the base, variant i the i-th adapter. */
const Adapter *candidate_adapter(const Candidate *candidate, size_t variant); /* NULL: the base */
const char *candidate_name(const Candidate *candidate, size_t variant);       /* "base" */

#endif
