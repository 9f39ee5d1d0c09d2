/* graft plan MODEL|CONFIG.json [--key value ...]: memory, bytes and time of a run, from config.json alone: no weights
 * are needed. The figures are those of plan/budget.h and plan/step_time.h, which a run uses, too. */
#define _GNU_SOURCE
#include "base/byte_size.h"
#include "base/file.h"
#include "cli/verbs.h"
#include "tensor/dispatch.h"
#include "plan/step_time.h"
#include "train/settings.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool help;
    char *dtype, *memory_limit, *compute;
    int64_t tokens, max_length, micro_batch_tokens, group_tokens, keep_layers, r, ranks, hosts, steps;
    Json *target_modules, *experts, *layers_to_transform;
    double cores, gflops, memory_gbs, disk_gbs, memory_gib, network_gbs;
} PlanSettings;

#define AT(field) offsetof(PlanSettings, field)
static const Option plan_table[] = {
    {.help = "The run"},
    {"tokens", OPT_INT, AT(tokens), .preset = "0", .min = 0, .max = 1e12,
     .help = "tokens of a step; default: train_batch_size times max_length of the configuration, or 8192"},
    {"max_length", OPT_INT, AT(max_length), .preset = "0", .min = 0, .max = 1e7,
     .help = "tokens of the longest document; default: 2048"},
    {"micro_batch_tokens", OPT_INT, AT(micro_batch_tokens), .preset = "1024", .min = 1, .max = 1e8,
     .help = "as in training"},
    {"group_tokens", OPT_INT, AT(group_tokens), .preset = "8192", .min = 0, .max = 1e9, .help = "as in training"},
    {"keep_layers", OPT_INT, AT(keep_layers), .preset = "0", .min = 0, .max = 1e6, .help = "as in training"},
    {"r", OPT_INT, AT(r), .preset = "16", .min = 1, .max = LORA_R_MAX, .help = "as in training"},
    {"target_modules", OPT_JSON, AT(target_modules), .help = "as in training; default: the projections of attention"},
    {"experts", OPT_JSON, AT(experts), .help = "as in training"},
    {"layers_to_transform", OPT_JSON, AT(layers_to_transform), .help = "as in training"},
    {"dtype", OPT_TEXT, AT(dtype), .choices = "bf16 fp8",
     .help = "number format of the files; default: as config.json says"},
    {"steps", OPT_INT, AT(steps), .preset = "0", .min = 0, .max = 1e12, .help = "steps of the whole run"},
    {"compute", OPT_TEXT, AT(compute), .preset = "auto", .choices = COMPUTE_CHOICES,
     .help = "compute path, as in training"},
    {.help = "The machine; default: as measured by `graft doctor`"},
    {"memory_limit", OPT_TEXT, AT(memory_limit), .help = "for all ranks of a host; default: nine tenths of its memory"},
    {"ranks", OPT_INT, AT(ranks), .preset = "1", .min = 1, .max = 65536, .help = "ranks on each host"},
    {"hosts", OPT_INT, AT(hosts), .preset = "1", .min = 1, .max = 65536,
     .help = "hosts that share the tokens of a step"},
    {"cores", OPT_NUMBER, AT(cores), .min = 0, .max = 1e6, .help = "cores of a host"},
    {"gflops", OPT_NUMBER, AT(gflops), .min = 0, .max = 1e9,
     .help = "peak of a host on graft's compute path, all cores; a product with n rows is planned at 0.6 n / (n + 8) "
             "of it"},
    {"memory_gib", OPT_NUMBER, AT(memory_gib), .min = 0, .max = 1e9, .help = "memory of a host"},
    {"memory_gbs", OPT_NUMBER, AT(memory_gbs), .min = 0, .max = 1e9,
     .help = "memory bandwidth of a host, in 1e9 bytes per second"},
    {"disk_gbs", OPT_NUMBER, AT(disk_gbs), .min = 0, .max = 1e9,
     .help = "disk bandwidth of a host, in 1e9 bytes per second, nothing cached"},
    {"network_gbs", OPT_NUMBER, AT(network_gbs), .min = 0, .max = 1e9,
     .help = "between hosts, in 1e9 bytes per second"},
    {"help", OPT_FLAG, AT(help), .help = "print this list"},
    {0}};

typedef struct {
    PlanSettings settings;
    Settings training; /* when a training configuration was given */
    Model *model;
    Adapter *adapter;
    Machine machine;
    StepWork work;
    size_t limit;
    bool bf16; /* the compute path */
    Plan plan;
    char name[PATH_BYTES];
} Planner;

/* ---- the run and the machine ---------------------------------------------------------------------------------- */

