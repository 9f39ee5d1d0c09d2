/* Opens a model, attaches LoRA, and trains steps on random tokens, as `graft train` does; then writes down times,
 * memory and what was read. With a memory limit the plan of training decides what is streamed, and its prediction goes
 * into the record.
 *
 * Time and memory before the first counted step (warm-up) are not counted, except in first_step_s. */
#define _GNU_SOURCE
#include "bench/steps.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/peak.h"
#include "base/proc_memory.h"
#include "base/rng.h"
#include "base/minmax.h"
#include "bench/neighbours.h"
#include "bench/report.h"
#include "bench/step_record.h"
#include "infer/adapter_io.h"
#include "model/stream.h"
#include "tensor/dispatch.h"
#include "plan/step_time.h"
#include "train/step.h"

#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ATTENTION_TOKENS = 512 };

/* Memory of this process, and its minor page faults so far. */
typedef struct {
    double anonymous_bytes, heap_bytes, faults;
} ProcessMemory;

typedef struct {
    const StepsConfig *config;
    const char *directory;
    Model *model;
    Adapter *adapter;
    Dp dp;
    Step *step;
    Plan plan; /* under a memory limit; with times if the machine is known */
    Timing *timing;
    Document doc;
    size_t n_all;                               /* steps, including the warm-up */
    StreamStats warm_up;                        /* reads before the first counted step */
    double *seconds, *cpu, *peak, *loss, *norm; /* [n_all] */
    double first_step, neighbours;
    ProcessMemory settled, counted, end; /* after the second step, before the first counted one, after the last */
} StepBench;

/* ---- adapter and batches --------------------------------------------------------------------------------------- */

static void add_names(Json *names, size_t n, const char *const *words)
{
    for (size_t i = 0; i < n; i++) json_add_string(names, NULL, words[i]);
}

/* The first n experts of every sparse layer, in the format of ESFT. */
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

static Err *attach_adapter(StepBench *b)
{
    static const char *const low_rank[] = {"q_a_proj", "q_b_proj"}, *const full_rank[] = {"q_proj"};
    static const char *const attention[] = {"kv_a_proj_with_mqa", "kv_b_proj", "o_proj"};
    static const char *const shared[] = {"shared_experts.gate_proj", "shared_experts.up_proj",
                                         "shared_experts.down_proj"};
    const StepsConfig *c = b->config;
    if (c->init_adapter) return adapter_open(&b->adapter, b->model, c->init_adapter);
    Json *names = json_new_array(), *experts = json_new_object();
    if (b->model->config.q_lora_rank)
        add_names(names, 2, low_rank);
    else
        add_names(names, 1, full_rank);
    add_names(names, 3, attention);
    bool some = strcmp(c->targets, "attn+16") == 0;
    if (!some && strcmp(c->targets, "attn") != 0) add_names(names, 3, shared);
    if (some)
        json_add(experts, "experts", some_experts(b->model, 16));
    else
        json_add_string(experts, "experts", strcmp(c->targets, "attn+experts") == 0 ? "all" : "none");
    LoraConfig lora = {.r = c->r,
                       .lora_alpha = 2 * (double)c->r,
                       .target_modules = names,
                       .experts = json_find(experts, "experts")};
    Err *err = adapter_new(&b->adapter, b->model, &lora, (uint64_t)c->seed);
    json_free(names);
    json_free(experts);
    return err;
}

static size_t document_tokens(const StepBench *b)
{
    return b->config->document ? (size_t)b->config->document : (size_t)b->config->tokens;
}

static size_t micro_batch_tokens(const StepBench *b)
{
    enum { MICRO_BATCH_TOKENS = 1024 }; /* the default of training */
    return b->config->document ? MICRO_BATCH_TOKENS : (size_t)b->config->tokens;
}

