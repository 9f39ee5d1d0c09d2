/* The lines that a run prints before its first step: what is trained, on which data, how, and what is switched off.
 * Every line has a label of nine characters. */
#include "base/log.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "train/balance.h"
#include "train/run.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

static void count_experts(const Run *run, size_t *experts, size_t *layers)
{
    *experts = *layers = 0;
    for (size_t l = 0; l < run->adapter->n_layers; l++) {
        size_t here = 0;
        for (size_t e = 0; run->adapter->layers[l].experts && e < run->model->router.E; e++)
            here += run->adapter->layers[l].experts[e].lora_gate_up || run->adapter->layers[l].experts[e].lora_down;
        *experts += here;
        *layers += here != 0;
    }
}

static void describe_modules(const Run *run)
{
    static const char *const names[LORA_PLACES] = {"q_proj",         "q_a_proj",    "q_b_proj",    "kv_a_proj_with_mqa",
                                                   "kv_b_proj",      "o_proj",      "mlp.gate|up", "mlp.down",
                                                   "shared.gate|up", "shared.down", "router"};
    char line[512] = "";
    size_t experts, layers, routers = 0, with_lora = 0;
    for (size_t i = 0; i < LORA_PLACES; i++) {
        size_t n = 0;
        for (size_t l = 0; l < run->adapter->n_layers; l++) n += run->adapter->layers[l].places[i] != NULL;
        if (n) snprintf(line + strlen(line), sizeof line - strlen(line), "%s%s (%zu)", *line ? ", " : "", names[i], n);
    }
    if (*line) log_line("  LoRA      %s", line);
    count_experts(run, &experts, &layers);
    if (experts) log_line("  experts   %zu in %zu layers; gate and up share one A", experts, layers);
    for (size_t l = 0; l < run->adapter->n_layers; l++) {
        routers += run->adapter->layers[l].router != NULL;
        with_lora += run->adapter->layers[l].places[LORA_ROUTER] != NULL;
    }
    log_line("  router    %s", routers     ? "trained in full"
                               : with_lora ? "trained with LoRA"
                                           : "frozen; so are norms, indexer, embedding and head");
}

static void add_word(char line[512], const char *word)
{
    snprintf(line + strlen(line), 512 - strlen(line), "%s%s", *line ? ", " : "", word);
}

/* Parts of training that a reader may expect, and that are off. */
static void describe_off(const Run *run)
{
    const Settings *s = &run->settings;
    const struct {
        const char *name;
        bool on;
    } parts[] = {
        {"dropout", s->lora_dropout > 0},         {"weight decay", s->weight_decay > 0},
        {"clipping", s->max_grad_norm > 0},       {"LoRA+", s->loraplus_lr_ratio != 1},
        {"balance losses", run->balance != NULL}, {"router bias update", s->router_bias_update_rate > 0},
        {"evaluation", s->eval_file.count > 0},   {"early stopping", s->early_stopping_patience > 0},
        {"TensorBoard", s->tensorboard},          {"guard", s->guard},
    };
    char line[512] = "";
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!parts[i].on) add_word(line, parts[i].name);
    if (*line) log_line("  off       %s", line);
}

static void describe_balance(const Run *run)
{
    const Settings *s = &run->settings;
    const struct {
        const char *name;
        bool on;
    } losses[] = {
        {"seq_aux_loss", balance_is_on(s->seq_aux_loss_coef)},    {"aux_loss", balance_is_on(s->aux_loss_coef)},
        {"load_balancing_loss", s->load_balancing_loss_coef > 0}, {"z_loss", balance_is_on(s->z_loss_coef)},
        {"router bias update", s->router_bias_update_rate > 0},
    };
    char line[512] = "";
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++)
        if (losses[i].on) add_word(line, losses[i].name);
    if (*line) log_line("  balance   %s", line);
}

static void describe_rates(const Run *run)
{
    const Settings *s = &run->settings;
    char B[64] = "", router[64] = "";
    if (s->loraplus_lr_ratio != 1) snprintf(B, sizeof B, ", B at %g", s->learning_rate * s->loraplus_lr_ratio);
    if (s->router_learning_rate > 0) snprintf(router, sizeof router, ", router at %g", s->router_learning_rate);
    log_line("  steps     %llu of %lld documents each, %llu warm-up, %s from %g%s%s", (unsigned long long)run->total,
             (long long)s->train_batch_size, (unsigned long long)run->schedule.warmup_steps, s->lr_scheduler_type,
             s->learning_rate, B, router);
}

static void describe_totals(const char *who, const DatasetTotals *t, int64_t max_length)
{
    log_line("  %-9s %zu documents, %zu tokens, %zu in the loss, longest %zu", who, t->documents, t->tokens,
             t->n_loss_tokens, t->longest);
    if (t->truncated)
        log_line("            %zu documents were cut to max_length %lld", t->truncated, (long long)max_length);
    if (t->dropped)
        log_line("            %zu records are longer than max_length %lld and were dropped", t->dropped,
                 (long long)max_length);
}

static void describe_data(const Run *run)
{
    const Dataset *ds = run->train;
    int64_t max_length = run->settings.data.max_length;
    for (size_t i = 0; i < dataset_n_files(ds); i++) {
        const DataFile *file = dataset_file(ds, i);
        size_t n = dataset_file_first(ds, i + 1) - dataset_file_first(ds, i);
        if (file->weight == 1)
            log_line("  %-9s %s: %zu documents", i ? "" : "data", file->path, n);
        else
            log_line("  %-9s %s: %zu documents, weight %g", i ? "" : "data", file->path, n, file->weight);
    }
    if (!dataset_is_preloaded(ds)) {
        log_line("            larger than preload_mb %lld: records are read when a step needs them",
                 (long long)run->settings.preload_mb);
        return;
    }
    DatasetTotals t = dataset_totals(ds);
    describe_totals("", &t, max_length);
    for (size_t d = 0; d < dataset_n_domains(ds) && dataset_n_domains(ds) > 1; d++) {
        t = dataset_domain_totals(ds, d);
        if (t.documents)
            log_line("            domain %s: %zu documents, %zu tokens, %zu in the loss",
                     d ? dataset_domain(ds, d) : "(none)", t.documents, t.tokens, t.n_loss_tokens);
    }
}

void run_describe_read(const Run *run)
{
    DatasetTotals t = loader_totals(run->loader);
    if (t.documents) describe_totals("read", &t, run->settings.data.max_length);
}

void run_describe(const Run *run)
{
    const Settings *s = &run->settings;
    log_line("graft train: %s, %s", s->model_name_or_path, family_name(run->model->config.family));
    if (s->init_adapter) log_line("  start     from the adapter %s", s->init_adapter);
    log_line("  trained   %zu parameters, layers %zu to %zu", run->adapter->n, adapter_lowest_layer(run->adapter),
             run->model->n_layers - 1);
    describe_modules(run);
    describe_data(run);
    for (size_t i = 0; i < s->eval_file.count; i++)
        log_line("  evaluate  %s: %zu documents", s->eval_file.items[i], dataset_count(run->evals[i]));
    describe_rates(run);
    describe_balance(run);
    describe_off(run);
    log_line("  compute   %s, %d rank%s of %d thread%s", dispatch_path(), run->dp.size, run->dp.size == 1 ? "" : "s",
             omp_get_max_threads(), omp_get_max_threads() == 1 ? "" : "s");
    run_describe_memory(run);
    if (run->done) log_line("  resumed   after step %llu", (unsigned long long)run->done);
}
