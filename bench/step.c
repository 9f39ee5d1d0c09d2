/* The speed of a training step: documents of random tokens, LoRA of rank 8, AdamW; under a memory limit its plan, too.
 *
 *     build/bench/make_model S build/bench/S
 *     build/bench/step build/bench/S --targets attn+experts --profile
 *
 * The first steps warm up and are not counted. The machine's peak, fp32 or bf16 as the path, is measured before every
 * step, since neighbours and clocks move it; "frozen work" counts each frozen product twice, forward and for the gradient
 * of its input, however often the step really computes it, so that recomputation shows as a lower share.
 * Tokens are those of a stream: number i is splitmix64((seed << 40) + (i + 1) 0x9E3779B97F4A7C15) mod the vocabulary. */
#include "base/bytes.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/rng.h"
#include "base/peak.h"
#include "tensor/matmul.h"
#include "model/stream.h"
#include "train/plan.h"
#include "train/step.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t tokens, document, group_tokens, steps, warm_up, r, keep_layers, threads, seed;
    char *targets, *path, *memory_limit, *scratch_dir;
    bool lean, profile, help;
} Settings;

static const Option options[] = {
    {"targets", OPT_TEXT, offsetof(Settings, targets), .preset = "attn+experts", .choices = "attn attn+16 attn+shared attn+experts",
     .help = "attention's projections; and 16 experts of each layer, the shared expert, or that and all routed experts"},
    {"tokens", OPT_INT, offsetof(Settings, tokens), .preset = "512", .min = 2, .max = 1e6, .help = "of a step"},
    {"document", OPT_INT, offsetof(Settings, document), .preset = "0", .min = 0, .max = 1e6, .help = "tokens of each document; 0: one document"},
    {"group_tokens", OPT_INT, offsetof(Settings, group_tokens), .preset = "8192", .min = 0, .max = 1e9, .help = "as in training, under a memory limit"},
    {"steps", OPT_INT, offsetof(Settings, steps), .preset = "7", .min = 1, .max = 1e6, .help = "that are counted"},
    {"warm_up", OPT_INT, offsetof(Settings, warm_up), .preset = "2", .min = 0, .max = 1e6, .help = "steps before them"},
    {"r", OPT_INT, offsetof(Settings, r), .preset = "8", .min = 1, .max = 1024, .help = "LoRA's rank"},
    {"keep_layers", OPT_INT, offsetof(Settings, keep_layers), .preset = "1000", .min = 0, .max = 1000, .help = "topmost layers that are not computed again"},
    {"lean", OPT_FLAG, offsetof(Settings, lean), .help = "experts compute gate and up again on the way back"},
    {"threads", OPT_INT, offsetof(Settings, threads), .preset = "0", .min = 0, .max = 1024, .help = "0: as OpenMP chooses"},
    {"path", OPT_TEXT, offsetof(Settings, path), .preset = "auto", .choices = MATMUL_CHOICES, .help = "of computation"},
    {"memory_limit", OPT_TEXT, offsetof(Settings, memory_limit), .help = "as in training; none: all weights lie in the mapping"},
    {"scratch_dir", OPT_TEXT, offsetof(Settings, scratch_dir), .preset = ".", .help = "for boundaries under a memory limit"},
    {"seed", OPT_INT, offsetof(Settings, seed), .preset = "1", .min = 0, .max = 1e6, .help = "of tokens and adapter"},
    {"profile", OPT_FLAG, offsetof(Settings, profile), .help = "print where the time goes"},
    {"help", OPT_FLAG, offsetof(Settings, help), .help = "this list"},
    {0}};

typedef struct {
    const Settings *settings;
    Model *model;
    Adapter *adapter;
    Dp dp;
    Step *step;
    Plan plan; /* under a memory limit */
    bool planned; /* its times, too */
    Profile profile;
    double *seconds, *cpu, *peak; /* [steps] */
    double loss;
} Bench;

/* ---- what is trained ------------------------------------------------------------------------------------------ */

/* The first n experts of every sparse layer, as ESFT lists them. */
static Json *some_experts(const Model *model, size_t n)
{
    Json *layers = json_new_object();
    for (size_t l = 0; l < model->n_layers; l++) {
        char key[24];
        if (model->layers[l].dense) continue;
        Json *ids = json_new_array();
        for (size_t e = 0; e < n && e < model->router.E; e++) json_add_number(ids, NULL, (double)e);
        snprintf(key, sizeof key, "%zu", l);
        json_add(layers, key, ids);
    }
    return layers;
}

