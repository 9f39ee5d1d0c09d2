/* metrics.jsonl. Every line is flushed as it is written, which outlives the process, and synced before a checkpoint
 * counts it, which outlives a power failure. */
#define _GNU_SOURCE
#include "train/metrics.h"

#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Err *open_file(Metrics *metrics)
{
    metrics->stream = fopen(metrics->path, "abe");
    return metrics->stream ? NULL : err_errno("open %s", metrics->path);
}

Err *metrics_open(Metrics *metrics, const char *directory)
{
    *metrics = (Metrics){0};
    TRY(file_join(metrics->path, directory, "metrics.jsonl"));
    TRY(open_file(metrics));
    return metrics_cut(metrics);
}

/* The end of the last whole line within the first `bytes` bytes, up to the first line of a later step. There is one
 * where a run that had lost lines went on, and then again from the same checkpoint. */
static Err *find_end(const char *path, uint64_t bytes, uint64_t step, uint64_t *end)
{
    char *line = NULL;
    size_t capacity = 0;
    uint64_t of;
    ssize_t n;
    *end = 0;
    FILE *stream = fopen(path, "rbe");
    if (!stream) return errno == ENOENT ? NULL : err_errno("open %s", path);
    while ((n = getline(&line, &capacity, stream)) > 0 && *end + (uint64_t)n <= bytes) {
        if (line[n - 1] != '\n' || sscanf(line, "{\"step\":%" SCNu64, &of) != 1 || of > step) break;
        *end += (uint64_t)n;
    }
    Err *err = n < 0 && !feof(stream) ? err_errno("read %s", path) : NULL;
    free(line);
    fclose(stream);
    return err;
}

Err *metrics_resume(Metrics *metrics, const char *directory, uint64_t bytes, uint64_t step)
{
    *metrics = (Metrics){0};
    TRY(file_join(metrics->path, directory, "metrics.jsonl"));
    TRY(find_end(metrics->path, bytes, step, &metrics->bytes));
    if (metrics->bytes < bytes)
        log_line("  warning   %s: %" PRIu64 " of %" PRIu64
                 " bytes that the checkpoint counted are missing; lines of some steps are lost",
                 metrics->path, bytes - metrics->bytes, bytes);
    return open_file(metrics);
}

Err *metrics_cut(Metrics *metrics)
{
    if (!metrics->stream || ftruncate(fileno(metrics->stream), (off_t)metrics->bytes) == 0) return NULL;
    return err_errno("cut %s back to %" PRIu64 " bytes", metrics->path, metrics->bytes);
}

Err *metrics_write(Metrics *metrics, Json *line)
{
    char *text;
    Err *err = metrics->stream ? json_print(line, false, &text) : NULL;
    json_free(line);
    if (err || !metrics->stream) return err;
    size_t n = strlen(text);
    if (fprintf(metrics->stream, "%s\n", text) < 0 || fflush(metrics->stream))
        err = err_errno("write %s", metrics->path);
    metrics->bytes += n + 1;
    free(text);
    return err;
}

Err *metrics_sync(Metrics *metrics) { return metrics->stream ? file_sync(metrics->stream, metrics->path) : NULL; }

Err *metrics_close(Metrics *metrics) { return file_close(&metrics->stream, metrics->path); }
