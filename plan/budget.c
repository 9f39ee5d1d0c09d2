/* Every kind of memory of plan/budget.h has its function here; plan/tape_bytes counts tapes. The order of decisions:
 *
 *     divide_limit    what is given; then the smallest limit (find_min_limit), which also refuses
 *     choose_group    group_tokens as asked for, halved while that saves a quarter of the bytes read
 *     fit_weights     parts of layers: whole layers, or parts of the size that the limit suggests, or the smallest
 *     fit_parts       which parts are resident (model/stream_budget), and the bytes that a step reads
 *
 * What a step reads, with R(l) the bytes of the streamed parts of the layers from l on and B those of the buffers:
 *
 *     evaluation   R(0)
 *     training     R(0) + R(lowest) - min(R(lowest), B) - (lowest == 0 ? min(R(0), B) : 0)
 *
 * for buffers still hold the last parts of a pass when the next pass begins where it ended. They are taken for full of
 * parts that come next; plan/stream_time.c follows the parts themselves, and may read a few more. */
#include "plan/budget.h"

#include "base/byte_size.h"
#include "base/memory.h"
#include "base/minmax.h"
#include "base/proc_memory.h"
#include "model/stream_parts.h"
#include "plan/tape_bytes.h"

#include <stdint.h>
#include <stdlib.h>

enum {
    PROGRAM_BYTES = 32 << 20, /* code, libraries, stacks, tables of tensors */
    PAGE_TABLES = 256         /* bytes for each byte of page tables: 8 for a page of 4 KiB, and as much beside them */
};

/* Rows of the largest rank. Ranks take whole micro-batches. */
static size_t rank_tokens(const StepWork *work)
{
    size_t rows = work->step_tokens / work->ranks + size_max(work->longest, work->micro_batch_tokens);
    return work->ranks == 1 || rows > work->step_tokens ? work->step_tokens : rows;
}

/* Tapes of all ranks of the host, in groups of T rows. */
static Err *count_tapes(Budget *b, const Model *model, Adapter *adapter, const StepWork *work, size_t T)
{
    TRY(tapes_bytes(&b->tapes, model, adapter,
                    &(TapeWork){.rows = rank_tokens(work),
                                .T = T,
                                .longest = work->longest,
                                .micro_batch_tokens = work->micro_batch_tokens,
                                .threads = work->threads,
                                .kept_layers = work->keep_layers}));
    b->tapes *= work->local_ranks;
    return NULL;
}

static size_t lowest_layer(const Model *model, const Adapter *adapter)
{
    return adapter ? adapter_lowest_layer(adapter) : model->n_layers;
}

/* Of one rank: the inputs of the layers from the lowest on, the last hidden states and, in training, their gradient.
 * In a file, two of them are in memory at a time. */
static size_t layer_input_bytes(const Model *model, const Adapter *adapter, const StepWork *work, bool spilled)
{
    size_t rows = rank_tokens(work), buffers = model->n_layers - lowest_layer(model, adapter) + 1;
    if (spilled) buffers = 2;
    return rows * (size_t)model->config.hidden_size * sizeof(float) * (buffers + (adapter != NULL));
}

/* What the forward pass chose: experts of every token, and a bit for every key where an indexer leaves some out. */
static size_t choice_bytes(const Model *model, const StepWork *work)
{
    size_t rows = rank_tokens(work), bytes = 0;
    for (size_t l = 0; l < model->n_layers; l++) {
        if (!model->layers[l].dense) bytes += rows * model->router.K * sizeof(int32_t);
        if (model->layers[l].indexer && work->longest > model->index.top_k) bytes += rows * work->longest / 8;
    }
    return bytes;
}

/* Gradients of one layer wait at the levels of the tree of micro-batches. */
static size_t forest_bytes(const Adapter *adapter, const StepWork *work)
{
    size_t largest = 0, levels = 2, micro = work->step_tokens / size_max(work->micro_batch_tokens, 1) / work->ranks + 1;
    for (size_t l = 0; l < adapter->n_layers; l++) largest = size_max(largest, adapter->layers[l].n);
    while (micro >>= 1) levels++;
    return levels * largest * sizeof(float);
}

static size_t held_bytes(const Budget *b)
{
    return b->program + b->data + b->adapter + b->moments + b->layer_inputs + b->tapes;
}

/* Bytes of the streamed parts of the layers from `from` on, experts once for every group pass. From the second group
 * pass on, the buffers still hold as much of the experts as fits in all buffers but one. */