static Err *make_adapter(Bench *b)
{
    static const char *const attention[] = {"q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"};
    static const char *const shared[] = {"shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj"};
    const char *targets = b->settings->targets;
    bool no_low_rank = b->model->config.q_lora_rank == 0;
    Json *names = json_new_array(), *experts = json_new_object();
    for (size_t i = 0; i < 6; i++)
        if (i > 2 || (i == 0) == no_low_rank) json_add_string(names, NULL, attention[i]);
    for (size_t i = 0; i < 3 && strcmp(targets, "attn") != 0 && strcmp(targets, "attn+16") != 0; i++) json_add_string(names, NULL, shared[i]);
    if (strcmp(targets, "attn+16") == 0) json_add(experts, "experts", some_experts(b->model, 16));
    else json_add_string(experts, "experts", strcmp(targets, "attn+experts") == 0 ? "all" : "none");
    LoraConfig lora = {.r = b->settings->r, .lora_alpha = 2 * (double)b->settings->r, .target_modules = names,
                       .experts = json_find(experts, "experts")};
    Err *err = adapter_new(&b->adapter, b->model, &lora, (uint64_t)b->settings->seed);
    json_free(names);
    json_free(experts);
    return err;
}

static size_t micro_tokens(const Bench *b)
{
    enum { MICRO = 1024 }; /* training's default */
    return b->settings->document ? MICRO : (size_t)b->settings->tokens;
}

/* Documents of one length share the tokens of `doc`. */
static Err *make_batch(Bench *b, size_t number, Document *doc, Batch *batch)
{
    size_t length = b->settings->document ? (size_t)b->settings->document : doc->n, n = doc->n / length;
    Document *docs;
    const Document **list;
    uint64_t vocabulary = (uint64_t)b->model->config.vocab_size, from = (uint64_t)b->settings->seed << 40;
    for (size_t i = 0; i < doc->n; i++) {
        doc->ids[i] = (int32_t)(rng_mix(from + (number * doc->n + i + 1) * 0x9E3779B97F4A7C15u) % vocabulary);
        doc->targets[i] = -1;
        if (i > 0) doc->targets[i - 1] = doc->ids[i];
    }
    TRY(mem_new(&docs, n, sizeof *docs));
    Err *err = mem_new(&list, n, sizeof *list);
    for (size_t d = 0; d < n && !err; d++) {
        docs[d] = (Document){.n = length, .n_scored = length - 1, .ids = doc->ids + d * length, .targets = doc->targets + d * length};
        docs[d].targets[length - 1] = -1;
        list[d] = &docs[d];
    }
    if (!err) err = batch_new(batch, &b->dp, n, list, micro_tokens(b), b->plan.budget.group_tokens);
    free(docs);
    free(list);
    return err;
}

/* ---- what it costs -------------------------------------------------------------------------------------------- */

static double products(size_t n, const Weight *const weights[])
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += 2 * (double)weights[i]->rows * (double)weights[i]->cols;
    return sum;
}

/* FLOP of a token in frozen products, forward and input gradient; the indexer has no gradient. */
static double frozen_work(const Model *model)
{
    double both = products(1, (const Weight *[]){&model->lm_head}), once = 0;
    for (size_t l = 0; l < model->n_layers; l++) {
        const Layer *layer = &model->layers[l];
        both += products(6, (const Weight *[]){&layer->q_proj, &layer->q_down, &layer->q_up, &layer->kv_down, &layer->kv_up, &layer->o_proj});
        both += products(3, (const Weight *[]){&layer->gate, &layer->up, &layer->down});
        once += products(3, (const Weight *[]){&layer->index_q, &layer->index_k, &layer->index_heads});
        if (layer->dense) continue;
        const Weight *e = layer->expert_weights;
        both += products(1, (const Weight *[]){&layer->router}) + (double)model->router.K * products(3, (const Weight *[]){&e[0], &e[1], &e[2]});
    }
    return 2 * both + once;
}

