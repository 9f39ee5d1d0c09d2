/* Changes are counted in a futex, and not signalled by a condition variable: glibc's makes those who signal wait for
 * those who wait, so that a process that was killed in its wait would block all others. A process that was killed
 * between a change and waking the others costs them a second. */
#define _GNU_SOURCE
#include "model/stream_shared.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void shared_init(StreamShared *shared, int n_ranks)
{
    pthread_mutexattr_t mutex;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->lock, &mutex);
    pthread_mutexattr_destroy(&mutex);
    shared->n_ranks = n_ranks;
    for (int r = 0; r < n_ranks; r++) shared->ranks[r].layer = SHARED_NO_LAYER;
}

void shared_fail(StreamShared *shared, Err *err)
{
    if (!shared->failed) {
        shared->failed = true;
        shared->kind = err_kind(err);
        snprintf(shared->message, sizeof shared->message, "%s", err_message(err));
        shared_changed(shared);
    }
    err_free(err);
}

/* A process that ends in order says so first (stream_close). */
static void look_for_the_dead(StreamShared *shared)
{
    for (int r = 0; r < shared->n_ranks && !shared->failed; r++) {
        int process = shared->ranks[r].process;
        if (!process || kill(process, 0) == 0 || errno != ESRCH) continue;
        shared_fail(shared, err_new(ERR_COMM, "rank %d of this host (process %d)%s has ended", r, process,
                                    r ? "" : ", which reads the weights,"));
    }
}

void shared_lock(StreamShared *shared)
{
    if (pthread_mutex_lock(&shared->lock) != EOWNERDEAD) return;
    pthread_mutex_consistent(&shared->lock);
    look_for_the_dead(shared);
    shared_fail(shared, err_new(ERR_COMM, "a rank of this host ended while it changed what all share of the weights"));
}

void shared_unlock(StreamShared *shared) { pthread_mutex_unlock(&shared->lock); }

void shared_changed(StreamShared *shared)
{
    shared->changes++;
    if (shared->sleepers) syscall(SYS_futex, &shared->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool shared_wait(StreamShared *shared)
{
    uint32_t seen = shared->changes;
    shared->sleepers++;
    shared_unlock(shared);
    syscall(SYS_futex, &shared->changes, FUTEX_WAIT, seen, &(struct timespec){.tv_sec = 1}, NULL, 0);
    shared_lock(shared);
    shared->sleepers--;
    if (shared->changes != seen) return true;
    look_for_the_dead(shared);
    return false;
}

int shared_slowest(const StreamShared *shared, int except)
{
    int slowest = -1;
    for (int r = 0; r < shared->n_ranks; r++) {
        if (r == except || shared->ranks[r].place == SHARED_LEFT) continue;
        if (slowest < 0 || shared->ranks[r].place < shared->ranks[slowest].place) slowest = r;
    }
    return slowest;
}

Err *shared_stuck(const StreamShared *shared, int rank, size_t layer, double seconds)
{
    char what[64] = "the embedding and the head", why[96] = "the readers bring nothing";
    if (layer != SHARED_NO_LAYER) snprintf(what, sizeof what, "layer %zu", layer);
    int slowest = shared_slowest(shared, rank);
    const StreamRank *other = slowest < 0 ? NULL : &shared->ranks[slowest];
    if (shared->closing)
        snprintf(why, sizeof why, "rank 0 (process %d), which reads the weights, has left", shared->ranks[0].process);
    else if (other && other->layer == SHARED_NO_LAYER)
        snprintf(why, sizeof why, "rank %d (process %d) is between two layers", slowest, other->process);
    else if (other)
        snprintf(why, sizeof why, "rank %d (process %d) holds layer %zu", slowest, other->process, other->layer);
    return err_new(ERR_COMM, "rank %d of this host waited %.0f s for %s; %s", rank, seconds, what, why);
}
