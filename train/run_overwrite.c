/* --overwrite_output_dir: what a run wrote is removed, file by file, by the names that graft gives. Other files stay,
 * and with them the directories that hold them. The order matters when the removal is interrupted: adapters come first,
 * so that none survives the run that it came from, and metrics.jsonl comes last, so that what is left is still a run.
 * The index of the data (data/) stays: it belongs to the data files, and this run already uses it. */
#define _GNU_SOURCE
#include "ckpt/checkpoint.h"
#include "train/run.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Err *run_is_in(const char *directory, bool *holds)
{
    char path[PATH_BYTES], inner[PATH_BYTES];
    bool best, adapter;
    TRY(checkpoint_newest(directory, path, holds));
    TRY(file_join(inner, directory, "best"));
    TRY(checkpoint_newest(inner, path, &best));
    TRY(file_join(inner, directory, "adapter"));
    TRY(adapter_is_in(inner, &adapter));
    TRY(file_join(path, directory, "metrics.jsonl"));
    *holds = *holds || best || adapter || file_exists(path);
    return NULL;
}

/* ---- removing ---------------------------------------------------------------------------------------------------- */

static Err *remove_file(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    TRY(file_join(path, directory, name));
    return unlink(path) && errno != ENOENT ? err_errno("remove %s", path) : NULL;
}

static Err *remove_adapter_in(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    TRY(file_join(path, directory, name));
    return adapter_remove(path);
}

/* What a killed run left of its files but for checkpoints, which checkpoint_remove_from takes. */
static Err *remove_drafts(const char *directory)
{
    DIR *stream = opendir(directory);
    if (!stream) return err_errno("list %s", directory);
    Err *err = NULL;
    for (struct dirent *entry; !err && (entry = readdir(stream));) {
        if (file_is_draft_of(entry->d_name, "adapter") || file_is_draft_of(entry->d_name, "best"))
            err = remove_adapter_in(directory, entry->d_name);
        else if (file_is_draft_of(entry->d_name, "settings.json") || file_is_draft_of(entry->d_name, "timing.jsonl"))
            err = remove_file(directory, entry->d_name);
    }
    closedir(stream);
    return err;
}

static Err *remove_run(const char *directory, const char *best)
{
    static const char *const files[] = {"timing.jsonl", "settings.json", "metrics.jsonl"};
    TRY(remove_adapter_in(directory, "adapter"));
    TRY(checkpoint_remove_from(best, 0));
    TRY(adapter_remove(best));
    TRY(checkpoint_remove_from(directory, 0));
    TRY(remove_drafts(directory));
    TRY(tensorboard_remove(directory));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) TRY(remove_file(directory, files[i]));
    return NULL;
}

/* ---- may it be removed? ------------------------------------------------------------------------------------------ */

/* Whether a path lies in a directory, or is it. */
static bool lies_in(const char *path, const char *directory)
{
    char *inner = realpath(path, NULL), *outer = realpath(directory, NULL);
    size_t n = outer ? strlen(outer) : 0;
    bool in = inner && outer && strncmp(inner, outer, n) == 0 && (inner[n] == '/' || inner[n] == 0);
    free(inner);
    free(outer);
    return in;
}

Err *run_overwrite(const Run *run)
{
    const Settings *s = &run->settings;
    char best[PATH_BYTES];
    if (s->init_adapter && lies_in(s->init_adapter, s->output_dir))
        return err_new(
            ERR_USAGE,
            "init_adapter %s lies in output_dir %s, and overwrite_output_dir would remove it; choose another "
            "output_dir",
            s->init_adapter, s->output_dir);
    TRY(run_best_directory(run, best));
    return err_wrap(remove_run(s->output_dir, best), "overwrite %s", s->output_dir);
}
