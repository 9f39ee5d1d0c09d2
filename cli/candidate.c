#include "cli/candidate.h"

#include "base/file.h"
#include "base/memory.h"
#include "infer/adapter_io.h"
#include "plan/budget.h"
#include "tensor/dispatch.h"

#include <omp.h>
#include <stdlib.h>

Err *candidate_open(Candidate *s, const CandidateSettings *settings)
{
    char path[PATH_BYTES];
    if (!settings->model) return err_new(ERR_USAGE, "--model is missing");
    if (!dispatch_init(settings->compute))
        return err_new(ERR_USAGE, "compute %s: this CPU cannot do that", settings->compute);
    TRY(model_open(&s->model, settings->model));
    TRY(file_join(path, settings->model, "tokenizer.json"));
    return tokenizer_open(&s->tokenizer, path);
}

void candidate_close(Candidate *s)
{
    for (size_t i = 0; i < s->n; i++) {
        adapter_free(s->adapters[i].adapter);
        free(s->adapters[i].name);
    }
    free(s->adapters);
    tokenizer_close(s->tokenizer);
    model_close(s->model);
    *s = (Candidate){0};
}

Err *candidate_fit(Candidate *s, const CandidateSettings *settings, const CandidateWork *work, int64_t *group_tokens)
{
    Budget budget;
    StepWork all = {.ranks = 1,
                    .local_ranks = 1,
                    .threads = (size_t)omp_get_max_threads(),
                    .step_tokens = work->tokens,
                    .longest = work->longest,
                    .micro_batch_tokens = 1,
                    .group_tokens = (size_t)*group_tokens,
                    .data_bytes = work->bytes};
    TRY(budget_apply(&budget, s->model, NULL, &all, settings->memory_limit));
    *group_tokens = (int64_t)budget.group_tokens;
    return NULL;
}

Err *candidate_add(Candidate *s, const char *path)
{
    TRY(mem_grow(&s->adapters, &s->capacity, s->n + 1, sizeof *s->adapters));
    struct CandidateAdapter *to = &s->adapters[s->n];
    *to = (struct CandidateAdapter){0};
    TRY(adapter_open(&to->adapter, s->model, path));
    s->n++; /* from here on it is closed with the rest */
    return mem_copy_text(&to->name, path);
}

Err *candidate_add_all(Candidate *s, const CandidateSettings *settings)
{
    for (size_t i = 0; i < settings->adapter.count; i++) TRY(candidate_add(s, settings->adapter.items[i]));
    return NULL;
}

const Adapter *candidate_adapter(const Candidate *s, size_t variant)
{
    return variant ? s->adapters[variant - 1].adapter : NULL;
}
const char *candidate_name(const Candidate *s, size_t variant)
{
    return variant ? s->adapters[variant - 1].name : "base";
}
