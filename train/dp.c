/* The collective calls. A slice is summed in the order of the tree of micro-batches (autograd/param.h), never in the
 * order in which messages arrive, so the sum has the same bits for any number of ranks.
 *
 * Messages are cut into pieces of 1 M floats, which move several times faster than one large message. */
#include "train/dp.h"

#include "base/memory.h"
#include "optim/clip.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PIECE = 1 << 20, MESSAGE_BYTES = 2048 };

static bool under_mpirun(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_RANK") || getenv("PMIX_RANK") || getenv("PMI_SIZE");
}

Err *dp_open(Dp *dp)
{
    *dp = (Dp){.size = 1};
    if (!under_mpirun()) return NULL;
    int provided, already = 0;
    MPI_Initialized(&already);
    if (!already && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return err_new(ERR_COMM, "MPI did not start");
    dp->started = !already;
    MPI_Comm_rank(MPI_COMM_WORLD, &dp->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &dp->size);
    return NULL;
}

void dp_close(Dp *dp, int code, bool reported)
{
    enum { FORWARD_MS = 200, LAST_MS = 3000 };
    free(dp->buffer);
    if (dp->started && code && dp->size > 1) {
        int wait_ms = reported ? FORWARD_MS : LAST_MS;
        fflush(NULL);
        nanosleep(&(struct timespec){.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000L}, NULL);
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    if (dp->started) MPI_Finalize();
    *dp = (Dp){.size = 1};
}

Err *dp_agree(const Dp *dp, Err *err)
{
    if (dp->size == 1) return err;
    int mine = err ? dp->rank : dp->size, lowest;
    MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (lowest == dp->size) return NULL;
    char message[MESSAGE_BYTES] = "";
    int kind = ERR_COMM;
    if (lowest == dp->rank) {
        snprintf(message, sizeof message, "%s", err_message(err));
        kind = (int)err_kind(err);
    }
    MPI_Bcast(message, MESSAGE_BYTES, MPI_CHAR, lowest, MPI_COMM_WORLD);
    MPI_Bcast(&kind, 1, MPI_INT, lowest, MPI_COMM_WORLD);
    if (err) return err;
    return err_new((ErrKind)kind, "rank %d: %s", lowest, message);
}

Err *dp_same(const Dp *dp, uint64_t value, const char *what)
{
    if (dp->size == 1) return NULL;
    uint64_t ends[2] = {value, ~value}, lowest[2]; /* the smallest value, the complement of the largest */
    MPI_Allreduce(ends, lowest, 2, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
    if (lowest[0] == ~lowest[1]) return NULL;
    return err_new(ERR_COMM, "ranks disagree about %s", what);
}

void dp_add_counts(const Dp *dp, size_t n, uint64_t *counts)
{
    for (size_t at = 0; at < n && dp->size > 1; at += PIECE)
        MPI_Allreduce(MPI_IN_PLACE, counts + at, (int)(n - at < PIECE ? n - at : PIECE), MPI_UINT64_T, MPI_SUM,
                      MPI_COMM_WORLD);
}

unsigned dp_any(const Dp *dp, unsigned bits)
{
    if (dp->size > 1) MPI_Allreduce(MPI_IN_PLACE, &bits, 1, MPI_UNSIGNED, MPI_BOR, MPI_COMM_WORLD);
    return bits;
}

void dp_slice(const Dp *dp, int rank, size_t n, size_t *begin, size_t *end)
{
    size_t chunks = clip_n_chunks(n), size = (size_t)dp->size, j = (size_t)rank;
    *begin = chunks * j / size * CLIP_CHUNK;
    *end = chunks * (j + 1) / size * CLIP_CHUNK;
    if (*begin > n) *begin = n;
    if (*end > n) *end = n;
}

/* ---- requests in flight --------------------------------------------------------------------------------------- */

typedef struct {
    MPI_Request *items;
    size_t n, capacity;
} Requests;

static Err *add_request(Requests *requests, MPI_Request **request)
{
    TRY(mem_grow(&requests->items, &requests->capacity, requests->n + 1, sizeof *requests->items));
    *request = &requests->items[requests->n++];
    return NULL;
}

/* Start to send n floats, in pieces. */
static Err *start_send(Requests *requests, const float *data, size_t n, int to)
{
    for (size_t at = 0; at < n; at += PIECE) {
        int count = (int)(n - at < PIECE ? n - at : PIECE);
        MPI_Request *request;
        TRY(add_request(requests, &request));
        MPI_Isend(data + at, count, MPI_FLOAT, to, 0, MPI_COMM_WORLD, request);
    }
    return NULL;
}

/* Start to receive n floats, in pieces. */
static Err *start_receive(Requests *requests, float *data, size_t n, int from)
{
    for (size_t at = 0; at < n; at += PIECE) {
        int count = (int)(n - at < PIECE ? n - at : PIECE);
        MPI_Request *request;
        TRY(add_request(requests, &request));
        MPI_Irecv(data + at, count, MPI_FLOAT, from, 0, MPI_COMM_WORLD, request);
    }
    return NULL;
}

static void finish(Requests *requests)
{
    for (size_t i = 0; i < requests->n; i++) MPI_Wait(&requests->items[i], MPI_STATUS_IGNORE);
    free(requests->items);
}

/* ---- the tree over ranks -------------------------------------------------------------------------------------- */

/* Receive the subtrees of this rank's slice from all ranks, in the order of micro-batches, and send those of the other
 * slices. */
static Err *exchange(Dp *dp, const Forest *forest, const size_t *first, size_t begin, size_t n, Subtree *trees)
{
    Subtree mine[FOREST_MAX_SUBTREES];
    size_t n_mine = forest_cover(first[dp->rank], first[dp->rank + 1], mine), at = 0;
    Requests requests = {0};
    Err *err = NULL;
    for (int r = 0; r < dp->size && !err; r++) {
        size_t count = forest_cover(first[r], first[r + 1], trees + at);
        for (size_t i = 0; i < count && n && !err; i++) { /* a small layer has no slice for every rank */
            float *to = dp->buffer + (at + i) * n;
            if (r == dp->rank)
                memcpy(to, forest->subtrees + i * forest->n + begin, n * sizeof *to);
            else
                err = start_receive(&requests, to, n, r);
        }
        at += count;
    }
    for (int r = 0; r < dp->size && !err; r++) {
        size_t from, end;
        dp_slice(dp, r, forest->n, &from, &end);
        for (size_t i = 0; i < n_mine && r != dp->rank && !err; i++)
            err = start_send(&requests, forest->subtrees + i * forest->n + from, end - from, r);
    }
    finish(&requests);
    return err;
}

Err *dp_reduce(Dp *dp, Forest *forest, const size_t *first, float *slice)
{
    size_t begin, end, count = 0;
    dp_slice(dp, dp->rank, forest->n, &begin, &end);
    size_t n = end - begin;
    for (int r = 0; r < dp->size; r++) count += forest_depth(first[r], first[r + 1]);
    if (dp->size == 1) {
        forest_total(count, forest->n, forest->subtrees);
        memcpy(slice, forest->subtrees, n * sizeof *slice);
        return NULL;
    }
    if (count * n > dp->n_buffer) {
        free(dp->buffer);
        dp->buffer = NULL;
        dp->n_buffer = 0;
        TRY(mem_new(&dp->buffer, count * n, sizeof *dp->buffer));
        dp->n_buffer = count * n;
    }
    Subtree *trees;
    TRY(mem_new(&trees, count + FOREST_MAX_SUBTREES, sizeof *trees));
    Err *err = exchange(dp, forest, first, begin, n, trees);
    if (!err && n) {
        size_t roots = forest_merge(count, trees, n, dp->buffer);
        forest_total(roots, n, dp->buffer);
        memcpy(slice, dp->buffer, n * sizeof *slice);
    }
    free(trees);
    return err;
}

/* ---- gathering ------------------------------------------------------------------------------------------------ */

Err *dp_share(const Dp *dp, size_t n, float *values)
{
    if (dp->size == 1) return NULL;
    for (int r = 0; r < dp->size; r++) {
        size_t begin, end;
        dp_slice(dp, r, n, &begin, &end);
        for (size_t at = begin; at < end; at += PIECE)
            MPI_Bcast(values + at, (int)(end - at < PIECE ? end - at : PIECE), MPI_FLOAT, r, MPI_COMM_WORLD);
    }
    return NULL;
}

Err *dp_share_rows(const Dp *dp, const size_t *first, size_t width, double *rows)
{
    if (dp->size == 1) return NULL;
    for (int r = 0; r < dp->size; r++) {
        size_t begin = first[r] * width, end = first[r + 1] * width;
        for (size_t at = begin; at < end; at += PIECE)
            MPI_Bcast(rows + at, (int)(end - at < PIECE ? end - at : PIECE), MPI_DOUBLE, r, MPI_COMM_WORLD);
    }
    return NULL;
}

Err *dp_collect(const Dp *dp, size_t n, const float *slice, float *block)
{
    size_t begin, end;
    Requests requests = {0};
    Err *err = NULL;
    dp_slice(dp, dp->rank, n, &begin, &end);
    if (dp->rank != 0) {
        err = start_send(&requests, slice, end - begin, 0);
    } else {
        memcpy(block + begin, slice, (end - begin) * sizeof *block);
        for (int r = 1; r < dp->size && !err; r++) {
            dp_slice(dp, r, n, &begin, &end);
            err = start_receive(&requests, block + begin, end - begin, r);
        }
    }
    finish(&requests);
    return err;
}