/* Cut the tokens of the step into documents of one length. */
static Err *cut_batch(StepBench *b, Batch *batch)
{
    size_t length = document_tokens(b), n = b->doc.n / length;
    Document *docs;
    const Document **list;
    TRY(mem_new(&docs, n, sizeof *docs));
    Err *err = mem_new(&list, n, sizeof *list);
    for (size_t d = 0; d < n && !err; d++) {
        docs[d] = (Document){.n = length,
                             .n_loss_tokens = length - 1,
                             .ids = b->doc.ids + d * length,
                             .targets = b->doc.targets + d * length};
        docs[d].targets[length - 1] = -1;
        list[d] = &docs[d];
    }
    if (!err) err = batch_new(batch, &b->dp, n, list, micro_batch_tokens(b), b->plan.budget.group_tokens);
    free(docs);
    free(list);
    return err;
}

static Err *make_batch(StepBench *b, size_t number, Batch *batch)
{
    uint64_t vocabulary = (uint64_t)b->model->config.vocab_size, from = (uint64_t)b->config->seed << 40;
    Document *doc = &b->doc;
    for (size_t i = 0; i < doc->n; i++) {
        doc->ids[i] = (int32_t)(rng_mix(from + (number * doc->n + i + 1) * 0x9E3779B97F4A7C15u) % vocabulary);
        doc->targets[i] = -1;
        if (i > 0) doc->targets[i - 1] = doc->ids[i];
    }
    return cut_batch(b, batch);
}

/* ---- meters --------------------------------------------------------------------------------------------------- */

/* Seconds since this process was started: field 22 of /proc/self/stat, in ticks since the machine's start. */
static double process_age(void)
{
    char text[1024] = "";
    double ticks = 0;
    struct timespec now;
    FILE *stream = fopen("/proc/self/stat", "re");
    if (!stream) return NAN;
    size_t n = fread(text, 1, sizeof text - 1, stream);
    fclose(stream);
    text[n] = 0;
    const char *at = strrchr(text, ')'); /* the name before it may contain any character */
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    if (at) ticks = strtod(at, NULL);
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - ticks / (double)sysconf(_SC_CLK_TCK);
}

static ProcessMemory memory_now(void)
{
    struct rusage usage;
    struct mallinfo2 heap = mallinfo2();
    getrusage(RUSAGE_SELF, &usage);
    return (ProcessMemory){(double)proc_memory_bytes("/proc/self/status", "RssAnon:"),
                           (double)(heap.uordblks + heap.hblkhd), (double)usage.ru_minflt};
}

/* ---- the steps ------------------------------------------------------------------------------------------------ */

static Err *one_step(StepBench *b, size_t number)
{
    Batch batch;
    StepResult result;
    TRY(make_batch(b, number, &batch));
    b->peak[number] = 2 * peak_of_team(dispatch_is_bf16(), PEAK_ROUNDS);
    double start = log_seconds(), cpu = log_cpu_seconds();
    Err *err = step_gradients(b->step, &batch, number, NULL, &result);
    if (!err) err = step_update(b->step, number + 1, &(StepRates){1e-4, 1e-4, 1e-4}, &result);
    b->seconds[number] = log_seconds() - start;
    b->cpu[number] = log_cpu_seconds() - cpu;
    b->loss[number] = result.loss;
    b->norm[number] = result.grad_norm;
    batch_free(&batch);
    return err;
}

static Err *all_steps(StepBench *b)
{
    size_t warm_up = (size_t)b->config->warm_up;
    Neighbours others = neighbours_begin();
    for (size_t i = 0; i < b->n_all; i++) {
        if (i == warm_up && b->timing) timing_clear(b->timing);
        if (i == warm_up) b->counted = memory_now();
        if (i == warm_up && i > 0 && b->model->stream) b->warm_up = stream_stats(b->model->stream);
        TRY(one_step(b, i));
        if (i == 0) b->first_step = process_age();
        if (i <= 1) b->settled = memory_now();
    }
    b->end = memory_now();
    b->neighbours = neighbours_end(&others);
    return NULL;
}

