/* Save the state of a run to a checkpoint, and resume from one. Every rank owns a slice of the moments: to save, rank 0
 * collects and writes them; to resume, every rank reads the file and takes its own slice.
 *
 * A resume first checks everything that could refuse it, so a refused resume leaves the directory as it was. Then it
 * removes the checkpoints of later steps, the newest first, and last it cuts metrics.jsonl back. So wherever it is
 * killed, the newest checkpoint has its metrics. */
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/checkpoint.h"
#include "infer/adapter_checkpoint.h"
#include "tensor/dispatch.h"
#include "train/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    AdapterArray *names;
    CkptArray *arrays;
    Checkpoint ckpt;
    CkptExtra extras[4];
    float *m, *v;
} Saved;

/* Extra arrays: the counts of the audit, and the router's correction biases when they are trained. */
static void list_extras(Saved *saved, const Run *run)
{
    const Audit *audit = run->audit;
    size_t n = 0, per_expert = run->adapter->n_layers * run->model->router.E;
    saved->extras[n++] = (CkptExtra){"had_gradient", audit->n_parts, audit->ever, NULL};
    if (per_expert) {
        saved->extras[n++] = (CkptExtra){"expert_tokens", per_expert, audit->tokens, NULL};
        saved->extras[n++] = (CkptExtra){"expert_tokens_with_gradient", per_expert, audit->live, NULL};
        if (run->adapter->biases)
            saved->extras[n++] = (CkptExtra){"router_bias", per_expert, NULL, run->adapter->biases};
    }
    saved->ckpt.n_extras = n;
    saved->ckpt.extras = saved->extras;
}

static Err *saved_new(Saved *saved, const Run *run, bool with_moments)
{
    const Adapter *a = run->adapter;
    size_t n;
    *saved = (Saved){0};
    TRY(adapter_checkpoint_table(a, &saved->names, &saved->arrays, &n));
    saved->ckpt = (Checkpoint){.n_arrays = n, .arrays = saved->arrays, .n = a->n, .values = a->values};
    list_extras(saved, run);
    if (!with_moments) return NULL;
    TRY(mem_new(&saved->m, a->n, sizeof *saved->m));
    TRY(mem_new(&saved->v, a->n, sizeof *saved->v));
    saved->ckpt.m = saved->m;
    saved->ckpt.v = saved->v;
    return NULL;
}

static void saved_free(Saved *saved)
{
    arrays_free(saved->names, saved->ckpt.n_arrays);
    free(saved->arrays);
    free(saved->m);
    free(saved->v);
}

static Err *collect_moments(Run *run, Saved *saved)
{
    for (size_t l = 0; l < run->adapter->n_layers; l++) {
        const LayerAdapter *layer = &run->adapter->layers[l];
        if (layer->n == 0) continue;
        TRY(dp_collect(&run->dp, layer->n, step_moment_m(run->step, l), saved->m ? saved->m + layer->offset : NULL));
        TRY(dp_collect(&run->dp, layer->n, step_moment_v(run->step, l), saved->v ? saved->v + layer->offset : NULL));
    }
    return NULL;
}

/* One SHA-256 of values, moments and trained biases: two states with the same digest have the same bits. */
static void digest_state(Run *run, const Saved *saved)
{
    Digest digest;
    unsigned char sum[DIGEST_SUM_BYTES];
    size_t bytes = saved->ckpt.n * sizeof(float);
    digest_init(&digest);
    digest_add(&digest, saved->ckpt.values, bytes);
    digest_add(&digest, saved->ckpt.m, bytes);
    digest_add(&digest, saved->ckpt.v, bytes);
    if (run->adapter->biases)
        digest_add(&digest, run->adapter->biases, run->adapter->n_layers * run->model->router.E * sizeof(float));
    digest_end(&digest, sum);
    digest_hex(sum, sizeof sum, run->state_digest);
}

static Err *progress_print(const Progress *p, char **text)
{
    Json *json = json_new_object();
    if (p->best_step) json_add_number(json, "best_loss", p->best_loss);
    json_add_number(json, "best_step", (double)p->best_step);
    json_add_number(json, "waited", (double)p->waited);
    json_add_bool(json, "evaluated", p->evaluated);
    json_add_number(json, "smoothed_loss", p->smoothed_loss);
    Err *err = json_print(json, false, text);
    json_free(json);
    return err;
}

static Err *progress_parse(Progress *p, const char *text)
{
    Json *json;
    int64_t best_step = 0, waited = 0;
    TRY(json_parse(&json, text, strlen(text)));
    Err *err = json_may_number(json, "best_loss", &p->best_loss);
    if (!err) err = json_get_int(json, "best_step", 0, INT64_MAX, &best_step);
    if (!err) err = json_get_int(json, "waited", 0, INT64_MAX, &waited);
    if (!err) err = json_get_bool(json, "evaluated", &p->evaluated);
    if (!err) err = json_get_number(json, "smoothed_loss", &p->smoothed_loss);
    p->best_step = (uint64_t)best_step;
    p->waited = (uint64_t)waited;
    json_free(json);
    return err_wrap(err, "progress");
}

