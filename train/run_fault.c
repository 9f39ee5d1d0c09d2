/* Find the fault of a step that was not finite. The step is recomputed with a check after every operation, one
 * micro-batch per group. Recomputation gives the same bits, so it meets the same fault, and the check names the
 * operation.
 *
 * Two cases:
 *   1. A group of this rank failed: only its micro-batches are recomputed, on this rank alone, because other ranks may
 *      already wait in a collective call. For the same reason this rank leaves the stream that it shares with them:
 *      they would never release the buffers that it needs.
 *   2. The sums over all ranks were not finite: every rank is here, and all recompute the step together. With --guard,
 *      every operation was checked before; then a rank may be alone here (a slice of a sum), and nothing is
 *      recomputed. */
#include "model/stream.h"
#include "train/run.h"

#include <stdio.h>
#include <string.h>

/* The records of micro-batches [first, end) of the current step: "micro-batch 3, records train.jsonl:12
 * train.jsonl:15". */
static Err *name_records(const Run *run, const Batch *batch, size_t first, size_t end, char *text, size_t bytes)
{
    enum { MAX_RECORDS = 8 };
    size_t n;
    const Document *const *docs;
    TRY(loader_documents(run->loader, run->done, &n, &docs));
    size_t from = batch->micro_doc[first], to = batch->micro_doc[end];
    if (end == first + 1)
        snprintf(text, bytes, "micro-batch %zu, ", first);
    else
        snprintf(text, bytes, "micro-batches %zu to %zu, ", first, end - 1);
    snprintf(text + strlen(text), bytes - strlen(text), "record%s", to - from == 1 ? "" : "s");
    for (size_t d = from; d < to && d < from + MAX_RECORDS; d++)
        snprintf(text + strlen(text), bytes - strlen(text), " %s:%zu", dataset_file(run->train, docs[d]->file)->path,
                 docs[d]->record);
    if (to - from > MAX_RECORDS) snprintf(text + strlen(text), bytes - strlen(text), " ...");
    return NULL;
}

/* Recompute the micro-batches [*first, *end) of the group that failed, on this rank alone; narrows the range to the
 * ones at fault. Returns the error that the check found. */
static Err *recompute_alone(const Run *run, size_t *first, size_t *end)
{
    Dp alone = {.size = 1};
    StepConfig config = {.guard = true,
                         .balance = run->balance,
                         .lora_dropout = run->settings.lora_dropout,
                         .seed = (uint64_t)run->settings.seed};
    Batch whole, batch;
    Step *step;
    StepResult result;
    size_t n, at, past;
    const Document *const *docs;
    if (run->model->stream) stream_leave(run->model->stream);
    TRY(run_batch(run, 1, &whole));
    size_t from = whole.micro_doc[*first], to = whole.micro_doc[*end];
    batch_free(&whole);
    TRY(loader_documents(run->loader, run->done, &n, &docs));
    Err *err = step_new(&step, &alone, run->model, run->adapter, &config);
    if (!err &&
        !(err = batch_new(&batch, &alone, to - from, docs + from, (size_t)run->settings.micro_batch_tokens, 1))) {
        err = step_gradients(step, &batch, run->done, NULL, &result);
        if (step_failed_at(step, &at, &past)) {
            *end = *first + past;
            *first += at;
        }
        batch_free(&batch);
    }
    step_free(step);
    return err;
}

/* Append to the message. Takes ownership of err. */
static Err *append(Err *err, const char *more)
{
    Err *longer = err_new(ERR_NUMERIC, "%s; %s", err_message(err), more);
    err_free(err);
    return longer;
}

Err *run_find_fault(Run *run, Err *err)
{
    Batch batch;
    StepResult result;
    char records[2048];
    size_t first, end;
    Err *found;
    if (step_failed_at(run->step, &first, &end)) {
        found = recompute_alone(run, &first, &end);
        if (found) err_free(err);
        if (found) err = found;
    } else if (run->settings.guard) {
        first = end = 0;
    } else { /* the sums are not finite: every rank is here */
        step_guard(run->step);
        Err *cut = run_batch(run, 1, &batch);
        if (cut) return err_first(err, cut);
        found = step_gradients(run->step, &batch, run->done, NULL, &result);
        batch_free(&batch);
        if (!found)
            return append(
                err,
                "nothing was updated; the step was finite when it was recomputed, so suspect this machine's memory");
        if (!step_failed_at(run->step, &first, &end)) first = end = 0;
        found = err_wrap(found, "%s", err_message(err));
        err_free(err);
        err = found;
    }
    if (first == end) return append(err, "nothing was updated");
    Err *cut = run_batch(run, 1, &batch);
    if (cut) return err_first(err, cut);
    cut = name_records(run, &batch, first, end, records, sizeof records);
    batch_free(&batch);
    if (cut) return err_first(err, cut);
    return append(append(err, records), "nothing was updated");
}
