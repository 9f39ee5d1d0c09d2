/* fidelity [--compute NAME] DIR...: how far graft is from transformers in float64, on folders of the format of
 * tests/fixtures/model.
 *
 * Every case runs a training step with the router's gradients, one for each balance loss of the fixture, one with the
 * adapter, twenty updates (`curve`) and greedy generation, and compares what they show. tests/support/figures.h says
 * what is compared, within which bounds, and that nothing may be left out. */
#include "base/json.h"
#include "base/memory.h"
#include "infer/adapter_io.h"
#include "infer/generate.h"
#include "model/forward.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "tensor/safetensors.h"
#include "tests/support/figures.h"
#include "train/step.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Figures figures;
    Model *model;
    Dp dp;
    size_t n_docs, T; /* documents of equal length */
    Document *docs;
    bool bf16;
    size_t n_flipped;    /* choices that differ with the adapter */
    const char *prefix;  /* "" or "adapter." or "z_loss." of the run at work */
    const char *balance; /* the balance loss that acts alone in it, or NULL */
} Case;

/* ---- what a step shows ---------------------------------------------------------------------------------------- */

static void see(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Case *c = context;
    char name[128], kind[32];
    /* Of a balance loss the fixture has gradients alone; on the last hidden state there is none. */
    if (c->balance && (strcmp(what, "grad.hidden") != 0 || l == c->model->n_layers)) return;
    if (strncmp(what, "router.", 7) == 0)
        snprintf(kind, sizeof kind, "router.%zu.%s", l, what + 7);
    else
        snprintf(kind, sizeof kind, "%s.%zu", what, l);
    snprintf(name, sizeof name, "%s%s", c->prefix, kind);
    if (strcmp(what, "router.experts") != 0) {
        figures_compare_rows(&c->figures, name, row, rows, cols, data);
        return;
    }
    const int32_t *ids = data;
    for (size_t i = 0; i < rows * cols; i++) {
        int64_t id = ids[i];
        figures_compare_choices(&c->figures, name, row * cols + i, 1, &id);
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
    LoraModule *modules;
    size_t n, bytes = adapter->n * sizeof *values;
    char name[256];
    TRY(mem_new(&values, adapter->n, sizeof *values));
    memcpy(values, adapter->values, bytes);
    for (size_t l = 0; l < adapter->n_layers; l++) /* for a moment the adapter's values are its gradients */
        memcpy(adapter->values + adapter->layers[l].offset, step_gradient(step, l),
               adapter->layers[l].n * sizeof *values);
    Err *err = adapter_modules(adapter, &modules, &n);
    for (size_t i = 0; i < n && !err; i++) {
        if (!modules[i].A)
            snprintf(name, sizeof name, "%sgrad.%s.weight", c->prefix, modules[i].module);
        else
            snprintf(name, sizeof name, "%sgrad.%s.lora_B.weight", c->prefix, modules[i].module);
        figures_compare_rows(&c->figures, name, 0, modules[i].out, modules[i].A ? modules[i].r : modules[i].in,
                             modules[i].B);
        if (!modules[i].A) continue;
        snprintf(name, sizeof name, "%sgrad.%s.lora_A.weight", c->prefix, modules[i].module);
        figures_compare_rows(&c->figures, name, 0, modules[i].r, modules[i].in, modules[i].A);
    }
    if (!err) lora_modules_free(modules);
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
                figures_compare_choices(&c->figures, name, (d * c->T + t) * width, width, row);
            }
    }
}

typedef struct {
    const Case *c;
    const Adapter *adapter;
    const BatchGroup *g;
    Tape tape;
    Choices choices;
    float *x;    /* [T][D] */
    size_t *row; /* [T] every row goes through the head */
} LogitsPass;

static Err *embed(void *context)
{
    LogitsPass *p = context;
    return group_embed(&p->tape, p->c->model, &p->g->group, p->g->ids, p->x);
}

