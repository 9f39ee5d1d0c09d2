/* fidelity [--compute NAME] DIR...: how far graft is from transformers in float64, on folders of the format of
 * tests/fixtures/model.
 *
 * For every quantity: the RMS of the error over the RMS of the reference, torch's own float32 figure from
 * reference.json, and their ratio; the same for the largest error over the RMS. Fails when an RMS ratio is above 4
 * (figures below 1e-6 count as 1e-6), a maximum is above 8 times torch's, or a choice differs.
 * A quantity's figure is the worst of its tensors, as in reference.json.
 *
 * On the bf16 path: logits must be no further off than those of transformers in bf16, and gradients of an adapter within
 * 2 % where no choice differs (one that does changes which weights a token meets). Other figures are printed. */
#include "base/json.h"
#include "base/memory.h"
#include "infer/adapter_io.h"
#include "infer/generate.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "tensor/safetensors.h"
#include "train/step.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double rms_most = 4, max_most = 8, floor_of = 1e-6, bf16_gradient_most = 0.02;

typedef struct {
    const char *folder;
    Json *facts;
    Safetensors reference;
    Model *model;
    Dp dp;
    size_t n_docs, T;            /* documents of equal length */
    const int64_t *ids, *labels; /* [n_docs][T], copied */
    Document *docs;
    /* the worst figures of each quantity */
    struct {
        char name[96];
        double rms, max;
    } seen[256];
    size_t n_seen;
    bool bf16;
    size_t differing, bad;
    size_t flipped;     /* choices that differ with the adapter */
    const char *prefix; /* "" or "adapter." or "z_loss." of the run at work */
} Case;

/* ---- figures -------------------------------------------------------------------------------------------------- */

/* "adapter.grad.model.layers.1.mlp.gate.weight" -> "adapter.grad.gate", "hidden.3" -> "hidden.*": reference.json's names. */
static void quantity_of(const char *tensor, char *name, size_t bytes)
{
    const char *model = strstr(tensor, "model.");
    if (model && (strstr(tensor, "grad.") || strstr(tensor, "final."))) {
        const char *leaf = strstr(tensor, "lora_A") ? "lora_A" : strstr(tensor, "lora_B") ? "lora_B" : "gate";
        snprintf(name, bytes, "%.*s%s", (int)(model - tensor), tensor, leaf);
        return;
    }
    size_t n = 0;
    for (const char *c = tensor; *c && n + 2 < bytes; c++) {
        if (*c >= '0' && *c <= '9' && c > tensor && c[-1] == '.') {
            name[n++] = '*';
            while (c[1] >= '0' && c[1] <= '9') c++;
        } else {
            name[n++] = *c;
        }
    }
    name[n] = 0;
}

static void note(Case *c, const char *name, double rms, double max)
{
    size_t i = 0;
    while (i < c->n_seen && strcmp(c->seen[i].name, name) != 0) i++;
    if (i == c->n_seen && c->n_seen < 256) {
        snprintf(c->seen[i].name, sizeof c->seen[i].name, "%s", name);
        c->n_seen++;
    }
    c->seen[i].rms = fmax(c->seen[i].rms, rms);
    c->seen[i].max = fmax(c->seen[i].max, max);
    if (!isfinite(rms)) c->seen[i].rms = INFINITY;
}

static void compare_scalar(Case *c, const char *name, double value, double reference)
{
    double relative = fabs(value - reference) / fabs(reference);
    note(c, name, relative, relative);
}