/* The config.json of a directory, of a file, or of a name among configs/ and the tests' published ones. */
static Err *find_config(char path[PATH_BYTES], const char *name)
{
    size_t n = strlen(name);
    snprintf(path, PATH_BYTES, "%s", name);
    if (n > 5 && strcmp(name + n - 5, ".json") == 0) return NULL;
    for (int i = 0; i < 3; i++) {
        int fits = i == 0   ? snprintf(path, PATH_BYTES, "%s/config.json", name)
                   : i == 1 ? snprintf(path, PATH_BYTES, "configs/%s.json", name)
                            : snprintf(path, PATH_BYTES, "tests/fixtures/configs/%s.config.json", name);
        if (fits < PATH_BYTES && file_exists(path)) return NULL;
    }
    return err_new(ERR_USAGE, "%s is neither a directory with a config.json, nor such a file, nor a model of configs/",
                   name);
}

/* If path is a training configuration, take its settings and find its model's config.json. The command line, which is
 * read again later, overrides them. */
static Err *read_training_config(Planner *p, const char *path, char model[PATH_BYTES])
{
    Json *root;
    TRY(json_read_file(&root, path));
    bool training = json_find(root, "model_name_or_path") != NULL;
    json_free(root);
    snprintf(model, PATH_BYTES, "%s", path);
    if (!training) return NULL;
    TRY(options_defaults(&p->training, settings_table));
    TRY(options_file(&p->training, settings_table, path));
    PlanSettings *s = &p->settings;
    const Settings *t = &p->training;
    s->max_length = t->data.max_length;
    s->tokens = t->train_batch_size * t->data.max_length;
    s->micro_batch_tokens = t->micro_batch_tokens;
    s->group_tokens = t->group_tokens;
    s->keep_layers = t->keep_layers;
    s->r = t->r;
    s->ranks = t->ranks;
    s->steps = t->max_steps;
    return find_config(model, t->model_name_or_path);
}

static Err *make_adapter(Planner *p)
{
    static const char *const attention[] = {"q_a_proj",           "q_b_proj",  "q_proj",
                                            "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"};
    const PlanSettings *s = &p->settings;
    Json *names = json_new_array();
    for (size_t i = 0; i < 6; i++)
        if (i > 2 || (i == 2) == (p->model->config.q_lora_rank == 0)) json_add_string(names, NULL, attention[i]);
    const Json *targets = s->target_modules ? s->target_modules : p->training.target_modules,
               *experts = s->experts ? s->experts : p->training.experts;
    const Json *layers = s->layers_to_transform ? s->layers_to_transform : p->training.layers_to_transform;
    LoraConfig lora = {.r = s->r,
                       .lora_alpha = 2 * (double)s->r,
                       .target_modules = targets || experts ? targets : names,
                       .layers_to_transform = layers,
                       .experts = experts,
                       .train_router = p->training.train_router};
    Err *err = adapter_new(&p->adapter, p->model, &lora, 0);
    json_free(names);
    return err;
}

static Err *set_machine(Planner *p)
{
    const PlanSettings *s = &p->settings;
    bool found;
    TRY(machine_load(&p->machine, &found));
    Machine *m = &p->machine;
    double *const have[] = {&m->cores, &m->gflops, &m->memory_gbs, &m->disk_gbs, &m->memory_gib};
    const double given[] = {s->cores, s->gflops, s->memory_gbs, s->disk_gbs, s->memory_gib};
    for (size_t i = 0; i < 5; i++)
        if (given[i] > 0) *have[i] = given[i];
    if (s->gflops > 0)
        memset(m->fp32, 0, sizeof m->fp32), memset(m->bf16, 0, sizeof m->bf16); /* they were measured on this machine */
    if (!dispatch_init(s->compute))
        return err_new(ERR_USAGE, "compute %s: this CPU has no such instructions", s->compute);
    p->bf16 = dispatch_is_bf16() && s->gflops <= 0; /* a machine given by --gflops is planned in fp32 */
    if (m->gflops <= 0 || m->disk_gbs <= 0)
        return err_new(ERR_USAGE, "this machine has not been measured: run `graft doctor`, or give --gflops, "
                                  "--disk_gbs, --memory_gbs and --memory_gib");
    const char *limit = s->memory_limit ? s->memory_limit : p->training.memory_limit;
    p->limit = (size_t)(0.9 * m->memory_gib * 1073741824);
    return limit ? byte_size_parse(&p->limit, limit, "memory_limit") : NULL;
}

