/* metrics.jsonl. Every line is flushed as it is written, so the byte count that a checkpoint holds is always on
 * disk. */
#define _GNU_SOURCE
#include "train/metrics.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Err *metrics_open(Metrics *metrics, const char *directory, uint64_t bytes)
{
    *metrics = (Metrics){.bytes = bytes};
    TRY(file_join(metrics->path, directory, "metrics.jsonl"));
    struct stat st;
    uint64_t have = stat(metrics->path, &st) ? 0 : (uint64_t)st.st_size;
    if (have < bytes)
        return err_new(ERR_FORMAT, "%s has %llu bytes; the checkpoint was written after %llu", metrics->path,
                       (unsigned long long)have, (unsigned long long)bytes);
    metrics->stream = fopen(metrics->path, "abe");
    if (!metrics->stream) return err_errno("open %s", metrics->path);
    if (ftruncate(fileno(metrics->stream), (off_t)bytes))
        return err_errno("cut %s back to %llu bytes", metrics->path, (unsigned long long)bytes);
    return NULL;
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

Err *metrics_close(Metrics *metrics) { return file_close(&metrics->stream, metrics->path); }
