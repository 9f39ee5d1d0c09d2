/* Resident parts have buffers that are never overwritten. The buffers of a ring have the size of the largest streamed part of
 * their kind. What to read next is decided by model/stream_policy.c.
 *
 *     a buffer   EMPTY -- begin_load --> LOADING -- reader, last piece --> READY -- assign, for another part --> LOADING
 *                READY, holders > 0 -- acquire_part | release_part --> READY, one holder more or less
 *     a mapping  lock, order of the passes, place of every rank in it, buffers, buffer of each part | bytes of the buffers
 *
 * What always holds, with the lock: where[part] names a buffer whose part it is, or nowhere; a buffer that is LOADING or has
 * holders keeps its part; a rank's place only grows, but for a group pass that nobody announced. */
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

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READERS = 4, MAX_RANKS = 256, MESSAGE_BYTES = 1024 };
static const size_t nowhere = SIZE_MAX;

typedef enum { EMPTY, LOADING, READY } BufferState;

typedef struct {
    BufferState state;
    bool resident, chunk; /* never overwritten; for expert chunks */
    size_t part, at, holders;
    size_t taken, done; /* pieces */
} StreamBuffer;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing, failed, direct;
    ErrKind kind;
    char message[MESSAGE_BYTES];
    size_t read_bytes;
    Order order;
    size_t place[MAX_RANKS], said[MAX_RANKS]; /* visit of each rank, passes it has announced */
    size_t n_buffers;
    StreamBuffer buffers[]; /* then [n + 1] the buffer of each part, or nowhere */
} Shared;

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
    Shared *shared;
    size_t mapped_bytes;
    char *bytes; /* of all buffers */
    size_t n_readers;
    pthread_t readers[READERS];
    double waited;
};

/* ---- the order ------------------------------------------------------------------------------------------------ */

static size_t next_use(const Stream *s, size_t from, size_t part)
{
    return order_next(&s->shared->order, s->parts.n_layers, s->parts.first, from, part);
}

static size_t slowest(const Stream *s)
{
    size_t first = s->shared->place[0];
    for (int r = 1; r < s->host.size; r++)
        if (s->shared->place[r] < first) first = s->shared->place[r];
    return first;
}

void stream_announce(Stream *s, size_t lowest, size_t group_passes)
{
    Shared *shared = s->shared;
    Order *order = &shared->order;
    size_t me = (size_t)s->host.rank;
    pthread_mutex_lock(&shared->lock);
    size_t k = shared->said[me]++;
    if (k >= order->n) {
        const OrderPass *last = k ? &order->passes[(k - 1) % ORDER_PASSES] : NULL;
        size_t start = last ? last->start + order_visits(last, s->parts.n_layers, s->parts.first) : 0;
        while (start < shared->place[me]) start += s->parts.n; /* forward passes that nobody announced */
        order->passes[k % ORDER_PASSES] = (OrderPass){start, lowest, group_passes};
        order->n = k + 1;
    }
    shared->place[me] = order->passes[k % ORDER_PASSES].start;
    pthread_cond_broadcast(&shared->changed);
    pthread_mutex_unlock(&shared->lock);
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
                        .empty = buffer->state == EMPTY,
                        .in_use = buffer->resident || buffer->holders || buffer->state == LOADING};
}

static long view_place(const void *context, size_t part)
{
    const Stream *s = context;
    if (s->where[part] == nowhere) return PART_MISSING;
    return s->shared->buffers[s->where[part]].state == EMPTY ? (long)s->where[part] : PART_IN_MEMORY;
}

static StreamBuffer *begin_load(StreamBuffer *buffer)
{
    buffer->state = LOADING;
    buffer->taken = buffer->done = 0;
    return buffer;
}

static StreamBuffer *assign(const Stream *s, StreamBuffer *buffer, size_t part)
{
    if (buffer->state != EMPTY) s->where[buffer->part] = nowhere;
    buffer->part = part;
    s->where[part] = (size_t)(buffer - s->shared->buffers);
    return begin_load(buffer);
}

/* A buffer with a piece to read: one that is being filled, else that of the part to read next. Lock held. */
static StreamBuffer *next_load(const Stream *s)
{
    Shared *shared = s->shared;
    const StreamedParts *parts = &s->parts;
    StreamView view = {.parts = parts,
                       .order = &shared->order,
                       .n_buffers = shared->n_buffers,
                       .context = s,
                       .buffer = view_buffer,
                       .place = view_place};
    for (size_t i = 0; i < shared->n_buffers; i++) {
        StreamBuffer *buffer = &shared->buffers[i];
        if (buffer->state == LOADING && buffer->taken < parts->parts[buffer->part].n_pieces) return buffer;
        view.any_reserved = view.any_reserved || (buffer->resident && buffer->state == EMPTY);
    }
    StreamBuffer *always = buffer_of(s, parts->n); /* embedding and head come first */
    if (always->state == EMPTY) return begin_load(always);
    size_t part, i;
    if (!stream_policy_next(&view, slowest(s), &part, &i)) return NULL;
    StreamBuffer *buffer = &shared->buffers[i];
    return buffer->resident ? begin_load(buffer) : assign(s, buffer, part);
}

static void fail(Shared *shared, Err *err)
{
    if (!shared->failed) {
        shared->failed = true;
        shared->kind = err_kind(err);
        snprintf(shared->message, sizeof shared->message, "%s", err_message(err));
    }
    err_free(err);
}