static void set_work(Planner *p)
{
    const PlanSettings *s = &p->settings;
    size_t tokens = s->tokens ? (size_t)s->tokens : 8192, longest = s->max_length ? (size_t)s->max_length : 2048;
    if (longest > tokens) longest = tokens;
    p->work = (StepWork){.ranks = (size_t)(s->ranks * s->hosts),
                         .local_ranks = (size_t)s->ranks,
                         .threads = (size_t)(p->machine.cores / (double)s->ranks + 0.5),
                         .step_tokens = tokens,
                         .longest = longest,
                         .micro_batch_tokens = (size_t)s->micro_batch_tokens,
                         .group_tokens = (size_t)s->group_tokens,
                         .keep_layers = (size_t)s->keep_layers,
                         .data_bytes = 64 << 20,
                         .may_spill = true};
    if (p->work.threads == 0) p->work.threads = 1;
}

static PlanInput plan_input(const Planner *p)
{
    return (PlanInput){.model = p->model,
                       .adapter = p->adapter,
                       .work = p->work,
                       .machine = &p->machine,
                       .bf16 = p->bf16,
                       .hosts = (size_t)p->settings.hosts,
                       .network_gbs = p->settings.network_gbs};
}

/* ---- output --------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    double elements, bytes[DTYPE_COUNT];
} WeightPart;

typedef struct {
    size_t n;
    WeightPart parts[16], all;
    bool fp8;
} WeightParts;

static Err *count_tensor(void *context, const char *name, const TensorSpec *spec)
{
    WeightParts *parts = context;
    size_t i = 0,
           blocks = ((spec->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK) * ((spec->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
    double n = (double)spec->rows * (double)spec->cols;
    DType dtype = spec->must_f32 ? DTYPE_F32 : parts->fp8 && spec->may_fp8 ? DTYPE_F8_E4M3 : DTYPE_BF16;
    (void)name;
    while (i < parts->n && strcmp(parts->parts[i].name, spec->part) != 0) i++;
    if (i == parts->n) parts->parts[parts->n++].name = spec->part;
    WeightPart *const both[] = {&parts->parts[i], &parts->all};
    for (size_t j = 0; j < 2; j++) {
        both[j]->elements += n;
        both[j]->bytes[dtype] += n * (double)dtype_bytes(dtype);
        if (dtype == DTYPE_F8_E4M3) both[j]->bytes[DTYPE_F32] += 4 * (double)blocks;
    }
    return NULL;
}

static void show_part(const WeightPart *part)
{
    printf("  %-16s %10.3f G %14s %14s %14s\n", part->name, part->elements / 1e9, BYTES(part->bytes[DTYPE_BF16]),
           BYTES(part->bytes[DTYPE_F8_E4M3]), BYTES(part->bytes[DTYPE_F32]));
}

static Err *show_parts(const Planner *p, bool fp8)
{
    WeightParts parts = {.all.name = "total", .fp8 = fp8};
    TRY(model_config_tensors(&p->model->config, false, count_tensor, &parts));
    printf("%s: %s, %zu layers\n  %-16s %12s %14s %14s %14s\n", p->name, family_name(p->model->config.family),
           p->model->n_layers, "part", "parameters", "BF16", "FP8", "F32");
    for (size_t i = 0; i < parts.n; i++) show_part(&parts.parts[i]);
    show_part(&parts.all);
    return NULL;
}

static void show_memory(const Planner *p)
{
    const Budget *b = &p->plan.budget;
    const StreamBudget *w = &b->weights;
    printf("memory of a host: %s of %s\n", BYTES(b->total), BYTES(b->limit));
    if (b->streamed)
        printf("  weights          %s: embedding and head %s; %s\n", BYTES(stream_budget_bytes(w)),
               BYTES(w->fixed_bytes), stream_budget_describe((char[STREAM_TEXT_BYTES]){0}, w));
    else
        printf("  weights          %s: all\n", BYTES(w->fixed_bytes + stream_budget_layer_bytes(w)));
    printf("  tapes            %s\n  layer inputs     %s%s\n  adapter          %s (%zu parameters)\n  moments          "
           "%s\n  program, data    %s\n",
           BYTES(b->tapes), BYTES(b->layer_inputs), b->spilled ? "; the others are in a file" : "", BYTES(b->adapter),
           p->adapter->n, BYTES(b->moments), BYTES(b->program + b->data));
    printf("  smallest limit   %s\n", BYTES(b->min_limit));
}

static void format_time(char text[48], double seconds)
{
    if (seconds < 600)
        snprintf(text, 48, "%.3g s", seconds);
    else if (seconds < 36000)
        snprintf(text, 48, "%.0f min", seconds / 60);
    else if (seconds < 864000)
        snprintf(text, 48, "%.1f h", seconds / 3600);
    else
        snprintf(text, 48, "%.1f days", seconds / 86400);
}
#define TIME(seconds) (format_time(time_text_, seconds), time_text_)

static void show_step(const Planner *p)
{
    char time_text_[48];
    const Plan *plan = &p->plan;
    printf("a step of %zu tokens, longest document %zu", p->work.step_tokens, p->work.longest);
    if (plan->budget.group_tokens) printf(", in groups of %zu", plan->budget.group_tokens);
    printf("\n  read             %s of weights", BYTES(plan->budget.read_bytes));
    if (plan->budget.scratch_bytes)
        printf(", %s of layer inputs written and read again", BYTES(plan->budget.scratch_bytes));
    printf("\n  arithmetic       %.3g TFLOP at %.0f%% of %.0f GFLOP/s\n", flops_all(&plan->flops) / 1e12,
           100 * plan->share, p->machine.gflops);
    for (Bound i = 0; i < BOUNDS; i++)
        if (plan->seconds[i] > 0)
            printf("  %-10s       %s%s\n", bound_names[i], TIME(plan->seconds[i]),
                   i == plan->bound ? "   <- the limit" : "");
    printf("  total            %s, %.3g tokens/s\n", TIME(plan->step_seconds), plan->tokens_per_second);
    if (p->settings.steps)
        printf("  %lld steps    %s\n", (long long)p->settings.steps,
               TIME((double)p->settings.steps * plan->step_seconds));
}

/* Try the changes that a user could make, one at a time, and name the one that gains most. */
static Err *show_advice(Planner *p, const char *config_path, bool fp8)
{
    enum { TOKENS, MEMORY, FP8, KEEP, GROUP, TRIALS };
    double best = 1.05, gain;
    const char *what = NULL;
    for (int t = 0; t < TRIALS; t++) {
        PlanInput input = plan_input(p);
        size_t limit = p->limit;
        Model *other = NULL;
        Plan plan;
        if (t == TOKENS) input.work.step_tokens *= 4;
        if (t == MEMORY) limit *= 2;
        if (t == GROUP) input.work.group_tokens = 0;
        if (t == KEEP) input.work.keep_layers += p->model->n_layers / 4 + 1;
        if (t == FP8) {
            if (fp8) continue;
            TRY(model_outline(&other, config_path, DTYPE_F8_E4M3));
            input.model = other;
        }
        Err *err = plan_make(&plan, &input, limit);
        model_close(other);
        gain = err ? 0 : plan.tokens_per_second / p->plan.tokens_per_second;
        err_free(err);
        if (gain <= best) continue;
        best = gain;
        static const char *const names[] = {"four times as many tokens per step (train_batch_size)",
                                            "twice the memory (memory_limit)", "the FP8 files",
                                            "tapes of a quarter of the layers kept (keep_layers)",
                                            "all tokens in one group (group_tokens 0)"};
        what = names[t];
    }
    if (what)
        printf("what would help most: %s, for %.1f times the tokens per second\n", what, best);
    else
        printf("what would help most: more cores or hosts; no setting gains 5 %%\n");
    return NULL;
}