static Err *forward_layer(void *context, size_t l)
{
    LogitsPass *p = context;
    return group_forward(&p->tape, p->c->model, l, p->adapter, &p->g->group, p->x,
                         &(LayerPass){.choices = &p->choices});
}

static Err *run_logits(Case *c, LogitsPass *p)
{
    size_t T = p->g->group.T;
    char name[64];
    TRY(mem_new(&p->x, T * (size_t)c->model->config.hidden_size, sizeof *p->x));
    TRY(mem_new(&p->row, T, sizeof *p->row));
    for (size_t t = 0; t < T; t++) p->row[t] = t;
    TRY(choices_new(&p->choices, c->model, &p->g->group));
    TRY(layers_forward(c->model, &(LayerLoop){.lowest = c->model->n_layers,
                                              .group_passes = 1,
                                              .embed = embed,
                                              .layer = forward_layer,
                                              .context = p}));
    tape_begin(&p->tape, &p->g->group, TAPE_OFF);
    Tensor *logits = model_logits(&p->tape, c->model, head_rows(&p->tape, c->model, T, p->row, p->x, false));
    TRY(tape_error(&p->tape));
    snprintf(name, sizeof name, "%slogits", c->prefix);
    figures_compare_rows(&c->figures, name, 0, T, (size_t)c->model->config.vocab_size, logits->data);
    compare_keys(c, &p->choices, &p->g->group);
    return NULL;
}

static Err *compare_logits(Case *c, const Adapter *adapter)
{
    Batch batch;
    TRY(batch_of(c, &batch));
    LogitsPass pass = {.c = c, .adapter = adapter, .g = &batch.groups[0]};
    Err *err = run_logits(c, &pass);
    tape_free(&pass.tape);
    choices_free(&pass.choices);
    free(pass.x);
    free(pass.row);
    batch_free(&batch);
    return err;
}

/* ---- the runs ------------------------------------------------------------------------------------------------- */

static const AdamW fixture_adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};

