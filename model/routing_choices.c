/* Memory for what a group's tokens choose: K ids a token for experts; for keys a bitmap, only in documents so long that
 * some keys are left out. */
#include "model/model.h"

#include "base/memory.h"

#include <stdlib.h>

static Err *new_keys(Keys *keys, const Model *model, const Group *group)
{
    bool some = false;
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t n = group->doc_start[d + 1] - group->doc_start[d] + (group->doc_past ? group->doc_past[d] : 0);
        some = some || n > model->index.top_k;
    }
    if (!some) return NULL;
    keys->n_docs = group->n_docs;
    keys->max_keys = model->index.top_k;
    TRY(mem_new(&keys->of, group->n_docs, sizeof *keys->of));
    for (size_t d = 0; d < group->n_docs; d++) {
        size_t rows = group->doc_start[d + 1] - group->doc_start[d],
               n = rows + (group->doc_past ? group->doc_past[d] : 0);
        if (n > model->index.top_k) TRY(mem_new(&keys->of[d], rows * keys_words(group, d), sizeof **keys->of));
    }
    return NULL;
}

static Err *fill(Choices *choices, const Model *model, const Group *group)
{
    TRY(mem_new(&choices->experts, model->n_layers, sizeof *choices->experts));
    TRY(mem_new(&choices->keys, model->n_layers, sizeof *choices->keys));
    for (size_t l = 0; l < model->n_layers; l++) {
        if (!model->layers[l].dense)
            TRY(mem_new(&choices->experts[l], group->T * model->router.K, sizeof **choices->experts));
        if (model->layers[l].indexer) TRY(new_keys(&choices->keys[l], model, group));
    }
    return NULL;
}

Err *choices_new(Choices *choices, const Model *model, const Group *group)
{
    *choices = (Choices){.n_layers = model->n_layers};
    Err *err = fill(choices, model, group);
    if (err) choices_free(choices);
    return err;
}

void choices_free(Choices *choices)
{
    for (size_t l = 0; l < choices->n_layers; l++) {
        if (choices->experts) free(choices->experts[l]);
        if (!choices->keys || !choices->keys[l].of) continue;
        for (size_t d = 0; d < choices->keys[l].n_docs; d++) free(choices->keys[l].of[d]);
        free(choices->keys[l].of);
    }
    free(choices->experts);
    free(choices->keys);
    *choices = (Choices){0};
}
