/* Opening and closing a run, in the order of the sections below: settings, model, data, adapter, memory, step, output
 * directory. What always holds:
 *   1. Every rank opens everything. After each part the ranks agree, so an error on one of them stops all.
 *   2. The ranks compare digests of settings, model files, data and compute path before they plan memory.
 *   3. A run that is refused has not changed its output directory.
 *   4. Rank 0 locks the output directory before any rank writes there, and gives it up last.
 *   5. run_close frees a run that was opened only in part. */
#define _GNU_SOURCE
#include "train/run.h"

#include "base/memory.h"
#include "base/rng.h"
#include "ckpt/checkpoint.h"
#include "infer/adapter_checkpoint.h"
#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "train/balance.h"
#include "train/signals.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- settings ------------------------------------------------------------------------------------------------- */

static Err *require(const char *value, const char *key)
{
    return value ? NULL : err_new(ERR_USAGE, "%s is missing; give it in the configuration or as --%s", key, key);
}

/* Replace the name of an `experts` file by its content, so that settings.json and checkpoints do without the file. */
static Err *resolve_experts(Settings *s)
{
    Json *table;
    TRY(lora_experts_read(&table, s->experts));
    if (!table) return NULL;
    json_free(s->experts);
    s->experts = table;
    return NULL;
}

static Err *read_settings(Run *run, int argc, char **argv)
{
    Settings *s = &run->settings, given = {0};
    const char *file = NULL;
    size_t n;
    TRY(options_defaults(s, settings_table));
    Err *err = options_arguments(&given, settings_table, argc, argv, &file, 1, &n); /* only to find the file */
    options_free(&given, settings_table);
    if (!err && file) err = options_file(s, settings_table, file);
    if (!err) err = options_arguments(s, settings_table, argc, argv, &file, 1, &n);
    if (err || s->help) return err;
    TRY(require(s->model_name_or_path, "model_name_or_path"));
    if (!s->train_file) TRY(require(NULL, "train_file"));
    TRY(require(s->output_dir, "output_dir"));
    if (s->init_adapter && (s->target_modules || s->experts || s->train_router))
        return err_new(ERR_USAGE,
                       "init_adapter says what is trained; leave out target_modules, experts and train_router");
    return resolve_experts(s);
}

/* The ranks of a host share its cores. */
static void set_threads(const Run *run)
{
    const char *local = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    long ranks = local ? strtol(local, NULL, 10) : 1, cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (run->settings.threads)
        omp_set_num_threads((int)run->settings.threads);
    else if (!getenv("OMP_NUM_THREADS"))
        omp_set_num_threads(ranks > 0 && cores / ranks > 1 ? (int)(cores / ranks) : 1);
}

static Err *set_compute(const char *compute)
{
    if (dispatch_init(compute)) return NULL;
    return err_new(ERR_USAGE, "compute %s: this CPU has no such instructions", compute);
}

/* ---- model, data, adapter and step ---------------------------------------------------------------------------- */

static Err *open_data(Run *run)
{
    const Settings *s = &run->settings;
    char path[PATH_BYTES], directory[PATH_BYTES];
    DatasetOptions options = {.preload_bytes = (size_t)s->preload_mb << 20, .directory = directory};
    DataFiles files;
    TRY(file_join(path, s->model_name_or_path, "tokenizer.json"));
    TRY(tokenizer_open(&run->tokenizer, path));
    TRY(tokenizer_check_size(run->tokenizer, path, (size_t)run->model->config.vocab_size));
    TRY(file_join(directory, s->output_dir, "data"));
    TRY(data_settings_read(&options.document, &s->data, s->model_name_or_path));
    TRY(data_files_read(&files, s->train_file));
    Err *err = dataset_open(&run->train, run->tokenizer, &files, &options);
    data_files_free(&files);
    if (!err) err = mem_new(&run->evals, s->eval_file.count, sizeof *run->evals);
    for (size_t i = 0; i < s->eval_file.count && !err; i++)
        err = dataset_open_file(&run->evals[i], run->tokenizer, s->eval_file.items[i], &options.document);
    return err;
}