/* Compare rows [row, row + rows) of a reference tensor; figures are over the whole tensor's RMS. */
static void compare_rows(Case *c, const char *tensor, size_t row, size_t n, size_t cols, const float *data)
{
    const TensorView *view = safetensors_find(&c->reference, tensor);
    char name[96];
    if (!view) return;
    size_t total = view->bytes / sizeof(float);
    double square = 0, error = 0, max = 0;
    for (size_t i = 0; i < total; i++) {
        float r;
        memcpy(&r, (const char *)view->data + 4 * i, 4);
        square += (double)r * (double)r;
    }
    for (size_t i = 0; i < n * cols; i++) {
        float r;
        memcpy(&r, (const char *)view->data + 4 * (row * cols + i), 4);
        double d = (double)data[i] - (double)r;
        error += d * d;
        if (!(fabs(d) <= max)) max = fabs(d);
    }
    double rms = sqrt(square / (double)total);
    quantity_of(tensor, name, sizeof name);
    if (rms == 0) {
        if (error > 0) note(c, name, INFINITY, INFINITY);
        return;
    }
    note(c, name, sqrt(error / (double)(n * cols)) / rms, max / rms);
}

static void compare_ids(Case *c, const char *tensor, size_t at, size_t n, const int64_t *data)
{
    const TensorView *view = safetensors_find(&c->reference, tensor);
    if (!view) return;
    for (size_t i = 0; i < n; i++) {
        int64_t r;
        memcpy(&r, (const char *)view->data + 8 * (at + i), 8);
        if (r == data[i]) continue;
        if (c->differing++ < 5)
            printf("  %s: element %zu is %lld, the reference has %lld\n", tensor, at + i, (long long)data[i],
                   (long long)r);
    }
}

static void report_bf16(Case *c)
{
    double most = 0;
    err_free(json_get_number(json_find(c->facts, "transformers_bf16"), "logits_relative_rms", &most));
    for (size_t i = 0; i < c->n_seen; i++) {
        const char *name = c->seen[i].name;
        double bound = !strcmp(name, "logits")                            ? most
                       : strncmp(name, "adapter.grad.", 13) || c->flipped ? INFINITY
                                                                          : bf16_gradient_most;
        bool bad = !(c->seen[i].rms <= bound) || !isfinite(c->seen[i].rms);
        c->bad += bad;
        printf("  %-36s rms %8.1e  max %8.1e", name, c->seen[i].rms, c->seen[i].max);
        if (isfinite(bound)) printf("  at most %8.1e", bound);
        printf("%s\n", bad ? "  FAIL" : "");
    }
    if (c->differing) printf("  %zu choices differ, %zu of them with the adapter\n", c->differing, c->flipped);
}

static void report(Case *c)
{
    const Json *torch = json_find(c->facts, "float32_error");
    for (size_t i = 0; i < c->n_seen; i++) {
        const Json *row = json_find(torch, c->seen[i].name);
        double rms = 0, max = 0;
        if (row) {
            err_free(json_get_number(row, "relative_rms", &rms));
            err_free(json_get_number(row, "max_over_rms", &max));
        }
        double ratio = fmax(c->seen[i].rms, floor_of) / fmax(rms, floor_of),
               max_ratio = fmax(c->seen[i].max, floor_of) / fmax(max, floor_of);
        bool bad = !(ratio <= rms_most) || !(max_ratio <= max_most) || !row;
        c->bad += bad;
        printf("  %-36s rms %8.1e  torch %8.1e  ratio %5.2f   max %8.1e  torch %8.1e  ratio %5.2f%s\n", c->seen[i].name,
               c->seen[i].rms, rms, ratio, c->seen[i].max, max, max_ratio,
               bad ? row ? "  FAIL" : "  FAIL: not in reference.json" : "");
    }
    if (c->differing) printf("  %zu choices differ  FAIL\n", c->differing);
}

/* ---- what a step shows ---------------------------------------------------------------------------------------- */

static void see(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Case *c = context;
    char name[128], kind[32];
    if (strncmp(what, "router.", 7) == 0)
        snprintf(kind, sizeof kind, "router.%zu.%s", l, what + 7);
    else
        snprintf(kind, sizeof kind, "%s.%zu", what, l);
    snprintf(name, sizeof name, "%s%s", c->prefix, kind);
    if (strcmp(what, "router.experts") != 0) {
        compare_rows(c, name, row, rows, cols, data);
        return;
    }
    const int32_t *ids = data;
    for (size_t i = 0; i < rows * cols; i++) {
        int64_t id = ids[i];
        compare_ids(c, name, row * cols + i, 1, &id);
    }
}