static Err *allocate_lists(StepBench *b)
{
    double **lists[] = {&b->seconds, &b->cpu, &b->peak, &b->loss, &b->norm};
    b->n_all = (size_t)(b->config->warm_up + b->config->steps);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) TRY(mem_new(lists[i], b->n_all, sizeof **lists[i]));
    b->doc = (Document){.n = (size_t)b->config->tokens, .n_loss_tokens = (size_t)b->config->tokens - 1};
    TRY(mem_new(&b->doc.ids, b->doc.n, sizeof *b->doc.ids));
    return mem_new(&b->doc.targets, b->doc.n, sizeof *b->doc.targets);
}

/* ---- the record ----------------------------------------------------------------------------------------------- */

static void add_list(Json *record, const char *key, size_t n, const double *x)
{
    Json *list = json_new_array();
    for (size_t i = 0; i < n; i++) json_add_number(list, NULL, x[i]);
    json_add(record, key, list);
}

static void add_memory(Json *record, const StepBench *b)
{
    json_add_number(record, "peak_rss_bytes", (double)proc_memory_peak());
    json_add_number(record, "anonymous_bytes", b->end.anonymous_bytes);
    json_add_number(record, "anonymous_growth_bytes", b->end.anonymous_bytes - b->settled.anonymous_bytes);
    json_add_number(record, "heap_growth_bytes", b->end.heap_bytes - b->settled.heap_bytes);
    json_add_number(record, "faults_per_step", (b->end.faults - b->counted.faults) / (double)b->config->steps);
    json_add_number(record, "tape_bytes", (double)step_tape_bytes(b->step));
    if (!b->model->stream) return;
    const Plan *p = &b->plan;
    StreamStats stats = stream_stats(b->model->stream);
    size_t once = stats.budget.fixed_bytes + stats.budget.cores.resident_bytes + stats.budget.chunks.resident_bytes,
           before = size_max(once, b->warm_up.read_bytes);
    double steps = (double)(b->warm_up.read_bytes
                                ? (size_t)b->config->steps
                                : b->n_all); /* the first step also fills buffers; it belongs to the warm-up */
    json_add_string(record, "parts", stream_budget_describe((char[STREAM_TEXT_BYTES]){0}, &stats.budget));
    json_add_number(record, "read_bytes", (double)(stats.read_bytes - before) / steps);
    json_add_number(record, "waited_s", (stats.waited_seconds - b->warm_up.waited_seconds) / steps);
    json_add_bool(record, "spilled", p->budget.spilled);
    json_add_number(record, "planned_group_tokens", (double)p->budget.group_tokens);
    json_add_number(record, "planned_bytes", (double)p->budget.total);
    json_add_number(record, "planned_tape_bytes", (double)p->budget.tapes);
    json_add_number(record, "planned_read_bytes", (double)p->budget.read_bytes);
    json_add_number(record, "planned_s", p->step_seconds);
    json_add_number(record, "planned_arithmetic_s", p->seconds[BOUND_ARITHMETIC]);
    json_add_number(record, "planned_disk_s", p->seconds[BOUND_DISK]);
}

/* "S" of "build/bench/S/". */
static void add_model_name(Json *record, const char *directory)
{
    char name[PATH_BYTES];
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && directory[begin - 1] != '/') begin--;
    snprintf(name, sizeof name, "%.*s", (int)(end - begin), directory + begin);
    json_add_string(record, "model", name);
}

