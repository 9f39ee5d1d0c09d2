/* The fixtures of tests/fixtures/model as objects in memory. Random values are functions of a seed and a name. */
#include "tests/support/tiny.h"

#include "base/memory.h"
#include "base/rng.h"
#include "model/lora_sites.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

Model *tiny_model(const char *name)
{
    char path[PATH_BYTES];
    Model *model = NULL;
    if (strchr(name, '/'))
        snprintf(path, sizeof path, "%s", name);
    else
        assert_ok(file_join(path, "tests/fixtures/model", name));
    assert_ok(model_open(&model, path));
    return model;
}

Json *tiny_json(const char *text)
{
    char *copy;
    Json *root = NULL;
    assert_ok(mem_copy_text(&copy, text));
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    assert_ok(json_parse(&root, copy, strlen(copy)));
    free(copy);
    return root;
}

Err *tiny_adapter(Adapter **adapter, const Model *model, size_t r, const char *targets, const char *layers,
                  const char *experts)
{
    Json *json[3] = {0};
    const char *const text[3] = {targets, layers, experts};
    for (size_t i = 0; i < 3; i++)
        if (text[i]) json[i] = tiny_json(text[i]);
    LoraConfig config = {.r = (int64_t)r,
                         .lora_alpha = 2 * (double)r,
                         .target_modules = json[0],
                         .layers_to_transform = json[1],
                         .experts = json[2]};
    *adapter = NULL;
    Err *err = adapter_new(adapter, model, &config, 7);
    for (size_t i = 0; i < 3; i++) json_free(json[i]);
    return err;
}

void tiny_fill(Adapter *adapter, uint64_t seed, double size)
{
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_params; i++) {
            Param *p = &adapter->layers[l].params[i];
            uint64_t key = rng_name(seed, p->name);
            bool router = p == adapter->layers[l].router;
            for (size_t j = 0; j < param_count(p); j++) {
                float x = (float)((2 * rng_uniform_double(key, j) - 1) * size);
                p->data[j] = router ? p->data[j] + 0.1f * x : x;
            }
        }
}

Document tiny_document(size_t n, size_t vocab, uint64_t seed)
{
    Document document = {.n = n, .n_loss_tokens = n - 1};
    assert_ok(mem_new(&document.ids, n, sizeof *document.ids));
    assert_ok(mem_new(&document.targets, n, sizeof *document.targets));
    for (size_t i = 0; i < n; i++) document.ids[i] = (int32_t)rng_below(seed, i, vocab);
    for (size_t i = 0; i < n; i++) document.targets[i] = i + 1 < n ? document.ids[i + 1] : -1;
    return document;
}

void tiny_document_free(Document *document)
{
    free(document->ids);
    free(document->targets);
    *document = (Document){0};
}

float *tiny_logits(Model *model, const Adapter *adapter, const int32_t *ids, size_t n)
{
    size_t start[] = {0, n}, V = (size_t)model->config.vocab_size;
    Group group = {.T = n, .n_docs = 1, .doc_start = start, .n_micro_batches = 1, .micro_batch_start = start};
    Tape tape = {0};
    Choices choices;
    float *out;
    assert_ok(model_reserve_positions(model, n));
    assert_ok(choices_new(&choices, model, &group));
    tape_begin(&tape, &group, TAPE_OFF);
    Tensor *x = model_embed(&tape, model, ids);
    LayerPass pass = {.choices = &choices};
    for (size_t l = 0; l < model->n_layers; l++) x = layer_forward(&tape, model, l, adapter, x, &pass);
    Tensor *logits = model_logits(&tape, model, x);
    assert_ok(tape_error(&tape));
    assert_ok(mem_new(&out, n * V, sizeof *out));
    memcpy(out, logits->data, n * V * sizeof *out);
    tape_free(&tape);
    choices_free(&choices);
    return out;
}

double tiny_distance(size_t n, const float *a, const float *b)
{
    double square = 0, max = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        square += (double)b[i] * (double)b[i];
        if (!(d <= max)) max = d;
    }
    return max / sqrt(square / (double)n);
}
