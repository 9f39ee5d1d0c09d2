/* Resident parts have buffers that are never overwritten. The buffers of a ring have the size of the largest streamed
 * part of their kind. What to read next is decided by model/stream_policy.c.
 *
 *     EMPTY    -- begin_load -->                    LOADING
 *     LOADING  -- reader: the last piece -->        READY
 *     READY    -- assign, for another part -->      LOADING
 *     READY    -- acquire_part, release_part -->    READY, with one holder more or less
 *
 * What always holds, with the lock (model/stream_shared.h): where[part] names a buffer whose part it is, or nowhere; a
 * buffer that is LOADING or has holders keeps its part; a rank's place only grows, but for a group pass that nobody
 * announced. */
#define _GNU_SOURCE
#include "model/stream.h"

#include "base/direct_io.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pages.h"
#include "base/minmax.h"
#include "model/stream_order.h"
#include "model/stream_parts.h"
#include "model/stream_policy.h"
#include "model/stream_shared.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READERS = 4, PATIENCE = 1800, CLOSING_PATIENCE = 30 }; /* seconds without any change on this host */
static const size_t nowhere = SIZE_MAX;

/* What this process holds of a part. */
typedef struct {
    bool held;
    size_t buffer;
} Hold;

/* By which the experts' operation acquires a layer's chunks. */
typedef struct {
    ExpertChunks chunks;
    Stream *stream;
    size_t l, visit; /* of the layer's core */
} ExpertLease;

struct Stream {
    StreamBudget budget;
    HostRanks host;
    Model *model;
    size_t n_files;
    StreamedParts parts;
    Hold *holds;         /* [n + 1] */
    ExpertLease *leases; /* [n_layers] */
    size_t *where;       /* [n + 1], shared */
    DirectFile *files;
    StreamShared *shared;
    size_t mapped_bytes;
    char *bytes; /* of all buffers */
    size_t n_readers;
    pthread_t readers[READERS];
    double waited, patience;
    bool left; /* reads from the mapping */
};

/* ---- the order ------------------------------------------------------------------------------------------------ */

static size_t next_use(const Stream *s, size_t from, size_t part)
{
    return order_next(&s->shared->order, s->parts.n_layers, s->parts.first, from, part);
}

static StreamRank *this_rank(const Stream *s) { return &s->shared->ranks[s->host.rank]; }

void stream_announce(Stream *s, size_t lowest, size_t group_passes)
{
    StreamShared *shared = s->shared;
    Order *order = &shared->order;
    StreamRank *me = this_rank(s);
    if (s->left) return;
    shared_lock(shared);
    size_t k = me->said++;
    if (k >= order->n) {
        const OrderPass *last = k ? &order->passes[(k - 1) % ORDER_PASSES] : NULL;
        size_t start = last ? last->start + order_visits(last, s->parts.n_layers, s->parts.first) : 0;
        while (start < me->place) start += s->parts.n; /* forward passes that nobody announced */
        order->passes[k % ORDER_PASSES] = (OrderPass){start, lowest, group_passes};
        order->n = k + 1;
    }
    me->place = order->passes[k % ORDER_PASSES].start;
    shared_changed(shared);
    shared_unlock(shared);
}

/* ---- readers -------------------------------------------------------------------------------------------------- */

static StreamBuffer *buffer_of(const Stream *s, size_t part)
{
    return s->where[part] == nowhere ? NULL : &s->shared->buffers[s->where[part]];
}

static BufferView view_buffer(const void *context, size_t i)
{
    const StreamBuffer *buffer = &((const Stream *)context)->shared->buffers[i];
    return (BufferView){.part = buffer->part,
                        .chunk = buffer->chunk,
                        .empty = buffer->state == BUFFER_EMPTY,
                        .in_use = buffer->resident || buffer->holders || buffer->state == BUFFER_LOADING};
}

static long view_place(const void *context, size_t part)
{
    const Stream *s = context;
    if (s->where[part] == nowhere) return PART_MISSING;
    return s->shared->buffers[s->where[part]].state == BUFFER_EMPTY ? (long)s->where[part] : PART_IN_MEMORY;
}

static StreamBuffer *begin_load(StreamBuffer *buffer)
{
    buffer->state = BUFFER_LOADING;
    buffer->taken = buffer->done = 0;
    return buffer;
}

