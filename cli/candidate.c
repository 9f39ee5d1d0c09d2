#include "cli/candidate.h"

#include "base/file.h"
#include "base/memory.h"
#include "infer/adapter_io.h"
#include "plan/budget.h"

#include <omp.h>
#include <stdlib.h>

Err *subject_open(Subject *s, const SubjectSettings *settings)
{
    char path[PATH_BYTES];
    if (!settings->model) return err_new(ERR_USAGE, "--model is missing");
    if (!matmul_init(settings->compute)) return err_new(ERR_USAGE, "compute %s: this CPU cannot do that", settings->compute);
    TRY(model_open(&s->model, settings->model));
    TRY(file_join(path, settings->model, "tokenizer.json"));
    return tokenizer_open(&s->tokenizer, path);
}

void subject_close(Subject *s)
{
    for (size_t i = 0; i < s->n; i++) {
        adapter_free(s->adapters[i].adapter);
        free(s->adapters[i].name);
    }
    free(s->adapters);
    tokenizer_close(s->tokenizer);
    model_close(s->model);
    *s = (Subject){0};
}

Err *subject_fit(Subject *s, const SubjectSettings *settings, const SubjectWork *work, int64_t *group_tokens)
{
    Budget budget;
    StepWork all = {.ranks = 1, .local_ranks = 1, .threads = (size_t)omp_get_max_threads(), .step_tokens = work->tokens, .longest = work->longest,
                .micro_batch_tokens = 1, .group_tokens = (size_t)*group_tokens, .data_bytes = work->bytes};
    TRY(budget_apply(&budget, s->model, NULL, &all, settings->memory_limit));
    *group_tokens = (int64_t)budget.group_tokens;
    return NULL;
}

Err *subject_add(Subject *s, const char *path)
{
    TRY(mem_grow(&s->adapters, &s->capacity, s->n + 1, sizeof *s->adapters));
    struct SubjectAdapter *to = &s->adapters[s->n];
    *to = (struct SubjectAdapter){0};
    TRY(adapter_open(&to->adapter, s->model, path));
    s->n++; /* from here on it is closed with the rest */
    return mem_copy_text(&to->name, path);
}

Err *subject_add_all(Subject *s, const SubjectSettings *settings)
{
    for (size_t i = 0; i < settings->adapter.count; i++) TRY(subject_add(s, settings->adapter.items[i]));
    return NULL;
}

const Adapter *subject_adapter(const Subject *s, size_t variant) { return variant ? s->adapters[variant - 1].adapter : NULL; }
const char *subject_name(const Subject *s, size_t variant) { return variant ? s->adapters[variant - 1].name : "base"; }