static Err *write_file(Run *run, Saved *saved, const char *directory, size_t keep)
{
    digest_state(run, saved);
    char path[PATH_BYTES], *progress, *settings = NULL;
    TRY(progress_print(&run->progress, &progress));
    Err *err = adapter_checkpoint_settings(run->adapter, run->config_json, &settings);
    uint64_t per_epoch = loader_steps_per_epoch(run->loader);
    saved->ckpt.info = (CkptInfo){.step = run->done,
                                  .seed = (uint64_t)run->settings.seed,
                                  .epoch = run->done / per_epoch,
                                  .epoch_position = run->done % per_epoch * (uint64_t)run->settings.train_batch_size,
                                  .tokens = run->loss_tokens_seen,
                                  .metrics_bytes = run->metrics.bytes,
                                  .config_json = settings,
                                  .progress_json = progress,
                                  .compute_path = dispatch_path(),
                                  .base_digest = run->base_digest,
                                  .data_digest = run->data_digest};
    if (!err) err = metrics_sync(&run->metrics); /* first: the checkpoint counts its lines */
    if (!err) err = file_make_directory(directory);
    if (!err) err = checkpoint_path(path, directory, run->done);
    if (!err) err = checkpoint_save(&saved->ckpt, path);
    free(settings);
    free(progress);
    return err ? err : checkpoint_rotate(directory, keep);
}

Err *run_best_directory(const Run *run, char path[PATH_BYTES])
{
    return file_join(path, run->settings.output_dir, "best");
}

Err *run_save(Run *run, const char *directory, size_t keep)
{
    Saved saved;
    bool writes = run->dp.rank == 0;
    Err *err = dp_agree(&run->dp, saved_new(&saved, run, writes));
    if (!err) err = dp_agree(&run->dp, collect_moments(run, &saved));
    if (!err) err = dp_agree(&run->dp, writes ? write_file(run, &saved, directory, keep) : NULL);
    saved_free(&saved);
    return err_wrap(err, "save after step %llu", (unsigned long long)run->done);
}

static Err *check_same(const char *what, const char *file, const char *run)
{
    if (file && strcmp(file, run) == 0) return NULL;
    return err_new(ERR_USAGE, "%s differs: the checkpoint has %s, this run %s", what, file ? file : "none", run);
}

/* Settings of older checkpoints may hold the name of an `experts` file instead of its content. When that file is gone,
 * nothing is reported: loading compares the experts of every array anyway. */
static bool same_setting(const Json *was, const Json *now)
{
    Json *table;
    if (strcmp(json_key(now), "experts") != 0) return json_equal(was, now);
    Err *err = lora_experts_read(&table, was);
    bool gone = err, same = gone || json_equal(table ? table : was, now);
    err_free(err);
    json_free(table);
    return same;
}

static bool is_among(const char *key, const char *const *keys)
{
    while (*keys && strcmp(*keys, key) != 0) keys++;
    return *keys;
}

/* Print that a setting differs from the checkpoint. Settings that scale the trained LoRA may not differ. */
static Err *report_change(const char *key, const Json *was, const Json *now)
{
    static const char *const scales[] = {"lora_alpha", "use_rslora", NULL};
    char *was_text, *now_text;
    TRY(json_print(was, false, &was_text));
    Err *err = json_print(now, false, &now_text);
    if (!err) {
        if (is_among(key, scales))
            err = err_new(ERR_USAGE, "%s is %s; the checkpoint has %s, and its LoRA was trained at that scale", key,
                          now_text, was_text);
        else
            log_line("  resumed   with %s %s; the checkpoint has %s", key, now_text, was_text);
        free(now_text);
    }
    free(was_text);
    return err;
}

