#define _GNU_SOURCE
#include "bench/steps.h"

#include "base/byte_size.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/peak.h"
#include "base/proc_memory.h"
#include "base/rng.h"
#include "base/minmax.h"
#include "bench/neighbours.h"
#include "bench/report.h"
#include "bench/sample.h"
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

enum { ATTENTION_TOKENS = 512, STEADY = 50 };

/* What the process holds. */
typedef struct {
    double anonymous_bytes, heap_bytes, faults;
} Holds;

typedef struct {
    const StepsConfig *config;
    const char *directory;
    Model *model;
    Adapter *adapter;
    Dp dp;
    Step *step;
    Plan plan; /* under a memory limit; its times where the machine is known */
    Timing *timing;
    Document doc;
    size_t n_all;                               /* steps, warm-up included */
    StreamStats warm;                           /* what was read before the first that counts */
    double *seconds, *cpu, *peak, *loss, *norm; /* [n_all] */
    double first_step, neighbours;
    Holds settled, counted, end; /* after the second step, before the first counted one, after the last */
} Bench;

/* ---- what is trained ------------------------------------------------------------------------------------------ */

static void add_names(Json *names, size_t n, const char *const *words)
{
    for (size_t i = 0; i < n; i++) json_add_string(names, NULL, words[i]);
}

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

static size_t document_tokens(const Bench *b)
{
    return b->config->document ? (size_t)b->config->document : (size_t)b->config->tokens;
}

static size_t micro_tokens(const Bench *b)
{
    enum { MICRO = 1024 }; /* training's default */
    return b->config->document ? MICRO : (size_t)b->config->tokens;
}

/* The step's tokens in documents of one length. */
static Err *cut_batch(Bench *b, Batch *batch)
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
    if (!err) err = batch_new(batch, &b->dp, n, list, micro_tokens(b), b->plan.budget.group_tokens);
    free(docs);
    free(list);
    return err;
}

static Err *make_batch(Bench *b, size_t number, Batch *batch)
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
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    if (at) ticks = strtod(at, NULL);
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - ticks / (double)sysconf(_SC_CLK_TCK);
}

static Holds holds_now(void)
{
    struct rusage usage;
    struct mallinfo2 heap = mallinfo2();
    getrusage(RUSAGE_SELF, &usage);
    return (Holds){(double)proc_memory_bytes("/proc/self/status", "RssAnon:"), (double)(heap.uordblks + heap.hblkhd),
                   (double)usage.ru_minflt};
}

/* ---- the steps ------------------------------------------------------------------------------------------------ */

static Err *one_step(Bench *b, size_t number)
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

static Err *all_steps(Bench *b)
{
    size_t warm_up = (size_t)b->config->warm_up;
    Neighbours others = neighbours_begin();
    for (size_t i = 0; i < b->n_all; i++) {
        if (i == warm_up && b->timing) timing_clear(b->timing);
        if (i == warm_up) b->counted = holds_now();
        if (i == warm_up && i > 0 && b->model->stream) b->warm = stream_stats(b->model->stream);
        TRY(one_step(b, i));
        if (i == 0) b->first_step = process_age();
        if (i <= 1) b->settled = holds_now();
    }
    b->end = holds_now();
    b->neighbours = neighbours_end(&others);
    return NULL;
}

static Err *make_room(Bench *b)
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

static void add_memory(Json *record, const Bench *b)
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
    size_t once = stats.plan.fixed_bytes + stats.plan.cores.resident_bytes + stats.plan.chunks.resident_bytes,
           before = size_max(once, b->warm.read_bytes);
    double steps = (double)(b->warm.read_bytes ? (size_t)b->config->steps
                                               : b->n_all); /* the first fills slots, too: left to the warm-up */
    json_add_string(record, "parts", stream_budget_describe((char[STREAM_TEXT_BYTES]){0}, &stats.plan));
    json_add_number(record, "read_bytes", (double)(stats.read_bytes - before) / steps);
    json_add_number(record, "waited_s", (stats.waited_seconds - b->warm.waited_seconds) / steps);
    json_add_bool(record, "spilled", p->budget.spilled);
    json_add_number(record, "planned_group_tokens", (double)p->budget.group_tokens);
    json_add_number(record, "planned_bytes", (double)p->budget.total);
    json_add_number(record, "planned_tape_bytes", (double)p->budget.tapes);
    json_add_number(record, "planned_read_bytes", (double)p->budget.read_bytes);
    json_add_number(record, "planned_s", p->step_seconds);
    json_add_number(record, "planned_arithmetic_s", p->seconds[BOUND_ARITHMETIC]);
    json_add_number(record, "planned_disk_s", p->seconds[BOUND_DISK]);
}

