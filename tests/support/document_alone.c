/* One step in one process, without `graft train`. Each document is a micro-batch, so the gradients of the parameters
 * are added in the order of the tree of three leaves: (0 + 1) + 2. */
#include "tests/support/document_alone.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "train/step.h"

#include <stdlib.h>
#include <string.h>

enum { DOCS = 3 };
static const size_t lengths[DOCS] = {150, 1, 67}; /* the first is longer than the base's index_topk */

/* What a step shows of its rows: the last hidden state and the gradient of the first. */
typedef struct {
    size_t n_layers, D;
    float *last, *first_grad; /* [rows][D] */
} Seen;

static void observe(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Seen *seen = context;
    float *to = !strcmp(what, "hidden") && l == seen->n_layers ? seen->last
                : !strcmp(what, "grad.hidden") && l == 0       ? seen->first_grad
                                                               : NULL;
    if (to) memcpy(to + row * cols, data, rows * cols * sizeof *to);
}

/* Gradients of documents as micro-batches of their own; n_loss_tokens is that of the whole step. */
static Err *gradients_of(Model *model, Adapter *adapter, size_t n, const Document *const *docs, size_t n_loss_tokens,
                         Seen *seen, float *gradient)
{
    Dp dp = {.size = 1};
    Batch batch = {0};
    Step *step;
    StepResult result;
    StepProbe probe = {seen, observe};
    *seen = (Seen){.n_layers = model->n_layers, .D = (size_t)model->config.hidden_size};
    TRY(step_new(&step, &dp, model, adapter, &(StepConfig){0}));
    Err *err = batch_new(&batch, &dp, n, docs, 1, 0);
    batch.n_loss_tokens = n_loss_tokens;
    if (!err) err = mem_new(&seen->last, batch.T * seen->D, sizeof(float));
    if (!err) err = mem_new(&seen->first_grad, batch.T * seen->D, sizeof(float));
    if (!err) err = step_gradients(step, &batch, 0, &probe, &result);
    for (size_t l = 0; l < adapter->n_layers && !err; l++)
        memcpy(gradient + adapter->layers[l].offset, step_gradient(step, l), adapter->layers[l].n * sizeof *gradient);
    batch_free(&batch);
    step_free(step);
    return err;
}

static Err *random_document(Document *doc, size_t n, uint64_t key, uint64_t vocabulary)
{
    *doc = (Document){.n = n, .n_loss_tokens = n};
    TRY(mem_new(&doc->ids, n, sizeof *doc->ids));
    TRY(mem_new(&doc->targets, n, sizeof *doc->targets));
    for (size_t t = 0; t < n; t++) {
        doc->ids[t] = (int32_t)rng_below(key, 2 * t, vocabulary);
        doc->targets[t] = (int32_t)rng_below(key, 2 * t + 1, vocabulary);
    }
    return NULL;
}

static Err *compare_alone(Model *model, Adapter *adapter, bool *same)
{
    Document docs[DOCS];
    const Document *all[DOCS];
    size_t n_loss_tokens = 0, n = adapter->n, row = 0;
    float *sum, *whole, *mine;
    Seen together;
    TRY(mem_new(&sum, n, sizeof *sum));
    TRY(mem_new(&whole, n, sizeof *whole));
    TRY(mem_new(&mine, n, sizeof *mine));
    for (size_t d = 0; d < DOCS; d++) {
        TRY(random_document(&docs[d], lengths[d], d, (uint64_t)model->config.vocab_size));
        all[d] = &docs[d];
        n_loss_tokens += lengths[d];
    }
    TRY(gradients_of(model, adapter, DOCS, all, n_loss_tokens, &together, whole));
    *same = true;
    for (size_t d = 0; d < DOCS; d++) {
        Seen alone;
        TRY(gradients_of(model, adapter, 1, &all[d], n_loss_tokens, &alone, mine));
        size_t at = row * alone.D, bytes = lengths[d] * alone.D * sizeof(float);
        *same = *same && !memcmp(alone.last, together.last + at, bytes) &&
                !memcmp(alone.first_grad, together.first_grad + at, bytes);
        for (size_t i = 0; i < n; i++) sum[i] = d ? sum[i] + mine[i] : mine[i];
        row += lengths[d];
        free(alone.last);
        free(alone.first_grad);
        free(docs[d].ids);
        free(docs[d].targets);
    }
    *same = *same && memcmp(sum, whole, n * sizeof *sum) == 0;
    free(together.last);
    free(together.first_grad);
    free(sum);
    free(whole);
    free(mine);
    return NULL;
}

Err *document_alone(const char *model_dir, bool *same)
{
    Model *model;
    Adapter *adapter;
    Json *targets = json_new_array();
    json_add_string(targets, NULL, "all-linear"); /* everything that LoRA fits on */
    TRY(model_open(&model, model_dir));
    Err *err =
        adapter_new(&adapter, model,
                    &(LoraConfig){.r = 4, .lora_alpha = 8, .target_modules = json_first(targets), .train_router = true},
                    3);
    if (!err) {
        for (size_t i = 0; i < adapter->n; i++)
            adapter->values[i] += 0.02f * (float)rng_normal(5, i); /* no B is zero */
        err = compare_alone(model, adapter, same);
        adapter_free(adapter);
    }
    json_free(targets);
    model_close(model);
    return err;
}