static Err *batch_of(Case *c, Batch *batch)
{
    const Document *docs[64];
    for (size_t d = 0; d < c->n_docs; d++) docs[d] = &c->docs[d];
    return batch_new(batch, &c->dp, c->n_docs, docs, c->T, 0);
}

/* Gradients of every parameter, by the names that the fixture has: modules, gate and up apart. */
static Err *compare_gradients(Case *c, Step *step, Adapter *adapter)
{
    float *values;
    LoraModule *pairs;
    size_t n, bytes = adapter->n * sizeof *values;
    char name[256];
    TRY(mem_new(&values, adapter->n, sizeof *values));
    memcpy(values, adapter->values, bytes);
    for (size_t l = 0; l < adapter->n_layers; l++) /* for a moment the adapter's values are its gradients */
        memcpy(adapter->values + adapter->layers[l].offset, step_gradient(step, l),
               adapter->layers[l].n * sizeof *values);
    Err *err = adapter_modules(adapter, &pairs, &n);
    for (size_t i = 0; i < n && !err; i++) {
        if (!pairs[i].A)
            snprintf(name, sizeof name, "%sgrad.%s.weight", c->prefix, pairs[i].module);
        else
            snprintf(name, sizeof name, "%sgrad.%s.lora_B.weight", c->prefix, pairs[i].module);
        compare_rows(c, name, 0, pairs[i].out, pairs[i].A ? pairs[i].r : pairs[i].in, pairs[i].B);
        if (!pairs[i].A) continue;
        snprintf(name, sizeof name, "%sgrad.%s.lora_A.weight", c->prefix, pairs[i].module);
        compare_rows(c, name, 0, pairs[i].r, pairs[i].in, pairs[i].A);
    }
    if (!err) lora_modules_free(pairs, n);
    memcpy(adapter->values, values, bytes);
    free(values);
    return err;
}

/* ---- logits and keys, which a training step never holds ------------------------------------------------------- */

static void compare_keys(Case *c, const Choices *choices, const Group *group)
{
    size_t top_k = c->model->index.top_k, width = top_k < c->T ? top_k : c->T;
    char name[64];
    for (size_t l = 0; l < c->model->n_layers; l++) {
        if (!c->model->layers[l].indexer) continue;
        snprintf(name, sizeof name, "%sindexer.%zu.keys", c->prefix, l);
        for (size_t d = 0; d < group->n_docs; d++)
            for (size_t t = 0; t < c->T; t++) {
                const uint64_t *bits = choices->keys[l].of && choices->keys[l].of[d]
                                           ? choices->keys[l].of[d] + t * keys_words(group, d)
                                           : NULL;
                int64_t row[1024];
                size_t n = 0;
                for (size_t k = 0; k <= t && n < width; k++)
                    if (!bits || (bits[k / 64] >> (k % 64) & 1)) row[n++] = (int64_t)k;
                while (n < width) row[n++] = -1;
                compare_ids(c, name, (d * c->T + t) * width, width, row);
            }
    }
}

static Err *compare_logits(Case *c, const Adapter *adapter)
{
    Batch batch;
    Tape tape = {0};
    Choices choices;
    char name[64];
    TRY(batch_of(c, &batch));
    const BatchGroup *g = &batch.groups[0];
    size_t D = (size_t)c->model->config.hidden_size;
    float *x;
    TRY(mem_new(&x, batch.T * D, sizeof *x));
    TRY(choices_new(&choices, c->model, &g->group));
    tape_begin(&tape, &g->group, TAPE_OFF);
    Tensor *h = model_embed(&tape, c->model, g->ids);
    LayerPass pass = {.choices = &choices};
    for (size_t l = 0; l < c->model->n_layers; l++) h = layer_forward(&tape, c->model, l, adapter, h, &pass);
    Tensor *logits = model_logits(&tape, c->model, h);
    Err *err = tape_error(&tape);
    if (!err) {
        snprintf(name, sizeof name, "%slogits", c->prefix);
        compare_rows(c, name, 0, batch.T, (size_t)c->model->config.vocab_size, logits->data);
        compare_keys(c, &choices, &g->group);
    }
    free(x);
    tape_free(&tape);
    choices_free(&choices);
    batch_free(&batch);
    return err;
}

