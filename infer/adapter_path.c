/* The step of an exported adapter is not in its files, which are PEFT's. A run that ends exports its adapter and then
 * writes a last line of metrics, {"step": N, "state_sha256": ...}. A resume cuts this line off, and a run that starts
 * over empties the file. So adapter/ is of step N as long as that line is the last one. Otherwise its step is unknown:
 * it is of an earlier end of the run, or a new end was interrupted, and then the checkpoint of that step is there. */
#include "infer/adapter_path.h"

#include "base/json.h"
#include "base/suffix.h"
#include "ckpt/checkpoint.h"
#include "infer/adapter_io.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* The last line of a file, if it is shorter than `text`. */
static bool read_last_line(const char *path, char *text, size_t bytes)
{
    FILE *stream = fopen(path, "rbe");
    if (!stream) return false;
    if (fseek(stream, -(long)(bytes - 1), SEEK_END)) rewind(stream); /* the file is shorter */
    size_t n = fread(text, 1, bytes - 1, stream);
    fclose(stream);
    while (n && text[n - 1] == '\n') n--;
    text[n] = 0;
    char *newline = strrchr(text, '\n');
    if (newline) memmove(text, newline + 1, strlen(newline));
    return n != 0;
}

/* The step at which the run of a directory ended; false: it did not end, or went on since. */
static bool last_step(const char *directory, uint64_t *step)
{
    enum { LINE_BYTES = 512 }; /* of the last line of a run that ended */
    char path[PATH_BYTES], text[LINE_BYTES];
    const char *digest = NULL;
    Json *line = NULL;
    int64_t value = 0;
    Err *err = file_join(path, directory, "metrics.jsonl");
    if (!err && read_last_line(path, text, sizeof text)) err = json_parse(&line, text, strlen(text));
    bool ended = !err && line && json_kind(line) == JSON_OBJECT;
    if (ended) err = json_may_string(line, "state_sha256", &digest);
    if (ended && !err) err = json_may_int(line, "step", 0, INT64_MAX, &value);
    ended = ended && !err && digest;
    json_free(line);
    err_free(err); /* whatever it is, it is not that line */
    *step = (uint64_t)value;
    return ended;
}

/* ---- what is chosen ---------------------------------------------------------------------------------------------- */

/* What lies in a directory. */
typedef struct {
    char checkpoint[PATH_BYTES], exported[PATH_BYTES], best[PATH_BYTES];
    bool has_checkpoint, has_exported, has_best;
    bool ended; /* the run ended with adapter/, at end_step */
    uint64_t checkpoint_step, end_step;
} Contents;

static Err *contents_read(Contents *c, const char *directory)
{
    char best[PATH_BYTES];
    TRY(checkpoint_newest(directory, c->checkpoint, &c->has_checkpoint));
    TRY(file_join(c->exported, directory, "adapter"));
    TRY(adapter_is_in(c->exported, &c->has_exported));
    TRY(file_join(best, directory, "best"));
    TRY(checkpoint_newest(best, c->best, &c->has_best));
    c->checkpoint_step = c->has_checkpoint ? checkpoint_step(c->checkpoint) : 0;
    c->ended = last_step(directory, &c->end_step);
    return NULL;
}

/* Tell which step of a run is used, what else lies there, and where the best step is. */
static void say(AdapterPath *found, const Contents *c, const char *directory)
{
    char *text = found->says;
    size_t n = 0, size = sizeof found->says;
    uint64_t step = found->is_checkpoint ? c->checkpoint_step : c->end_step;
    n += (size_t)snprintf(text, size, "%.4000s: ", directory);
    if (found->is_checkpoint)
        n += (size_t)snprintf(text + n, size - n, "step %" PRIu64 ", %.255s", step, strrchr(found->path, '/') + 1);
    else if (c->ended)
        n += (size_t)snprintf(text + n, size - n, "step %" PRIu64 ", adapter/", step);
    else
        n += (size_t)snprintf(text + n, size - n, "adapter/, of an unknown step");
    if (found->is_checkpoint && c->has_exported)
        n += (size_t)snprintf(text + n, size - n, "; adapter/ is not used, for the run did not end with it");
    if (c->has_best && checkpoint_step(c->best) != step)
        snprintf(text + n, size - n, "; the best step, %" PRIu64 ", is in best/", checkpoint_step(c->best));
}

Err *adapter_path_find(AdapterPath *found, const char *path)
{
    Contents c = {0};
    *found = (AdapterPath){.is_checkpoint = has_suffix(path, ".h5")};
    if (snprintf(found->path, PATH_BYTES, "%s", path) >= PATH_BYTES) return err_new(ERR_IO, "path too long");
    if (found->is_checkpoint || !file_is_directory(path)) return NULL;
    TRY(contents_read(&c, path));
    if (!c.has_checkpoint && !c.has_exported) return NULL; /* a PEFT directory */
    found->is_checkpoint = c.has_checkpoint && !(c.has_exported && c.ended && c.end_step >= c.checkpoint_step);
    memcpy(found->path, found->is_checkpoint ? c.checkpoint : c.exported, PATH_BYTES);
    say(found, &c, path);
    return NULL;
}