static Json *make_record(const StepBench *b)
{
    const StepsConfig *c = b->config;
    size_t n = (size_t)c->steps, from = (size_t)c->warm_up;
    Json *record = report_record("step");
    add_model_name(record, b->directory);
    json_add_string(record, "targets", c->init_adapter ? c->init_adapter : c->targets);
    json_add_string(record, "path", dispatch_path());
    json_add_number(record, "threads", omp_get_max_threads());
    json_add_number(record, "tokens", (double)c->tokens);
    json_add_number(record, "document", (double)document_tokens(b));
    json_add_number(record, "trained", (double)b->adapter->n);
    json_add_number(record, "first_step_s", b->first_step);
    json_add_number(record, "neighbour_cores", b->neighbours);
    add_memory(record, b);
    json_add_number(record, "flop_per_token", count_frozen(b->model));
    json_add_number(record, "flop_per_token_attention", count_with_attention(b->model, ATTENTION_TOKENS));
    json_add_number(record, "bytes", count_step(b->model, (size_t)c->tokens).bytes);
    add_list(record, "seconds_each", n, b->seconds + from);
    add_list(record, "cpu_seconds_each", n, b->cpu + from);
    add_list(record, "peak_each", n, b->peak + from);
    add_list(record, "losses", b->n_all, b->loss);
    add_list(record, "grad_norms", b->n_all, b->norm);
    if (b->timing) json_add(record, "profile", timing_json(b->timing, n));
    step_record_derive(record);
    return record;
}

/* ---- the measurement ------------------------------------------------------------------------------------------- */

/* Plan the run for the memory limit, as training does. */
static Err *plan_run(StepBench *b)
{
    const StepsConfig *c = b->config;
    size_t limit, tokens = (size_t)c->tokens;
    Machine machine;
    bool known;
    StepWork work = {.ranks = 1,
                     .local_ranks = 1,
                     .threads = (size_t)omp_get_max_threads(),
                     .step_tokens = tokens,
                     .longest = document_tokens(b),
                     .micro_batch_tokens = micro_batch_tokens(b),
                     .group_tokens = (size_t)c->group_tokens,
                     .keep_layers = (size_t)c->keep_layers,
                     .data_bytes = 8 * tokens,
                     .may_spill = true};
    TRY(budget_limit(&limit, c->memory_limit));
    TRY(budget_make(&b->plan.budget, b->model, b->adapter, &work, limit));
    TRY(machine_load(&machine, &known));
    PlanInput input = {b->model, b->adapter, work, &machine, dispatch_is_bf16(), .hosts = 1};
    if (known) TRY(plan_times(&b->plan, &input));
    const StreamBudget *w = &b->plan.budget.weights;
    return b->plan.budget.streamed ? stream_open(b->model, w->limit_bytes, w->part_bytes, NULL) : NULL;
}

static Err *open_bench(StepBench *b)
{
    const StepsConfig *c = b->config;
    if (!dispatch_init(c->compute)) return err_new(ERR_USAGE, "compute: this CPU has no %s", c->compute);
    if (c->document == 1 || c->document > c->tokens)
        return err_new(ERR_USAGE,
                       "document is %lld of %lld tokens; a document needs at least 2 tokens, since each predicts the "
                       "next, and at most as many as the step; 0: one document with all tokens",
                       (long long)c->document, (long long)c->tokens);
    TRY(model_open(&b->model, b->directory));
    TRY(attach_adapter(b));
    if (c->memory_limit) TRY(plan_run(b));
    StepConfig config = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
                         .max_grad_norm = 1,
                         .seed = (uint64_t)c->seed,
                         .keep_layers = (size_t)c->keep_layers,
                         .recompute_experts = c->recompute_experts,
                         .scratch_dir = b->plan.budget.spilled ? c->scratch_dir : NULL,
                         .timing = b->timing};
    return step_new(&b->step, &b->dp, b->model, b->adapter, &config);
}

static void close_bench(StepBench *b)
{
    void *owned[] = {b->seconds, b->cpu, b->peak, b->loss, b->norm, b->doc.ids, b->doc.targets};
    step_free(b->step);
    if (b->adapter) adapter_free(b->adapter);
    if (b->model) model_close(b->model);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

Err *steps_measure(Json **record, const char *directory, const StepsConfig *config, Timing *timing)
{
    StepBench b = {.config = config, .directory = directory, .dp = {.size = 1}, .timing = timing};
    Err *err = open_bench(&b);
    if (!err) err = allocate_lists(&b);
    if (!err) err = all_steps(&b);
    if (!err) *record = make_record(&b);
    close_bench(&b);
    return err_wrap(err, "steps of %s", directory);
}
