/* A step came out not finite. It is computed again, every micro-batch alone, with a look after every operation: the same
 * bits, so the same fault, and now it has a name. */
#include "train/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "records 12, 15 of train.jsonl": the documents of some micro-batches of the step at work. */
static void name_records(const Run *run, const Batch *batch, size_t first, size_t end, char *text, size_t bytes)
{
    enum { MOST = 16 };
    size_t n;
    const uint32_t *ids;
    loader_step(run->loader, run->done, &n, &ids);
    size_t from = batch->micro_doc[first], to = batch->micro_doc[end];
    snprintf(text, bytes, "record%s", to - from == 1 ? "" : "s");
    for (size_t d = from; d < to && d < from + MOST; d++)
        snprintf(text + strlen(text), bytes - strlen(text), "%s %zu", d == from ? "" : ",", dataset_document(run->train, ids[d])->record);
    snprintf(text + strlen(text), bytes - strlen(text), "%s of %s", to - from > MOST ? ", ..." : "", run->settings.train_file);
}

Err *run_find_fault(Run *run, Err *err)
{
    Batch batch;
    StepResult result;
    char records[512] = "";
    size_t first, end;
    Err *found = NULL;
    if (step_failed_at(run->step, &first, &end)) { /* the guard was on already */
        Err *cut = run_batch(run, (size_t)run->settings.group_tokens, &batch);
        if (cut) return err_first(err, cut);
    } else {
        step_guard(run->step);
        Err *cut = run_batch(run, 1, &batch);
        if (cut) return err_first(err, cut);
        found = step_gradients(run->step, &batch, run->done, NULL, &result);
    }
    if (step_failed_at(run->step, &first, &end)) name_records(run, &batch, first, end, records, sizeof records);
    batch_free(&batch);
    if (found) {
        found = err_wrap(found, "%s", err_message(err));
        err_free(err);
        err = found;
    } else if (!*records) {
        return err_wrap(err, "nothing was updated; the same step once more was finite, so suspect the machine's memory");
    }
    return *records ? err_wrap(err, "nothing was updated; %s", records) : err_wrap(err, "nothing was updated");
}
