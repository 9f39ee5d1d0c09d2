/* --timing: where the time of the steps went. Every rank measures; rank 0 prints and writes its own time. The first
 * step of this process is not counted, because its memory is cold. The key "profile" of the record is a file format. */
#include "base/log.h"
#include "base/memory.h"
#include "tensor/dispatch.h"
#include "train/run.h"

#include <stdlib.h>
#include <string.h>

void run_time_step(Run *run, bool first, double seconds)
{
    RunTiming *t = &run->run_timing;
    if (!run->settings.timing) return;
    if (first) {
        timing_clear(&t->timing);
        return;
    }
    t->steps++;
    t->seconds += seconds;
}

/* One record in the format of bench/report.h; plot/timing.h reads it. */
static Err *write_record(const Run *run, const char *path)
{
    const RunTiming *t = &run->run_timing;
    char *text, *line;
    Json *record = json_new_object();
    json_add_string(record, "kind", "training");
    json_add_string(record, "path", dispatch_path());
    json_add_number(record, "steps", (double)t->steps);
    json_add_number(record, "seconds", t->seconds / (double)t->steps);
    json_add(record, "profile", timing_json(&t->timing, t->steps));
    Err *err = json_print(record, false, &text);
    json_free(record);
    if (err) return err;
    err = mem_format(&line, "%s\n", text);
    free(text);
    if (err) return err;
    err = file_write(path, line, strlen(line));
    free(line);
    return err;
}

Err *run_write_timing(const Run *run)
{
    const RunTiming *t = &run->run_timing;
    char path[PATH_BYTES];
    if (!run->settings.timing || run->dp.rank != 0) return NULL;
    if (t->steps == 0) {
        log_line("  timing    nothing to show: --timing does not count the first step, and there was no second");
        return NULL;
    }
    timing_print(&t->timing, t->steps, t->seconds);
    TRY(file_join(path, run->settings.output_dir, "timing.jsonl"));
    TRY(write_record(run, path));
    log_line("  timing    of %llu steps in %s; graft plot --kind timing draws it", (unsigned long long)t->steps, path);
    return NULL;
}