/* ---- the runs ------------------------------------------------------------------------------------------------- */

static const AdamW fixture_adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};

/* One batch's losses and gradients. coefficient: which balance loss acts alone, or NULL for the model's own loss. */
static Err *run_once(Case *c, Adapter *adapter, const char *prefix, const char *balance, const char *loss_name)
{
    enum { MOST_LAYERS = 64 };
    BalanceValues one = {0}, *b = &one, layers[MOST_LAYERS];
    StepConfig config = {.adamw = fixture_adamw, .balance = balance ? layers : NULL};
    Step *step;
    Batch batch;
    StepResult result;
    StepProbe probe = {c, see};
    double reference;
    if (balance) {
        const struct {
            const char *name;
            double *at;
        } all[] = {{"seq_aux_loss", &b->seq_aux_loss},
                   {"aux_loss", &b->aux_loss},
                   {"load_balancing_loss", &b->load_balancing_loss},
                   {"z_loss", &b->z_loss}};
        for (size_t i = 0; i < 4; i++)
            if (strcmp(all[i].name, balance) == 0) *all[i].at = 1;
    }
    for (size_t l = 0; l < MOST_LAYERS; l++) layers[l] = one;
    c->prefix = prefix;
    TRY(step_new(&step, &c->dp, c->model, adapter, &config));
    Err *err = batch_of(c, &batch);
    if (!err && balance) /* the loss of the tokens does not take part */
        for (size_t i = 0; i < batch.T; i++) batch.targets[i] = -1;
    if (!err) err = step_gradients(step, &batch, 0, &probe, &result);
    if (!err) err = json_get_number(c->facts, loss_name, &reference);
    if (!err) {
        double value = !balance               ? result.loss
                       : b->seq_aux_loss != 0 ? result.balance.seq_aux_loss
                       : b->aux_loss != 0     ? result.balance.aux_loss
                       : b->z_loss != 0       ? result.balance.z_loss
                                              : result.balance.load_balancing_loss;
        compare_scalar(c, loss_name, value, reference);
        err = compare_gradients(c, step, adapter);
    }
    batch_free(&batch);
    step_free(step);
    return err;
}

static Err *router_adapter(Case *c, Adapter **adapter)
{
    return adapter_new(adapter, c->model, &(LoraConfig){.r = 1, .train_router = true}, 0);
}

