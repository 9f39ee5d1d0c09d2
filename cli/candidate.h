/* What eval, generate and chat all open: a model, its tokenizer, and adapters by name.
 *
 *     subject_open(&subject, &settings);                 // the arithmetic, the base, its tokenizer
 *     subject_fit(&subject, &settings, &work, &group);   // before adapters: the base may be streamed from here on
 *     subject_add(&subject, path);                       // or subject_add_all: those of --adapter */
#ifndef GRAFT_CLI_CANDIDATE_H
#define GRAFT_CLI_CANDIDATE_H

#include "base/options.h"
#include "data/tokenizer/tokenizer.h"
#include "model/model.h"
#include "tensor/gemm.h"

#include <stddef.h>

typedef struct {
    char *model, *compute, *memory_limit;
    TextList adapter;
} SubjectSettings;

#define SUBJECT_AT(at, field) (at) + offsetof(SubjectSettings, field)
/* Rows of a table whose struct has a SubjectSettings: the first of them, and some of those about the work. */
#define SUBJECT_OPTIONS(at, adapters)                                               \
    {"model", OPT_TEXT, SUBJECT_AT(at, model), .help = "a Hugging Face directory"}, \
    {"adapter", OPT_LIST, SUBJECT_AT(at, adapter), .help = adapters}
#define SUBJECT_WORK_OPTIONS(at)                                                                                              \
    {"compute", OPT_TEXT, SUBJECT_AT(at, compute), .preset = "auto", .choices = MATMUL_CHOICES,                                \
     .help = "arithmetic of the frozen products"},                                                                             \
    {"memory_limit", OPT_TEXT, SUBJECT_AT(at, memory_limit),                                                                   \
     .help = "for everything: 8GiB; what is free less a tenth when not given. Never changes a bit"}

typedef struct {
    Model *model;
    Tokenizer *tokenizer;
    size_t n, capacity;       /* adapters */
    struct SubjectAdapter {
        char *name;           /* as it was given */
        Adapter *adapter;
    } *adapters;              /* [n] */
} Subject;

/* An empty (all zero) Subject may be closed. */
MUST_USE Err *subject_open(Subject *subject, const SubjectSettings *settings);
void subject_close(Subject *subject);

/* What the work takes besides weights. */
typedef struct {
    size_t tokens, longest; /* that go through a layer in a step; of one text */
    size_t bytes;           /* held all the while: data, hidden states, caches */
} SubjectWork;

/* Keep memory_limit: weights are streamed, and group_tokens (0: all) lessened, when they must be. */
MUST_USE Err *subject_fit(Subject *subject, const SubjectSettings *settings, const SubjectWork *work, int64_t *group_tokens);

MUST_USE Err *subject_add(Subject *subject, const char *path);
MUST_USE Err *subject_add_all(Subject *subject, const SubjectSettings *settings);

/* Variant 0 is the base, variant i the i-th adapter. */
const Adapter *subject_adapter(const Subject *subject, size_t variant); /* NULL: the base */
const char *subject_name(const Subject *subject, size_t variant);       /* "base" */

#endif