static size_t streamed_bytes(const StreamedParts *parts, const bool *resident, const StreamRing *chunks, size_t from,
                             size_t group_passes)
{
    size_t sum = 0, kept = chunks->n_buffers ? (chunks->n_buffers - 1) * chunks->buffer_bytes : 0;
    for (size_t l = from; l < parts->n_layers; l++) {
        size_t core = parts->first[l], experts = 0;
        for (size_t p = core + 1; p < parts->first[l + 1]; p++) experts += resident[p] ? 0 : parts->parts[p].bytes;
        sum += (resident[core] ? 0 : parts->parts[core].bytes) + experts +
               (group_passes - 1) * (experts - size_min(experts, kept));
    }
    return sum;
}

/* Bytes that a step reads. The backward pass finds the last parts of the forward pass in the buffers, and the next
 * forward pass finds the last parts of the backward pass there if that reaches layer 0. */
static size_t step_bytes(const StreamedParts *parts, const bool *resident, const StreamBudget *w, size_t lowest,
                         size_t group_passes)
{
    size_t buffers = w->cores.n_buffers * w->cores.buffer_bytes + w->chunks.n_buffers * w->chunks.buffer_bytes,
           forward = streamed_bytes(parts, resident, &w->chunks, 0, group_passes);
    if (lowest == parts->n_layers) return forward;
    size_t backward = streamed_bytes(parts, resident, &w->chunks, lowest, group_passes);
    return forward - (lowest ? 0 : size_min(forward, buffers)) + backward - size_min(backward, buffers);
}

/* Weights in what the other kinds leave of the limit, in parts of at most part_bytes. */
static Err *fit_parts(Budget *b, Model *model, Adapter *adapter, size_t group_passes, size_t part_bytes)
{
    size_t share = b->limit - size_min(b->limit, held_bytes(b));
    StreamedParts parts;
    bool *resident = NULL;
    TRY(parts_cut(&parts, model, part_bytes, true));
    Err *err = mem_new(&resident, parts.n, sizeof *resident);
    if (!err) err = parts_budget(&parts, share, &b->weights, resident);
    b->weights.part_bytes = part_bytes;
    b->streamed = !err && share < b->weights.fixed_bytes + stream_budget_layer_bytes(&b->weights);
    b->read_bytes = b->streamed ? step_bytes(&parts, resident, &b->weights, lowest_layer(model, adapter), group_passes)
                                : 0;
    free(resident);
    parts_free(&parts);
    return err;
}

/* With several groups, experts in parts are read once for each group: the better of whole layers and parts. The
 * smallest parts where neither fits. */
static Err *fit_weights(Budget *b, Model *model, Adapter *adapter, size_t group_passes)
{
    size_t parts[3] = {STREAM_WHOLE, 0, 0}, best = SIZE_MAX;
    Budget base = *b;
    Err *err = NULL;
    TRY(parts_size(model, b->limit - size_min(b->limit, held_bytes(b)), &parts[1]));
    for (size_t i = group_passes > 1 ? 0 : 1; i < 3; i++) {
        Budget trial = base;
        if (i == 2 && best != SIZE_MAX) break;
        err_free(err);
        err = fit_parts(&trial, model, adapter, group_passes, parts[i]);
        if (err || trial.read_bytes >= best) continue;
        best = trial.read_bytes;
        *b = trial;
    }
    if (best == SIZE_MAX) return err;
    err_free(err);
    return NULL;
}

static Err *fit_group(Budget *b, Model *model, Adapter *adapter, const StepWork *work, size_t T)
{
    TRY(count_tapes(b, model, adapter, work, T));
    return fit_weights(b, model, adapter, (rank_tokens(work) + T - 1) / T);
}

/* Groups as asked for, or halved while that saves a quarter of the bytes read: smaller tapes leave more memory to
 * weights, but large groups multiply faster. Fails: when no size fits. */
static Err *choose_group(Budget *b, Model *model, Adapter *adapter, const StepWork *work)
{
    size_t rows = rank_tokens(work), floor = size_min(size_max(work->longest, work->micro_batch_tokens), rows);
    size_t T = size_min(work->group_tokens ? size_max(work->group_tokens, floor) : rows, rows);
    bool found = false;
    Budget best = *b;
    Err *err = NULL;
    for (size_t first = T;; T = size_max(T / 2, floor)) {
        Budget trial = *b;
        trial.group_tokens = T == first ? work->group_tokens : T;
        err_free(err);
        err = fit_group(&trial, model, adapter, work, T);
        if (!err && (!found || trial.read_bytes < best.read_bytes / 4 * 3)) best = trial;
        found = found || !err;
        if (T == floor) break;
    }
    if (!found) return err;
    err_free(err);
    *b = best;
    return NULL;
}