/* A line of /proc/self/status in bytes; 0 where there is none. */
static double status_bytes(const char *name)
{
    char line[256];
    double kib = 0;
    FILE *stream = fopen("/proc/self/status", "re");
    while (stream && fgets(line, sizeof line, stream))
        if (strncmp(line, name, strlen(name)) == 0) kib = strtod(line + strlen(name) + 1, NULL);
    if (stream) fclose(stream);
    return kib * 1024;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Err *report(Bench *b)
{
    size_t n = (size_t)b->settings->steps;
    unsigned char sum[DIGEST_SUM_BYTES];
    char adapter[17], *text;
    Digest digest;
    digest_init(&digest);
    digest_add(&digest, b->adapter->values, b->adapter->n * sizeof *b->adapter->values);
    digest_end(&digest, sum);
    digest_hex(sum, 8, adapter);
    qsort(b->seconds, n, sizeof *b->seconds, by_value);
    qsort(b->cpu, n, sizeof *b->cpu, by_value);
    qsort(b->peak, n, sizeof *b->peak, by_value);
    double step = b->seconds[n / 2], cpu = 1e3 * b->cpu[n / 2] / (double)b->settings->tokens, rate = (double)b->settings->tokens / step, work = frozen_work(b->model), peak = 2 * b->peak[n / 2];
    Json *json = json_new_object();
    json_add_string(json, "targets", b->settings->targets);
    json_add_string(json, "path", matmul_path());
    json_add_number(json, "threads", omp_get_max_threads());
    json_add_number(json, "tokens", (double)b->settings->tokens);
    json_add_number(json, "trained", (double)b->adapter->n);
    json_add_number(json, "tokens_per_s", rate);
    json_add_number(json, "step_s", step);
    json_add_number(json, "step_s_min", b->seconds[0]);
    json_add_number(json, "step_s_max", b->seconds[n - 1]);
    json_add_number(json, "cpu_ms_per_token", cpu);
    json_add_number(json, "peak_rss_bytes", (double)log_peak_bytes());
    json_add_number(json, "anonymous_bytes", status_bytes("RssAnon:"));
    json_add_number(json, "frozen_flop_per_token", work);
    json_add_number(json, "peak_flops", peak);
    json_add_number(json, "share_of_peak", work * rate / peak);
    json_add_number(json, "loss", b->loss);
    json_add_string(json, "adapter", adapter);
    Err *err = json_print(json, false, &text);
    json_free(json);
    if (err) return err;
    printf("%s\n%-13s %7.1f tokens/s   step %.3f s (%.3f to %.3f)   CPU %.2f ms a token   RSS %.0f MB, anonymous %.0f MB   %s, %d threads   frozen work %.3f GFLOP a token:"
           " %.0f%% of the peak, %.0f GFLOP/s   adapter %s\n", text, b->settings->targets, rate, step, b->seconds[0], b->seconds[n - 1], cpu,
           (double)log_peak_bytes() / 1e6, status_bytes("RssAnon:") / 1e6, matmul_path(), omp_get_max_threads(), work / 1e9,
           100 * work * rate / peak, peak / 1e9, adapter);
    free(text);
    if (b->model->stream) {
        StreamStats stats = stream_stats(b->model->stream);
        const Budget *p = &b->plan.budget;
        size_t once = stats.plan.fixed_bytes + stats.plan.cores.resident_bytes + stats.plan.runs.resident_bytes;
        printf("planned: %s of memory, %s read a step in groups of %zu", BYTES(p->total), BYTES(p->read_bytes), p->group_tokens);
        if (b->planned) printf(", %.3g s a step (arithmetic %.3g s, disk %.3g s)", b->plan.step_seconds, b->plan.seconds[BOUND_ARITHMETIC], b->plan.seconds[BOUND_DISK]);
        printf("\ntapes: planned %s, held %s\nread: %s a step, boundaries %s\n", BYTES(p->tapes), BYTES(step_tape_bytes(b->step)), BYTES((double)(stats.read_bytes - once) / (double)(n + (size_t)b->settings->warm_up)), p->spilled ? "in a file" : "in memory");
        printf("streamed: %s; %s read in all (%s), waited %.2f s\n", stream_describe((char[STREAM_TEXT_BYTES]){0}, &stats.plan), BYTES(stats.read_bytes), stats.direct ? "directly" : "through the page cache", stats.waited_seconds);
    }
    if (b->settings->profile) profile_print(&b->profile, n);
    return NULL;
}

/* ---- the run -------------------------------------------------------------------------------------------------- */

static Err *one_step(Bench *b, size_t number, Document *doc)
{
    size_t warm_up = (size_t)b->settings->warm_up;
    Batch batch;
    StepResult result;
    TRY(make_batch(b, number, doc, &batch));
    if (number == warm_up) b->profile = (Profile){0};
    double peak = peak_of_team(matmul_is_bf16(), 1000000), start = log_seconds(), cpu = log_cpu_seconds();
    Err *err = step_gradients(b->step, &batch, number, NULL, &result);
    if (!err) err = step_update(b->step, number + 1, &(StepRates){1e-4, 1e-4, 1e-4}, &result);
    if (number >= warm_up) {
        b->seconds[number - warm_up] = log_seconds() - start;
        b->cpu[number - warm_up] = log_cpu_seconds() - cpu;
        b->peak[number - warm_up] = peak;
    }
    b->loss = result.loss;
    batch_free(&batch);
    return err;
}

static Err *steps(Bench *b)
{
    size_t n = (size_t)b->settings->steps;
    Document doc = {.n = (size_t)b->settings->tokens, .n_scored = (size_t)b->settings->tokens - 1};
    TRY(mem_new(&b->seconds, n, sizeof *b->seconds));
    TRY(mem_new(&b->cpu, n, sizeof *b->cpu));
    TRY(mem_new(&b->peak, n, sizeof *b->peak));
    TRY(mem_new(&doc.ids, doc.n, sizeof *doc.ids));
    Err *err = mem_new(&doc.targets, doc.n, sizeof *doc.targets);
    for (size_t i = 0; i < n + (size_t)b->settings->warm_up && !err; i++) err = one_step(b, i, &doc);
    free(doc.ids);
    free(doc.targets);
    return err ? err : report(b);
}

/* As training fits a run into its limit. */
static Err *fit(Bench *b)
{
    const Settings *s = b->settings;
    size_t limit, tokens = (size_t)s->tokens;
    Machine machine;
    Work work = {.ranks = 1, .local_ranks = 1, .threads = (size_t)omp_get_max_threads(), .step_tokens = tokens, .longest = s->document ? (size_t)s->document : tokens,
                 .micro_batch_tokens = micro_tokens(b), .group_tokens = (size_t)s->group_tokens, .keep_layers = (size_t)s->keep_layers, .data_bytes = 8 * tokens, .may_spill = true};
    TRY(budget_limit(&limit, s->memory_limit));
    TRY(budget_make(&b->plan.budget, b->model, b->adapter, &work, limit));
    TRY(machine_load(&machine, &b->planned));
    if (b->planned) plan_times(&b->plan, b->model, b->adapter, &work, &machine, matmul_is_bf16(), 1, 0);
    return b->plan.budget.streamed ? stream_open(b->model, b->plan.budget.weights.limit_bytes, b->plan.budget.weights.part_bytes, NULL) : NULL;
}

static Err *measure(Bench *b, const char *directory)
{
    const Settings *s = b->settings;
    if (s->threads) omp_set_num_threads((int)s->threads);
    if (!matmul_init(s->path)) return err_new(ERR_USAGE, "this CPU has no %s", s->path);
    b->dp = (Dp){.size = 1};
    TRY(model_open(&b->model, directory));
    TRY(make_adapter(b));
    if (s->memory_limit) TRY(fit(b));
    StepConfig config = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8}, .max_grad_norm = 1, .seed = (uint64_t)s->seed,
                         .keep_layers = (size_t)s->keep_layers, .lean = s->lean, .scratch_dir = b->plan.budget.spilled ? s->scratch_dir : NULL, .profile = s->profile ? &b->profile : NULL};
    TRY(step_new(&b->step, &b->dp, b->model, b->adapter, &config));
    return steps(b);
}

static Err *run(int argc, char **argv)
{
    Settings settings = {0};
    Bench bench = {.settings = &settings};
    const char *directory;
    size_t n_words;
    TRY(options_defaults(&settings, options));
    TRY(options_arguments(&settings, options, argc, argv, &directory, 1, &n_words));
    Err *err = NULL;
    if (settings.help) {
        printf("step DIR [options]\n");
        options_help(stdout, options);
    } else {
        err = n_words ? measure(&bench, directory) : err_new(ERR_USAGE, "which model? step DIR");
    }
    step_free(bench.step);
    if (bench.adapter) adapter_free(bench.adapter);
    if (bench.model) model_close(bench.model);
    free(bench.seconds);
    free(bench.cpu);
    free(bench.peak);
    options_free(&settings, options);
    return err;
}

int main(int argc, char **argv)
{
    matmul_prepare(argv);
    return err_report("step", run(argc - 1, argv + 1));
}