static void *reader(void *context)
{
    Stream *s = context;
    Shared *shared = s->shared;
    pthread_mutex_lock(&shared->lock);
    while (!shared->closing && !shared->failed) {
        StreamBuffer *buffer = next_load(s);
        if (!buffer) {
            pthread_cond_wait(&shared->changed, &shared->lock);
            continue;
        }
        const StreamedPart *part = &s->parts.parts[buffer->part];
        const PartPiece *piece = &part->pieces[buffer->taken++];
        DirectFile *file = &s->files[piece->shard];
        pthread_mutex_unlock(&shared->lock);
        Err *err = direct_read(file, piece->offset, piece->bytes, s->bytes + buffer->at + piece->at);
        pthread_mutex_lock(&shared->lock);
        if (err) fail(shared, err);
        shared->read_bytes += piece->bytes;
        shared->direct = shared->direct && file->direct;
        if (++buffer->done == part->n_pieces) buffer->state = READY;
        if (err || buffer->state == READY) pthread_cond_broadcast(&shared->changed);
    }
    pthread_cond_broadcast(&shared->changed);
    pthread_mutex_unlock(&shared->lock);
    return NULL;
}

/* ---- acquire and release -------------------------------------------------------------------------------------- */

static Err *acquire_part(Stream *s, size_t p)
{
    Shared *shared = s->shared;
    const StreamedPart *part = &s->parts.parts[p];
    StreamBuffer *buffer = buffer_of(s, p);
    double began = log_seconds();
    while (!shared->failed && !(buffer && buffer->state == READY)) {
        pthread_cond_wait(&shared->changed, &shared->lock);
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
    size_t *place = &s->shared->place[s->host.rank];
    if (visit != *place) {
        *place = visit;
        pthread_cond_broadcast(&s->shared->changed);
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
    pthread_cond_broadcast(&s->shared->changed);
}

Err *stream_acquire(Stream *s, size_t l)
{
    size_t p = s->parts.first[l];
    pthread_mutex_lock(&s->shared->lock);
    s->leases[l].visit = next_use(s, s->shared->place[s->host.rank], p);
    Err *err = acquire_at(s, s->leases[l].visit, p);
    if (!err) s->shared->place[s->host.rank]++;
    pthread_mutex_unlock(&s->shared->lock);
    return err;
}

void stream_release(Stream *s, size_t l)
{
    size_t p = s->parts.first[l];
    if (!s->holds[p].held) return; /* acquire failed */
    pthread_mutex_lock(&s->shared->lock);
    size_t end = order_end(&s->shared->order, s->parts.n_layers, s->parts.first, s->leases[l].visit, l),
           *place = &s->shared->place[s->host.rank];
    if (*place < end)
        *place = end; /* fewer groups than other ranks: those wait for buffers that this rank will not ask for */
    release_part(s, p);
    pthread_mutex_unlock(&s->shared->lock);
}

/* A group pass that nobody announced begins at the layer's first one again. */
static Err *acquire_chunk(void *context, size_t chunk)
{
    ExpertLease *lease = context;
    Stream *s = lease->stream;
    size_t p = s->parts.first[lease->l] + 1 + chunk;
    pthread_mutex_lock(&s->shared->lock);
    size_t place = s->shared->place[s->host.rank], visit = next_use(s, place, p), first = next_use(s, lease->visit, p);
    if (first < place && visit - place > lease->chunks.n) visit = first;
    Err *err = acquire_at(s, visit, p);
    pthread_mutex_unlock(&s->shared->lock);
    return err;
}

static void release_chunk(void *context, size_t chunk)
{
    ExpertLease *lease = context;
    Stream *s = lease->stream;
    pthread_mutex_lock(&s->shared->lock);
    s->shared->place[s->host.rank]++;
    release_part(s, s->parts.first[lease->l] + 1 + chunk);
    pthread_mutex_unlock(&s->shared->lock);
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
    size_t bytes = sizeof(Shared) + n_buffers * sizeof(StreamBuffer) + (s->parts.n + 1) * sizeof *s->where;
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
    Shared *shared = s->shared;
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
    pthread_mutexattr_t mutex;
    pthread_condattr_t cond;
    pthread_mutexattr_init(&mutex);
    pthread_condattr_init(&cond);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->lock, &mutex);
    pthread_cond_init(&shared->changed, &cond);
    pthread_mutexattr_destroy(&mutex);
    pthread_condattr_destroy(&cond);
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
    if (s->host.size > MAX_RANKS)
        return err_new(ERR_USAGE, "%d ranks on one host; weights are shared by %d at most", s->host.size, MAX_RANKS);
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
    Err *err = open_into(s, limit, part_bytes);
    if (!err) {
        if (host) *host = s->host;
        pthread_mutex_lock(&s->shared->lock);
        err = acquire_part(s, s->parts.n);
        pthread_mutex_unlock(&s->shared->lock);
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
    if (s->n_readers) {
        pthread_mutex_lock(&s->shared->lock);
        s->shared->closing = true;
        pthread_cond_broadcast(&s->shared->changed);
        pthread_mutex_unlock(&s->shared->lock);
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
    pthread_mutex_lock(&s->shared->lock);
    StreamStats stats = {s->budget, s->shared->read_bytes, s->waited, s->shared->direct};
    pthread_mutex_unlock(&s->shared->lock);
    return stats;
}
