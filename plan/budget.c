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
    PAGE_TABLES = 256
}; /* 8 bytes for each page of 4 KiB, and as much for what the kernel keeps beside them */

/* The most rows of one rank: whole micro-batches are shared out. */
static size_t rank_tokens(const StepWork *work)
{
    size_t even = work->step_tokens / work->ranks, most = even + size_max(work->longest, work->micro_batch_tokens);
    return work->ranks == 1 || most > work->step_tokens ? work->step_tokens : most;
}

/* Of all ranks of the host, in groups of T rows. */
static Err *count_tapes(Budget *b, const Model *model, const Adapter *adapter, const StepWork *work, size_t T)
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

static size_t lowest_of(const Model *model, const Adapter *adapter)
{
    return adapter ? adapter_lowest_layer(adapter) : model->n_layers;
}

static size_t layer_input_bytes(const Model *model, const Adapter *adapter, const StepWork *work, bool spilled)
{
    size_t rows = rank_tokens(work), buffers = model->n_layers - lowest_of(model, adapter) + 1;
    if (spilled) buffers = 2;
    return rows * (size_t)model->config.hidden_size * sizeof(float) * (buffers + (adapter != NULL));
}

/* What was chosen on the way up: experts, and a bit for every key where an indexer leaves some out. */
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

static size_t held(const Budget *b)
{
    return b->program + b->data + b->adapter + b->moments + b->layer_inputs + b->tapes;
}

/* The bytes that parts from layer `from` on pass through slots, their experts `laps` times: in one more lap the slots still
 * have all but one of what they can hold. */
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

/* What a step reads: slots still hold the last parts at the top, and at the bottom where that is layer 0. */
static size_t step_bytes(const StreamedParts *parts, const bool *resident, const StreamBudget *w,
                         const Adapter *adapter, size_t lowest, size_t group_passes)
{
    size_t turn = w->cores.n_buffers * w->cores.buffer_bytes + w->chunks.n_buffers * w->chunks.buffer_bytes,
           up = streamed_bytes(parts, resident, &w->chunks, 0, group_passes);
    if (!adapter) return up;
    size_t down = streamed_bytes(parts, resident, &w->chunks, lowest, group_passes);
    return up - (lowest ? 0 : size_min(up, turn)) + down - size_min(down, turn);
}

/* Weights in what the rest leaves of the limit, in parts of part_bytes at the most. */
static Err *fit_parts(Budget *b, Model *model, const Adapter *adapter, size_t group_passes, size_t part_bytes)
{
    size_t share = b->limit - size_min(b->limit, held(b));
    StreamedParts parts;
    bool *resident = NULL;
    TRY(parts_cut(&parts, model, part_bytes, true));
    Err *err = mem_new(&resident, parts.n, sizeof *resident);
    if (!err) err = parts_budget(&parts, share, &b->weights, resident);
    b->weights.part_bytes = part_bytes;
    b->streamed = !err && share < b->weights.fixed_bytes + stream_budget_layer_bytes(&b->weights);
    b->read_bytes = b->streamed
                        ? step_bytes(&parts, resident, &b->weights, adapter, lowest_of(model, adapter), group_passes)
                        : 0;
    free(resident);
    parts_free(&parts);
    return err;
}

/* The better of layers as they are and parts of them, where they are read once for each group; the smallest parts where
 * nothing else fits. */