static StreamBuffer *assign(const Stream *s, StreamBuffer *buffer, size_t part)
{
    if (buffer->state != BUFFER_EMPTY) s->where[buffer->part] = nowhere;
    buffer->part = part;
    s->where[part] = (size_t)(buffer - s->shared->buffers);
    return begin_load(buffer);
}

/* A buffer with a piece to read: one that is being filled, else that of the part to read next. Lock held. */
static StreamBuffer *next_load(const Stream *s)
{
    StreamShared *shared = s->shared;
    const StreamedParts *parts = &s->parts;
    StreamView view = {.parts = parts,
                       .order = &shared->order,
                       .n_buffers = shared->n_buffers,
                       .context = s,
                       .buffer = view_buffer,
                       .place = view_place};
    for (size_t i = 0; i < shared->n_buffers; i++) {
        StreamBuffer *buffer = &shared->buffers[i];
        if (buffer->state == BUFFER_LOADING && buffer->taken < parts->parts[buffer->part].n_pieces) return buffer;
        view.any_reserved = view.any_reserved || (buffer->resident && buffer->state == BUFFER_EMPTY);
    }
    StreamBuffer *always = buffer_of(s, parts->n); /* embedding and head come first */
    if (always->state == BUFFER_EMPTY) return begin_load(always);
    size_t part, i;
    int slowest = shared_slowest(shared, -1);
    if (slowest < 0 || !stream_policy_next(&view, shared->ranks[slowest].place, &part, &i)) return NULL;
    StreamBuffer *buffer = &shared->buffers[i];
    return buffer->resident ? begin_load(buffer) : assign(s, buffer, part);
}

static void *reader(void *context)
{
    Stream *s = context;
    StreamShared *shared = s->shared;
    shared_lock(shared);
    while (!shared->closing && !shared->failed) {
        StreamBuffer *buffer = next_load(s);
        if (!buffer) {
            shared_wait(shared);
            continue;
        }
        const StreamedPart *part = &s->parts.parts[buffer->part];
        const PartPiece *piece = &part->pieces[buffer->taken++];
        DirectFile *file = &s->files[piece->shard];
        shared_unlock(shared);
        Err *err = direct_read(file, piece->offset, piece->bytes, s->bytes + buffer->at + piece->at);
        shared_lock(shared);
        if (err) shared_fail(shared, err);
        shared->read_bytes += piece->bytes;
        shared->direct = shared->direct && file->direct;
        if (++buffer->done == part->n_pieces) buffer->state = BUFFER_READY;
        if (buffer->state == BUFFER_READY) shared_changed(shared);
    }
    shared_changed(shared);
    shared_unlock(shared);
    return NULL;
}

/* ---- acquire and release -------------------------------------------------------------------------------------- */

static Err *acquire_part(Stream *s, size_t p)
{
    StreamShared *shared = s->shared;
    const StreamedPart *part = &s->parts.parts[p];
    size_t layer = p < s->parts.n ? order_layer(s->parts.n_layers, s->parts.first, p) : SHARED_NO_LAYER;
    StreamBuffer *buffer = buffer_of(s, p);
    double began = log_seconds(), moved = began;
    while (!shared->failed && !(buffer && buffer->state == BUFFER_READY)) {
        bool change = shared_wait(shared);
        double now = log_seconds();
        if (change)
            moved = now;
        else if (now - moved > (shared->closing ? CLOSING_PATIENCE : s->patience))
            shared_fail(shared, shared_stuck(shared, s->host.rank, layer, now - began));
        buffer = buffer_of(s, p);
    }
    s->waited += log_seconds() - began;
    if (shared->failed) return err_new(shared->kind, "%s", shared->message);
    buffer->holders++;
    s->holds[p] = (Hold){true, (size_t)(buffer - shared->buffers)};
    for (size_t i = 0; i < part->n_refs; i++) *part->refs[i].pointer = s->bytes + buffer->at + part->refs[i].at;
    return NULL;
}

/* Acquire a part at its visit, from now on this rank's place. */
static Err *acquire_at(Stream *s, size_t visit, size_t p)
{
    size_t *place = &this_rank(s)->place;
    if (visit != *place) {
        *place = visit;
        shared_changed(s->shared);
    }
    return acquire_part(s, p);
}

/* Lock held. */
static void release_part(Stream *s, size_t p)
{
    const StreamedPart *part = &s->parts.parts[p];
    for (size_t i = 0; i < part->n_refs; i++) *part->refs[i].pointer = part->refs[i].mapped;
    s->shared->buffers[s->holds[p].buffer].holders--;
    s->holds[p].held = false;
    shared_changed(s->shared);
}