/* One batch's losses and gradients. coefficient: which balance loss acts alone, or NULL for the model's own loss. */
static Err *run_once(Case *c, Adapter *adapter, const char *prefix, const char *balance, const char *loss_name)
{
    enum { MAX_LAYERS = 64 };
    BalanceValues one = {0}, *b = &one, layers[MAX_LAYERS];
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
    for (size_t l = 0; l < MAX_LAYERS; l++) layers[l] = one;
    c->prefix = prefix;
    c->balance = balance;
    TRY(step_new(&step, &c->dp, c->model, adapter, &config));
    Err *err = batch_of(c, &batch);
    if (!err && balance) /* the loss of the tokens does not take part */
        for (size_t i = 0; i < batch.T; i++) batch.targets[i] = -1;
    if (!err) err = step_gradients(step, &batch, 0, &probe, &result);
    if (!err) err = json_get_number(c->figures.facts, loss_name, &reference);
    if (!err) {
        double value = !balance               ? result.loss
                       : b->seq_aux_loss != 0 ? result.balance.seq_aux_loss
                       : b->aux_loss != 0     ? result.balance.aux_loss
                       : b->z_loss != 0       ? result.balance.z_loss
                                              : result.balance.load_balancing_loss;
        figures_compare_scalar(&c->figures, loss_name, value, reference);
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
    const Json *curve = json_find(c->figures.facts, "curve"), *losses, *rates;
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
        const TensorView *view;
        TRY(figures_input(&c->figures, name, &view));
        docs[d] = (Document){.n = view->shape[0], .n_loss_tokens = view->shape[0] - 1};
        TRY(mem_new(&docs[d].ids, docs[d].n, sizeof(int32_t)));
        TRY(mem_new(&docs[d].targets, docs[d].n, sizeof(int32_t)));
        for (size_t i = 0; i < docs[d].n; i++) {
            int64_t id = figures_integer(view, i);
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
        if (!err) figures_compare_scalar(&c->figures, "curve.loss", result.loss, json_number(loss));
        if (!err)
            err = step_update(step, s + 1, &(StepRates){json_number(rate), json_number(rate), json_number(rate)},
                              &result);
        batch_free(&batch);
    }
    LoraModule *modules;
    size_t n = 0;
    if (!err) err = adapter_modules(adapter, &modules, &n);
    for (size_t i = 0; i < n && !err; i++) {
        char name[256];
        snprintf(name, sizeof name, "curve.final.%s.lora_A.weight", modules[i].module);
        figures_compare_rows(&c->figures, name, 0, modules[i].r, modules[i].in, modules[i].A);
        snprintf(name, sizeof name, "curve.final.%s.lora_B.weight", modules[i].module);
        figures_compare_rows(&c->figures, name, 0, modules[i].out, modules[i].r, modules[i].B);
    }
    if (!err) lora_modules_free(modules);
    for (size_t d = 0; d < 4; d++) {
        free(docs[d].ids);
        free(docs[d].targets);
    }
    step_free(step);
    adapter_free(adapter);
    return err;
}

/* Greedy tokens, with the cache and without. */
static Err *run_greedy(Case *c)
{
    enum { PROMPT = 12 };
    const TensorView *view;
    TRY(figures_input(&c->figures, "greedy", &view));
    size_t n = view->shape[0];
    int32_t tokens[256];
    int64_t wide[256];
    for (size_t i = 0; i < PROMPT; i++) {
        wide[i] = figures_integer(view, i);
        tokens[i] = (int32_t)wide[i];
    }
    for (int cached = 0; cached < 2; cached++) {
        Generation g = {.prompt = tokens, .n_prompt = PROMPT, .max_new_tokens = n - PROMPT, .no_cache = !cached};
        int32_t *made = NULL;
        size_t n_made;
        TRY(generate(c->model, NULL, &g, &made, &n_made));
        for (size_t i = 0; i < n_made; i++) wide[PROMPT + i] = made[i];
        free(made);
        figures_compare_choices(&c->figures, "greedy", 0, n, wide);
    }
    return NULL;
}

static Err *open_case(Case *c, const char *folder)
{
    const TensorView *ids, *labels;
    c->prefix = "";
    c->dp = (Dp){.size = 1};
    TRY(figures_open(&c->figures, folder));
    TRY(model_open(&c->model, folder));
    TRY(figures_input(&c->figures, "input_ids", &ids));
    TRY(figures_input(&c->figures, "labels", &labels));
    c->n_docs = ids->shape[0];
    c->T = ids->shape[1];
    TRY(mem_new(&c->docs, c->n_docs, sizeof *c->docs));
    for (size_t d = 0; d < c->n_docs; d++) {
        Document *doc = &c->docs[d];
        doc->n = c->T;
        TRY(mem_new(&doc->ids, c->T, sizeof(int32_t)));
        TRY(mem_new(&doc->targets, c->T, sizeof(int32_t)));
        for (size_t t = 0; t < c->T; t++) {
            int64_t id = figures_integer(ids, d * c->T + t),
                    label = t + 1 < c->T ? figures_integer(labels, d * c->T + t + 1) : -100;
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
        if (json_find(c->figures.facts, balances[i])) err = run_once(c, adapter, prefix, balances[i], balances[i]);
    }
    adapter_free(adapter);
    c->prefix = "";
    if (!err) err = compare_logits(c, NULL);
    if (err) return err;
    TRY(file_join(path, folder, "adapter"));
    TRY(adapter_open(&adapter, c->model, path));
    size_t before = c->figures.n_differing;
    err = run_once(c, adapter, "adapter.", NULL, "adapter.loss");
    if (!err) err = compare_logits(c, adapter);
    c->n_flipped = c->figures.n_differing - before;
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
    figures_close(&c->figures);
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
        if (err) printf("  FAIL: %s\n", err_message(err));
        bool good = !err && (c->bf16 ? figures_report_bf16(&c->figures, c->n_flipped) : figures_report(&c->figures));
        passed += good;
        failed += !good;
        err_free(err);
        if (c) close_case(c);
        free(c);
    }
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed != 0;
}