/* The number of steps and the schedule. Comes last, because it waits until the records of a large file are counted. */
static Err *plan_steps(Run *run)
{
    const Settings *s = &run->settings;
    TRY(loader_open(&run->loader, run->train, (size_t)s->train_batch_size, (uint64_t)s->seed));
    TRY(dataset_digest(run->train, run->data_digest));
    uint64_t per_epoch = loader_steps_per_epoch(run->loader);
    run->total = s->max_steps ? (uint64_t)s->max_steps : (uint64_t)ceil(s->num_train_epochs * (double)per_epoch);
    if (run->total == 0) return err_new(ERR_USAGE, "the run has no step: num_train_epochs is %g", s->num_train_epochs);
    uint64_t warmup = s->warmup_steps ? (uint64_t)s->warmup_steps : schedule_warmup_steps(run->total, s->warmup_ratio);
    return schedule_init(&run->schedule, s->lr_scheduler_type, s->lr_scheduler_kwargs, s->learning_rate, warmup,
                         run->total);
}

/* The checkpoint to resume from. *found is false when the run starts from the beginning. */
static Err *find_checkpoint(const Run *run, char path[PATH_BYTES], bool *found)
{
    const char *from = run->settings.resume_from_checkpoint;
    *found = false;
    if (!from) return NULL;
    if (strcmp(from, "auto") == 0) {
        TRY(checkpoint_newest(run->settings.output_dir, path, found));
        return *found
                   ? NULL
                   : err_new(ERR_USAGE, "resume_from_checkpoint auto: %s has no checkpoint", run->settings.output_dir);
    }
    *found = true;
    snprintf(path, PATH_BYTES, "%s", from);
    return NULL;
}

/* The adapter that the run begins with. A resume takes all values from a checkpoint, and here the shape, so that the
 * adapter need not be there any more. */
static Err *attach_init(Run *run)
{
    char path[PATH_BYTES];
    bool resumes;
    CkptInfo info;
    TRY(find_checkpoint(run, path, &resumes));
    if (resumes) {
        TRY(checkpoint_peek(&info, path));
        Err *err = adapter_checkpoint_shape(&run->adapter, run->model, info.config_json);
        checkpoint_info_free(&info);
        if (err || run->adapter) return err_wrap(err, "resume %s", path);
    }
    return adapter_open(&run->adapter, run->model, run->settings.init_adapter);
}

static Err *attach(Run *run)
{
    const Settings *s = &run->settings;
    if (s->init_adapter) return attach_init(run);
    LoraConfig lora = {.r = s->r,
                       .lora_alpha = s->lora_alpha,
                       .lora_dropout = s->lora_dropout,
                       .use_rslora = s->use_rslora,
                       .target_modules = s->target_modules,
                       .layers_to_transform = s->layers_to_transform,
                       .experts = s->experts,
                       .train_router = s->train_router};
    return adapter_new(&run->adapter, run->model, &lora, (uint64_t)s->seed);
}

/* Refuse options that would have no effect. */
static Err *check_effects(const Run *run)
{
    const Settings *s = &run->settings;
    bool routers = false, sparse = false;
    for (size_t l = 0; l < run->adapter->n_layers; l++) {
        routers = routers || run->adapter->layers[l].router;
        sparse = sparse || !run->model->layers[l].dense;
    }
    if (s->router_learning_rate > 0 && !routers)
        return err_new(ERR_USAGE, "router_learning_rate is given, but no router is trained in full; see train_router");
    if (s->router_bias_update_rate > 0 && !sparse)
        return err_new(ERR_USAGE, "router_bias_update_rate is given, but this model has no router");
    if (s->early_stopping_patience && !s->eval_file.count)
        return err_new(ERR_USAGE, "early_stopping_patience needs an eval_file");
    return NULL;
}

static Err *make_step(Run *run)
{
    const Settings *s = &run->settings;
    StepConfig config = {.adamw = {.beta1 = s->adam_beta1,
                                   .beta2 = s->adam_beta2,
                                   .epsilon = s->adam_epsilon,
                                   .weight_decay = s->weight_decay},
                         .max_grad_norm = s->max_grad_norm,
                         .stop = &signals_stop,
                         .lora_dropout = s->lora_dropout,
                         .seed = (uint64_t)s->seed,
                         .keep_layers = (size_t)s->keep_layers,
                         .guard = s->guard,
                         .timing = s->timing ? &run->run_timing.timing : NULL,
                         .scratch_dir = run->scratch_dir};
    TRY(check_effects(run));
    TRY(balance_coefficients(s, run->adapter, &run->balance));
    config.balance = run->balance;
    if (s->router_bias_update_rate > 0) TRY(adapter_own_biases(run->adapter));
    TRY(audit_new(&run->audit, run->adapter));
    return step_new(&run->step, &run->dp, run->model, run->adapter, &config);
}