static double number(const Json *record, const char *key) { return json_number(json_find(record, key)); }

/* The median of a list of the record. */
static double median_of(const Json *record, const char *key)
{
    const Json *list = json_find(record, key);
    size_t n = json_count(list), i = 0;
    double *x, median = NAN;
    Err *err = mem_new(&x, n, sizeof *x);
    for (const Json *item = json_first(list); item && !err; item = json_next(item)) x[i++] = json_number(item);
    if (!err && n) median = sample_median(n, x);
    if (!err) free(x);
    err_free(err);
    return median;
}

/* What follows from the lists. */
static void sum_up(Json *record)
{
    double tokens = number(record, "tokens"), step = median_of(record, "seconds_each"),
           peak = median_of(record, "peak_each");
    double flop = number(record, "flop_per_token") * tokens, bytes = number(record, "bytes"),
           with = number(record, "flop_per_token_attention") * tokens;
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"seconds", step},
                   {"tokens_per_s", tokens / step},
                   {"cpu_ms_per_token", 1e3 * median_of(record, "cpu_seconds_each") / tokens},
                   {"flop", flop},
                   {"gflops", 1e-9 * flop / step},
                   {"gbs", 1e-9 * bytes / step},
                   {"peak_gflops", 1e-9 * peak},
                   {"share", flop / step / peak},
                   {"share_attention", with / step / peak}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_set_number(record, numbers[i].key, numbers[i].value);
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

static Json *make_record(const Bench *b)
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
    sum_up(record);
    return record;
}

/* Join one list of b to that of a. */
static void join_list(Json *a, const Json *b, const char *key)
{
    Json *joined = json_new_array();
    for (const Json *item = json_first(json_find(a, key)); item; item = json_next(item))
        json_add_number(joined, NULL, json_number(item));
    for (const Json *item = json_first(json_find(b, key)); item; item = json_next(item))
        json_add_number(joined, NULL, json_number(item));
    json_set(a, key, joined);
}

Err *steps_join(Json **joined, size_t n, const Json *const *records)
{
    static const char *const lists[] = {"seconds_each", "cpu_seconds_each", "peak_each"};
    static const char *const most[] = {"peak_rss_bytes",    "anonymous_bytes", "anonymous_growth_bytes",
                                       "heap_growth_bytes", "faults_per_step", "neighbour_cores"};
    double *first;
    TRY(mem_new(&first, n, sizeof *first));
    *joined = json_duplicate(records[0]);
    for (size_t i = 0; i < n; i++) {
        first[i] = number(records[i], "first_step_s");
        if (i == 0) continue;
        for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) join_list(*joined, records[i], lists[k]);
        for (size_t k = 0; k < sizeof most / sizeof *most; k++)
            if (number(records[i], most[k]) > number(*joined, most[k]))
                json_set_number(*joined, most[k], number(records[i], most[k]));
    }
    json_set_number(*joined, "first_step_s", sample_median(n, first));
    free(first);
    sum_up(*joined);
    return NULL;
}

double steps_seconds(const Json *record)
{
    double sum = 0;
    for (const Json *item = json_first(json_find(record, "seconds_each")); item; item = json_next(item))
        sum += json_number(item);
    return sum;
}

/* ---- for people ----------------------------------------------------------------------------------------------- */

/* The median of the counted steps [from, from + STEADY). */
static double stretch(const Json *record, size_t from)
{
    double x[STEADY] = {0};
    size_t i = 0;
    for (const Json *item = json_first(json_find(record, "seconds_each")); item; item = json_next(item), i++)
        if (i >= from && i < from + STEADY) x[i - from] = json_number(item);
    return sample_median(STEADY, x);
}

static void print_steadiness(const Json *record)
{
    size_t n = json_count(json_find(record, "seconds_each"));
    if (n < 2 * STEADY) return;
    double first = stretch(record, 0), last = stretch(record, n - STEADY);
    printf("    steady: the first %d steps take %.3f s, the last %d %.3f s (%+.1f %%)\n", STEADY, first, STEADY, last,
           100 * (last / first - 1));
}

static Err *print_streaming(const Json *record)
{
    const char *parts;
    TRY(json_get_string(record, "parts", &parts));
    printf("    streamed: %s\n", parts);
    printf(
        "    a step: %s read, %.2f s waited; planned: %s read, %.3g s (arithmetic %.3g, disk %.3g) in groups of %.0f\n",
        BYTES(number(record, "read_bytes")), number(record, "waited_s"), BYTES(number(record, "planned_read_bytes")),
        number(record, "planned_s"), number(record, "planned_arithmetic_s"), number(record, "planned_disk_s"),
        number(record, "planned_group_tokens"));
    printf("    memory: %s at the end, tapes %s; planned: %s, tapes %s\n", BYTES(number(record, "anonymous_bytes")),
           BYTES(number(record, "tape_bytes")), BYTES(number(record, "planned_bytes")),
           BYTES(number(record, "planned_tape_bytes")));
    return NULL;
}