/* Compare the settings with the checkpoint's, but for those that only concern paths, output or speed. */
static Err *report_changes(const Run *run, const char *before)
{
    static const char *const free_to_change[] = {"output_dir",
                                                 "group_tokens",
                                                 "keep_layers",
                                                 "resume_from_checkpoint",
                                                 "overwrite_output_dir",
                                                 "resume_on_another_path",
                                                 "ranks",
                                                 "threads",
                                                 "memory_limit",
                                                 "scratch_dir",
                                                 "preload_mb",
                                                 "unpack_limit",
                                                 "guard",
                                                 "logging_steps",
                                                 "save_steps",
                                                 "save_minutes",
                                                 "save_total_limit",
                                                 "keep_best",
                                                 "tensorboard",
                                                 "timing",
                                                 "dump",
                                                 "early_stopping_patience",
                                                 "model_name_or_path",
                                                 "train_file",
                                                 "bf16_adapter",
                                                 "compute",
                                                 NULL};
    Json *old, *new = NULL;
    TRY(json_parse(&old, before, strlen(before)));
    Err *err = json_parse(&new, run->config_json, strlen(run->config_json));
    for (const Json *now = err ? NULL : json_first(new); now && !err; now = json_next(now)) {
        const Json *was = json_find(old, json_key(now));
        if (was && !is_among(json_key(now), free_to_change) && !same_setting(was, now))
            err = report_change(json_key(now), was, now);
    }
    json_free(old);
    json_free(new);
    return err;
}

static Err *check_info(const Run *run, const CkptInfo *info)
{
    TRY(check_same("the base model (digest)", info->base_digest, run->base_digest));
    TRY(check_same("the training data (digest)", info->data_digest, run->data_digest));
    if (info->seed != (uint64_t)run->settings.seed)
        return err_new(ERR_USAGE, "seed is %lld; the checkpoint has %llu", (long long)run->settings.seed,
                       (unsigned long long)info->seed);
    if (!run->settings.resume_on_another_path) {
        Err *err = check_same("the compute path", info->compute_path, dispatch_path());
        if (err) return err_wrap(err, "bits would differ (--resume_on_another_path allows it)");
    }
    uint64_t per_epoch = loader_steps_per_epoch(run->loader);
    if (info->epoch != info->step / per_epoch ||
        info->epoch_position != info->step % per_epoch * (uint64_t)run->settings.train_batch_size)
        return err_new(ERR_USAGE,
                       "train_batch_size differs: %lld documents per step do not lead to document %llu of epoch %llu "
                       "after step %llu",
                       (long long)run->settings.train_batch_size, (unsigned long long)info->epoch_position,
                       (unsigned long long)info->epoch, (unsigned long long)info->step);
    return NULL;
}

/* Copy this rank's slices of the moments. */
static void take_moments(Run *run, const Saved *saved)
{
    for (size_t l = 0; l < run->adapter->n_layers; l++) {
        const LayerAdapter *layer = &run->adapter->layers[l];
        size_t begin, end;
        if (layer->n == 0) continue;
        dp_slice(&run->dp, run->dp.rank, layer->n, &begin, &end);
        memcpy(step_moment_m(run->step, l), saved->m + layer->offset + begin, (end - begin) * sizeof(float));
        memcpy(step_moment_v(run->step, l), saved->v + layer->offset + begin, (end - begin) * sizeof(float));
    }
}

/* Remove the checkpoints of later steps, which would mix with the new ones. Forget the best step if its file is
 * gone. */
static Err *forget_later_steps(Run *run)
{
    char best[PATH_BYTES], path[PATH_BYTES];
    TRY(run_best_directory(run, best));
    TRY(checkpoint_path(path, best, run->progress.best_step));
    if (run->settings.keep_best && run->progress.best_step && !file_exists(path)) {
        log_line("  best      step %llu is no longer in %s; the next evaluation sets a new best step",
                 (unsigned long long)run->progress.best_step, best);
        run->progress.best_step = run->progress.waited = 0;
    }
    if (run->dp.rank != 0) return NULL;
    TRY(checkpoint_remove_from(run->settings.output_dir, run->done + 1));
    return checkpoint_remove_from(best, run->done + 1);
}

static Err *read_file(Run *run, Saved *saved, const char *path)
{
    CkptInfo info;
    TRY(checkpoint_peek(&info, path));
    Err *err = check_info(run, &info);
    if (!err) err = report_changes(run, info.config_json);
    checkpoint_info_free(&info);
    if (err) return err;
    TRY(checkpoint_load(&saved->ckpt, path));
    run->done = saved->ckpt.info.step;
    run->loss_tokens_seen = saved->ckpt.info.tokens;
    take_moments(run, saved);
    audit_resume(run->audit);
    digest_state(run, saved);
    err = progress_parse(&run->progress, saved->ckpt.info.progress_json);
    if (!err && run->dp.rank == 0)
        err = metrics_resume(&run->metrics, run->settings.output_dir, saved->ckpt.info.metrics_bytes, run->done);
    if (!err) err = forget_later_steps(run); /* nothing can refuse the resume any more */
    if (!err) err = metrics_cut(&run->metrics);
    checkpoint_info_free(&saved->ckpt.info);
    return err;
}

Err *run_resume(Run *run, const char *path)
{
    Saved saved;
    Err *err = saved_new(&saved, run, true);
    if (!err) err = read_file(run, &saved, path);
    saved_free(&saved);
    return err_wrap(err, "resume %s", path);
}