/* Twenty updates as reference.json's `curve` says. */
static Err *run_curve(Case *c, const char *folder)
{
    const Json *curve = json_find(c->facts, "curve"), *losses, *rates;
    Adapter *adapter;
    Step *step = NULL;
    Document docs[4];
    if (!curve) return NULL;
    TRY(json_get_array(curve, "loss", &losses));
    TRY(json_get_array(curve, "lr", &rates));
    TRY(adapter_open(&adapter, c->model, folder));
    for (size_t l = 0; l < adapter->n_layers; l++)
        for (size_t i = 0; i < adapter->layers[l].n_lora; i++) {
            Param *B = adapter->layers[l].loras[i].B;
            memset(B->data, 0, param_count(B) * sizeof(float));
        }
    for (size_t d = 0; d < 4; d++) {
        char name[32];
        snprintf(name, sizeof name, "curve.doc.%zu", d);
        const TensorView *view = safetensors_find(&c->reference, name);
        docs[d] = (Document){.n = view->shape[0], .n_loss_tokens = view->shape[0] - 1};
        TRY(mem_new(&docs[d].ids, docs[d].n, sizeof(int32_t)));
        TRY(mem_new(&docs[d].targets, docs[d].n, sizeof(int32_t)));
        for (size_t i = 0; i < docs[d].n; i++) {
            int64_t id;
            memcpy(&id, (const char *)view->data + 8 * i, 8);
            docs[d].ids[i] = (int32_t)id;
            docs[d].targets[i] = -1;
            if (i) docs[d].targets[i - 1] = (int32_t)id;
        }
    }
    Err *err = step_new(&step, &c->dp, c->model, adapter,
                        &(StepConfig){.adamw = fixture_adamw, .max_grad_norm = 1, .keep_layers = 1});
    const Json *loss = json_first(losses), *rate = json_first(rates);
    for (size_t s = 0; loss && !err; s++, loss = json_next(loss), rate = json_next(rate)) {
        const Document *two[] = {&docs[2 * s % 4], &docs[(2 * s + 1) % 4]};
        Batch batch;
        StepResult result;
        err = batch_new(&batch, &c->dp, 2, two, 1, 0); /* a micro-batch each */
        if (!err) err = step_gradients(step, &batch, s, NULL, &result);
        if (!err) compare_scalar(c, "curve.loss", result.loss, json_number(loss));
        if (!err)
            err = step_update(step, s + 1, &(StepRates){json_number(rate), json_number(rate), json_number(rate)},
                              &result);
        batch_free(&batch);
    }
    LoraModule *pairs;
    size_t n = 0;
    if (!err) err = adapter_modules(adapter, &pairs, &n);
    for (size_t i = 0; i < n && !err; i++) {
        char name[256];
        snprintf(name, sizeof name, "curve.final.%s.lora_A.weight", pairs[i].module);
        compare_rows(c, name, 0, pairs[i].r, pairs[i].in, pairs[i].A);
        snprintf(name, sizeof name, "curve.final.%s.lora_B.weight", pairs[i].module);
        compare_rows(c, name, 0, pairs[i].out, pairs[i].r, pairs[i].B);
    }
    if (!err) lora_modules_free(pairs, n);
    for (size_t d = 0; d < 4; d++) {
        free(docs[d].ids);
        free(docs[d].targets);
    }
    step_free(step);
    adapter_free(adapter);
    return err;
}

/* Greedy text, with the cache and without. */
static Err *run_greedy(Case *c)
{
    enum { PROMPT = 12 };
    const TensorView *view = safetensors_find(&c->reference, "greedy");
    if (!view) return NULL;
    size_t n = view->shape[0];
    int32_t tokens[256];
    int64_t wide[256];
    for (size_t i = 0; i < PROMPT; i++) {
        memcpy(&wide[i], (const char *)view->data + 8 * i, 8);
        tokens[i] = (int32_t)wide[i];
    }
    for (int cached = 0; cached < 2; cached++) {
        Generation g = {.prompt = tokens, .n_prompt = PROMPT, .max_new_tokens = n - PROMPT, .no_cache = !cached};
        int32_t *made = NULL;
        size_t n_made;
        TRY(generate(c->model, NULL, &g, &made, &n_made));
        for (size_t i = 0; i < n_made; i++) wide[PROMPT + i] = made[i];
        free(made);
        compare_ids(c, "greedy", 0, n, wide);
    }
    return NULL;
}