Err *steps_print(const Json *record)
{
    const char *model, *targets, *path;
    TRY(json_get_string(record, "model", &model));
    TRY(json_get_string(record, "targets", &targets));
    TRY(json_get_string(record, "path", &path));
    char documents[48] = "";
    if (number(record, "document") < number(record, "tokens"))
        snprintf(documents, sizeof documents, " in documents of %.0f", number(record, "document"));
    printf("%-5s %-13s %5.0f tokens%s  %8.1f tokens/s  step %7.3f s  %.3f of the peak, %.3f with attention's products  "
           "(%.0f GFLOP/s, %s)\n",
           model, targets, number(record, "tokens"), documents, number(record, "tokens_per_s"),
           number(record, "seconds"), number(record, "share"), number(record, "share_attention"),
           number(record, "peak_gflops"), path);
    printf("    first step %.2f s after the start; CPU %.2f ms a token; anonymous %.0f MB (growth %+.1f), malloc %+.1f "
           "kB and %.0f fresh pages a step later\n",
           number(record, "first_step_s"), number(record, "cpu_ms_per_token"), 1e-6 * number(record, "anonymous_bytes"),
           1e-6 * number(record, "anonymous_growth_bytes"), 1e-3 * number(record, "heap_growth_bytes"),
           number(record, "faults_per_step"));
    if (json_find(record, "read_bytes")) TRY(print_streaming(record));
    print_steadiness(record);
    neighbours_report(number(record, "neighbour_cores"));
    fflush(stdout);
    return NULL;
}

/* ---- the run -------------------------------------------------------------------------------------------------- */

/* As training fits a run into its limit. */
static Err *fit(Bench *b)
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
                     .micro_batch_tokens = micro_tokens(b),
                     .group_tokens = (size_t)c->group_tokens,
                     .keep_layers = (size_t)c->keep_layers,
                     .data_bytes = 8 * tokens,
                     .may_spill = true};
    TRY(budget_limit(&limit, c->memory_limit));
    TRY(budget_make(&b->plan.budget, b->model, b->adapter, &work, limit));
    TRY(machine_load(&machine, &known));
    if (known) TRY(plan_times(&b->plan, b->model, b->adapter, &work, &machine, dispatch_is_bf16(), 1, 0));
    const StreamBudget *w = &b->plan.budget.weights;
    return b->plan.budget.streamed ? stream_open(b->model, w->limit_bytes, w->part_bytes, NULL) : NULL;
}

static Err *open_all(Bench *b)
{
    const StepsConfig *c = b->config;
    if (!dispatch_init(c->compute)) return err_new(ERR_USAGE, "compute: this CPU has no %s", c->compute);
    if (c->document == 1 || c->document > c->tokens)
        return err_new(ERR_USAGE,
                       "document is %lld of %lld tokens; a document has 2 at least, as the next is predicted, and no "
                       "more than the step; 0: one of all",
                       (long long)c->document, (long long)c->tokens);
    TRY(model_open(&b->model, b->directory));
    TRY(make_adapter(b));
    if (c->memory_limit) TRY(fit(b));
    StepConfig config = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
                         .max_grad_norm = 1,
                         .seed = (uint64_t)c->seed,
                         .keep_layers = (size_t)c->keep_layers,
                         .recompute_experts = c->recompute_experts,
                         .scratch_dir = b->plan.budget.spilled ? c->scratch_dir : NULL,
                         .timing = b->timing};
    return step_new(&b->step, &b->dp, b->model, b->adapter, &config);
}

static void close_all(Bench *b)
{
    void *owned[] = {b->seconds, b->cpu, b->peak, b->loss, b->norm, b->doc.ids, b->doc.targets};
    step_free(b->step);
    if (b->adapter) adapter_free(b->adapter);
    if (b->model) model_close(b->model);
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

Err *steps_measure(Json **record, const char *directory, const StepsConfig *config, Timing *timing)
{
    Bench b = {.config = config, .directory = directory, .dp = {.size = 1}, .timing = timing};
    Err *err = open_all(&b);
    if (!err) err = make_room(&b);
    if (!err) err = all_steps(&b);
    if (!err) *record = make_record(&b);
    close_all(&b);
    return err_wrap(err, "steps of %s", directory);
}