static Err *too_small(const Budget *b, const StepWork *work)
{
    return err_new(
        ERR_MEMORY,
        "memory_limit is %s; this run needs at least %zuMiB: weights %s (embedding, head, the largest part of a "
        "layer), tapes %s, layer inputs %s, adapter and moments %s, program and data %s. "
        "What else would help: shorter documents (max_length is %zu)%s%s, fewer ranks on the host, FP8 weights",
        BYTES(b->limit), (b->min_limit >> 20) + 1, BYTES(b->weights.min_bytes), BYTES(b->tapes), BYTES(b->layer_inputs),
        BYTES(b->adapter + b->moments), BYTES(b->program + b->data), work->longest,
        work->keep_layers ? ", keep_layers 0" : "", work->may_spill ? "" : ", a scratch_dir");
}

/* The smallest limit: the smallest groups, layer inputs in a file if they may be, one buffer of each kind. */
static Err *find_min_limit(Budget *b, Model *model, Adapter *adapter, const StepWork *work)
{
    StreamedParts parts;
    TRY(parts_cut(&parts, model, 0, true));
    err_free(parts_budget(&parts, 0, &b->weights, NULL));
    parts_free(&parts);
    TRY(count_tapes(b, model, adapter, work,
                    size_min(size_max(work->longest, work->micro_batch_tokens), rank_tokens(work))));
    b->layer_inputs = work->local_ranks * layer_input_bytes(model, adapter, work, work->may_spill);
    size_t tables = (b->weights.fixed_bytes + stream_budget_layer_bytes(&b->weights)) / PAGE_TABLES,
           sum = held_bytes(b) + b->weights.min_bytes;
    b->min_limit = sum +
                   size_min(sum / (PAGE_TABLES - 1) + 1, tables); /* page tables take a share of the limit itself */
    b->program += size_min(b->limit / PAGE_TABLES, tables);
    return b->limit < b->min_limit ? too_small(b, work) : NULL;
}

static Err *divide_limit(Budget *b, Model *model, Adapter *adapter, const StepWork *work)
{
    size_t choices = choice_bytes(model, work) * work->local_ranks;
    b->program = work->local_ranks * (PROGRAM_BYTES + model->rope.n * 8) + choices;
    b->data = work->local_ranks * work->data_bytes;
    if (adapter) {
        b->adapter = work->local_ranks * adapter->n * sizeof(float);
        b->moments = work->local_ranks * (3 * adapter->n / work->ranks * sizeof(float) + forest_bytes(adapter, work));
    }
    TRY(find_min_limit(b, model, adapter, work));
    size_t left = b->limit - (b->program + b->data + b->adapter + b->moments + b->weights.min_bytes);
    b->layer_inputs = work->local_ranks * layer_input_bytes(model, adapter, work, false);
    bool may_spill = work->may_spill && adapter;
    if (!may_spill || b->layer_inputs <= left / 4) {
        Err *err = choose_group(b, model, adapter, work);
        if (!err || !may_spill) return err;
        err_free(err); /* the smallest limit counts on a file, and with one the run fits */
    }
    b->spilled = true;
    b->layer_inputs = work->local_ranks * layer_input_bytes(model, adapter, work, true);
    return choose_group(b, model, adapter, work);
}

Err *budget_make(Budget *b, Model *model, Adapter *adapter, const StepWork *work, size_t limit)
{
    *b = (Budget){.limit = limit};
    TRY(divide_limit(b, model, adapter, work));
    const StreamBudget *w = &b->weights;
    b->total = held_bytes(b) + (b->streamed ? stream_budget_bytes(w) : w->fixed_bytes + stream_budget_layer_bytes(w));
    if (b->spilled)
        b->scratch_bytes = 2 * work->local_ranks *
                           (layer_input_bytes(model, adapter, work, false) -
                            layer_input_bytes(model, adapter, work, true));
    return NULL;
}

Err *budget_limit(size_t *bytes, const char *limit)
{
    if (limit) return byte_size_parse(bytes, limit, "memory_limit");
    size_t left = proc_memory_available();
    *bytes = left == SIZE_MAX ? SIZE_MAX / 2 : left / 10 * 9;
    return NULL;
}

Err *budget_apply(Budget *b, Model *model, Adapter *adapter, const StepWork *work, const char *limit)
{
    size_t bytes;
    TRY(budget_limit(&bytes, limit));
    TRY(budget_make(b, model, adapter, work, bytes));
    return b->streamed ? stream_open(model, b->weights.limit_bytes, b->weights.part_bytes, NULL) : NULL;
}