static Err *open_case(Case *c, const char *folder)
{
    char path[PATH_BYTES];
    c->folder = folder;
    c->prefix = "";
    c->dp = (Dp){.size = 1};
    TRY(file_join(path, folder, "reference.json"));
    TRY(json_read_file(&c->facts, path));
    TRY(file_join(path, folder, "reference.safetensors"));
    TRY(safetensors_open(&c->reference, path));
    TRY(model_open(&c->model, folder));
    const TensorView *ids = safetensors_find(&c->reference, "input_ids"),
                     *labels = safetensors_find(&c->reference, "labels");
    c->n_docs = ids->shape[0];
    c->T = ids->shape[1];
    TRY(mem_new(&c->docs, c->n_docs, sizeof *c->docs));
    for (size_t d = 0; d < c->n_docs; d++) {
        Document *doc = &c->docs[d];
        doc->n = c->T;
        TRY(mem_new(&doc->ids, c->T, sizeof(int32_t)));
        TRY(mem_new(&doc->targets, c->T, sizeof(int32_t)));
        for (size_t t = 0; t < c->T; t++) {
            int64_t id, label = -100;
            memcpy(&id, (const char *)ids->data + 8 * (d * c->T + t), 8);
            if (t + 1 < c->T) memcpy(&label, (const char *)labels->data + 8 * (d * c->T + t + 1), 8);
            doc->ids[t] = (int32_t)id;
            doc->targets[t] = label == -100 ? -1 : (int32_t)label;
            doc->n_loss_tokens += label != -100;
        }
    }
    return NULL;
}

static Err *run_case(Case *c, const char *folder)
{
    char path[PATH_BYTES];
    Adapter *adapter;
    static const char *const balances[] = {"seq_aux_loss", "aux_loss", "load_balancing_loss", "z_loss"};
    TRY(open_case(c, folder));
    TRY(router_adapter(c, &adapter));
    Err *err = run_once(c, adapter, "", NULL, "loss");
    for (size_t i = 0; i < 4 && !err; i++) {
        char prefix[40];
        snprintf(prefix, sizeof prefix, "%s.", balances[i]);
        if (json_find(c->facts, balances[i])) err = run_once(c, adapter, prefix, balances[i], balances[i]);
    }
    adapter_free(adapter);
    c->prefix = "";
    if (!err) err = compare_logits(c, NULL);
    if (err) return err;
    TRY(file_join(path, folder, "adapter"));
    TRY(adapter_open(&adapter, c->model, path));
    size_t before = c->differing;
    err = run_once(c, adapter, "adapter.", NULL, "adapter.loss");
    if (!err) err = compare_logits(c, adapter);
    c->flipped = c->differing - before;
    adapter_free(adapter);
    if (!err && !c->bf16) err = run_curve(c, path);
    if (!err && !c->bf16) err = run_greedy(c);
    return err;
}

static void close_case(Case *c)
{
    for (size_t d = 0; d < c->n_docs && c->docs; d++) {
        free(c->docs[d].ids);
        free(c->docs[d].targets);
    }
    free(c->docs);
    model_close(c->model);
    safetensors_close(&c->reference);
    json_free(c->facts);
}

int main(int argc, char **argv)
{
    size_t passed = 0, failed = 0;
    bool chosen = argc > 2 && !strcmp(argv[1], "--compute");
    if (argc < 2 || (chosen && argc < 4)) {
        fprintf(stderr, "usage: fidelity [--compute NAME] DIR...\n");
        return 2;
    }
    if (!dispatch_init(chosen ? argv[2] : "fp32")) {
        printf("fidelity: skipped, this CPU has no %s\n", argv[2]);
        return 0;
    }
    for (int i = chosen ? 3 : 1; i < argc; i++) {
        Case *c = calloc(1, sizeof *c);
        if (c) c->bf16 = strncmp(dispatch_path(), "bf16/", 5) == 0;
        printf("%s  (%s)\n", argv[i], dispatch_path());
        Err *err = c ? run_case(c, argv[i]) : err_new(ERR_MEMORY, "out of memory");
        if (err)
            printf("  FAIL: %s\n", err_message(err));
        else
            (c->bf16 ? report_bf16 : report)(c);
        bool good = !err && c->bad == 0 && (c->bf16 || c->differing == 0) && c->n_seen > 0;
        passed += good;
        failed += !good;
        err_free(err);
        if (c) close_case(c);
        free(c);
    }
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed != 0;
}
