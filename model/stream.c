/* A unit is what one acquire hands out: a decoder layer, or (unit L, never given back) embedding and head. A unit's bytes
 * in memory are its spans of all shards, one after another; a Ref says which pointer of which Weight goes where in them.
 *
 * Residents are slots that are never overwritten; the ring's slots have the size of the largest layer that streams.
 * Why a resident share, and spread evenly: were the whole memory one ring, readers would have nothing to do while the
 * walk passes the layers that are still there around its turns, and everything to do in between.
 *
 *     slot     EMPTY -> LOADING -> READY -> (overwritten) LOADING -> ...
 *     shared   lock, order of the walks, place of every rank in it, slots      one mapping, then the slots' bytes */
#define _GNU_SOURCE
#include "model/stream.h"

#include "base/direct.h"
#include "base/log.h"
#include "base/memory.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { READERS = 4, PIECE_BYTES = 8 << 20, GAP_BYTES = 256 << 10, MOST_RANKS = 256, WALKS = 8, MESSAGE_BYTES = 1024, HUGE = 2 << 20 };

typedef struct {
    const void **pointer; /* a Weight's data or scale */
    const void *mapped;   /* what it is outside */
    size_t shard, offset, bytes;
    size_t at;            /* in the unit's bytes */
} Ref;

typedef struct {
    size_t shard, offset, bytes, at; /* aligned */
} Piece;

typedef struct {
    size_t n_refs, n_pieces, bytes;
    Ref *refs;
    Piece *pieces;
    bool held;
    size_t slot; /* that this process holds */
} Unit;

typedef enum { EMPTY, LOADING, READY } SlotState;

typedef struct {
    SlotState state;
    bool pinned;
    size_t unit, at, holders;
    size_t taken, done; /* pieces */
} Slot;

typedef struct {
    size_t start, lowest; /* visit it begins with */
} Walk;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing, failed, direct;
    ErrKind kind;
    char message[MESSAGE_BYTES];
    size_t read_bytes;
    size_t n_walks;
    Walk walks[WALKS];
    size_t place[MOST_RANKS], said[MOST_RANKS]; /* visit of each rank, walks it has announced */
    size_t n_slots;
    Slot slots[];
} Shared;

struct Stream {
    StreamPlan plan;
    StreamHost host;
    size_t L, n_files;
    Unit *units; /* [L + 1] */
    DirectFile *files;
    Shared *shared;
    size_t mapped_bytes;
    char *bytes; /* of all slots */
    size_t n_readers;
    pthread_t readers[READERS];
    double waited;
};

/* ---- the plan ------------------------------------------------------------------------------------------------- */

/* The layers that stay when r of n do. */
static bool stays(size_t l, size_t r, size_t n) { return (l + 1) * r / n != l * r / n; }

static size_t bytes_with(size_t r, size_t slots, size_t n, const size_t *bytes, StreamPlan *plan)
{
    plan->n_resident = r;
    plan->resident_bytes = plan->slot_bytes = plan->pass_bytes = 0;
    for (size_t l = 0; l < n; l++) {
        if (stays(l, r, n)) {
            plan->resident_bytes += bytes[l];
        } else {
            plan->pass_bytes += bytes[l];
            if (bytes[l] > plan->slot_bytes) plan->slot_bytes = bytes[l];
        }
    }
    plan->n_slots = slots < n - r ? slots : n - r;
    return plan->fixed_bytes + plan->resident_bytes + plan->n_slots * plan->slot_bytes;
}

/* Three slots hide the unevenness of a disk, two let reading and computing overlap, one works. Three only where they
 * leave half of the memory to residents. */