Err *stream_acquire(Stream *s, size_t l)
{
    size_t p = s->parts.first[l];
    StreamRank *me = this_rank(s);
    if (s->left) return NULL;
    shared_lock(s->shared);
    s->leases[l].visit = next_use(s, me->place, p);
    Err *err = acquire_at(s, s->leases[l].visit, p);
    if (!err) me->place++;
    if (!err) me->layer = l;
    shared_unlock(s->shared);
    return err;
}

void stream_release(Stream *s, size_t l)
{
    size_t p = s->parts.first[l];
    StreamRank *me = this_rank(s);
    if (!s->holds[p].held) return; /* acquire failed */
    shared_lock(s->shared);
    size_t end = order_end(&s->shared->order, s->parts.n_layers, s->parts.first, s->leases[l].visit, l);
    if (me->place < end)
        me->place = end; /* fewer groups than other ranks: those wait for buffers that this rank will not ask for */
    me->layer = SHARED_NO_LAYER;
    release_part(s, p);
    shared_unlock(s->shared);
}

void stream_set_patience(Stream *s, double seconds) { s->patience = seconds; }

/* This rank holds none of the parts below `end` any more, and holds nobody up. Lock held. */
static void leave_order(Stream *s, size_t end)
{
    for (size_t p = 0; p < end; p++)
        if (s->holds[p].held) release_part(s, p);
    this_rank(s)->place = SHARED_LEFT;
    this_rank(s)->layer = SHARED_NO_LAYER;
    shared_changed(s->shared);
}

void stream_leave(Stream *s)
{
    shared_lock(s->shared);
    leave_order(s, s->parts.n);
    shared_unlock(s->shared);
    for (size_t l = 0; l < s->parts.n_layers; l++) s->model->layers[l].chunks = NULL;
    s->left = true;
}

/* A group pass that nobody announced begins at the layer's first one again. */
static Err *acquire_chunk(void *context, size_t chunk)
{
    ExpertLease *lease = context;
    Stream *s = lease->stream;
    size_t p = s->parts.first[lease->l] + 1 + chunk;
    shared_lock(s->shared);
    size_t place = this_rank(s)->place, visit = next_use(s, place, p), first = next_use(s, lease->visit, p);
    if (first < place && visit - place > lease->chunks.n) visit = first;
    Err *err = acquire_at(s, visit, p);
    shared_unlock(s->shared);
    return err;
}

static void release_chunk(void *context, size_t chunk)
{
    ExpertLease *lease = context;
    Stream *s = lease->stream;
    size_t p = s->parts.first[lease->l] + 1 + chunk;
    if (!s->holds[p].held) return; /* acquire failed */
    shared_lock(s->shared);
    this_rank(s)->place++;
    release_part(s, p);
    shared_unlock(s->shared);
}

