#include "train/evaluate.h"

#include "base/memory.h"

#include <stdlib.h>

static Err *add_part(Step *step, Dp *dp, const Adapter *adapter, size_t n, const Document *const *docs, size_t micro, size_t group, Evaluation *e)
{
    Batch batch;
    double *nll, *right;
    TRY(batch_new(&batch, dp, n, docs, micro, group));
    Err *err = mem_new(&nll, n, sizeof *nll);
    if (!err) {
        err = mem_new(&right, n, sizeof *right);
        if (!err) {
            err = step_evaluate(step, adapter, &batch, nll, right);
            for (size_t d = 0; d < n && !err; d++) {
                e->nll += nll[d];
                e->right += (size_t)right[d];
            }
            free(right);
        }
        free(nll);
    }
    e->scored += batch.scored;
    e->documents += n;
    batch_free(&batch);
    return err;
}

Err *evaluate_dataset(Step *step, Dp *dp, const Adapter *adapter, const Dataset *dataset, size_t micro, size_t group, Evaluation *e)
{
    size_t count = dataset_count(dataset), most = (group ? group : 8192) * (size_t)dp->size;
    const Document **docs;
    TRY(mem_new(&docs, count, sizeof *docs));
    Err *err = NULL;
    *e = (Evaluation){0};
    for (size_t at = 0; at < count && !err;) {
        size_t n = 0, tokens = 0;
        while (at + n < count && (n == 0 || tokens + dataset_document(dataset, at + n)->n <= most)) {
            docs[n] = dataset_document(dataset, at + n);
            tokens += docs[n++]->n;
        }
        err = add_part(step, dp, adapter, n, docs, micro, group, e);
        at += n;
    }
    free(docs);
    return err;
}