Err *stream_plan(StreamPlan *plan, size_t limit, size_t fixed, size_t n, const size_t *bytes, bool *resident)
{
    *plan = (StreamPlan){.limit_bytes = limit, .fixed_bytes = fixed};
    for (size_t l = 0; l < n; l++) plan->layer_bytes += bytes[l];
    plan->least_bytes = bytes_with(0, 1, n, bytes, plan);
    if (limit < plan->least_bytes)
        return err_new(ERR_MEMORY, "weights need %.2f GiB at least: embedding and head, and one layer at a time", (double)plan->least_bytes / 1073741824);
    size_t slots = 1;
    if (bytes_with(0, 2, n, bytes, plan) <= limit) slots = 2;
    if (fixed + 6 * plan->slot_bytes <= limit) slots = 3;
    size_t r = n;
    while (r > 0 && bytes_with(r, slots, n, bytes, plan) > limit) r--;
    bytes_with(r, slots, n, bytes, plan);
    for (size_t l = 0; l < n && resident; l++) resident[l] = stays(l, r, n);
    return NULL;
}

/* ---- units ---------------------------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const Ref *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void add_ref(Unit *unit, const Weights *weights, const void **pointer, size_t bytes)
{
    Ref *ref = &unit->refs[unit->n_refs++];
    *ref = (Ref){.pointer = pointer, .mapped = *pointer, .bytes = bytes};
    weights_locate(weights, *pointer, &ref->shard, &ref->offset);
}

static void add_weight(Unit *unit, const Weights *weights, Weight *w)
{
    size_t blocks = ((w->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK) * ((w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
    if (!w->data) return;
    add_ref(unit, weights, &w->data, w->rows * w->cols * dtype_bytes(w->dtype));
    if (w->scale) add_ref(unit, weights, &w->scale, blocks * sizeof(float));
}

/* Tensors that lie near each other in a shard share a span; tensors of a layer are neighbours in every published model. */
static size_t set_places(Unit *unit, Piece *spans)
{
    size_t n = 0;
    qsort(unit->refs, unit->n_refs, sizeof *unit->refs, by_offset);
    for (size_t i = 0; i < unit->n_refs; i++) {
        Ref *ref = &unit->refs[i];
        size_t begin = ref->offset / DIRECT_ALIGN * DIRECT_ALIGN, end = direct_round(ref->offset + ref->bytes);
        Piece *span = n ? &spans[n - 1] : NULL;
        if (!span || span->shard != ref->shard || begin > span->offset + span->bytes + GAP_BYTES) {
            spans[n] = (Piece){ref->shard, begin, 0, unit->bytes};
            span = &spans[n++];
        }
        if (end > span->offset + span->bytes) {
            unit->bytes += end - span->offset - span->bytes;
            span->bytes = end - span->offset;
        }
        ref->at = span->at + (ref->offset - span->offset);
    }
    return n;
}

static Err *cut_pieces(Unit *unit)
{
    Piece *spans;
    TRY(mem_new(&spans, unit->n_refs, sizeof *spans));
    size_t n = set_places(unit, spans);
    Err *err = mem_new(&unit->pieces, n + unit->bytes / PIECE_BYTES, sizeof *unit->pieces);
    for (size_t s = 0; s < n && !err; s++)
        for (size_t at = 0; at < spans[s].bytes; at += PIECE_BYTES) {
            size_t left = spans[s].bytes - at;
            unit->pieces[unit->n_pieces++] = (Piece){spans[s].shard, spans[s].offset + at, left < PIECE_BYTES ? left : PIECE_BYTES, spans[s].at + at};
        }
    free(spans);
    return err;
}

/* The matrices of layer l; l == n_layers: embedding and head. */
static Err *make_unit(Unit *unit, Model *model, size_t l)
{
    bool last = l == model->n_layers;
    Layer none = {.dense = true}, *x = last ? &none : &model->layers[l];
    Weight *const ends[] = {&model->embed_tokens, &model->lm_head};
    Weight *const layer[] = {&x->q_proj, &x->q_down, &x->q_up, &x->kv_down, &x->kv_up, &x->o_proj, &x->index_q,
                             &x->index_k, &x->index_heads, &x->gate, &x->up, &x->down, &x->router};
    size_t n = last ? 2 : sizeof layer / sizeof *layer, experts = x->dense ? 0 : 3 * model->router.E;
    TRY(mem_new(&unit->refs, 2 * (n + experts), sizeof *unit->refs));
    for (size_t i = 0; i < n; i++) add_weight(unit, model->weights, last ? ends[i] : layer[i]);
    for (size_t i = 0; i < experts; i++) add_weight(unit, model->weights, &x->expert_weights[i]);
    return cut_pieces(unit);
}