/* ---- the output directory ------------------------------------------------------------------------------------- */

/* For a run that starts from the beginning: a directory that can be written and holds no other run. */
static Err *prepare_output(const Run *run)
{
    const char *directory = run->settings.output_dir;
    bool used;
    TRY(file_make_directory(directory));
    if (access(directory, W_OK)) return err_errno("write to %s", directory);
    TRY(run_is_in(directory, &used));
    if (used && !run->settings.overwrite_output_dir)
        return err_new(
            ERR_USAGE,
            "%s holds a run; resume it with --resume_from_checkpoint auto, or start over with --overwrite_output_dir",
            directory);
    return used ? run_overwrite(run) : NULL;
}

static Err *write_settings(const Run *run)
{
    char path[PATH_BYTES];
    TRY(file_join(path, run->settings.output_dir, "settings.json"));
    return file_write(path, run->config_json, strlen(run->config_json));
}

/* settings.json is replaced last, so that a refused resume leaves the directory as it was. */
static Err *start_output(Run *run)
{
    char path[PATH_BYTES];
    bool resumes, writes = run->dp.rank == 0;
    Err *err = find_checkpoint(run, path, &resumes);
    if (!err && writes && !resumes) err = prepare_output(run);
    TRY(dp_agree(&run->dp, err));
    if (resumes)
        err = run_resume(run, path);
    else if (writes)
        err = metrics_open(&run->metrics, run->settings.output_dir);
    TRY(dp_agree(&run->dp, err));
    if (!writes) return NULL;
    if (run->settings.tensorboard) TRY(tensorboard_open(&run->board, run->settings.output_dir, run->done));
    return write_settings(run);
}

/* ---- open and close ------------------------------------------------------------------------------------------- */

static Err *open_parts(Run *run)
{
    Json *settings;
    TRY(set_compute(run->settings.compute));
    set_threads(run);
    TRY(options_to_json(&run->settings, settings_table, &settings));
    Err *err = json_print(settings, true, &run->config_json);
    json_free(settings);
    if (err) return err;
    TRY(model_open(&run->model, run->settings.model_name_or_path));
    weights_digest(run->model->weights, run->base_digest);
    TRY(open_data(run));
    TRY(attach(run));
    return plan_steps(run);
}

Err *run_open(Run *run, int argc, char **argv)
{
    Err *err = read_settings(run, argc, argv);
    if (!err && run->settings.help) return NULL;
    if (!err && run->dp.rank == 0) err = lock_file_take(&run->lock, run->settings.output_dir);
    TRY(dp_agree(&run->dp, err));
    TRY(dp_agree(&run->dp, open_parts(run)));
    TRY(dp_same(&run->dp, rng_name(0, run->config_json), "the settings"));
    TRY(dp_same(&run->dp, rng_name(0, run->base_digest), "the base model's files"));
    TRY(dp_same(&run->dp, rng_name(0, run->data_digest), "the training data"));
    TRY(dp_same(&run->dp, rng_name(0, dispatch_path()), "the compute path"));
    TRY(run_fit_memory(run));
    TRY(dp_agree(&run->dp, make_step(run)));
    return dp_agree(&run->dp, start_output(run));
}

void run_close(Run *run)
{
    err_free(metrics_close(&run->metrics));
    err_free(tensorboard_close(run->board));
    step_free(run->step);
    audit_free(run->audit);
    free(run->balance);
    adapter_free(run->adapter);
    loader_close(run->loader);
    for (size_t i = 0; i < run->settings.eval_file.count && run->evals; i++) dataset_close(run->evals[i]);
    free(run->evals);
    dataset_close(run->train);
    tokenizer_close(run->tokenizer);
    model_close(run->model);
    timing_free(&run->run_timing.timing);
    free(run->config_json);
    lock_file_release(&run->lock);
    options_free(&run->settings, settings_table);
}