static Err *plan(Planner *p, int argc, char **argv)
{
    const char *word = NULL;
    char given[PATH_BYTES], config[PATH_BYTES];
    size_t n;
    PlanSettings *s = &p->settings;
    TRY(options_defaults(s, plan_table));
    TRY(options_arguments(s, plan_table, argc, argv, &word, 1, &n));
    if (s->help) {
        printf("graft plan MODEL|config.json|CONFIG.json [--key value ...]\n");
        options_help(stdout, plan_table);
        return NULL;
    }
    if (!word) return err_new(ERR_USAGE, "no model or configuration given: graft plan MODEL|config.json|CONFIG.json");
    TRY(find_config(given, word));
    TRY(read_training_config(p, given, config));
    if (strcmp(given, config) != 0)
        TRY(options_arguments(s, plan_table, argc, argv, &word, 1, &n)); /* the command line wins */
    snprintf(p->name, sizeof p->name, "%s", config);
    ModelConfig peek;
    TRY(model_config_read(&peek, config));
    bool fp8 = s->dtype ? strcmp(s->dtype, "fp8") == 0 : peek.fp8;
    model_config_free(&peek);
    TRY(model_outline(&p->model, config, fp8 ? DTYPE_F8_E4M3 : DTYPE_BF16));
    TRY(make_adapter(p));
    TRY(set_machine(p));
    set_work(p);
    TRY(show_parts(p, fp8));
    PlanInput input = plan_input(p);
    TRY(plan_make(&p->plan, &input, p->limit));
    show_memory(p);
    show_step(p);
    return show_advice(p, config, fp8);
}

int verb_plan(int argc, char **argv)
{
    Planner p = {0};
    Err *err = plan(&p, argc, argv);
    adapter_free(p.adapter);
    model_close(p.model);
    options_free(&p.settings, plan_table);
    options_free(&p.training, settings_table);
    return err_report("plan", err);
}