static void unit_free(Unit *unit)
{
    free(unit->refs);
    free(unit->pieces);
}

Err *stream_sizes(Model *model, size_t *bytes)
{
    for (size_t l = 0; l <= model->n_layers; l++) {
        Unit unit = {0};
        Err *err = make_unit(&unit, model, l);
        bytes[l] = unit.bytes;
        unit_free(&unit);
        if (err) return err;
    }
    return NULL;
}

/* ---- the order ------------------------------------------------------------------------------------------------ */

static size_t walk_visits(const Stream *s, const Walk *walk) { return 2 * s->L - walk->lowest; }

/* The layer of a visit: the newest walk that has begun by then, and upward again and again when it is over. */
static size_t layer_at(const Stream *s, size_t visit)
{
    const Shared *shared = s->shared;
    for (size_t k = shared->n_walks; k > 0 && k + WALKS > shared->n_walks; k--) {
        const Walk *walk = &shared->walks[(k - 1) % WALKS];
        if (walk->start > visit) continue;
        size_t v = visit - walk->start, visits = walk_visits(s, walk);
        if (v >= visits) return (v - visits) % s->L;
        return v < s->L ? v : 2 * s->L - 1 - v;
    }
    return visit % s->L;
}

static size_t slowest(const Stream *s)
{
    size_t least = s->shared->place[0];
    for (int r = 1; r < s->host.size; r++)
        if (s->shared->place[r] < least) least = s->shared->place[r];
    return least;
}

static size_t horizon(const Stream *s) { return 4 * s->L; }

/* The next visit of a layer, from `from` on. */
static size_t next_use(const Stream *s, size_t from, size_t l)
{
    size_t visit = from;
    while (visit < from + horizon(s) && layer_at(s, visit) != l) visit++;
    return visit;
}

void stream_walk(Stream *s, size_t lowest)
{
    Shared *shared = s->shared;
    size_t me = (size_t)s->host.rank;
    pthread_mutex_lock(&shared->lock);
    size_t k = shared->said[me]++;
    if (k >= shared->n_walks) {
        const Walk *last = k ? &shared->walks[(k - 1) % WALKS] : NULL;
        size_t start = last ? last->start + walk_visits(s, last) : 0;
        while (start < shared->place[me]) start += s->L; /* walks upward that nobody announced */
        shared->walks[k % WALKS] = (Walk){start, lowest};
        shared->n_walks = k + 1;
    }
    shared->place[me] = shared->walks[k % WALKS].start;
    pthread_cond_broadcast(&shared->changed);
    pthread_mutex_unlock(&shared->lock);
}

/* ---- readers -------------------------------------------------------------------------------------------------- */

static Slot *slot_of(const Stream *s, size_t unit)
{
    for (size_t i = 0; i < s->shared->n_slots; i++) {
        Slot *slot = &s->shared->slots[i];
        if (slot->unit == unit && (slot->pinned || slot->state != EMPTY)) return slot;
    }
    return NULL;
}

/* The slot that can best be spared for a layer needed at `visit`. */
static Slot *spare_slot(const Stream *s, size_t from, size_t visit)
{
    Slot *best = NULL;
    size_t latest = visit;
    for (size_t i = 0; i < s->shared->n_slots; i++) {
        Slot *slot = &s->shared->slots[i];
        if (slot->pinned || slot->holders || slot->state == LOADING) continue;
        if (slot->state == EMPTY) return slot;
        size_t use = next_use(s, from, slot->unit);
        if (use <= latest) continue;
        latest = use;
        best = slot;
    }
    return best;
}