/* From now on the experts' operation acquires the chunks of the layers that have some. */
static Err *lend_chunks(Stream *s)
{
    size_t L = s->parts.n_layers;
    TRY(mem_new(&s->leases, L, sizeof *s->leases));
    for (size_t l = 0; l < L; l++) {
        size_t core = s->parts.first[l], n = s->parts.first[l + 1] - core - 1;
        s->leases[l] = (ExpertLease){.chunks = {n, s->parts.begin + core, acquire_chunk, release_chunk, &s->leases[l]},
                                     .stream = s,
                                     .l = l};
        if (n) s->model->layers[l].chunks = &s->leases[l].chunks;
    }
    return NULL;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static size_t shared_bytes(const Stream *s, size_t n_buffers)
{
    size_t bytes = sizeof(StreamShared) + n_buffers * sizeof(StreamBuffer) + (s->parts.n + 1) * sizeof *s->where;
    return round_up(bytes, HUGE_PAGE);
}

static Err *map_memory(Stream *s, size_t bytes)
{
    void *at;
    TRY(host_memory_map(&s->host, bytes, &at));
    s->shared = at;
    s->mapped_bytes = bytes;
    s->bytes = at;
    return NULL;
}

static void lay_out(Stream *s, const bool *resident, size_t n_buffers)
{
    StreamShared *shared = s->shared;
    const StreamRing *const rings[] = {&s->budget.cores, &s->budget.chunks};
    size_t at = shared_bytes(s, n_buffers), n = 0;
    for (size_t p = 0; p <= s->parts.n; p++) {
        s->where[p] = nowhere;
        if (p < s->parts.n && !resident[p]) continue;
        s->where[p] = n;
        shared->buffers[n++] = (StreamBuffer){.resident = true, .part = p, .at = at};
        at += s->parts.parts[p].bytes;
    }
    for (size_t chunk = 0; chunk < 2; chunk++)
        for (size_t i = 0; i < rings[chunk]->n_buffers; i++, at += rings[chunk]->buffer_bytes)
            shared->buffers[n++] = (StreamBuffer){.chunk = chunk == 1, .at = at};
    shared->n_buffers = n_buffers;
    shared->direct = true;
    shared_init(shared, s->host.size);
}

static Err *open_files(Stream *s, const Weights *weights)
{
    TRY(mem_new(&s->files, weights_shards(weights), sizeof *s->files));
    for (; s->n_files < weights_shards(weights); s->n_files++)
        TRY(direct_open(&s->files[s->n_files], weights_shard_path(weights, s->n_files)));
    return NULL;
}

static Err *start_readers(Stream *s)
{
    for (; s->n_readers < READERS; s->n_readers++)
        if (pthread_create(&s->readers[s->n_readers], NULL, reader, s))
            return err_new(ERR_MEMORY, "a thread to read weights did not start");
    return NULL;
}

static Err *open_into(Stream *s, size_t limit, size_t part_bytes)
{
    bool *resident;
    if (s->host.size > SHARED_MAX_RANKS)
        return err_new(ERR_USAGE, "%d ranks on one host; weights are shared by %d at most", s->host.size,
                       SHARED_MAX_RANKS);
    TRY(parts_cut(&s->parts, s->model, part_bytes, false));
    TRY(mem_new(&s->holds, s->parts.n + 1, sizeof *s->holds));
    TRY(mem_new(&resident, s->parts.n, sizeof *resident));
    Err *err = parts_budget(&s->parts, limit, &s->budget, resident);
    size_t n_buffers = 1 + s->budget.cores.n_resident + s->budget.cores.n_buffers + s->budget.chunks.n_resident +
                       s->budget.chunks.n_buffers;
    if (!err) err = map_memory(s, shared_bytes(s, n_buffers) + stream_budget_bytes(&s->budget));
    if (!err) s->where = (size_t *)(void *)(s->shared->buffers + n_buffers);
    if (!err && s->host.rank == 0) lay_out(s, resident, n_buffers);
    free(resident);
    if (!err && s->host.rank == 0) err = open_files(s, s->model->weights);
    if (!err && s->host.rank == 0) err = start_readers(s);
    return err ? err : lend_chunks(s);
}

Err *stream_open(Model *model, size_t limit, size_t part_bytes, HostRanks *host)
{
    Stream *s;
    TRY(mem_new(&s, 1, sizeof *s));
    s->model = model;
    s->host = host ? *host : (HostRanks){.size = 1};
    s->patience = PATIENCE;
    Err *err = open_into(s, limit, part_bytes);
    if (!err) {
        if (host) *host = s->host;
        shared_lock(s->shared);
        this_rank(s)->process = (int)getpid();
        err = acquire_part(s, s->parts.n);
        shared_unlock(s->shared);
    }
    if (err)
        stream_close(s);
    else
        model->stream = s;
    return err;
}

void stream_close(Stream *s)
{
    if (!s) return;
    if (s->shared) {
        shared_lock(s->shared);
        leave_order(s, s->parts.n + 1);
        if (s->host.rank == 0)
            s->shared->closing = true; /* others that wait see when its process ends */
        else
            this_rank(s)->process = 0;
        shared_unlock(s->shared);
    }
    for (size_t i = 0; i < s->n_readers; i++) pthread_join(s->readers[i], NULL);
    for (size_t i = 0; i < s->n_files; i++) direct_close(&s->files[i]);
    for (size_t l = 0; l < s->parts.n_layers && s->leases; l++) s->model->layers[l].chunks = NULL;
    if (s->shared) host_memory_unmap(&s->host, s->shared, s->mapped_bytes);
    parts_free(&s->parts);
    free(s->holds);
    free(s->leases);
    free(s->files);
    free(s);
}

StreamStats stream_stats(const Stream *s)
{
    shared_lock(s->shared);
    StreamStats stats = {s->budget, s->shared->read_bytes, s->waited, s->shared->direct};
    shared_unlock(s->shared);
    return stats;
}
