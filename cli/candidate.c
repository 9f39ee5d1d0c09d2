/* The order matters: candidate_fit plans the memory and may replace mapped weights by streamed ones, so adapters are
 * attached after it. */
#include "cli/candidate.h"

#include "base/file.h"
#include "base/memory.h"
#include "infer/adapter_io.h"
#include "plan/budget.h"
#include "tensor/dispatch.h"

#include <omp.h>
#include <stdlib.h>

Err *candidate_open(Candidate *c, const CandidateSettings *settings)
{
    char path[PATH_BYTES];
    if (!settings->model) return err_new(ERR_USAGE, "--model is missing");
    if (!dispatch_init(settings->compute))
        return err_new(ERR_USAGE, "compute %s: this CPU has no such instructions", settings->compute);
    TRY(model_open(&c->model, settings->model));
    TRY(model_config_end_tokens(&c->model->config, settings->model));
    TRY(file_join(path, settings->model, "tokenizer.json"));
    TRY(tokenizer_open(&c->tokenizer, path));
    return tokenizer_check_size(c->tokenizer, path, (size_t)c->model->config.vocab_size);
}

void candidate_close(Candidate *c)
{
    for (size_t i = 0; i < c->n; i++) {
        adapter_free(c->adapters[i].adapter);
        free(c->adapters[i].name);
    }
    free(c->adapters);
    tokenizer_close(c->tokenizer);
    model_close(c->model);
    *c = (Candidate){0};
}

Err *candidate_fit(Candidate *c, const CandidateSettings *settings, const CandidateWork *work, int64_t *group_tokens)
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
    TRY(budget_apply(&budget, c->model, NULL, &all, settings->memory_limit));
    *group_tokens = (int64_t)budget.group_tokens;
    return NULL;
}

Err *candidate_add(Candidate *c, const char *path)
{
    TRY(mem_grow(&c->adapters, &c->capacity, c->n + 1, sizeof *c->adapters));
    struct CandidateAdapter *to = &c->adapters[c->n];
    *to = (struct CandidateAdapter){0};
    TRY(adapter_open(&to->adapter, c->model, path));
    c->n++; /* from here on candidate_close frees it */
    return mem_copy_text(&to->name, path);
}

Err *candidate_add_all(Candidate *c, const CandidateSettings *settings)
{
    for (size_t i = 0; i < settings->adapter.count; i++) TRY(candidate_add(c, settings->adapter.items[i]));
    return NULL;
}

const Adapter *candidate_adapter(const Candidate *c, size_t variant)
{
    return variant ? c->adapters[variant - 1].adapter : NULL;
}

const char *candidate_name(const Candidate *c, size_t variant)
{
    return variant ? c->adapters[variant - 1].name : "base";
}