/* A slot with a piece to read: one that is being filled, else the first missing unit's. */
static Slot *next_load(const Stream *s)
{
    Shared *shared = s->shared;
    size_t from = slowest(s);
    for (size_t i = 0; i < shared->n_slots; i++)
        if (shared->slots[i].state == LOADING && shared->slots[i].taken < s->units[shared->slots[i].unit].n_pieces) return &shared->slots[i];
    Slot *slot = slot_of(s, s->L); /* what is needed always comes first */
    for (size_t visit = from; slot && slot->state != EMPTY && visit < from + horizon(s); visit++) {
        size_t l = layer_at(s, visit);
        slot = slot_of(s, l);
        if (slot) continue;
        slot = spare_slot(s, from, visit);
        if (!slot) return NULL;
        slot->unit = l;
        slot->state = EMPTY;
    }
    if (!slot || slot->state != EMPTY) return NULL;
    slot->state = LOADING;
    slot->taken = slot->done = 0;
    return slot;
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
        Slot *slot = next_load(s);
        if (!slot) {
            pthread_cond_wait(&shared->changed, &shared->lock);
            continue;
        }
        const Unit *unit = &s->units[slot->unit];
        const Piece *piece = &unit->pieces[slot->taken++];
        DirectFile *file = &s->files[piece->shard];
        pthread_mutex_unlock(&shared->lock);
        Err *err = direct_read(file, piece->offset, piece->bytes, s->bytes + slot->at + piece->at);
        pthread_mutex_lock(&shared->lock);
        if (err) fail(shared, err);
        shared->read_bytes += piece->bytes;
        shared->direct = shared->direct && file->direct;
        if (++slot->done == unit->n_pieces) slot->state = READY;
        if (err || slot->state == READY) pthread_cond_broadcast(&shared->changed);
    }
    pthread_cond_broadcast(&shared->changed);
    pthread_mutex_unlock(&shared->lock);
    return NULL;
}

/* ---- acquire and release -------------------------------------------------------------------------------------- */

static Err *acquire_unit(Stream *s, size_t u)
{
    Shared *shared = s->shared;
    Unit *unit = &s->units[u];
    Slot *slot = slot_of(s, u);
    double began = log_seconds();
    while (!shared->failed && !(slot && slot->state == READY)) {
        pthread_cond_wait(&shared->changed, &shared->lock);
        slot = slot_of(s, u);
    }
    s->waited += log_seconds() - began;
    if (shared->failed) return err_new(shared->kind, "%s", shared->message);
    slot->holders++;
    unit->held = true;
    unit->slot = (size_t)(slot - shared->slots);
    for (size_t i = 0; i < unit->n_refs; i++) *unit->refs[i].pointer = s->bytes + slot->at + unit->refs[i].at;
    return NULL;
}

Err *stream_acquire(Stream *s, size_t l)
{
    Shared *shared = s->shared;
    size_t *place = &shared->place[s->host.rank];
    pthread_mutex_lock(&shared->lock);
    size_t visit = next_use(s, *place, l);
    if (visit != *place) {
        *place = visit;
        pthread_cond_broadcast(&shared->changed);
    }
    Err *err = acquire_unit(s, l);
    pthread_mutex_unlock(&shared->lock);
    return err;
}

void stream_release(Stream *s, size_t l)
{
    Shared *shared = s->shared;
    Unit *unit = &s->units[l];
    if (!unit->held) return; /* acquire failed */
    unit->held = false;
    for (size_t i = 0; i < unit->n_refs; i++) *unit->refs[i].pointer = unit->refs[i].mapped;
    pthread_mutex_lock(&shared->lock);
    shared->slots[unit->slot].holders--;
    shared->place[s->host.rank]++;
    pthread_cond_broadcast(&shared->changed);
    pthread_mutex_unlock(&shared->lock);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static size_t shared_bytes(size_t n_slots)
{
    size_t bytes = sizeof(Shared) + n_slots * sizeof(Slot);
    return (bytes + HUGE - 1) / HUGE * HUGE;
}

static Err *map_memory(Stream *s, size_t bytes)
{
    bool leader = s->host.rank == 0, alone = s->host.size == 1;
    char path[64];
    int fd = -1;
    if (!alone && leader) {
        fd = s->host.fd = memfd_create("graft", MFD_CLOEXEC);
        s->host.leader = (int)getpid();
        if (fd < 0 || ftruncate(fd, (off_t)bytes)) return err_errno("share %zu bytes among the ranks of this host", bytes);
    } else if (!alone) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", s->host.leader, s->host.fd);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) return err_errno("open the memory of this host's first rank, %s", path);
    }
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, alone ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED, fd, 0);
    if (!alone && !leader) close(fd);
    if (at == MAP_FAILED) return err_errno("reserve %zu bytes for weights", bytes);
    if (alone) madvise(at, bytes, MADV_HUGEPAGE);
    s->shared = at;
    s->mapped_bytes = bytes;
    s->bytes = at;
    return NULL;
}