static Err *fit_weights(Budget *b, Model *model, const Adapter *adapter, size_t group_passes)
{
    size_t parts[3] = {STREAM_WHOLE, 0, 0}, best = SIZE_MAX;
    Budget base = *b;
    Err *err = NULL;
    TRY(parts_size(model, b->limit - size_min(b->limit, held(b)), &parts[1]));
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

static Err *fit_group(Budget *b, Model *model, const Adapter *adapter, const StepWork *work, size_t T)
{
    TRY(count_tapes(b, model, adapter, work, T));
    return fit_weights(b, model, adapter, (rank_tokens(work) + T - 1) / T);
}

/* Groups as asked for, or by halves smaller where that saves a quarter of what is read: their tapes leave more to weights. Large
 * groups multiply faster. Fails: when none fits. */
static Err *choose_group(Budget *b, Model *model, const Adapter *adapter, const StepWork *work)
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
        "memory_limit is %s; this run needs %zuMiB at least: weights %s (embedding, head, the largest part of a "
        "layer), tapes %s, boundaries %s, adapter and moments %s, the rest %s. "
        "What else would help: shorter documents (max_length %zu now)%s%s, fewer ranks on the host, FP8 weights",
        BYTES(b->limit), (b->least >> 20) + 1, BYTES(b->weights.least_bytes), BYTES(b->tapes), BYTES(b->layer_inputs),
        BYTES(b->adapter + b->moments), BYTES(b->program + b->data), work->longest,
        work->keep_layers ? ", keep_layers 0" : "", work->may_spill ? "" : ", a scratch_dir");
}

/* The least: smallest groups, boundaries spilled when they may be, one slot of each kind. */
static Err *find_least(Budget *b, Model *model, const Adapter *adapter, const StepWork *work)
{
    StreamedParts parts;
    TRY(parts_cut(&parts, model, 0, true));
    err_free(parts_budget(&parts, 0, &b->weights, NULL));
    parts_free(&parts);
    TRY(count_tapes(b, model, adapter, work,
                    size_min(size_max(work->longest, work->micro_batch_tokens), rank_tokens(work))));
    b->layer_inputs = work->local_ranks * layer_input_bytes(model, adapter, work, work->may_spill);
    size_t tables = (b->weights.fixed_bytes + stream_budget_layer_bytes(&b->weights)) / PAGE_TABLES,
           sum = held(b) + b->weights.least_bytes;
    b->least = sum + size_min(sum / (PAGE_TABLES - 1) + 1, tables); /* tables are a share of the limit itself */
    b->program += size_min(b->limit / PAGE_TABLES, tables);
    return b->limit < b->least ? too_small(b, work) : NULL;
}

static Err *share_out(Budget *b, Model *model, const Adapter *adapter, const StepWork *work)
{
    size_t choices = choice_bytes(model, work) * work->local_ranks;
    b->program = work->local_ranks * (PROGRAM_BYTES + model->rope.n * 8) + choices;
    b->data = work->local_ranks * work->data_bytes;
    if (adapter) {
        b->adapter = work->local_ranks * adapter->n * sizeof(float);
        b->moments = work->local_ranks * (3 * adapter->n / work->ranks * sizeof(float) + forest_bytes(adapter, work));
    }
    TRY(find_least(b, model, adapter, work));
    size_t left = b->limit - (b->program + b->data + b->adapter + b->moments + b->weights.least_bytes);
    b->layer_inputs = work->local_ranks * layer_input_bytes(model, adapter, work, false);
    bool may_spill = work->may_spill && adapter;
    if (!may_spill || b->layer_inputs <= left / 4) {
        Err *err = choose_group(b, model, adapter, work);
        if (!err || !may_spill) return err;
        err_free(err); /* the least counts on a file, and that is what fits */
    }
    b->spilled = true;
    b->layer_inputs = work->local_ranks * layer_input_bytes(model, adapter, work, true);
    return choose_group(b, model, adapter, work);
}

Err *budget_make(Budget *b, Model *model, const Adapter *adapter, const StepWork *work, size_t limit)
{
    *b = (Budget){.limit = limit};
    TRY(share_out(b, model, adapter, work));
    const StreamBudget *w = &b->weights;
    b->total = held(b) + (b->streamed ? stream_budget_bytes(w) : w->fixed_bytes + stream_budget_layer_bytes(w));
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

Err *budget_apply(Budget *b, Model *model, const Adapter *adapter, const StepWork *work, const char *limit)
{
    size_t bytes;
    TRY(budget_limit(&bytes, limit));
    TRY(budget_make(b, model, adapter, work, bytes));
    return b->streamed ? stream_open(model, b->weights.limit_bytes, b->weights.part_bytes, NULL) : NULL;
}