static void lay_out(Stream *s, const bool *resident, size_t n_slots)
{
    Shared *shared = s->shared;
    size_t at = shared_bytes(n_slots), n = 0;
    for (size_t u = 0; u <= s->L; u++) {
        if (u < s->L && !resident[u]) continue;
        shared->slots[n++] = (Slot){.pinned = true, .unit = u, .at = at};
        at += s->units[u].bytes;
    }
    for (; n < n_slots; n++, at += s->plan.slot_bytes) shared->slots[n] = (Slot){.at = at};
    shared->n_slots = n_slots;
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
    for (; s->n_files < weights_shards(weights); s->n_files++) TRY(direct_open(&s->files[s->n_files], weights_shard_path(weights, s->n_files)));
    return NULL;
}

static Err *start_readers(Stream *s)
{
    for (; s->n_readers < READERS; s->n_readers++)
        if (pthread_create(&s->readers[s->n_readers], NULL, reader, s)) return err_new(ERR_MEMORY, "a thread to read weights did not start");
    return NULL;
}

static Err *open_into(Stream *s, Model *model, size_t limit, bool *resident, size_t *bytes)
{
    if (s->host.size > MOST_RANKS) return err_new(ERR_USAGE, "%d ranks on one host; weights are shared by %d at most", s->host.size, MOST_RANKS);
    TRY(mem_new(&s->units, s->L + 1, sizeof *s->units));
    for (size_t u = 0; u <= s->L; u++) {
        TRY(make_unit(&s->units[u], model, u));
        bytes[u] = s->units[u].bytes;
    }
    TRY(stream_plan(&s->plan, limit, bytes[s->L], s->L, bytes, resident));
    size_t n_slots = 1 + s->plan.n_resident + s->plan.n_slots;
    TRY(map_memory(s, shared_bytes(n_slots) + s->plan.fixed_bytes + s->plan.resident_bytes + s->plan.n_slots * s->plan.slot_bytes));
    if (s->host.rank == 0) {
        lay_out(s, resident, n_slots);
        TRY(open_files(s, model->weights));
        TRY(start_readers(s));
    }
    return NULL;
}

Err *stream_open(Model *model, size_t limit, StreamHost *host)
{
    Stream *s;
    bool *resident = NULL;
    size_t *bytes = NULL;
    TRY(mem_new(&s, 1, sizeof *s));
    s->L = model->n_layers;
    s->host = host ? *host : (StreamHost){.size = 1};
    Err *err = mem_new(&resident, s->L, sizeof *resident);
    if (!err) err = mem_new(&bytes, s->L + 1, sizeof *bytes);
    if (!err) err = open_into(s, model, limit, resident, bytes);
    free(resident);
    free(bytes);
    if (!err) {
        if (host) *host = s->host;
        pthread_mutex_lock(&s->shared->lock);
        err = acquire_unit(s, s->L);
        pthread_mutex_unlock(&s->shared->lock);
    }
    if (err) stream_close(s);
    else model->stream = s;
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
    for (size_t u = 0; u <= s->L && s->units; u++) unit_free(&s->units[u]);
    if (s->shared) munmap(s->shared, s->mapped_bytes);
    if (s->host.size > 1 && s->host.rank == 0 && s->host.fd > 0) close(s->host.fd);
    free(s->files);
    free(s->units);
    free(s);
}

StreamStats stream_stats(const Stream *s)
{
    pthread_mutex_lock(&s->shared->lock);
    StreamStats stats = {s->plan, s->shared->read_bytes, s->waited, s->shared->direct};
    pthread_mutex_unlock(&s->shared->lock);
    return stats;
}
