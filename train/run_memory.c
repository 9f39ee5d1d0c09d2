/* Memory of a run: the limit of each host, the budget (plan/budget.h), the time plan (plan/step_time.h), and streaming
 * of the weights when they do not fit.
 *
 * Every rank computes the same budget from its host's limit. The ranks of one host share the memory of streamed
 * weights: the first of them (the leader) opens it and tells the others its process id and file descriptor. */
#define _GNU_SOURCE
#include "base/byte_size.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/proc_memory.h"
#include "base/rng.h"
#include "tensor/dispatch.h"
#include "plan/step_time.h"
#include "train/run.h"

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What every rank sends to the others. A double holds 53 bits exactly. */
typedef struct {
    double host, limit, process, fd;
} RankInfo;

enum { RANK_INFO_NUMBERS = sizeof(RankInfo) / sizeof(double) };

static Err *share_infos(const Dp *dp, RankInfo *infos)
{
    size_t *first;
    TRY(mem_new(&first, (size_t)dp->size + 1, sizeof *first));
    for (int r = 0; r <= dp->size; r++) first[r] = (size_t)r;
    Err *err = dp_share_rows(dp, first, RANK_INFO_NUMBERS, &infos->host);
    free(first);
    return err;
}

/* This rank among the ranks of its host; *leader: the first of them, by its rank in the job. */
static HostRanks host_of(const Dp *dp, const RankInfo *infos, int *leader)
{
    HostRanks host = {0};
    *leader = -1;
    for (int r = 0; r < dp->size; r++) {
        if (infos[r].host != infos[dp->rank].host) continue;
        if (*leader < 0) *leader = r;
        if (r < dp->rank) host.rank++;
        host.size++;
    }
    return host;
}

static int longer_first(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

/* Tokens of the largest step that may come: the longest documents together. Of data that is not kept in memory, only
 * max_length is known. */
static Err *max_step_tokens(const Run *run, StepWork *work)
{
    size_t batch = (size_t)run->settings.train_batch_size;
    work->data_bytes = 0;
    for (size_t i = 0; i < run->settings.eval_file.count; i++)
        work->data_bytes += 8 * dataset_totals(run->evals[i]).tokens;
    if (!dataset_is_preloaded(run->train)) {
        enum { STEPS_AHEAD = 5 };
        work->longest = (size_t)run->settings.data.max_length;
        work->step_tokens = batch * work->longest;
        work->data_bytes += 8 * STEPS_AHEAD * work->step_tokens;
        return NULL;
    }
    size_t n = dataset_count(run->train), *lengths;
    TRY(mem_new(&lengths, n, sizeof *lengths));
    for (size_t i = 0; i < n; i++) lengths[i] = dataset_document(run->train, i)->n;
    qsort(lengths, n, sizeof *lengths, longer_first);
    work->longest = lengths[0];
    for (size_t i = 0; i < n && i < batch; i++) work->step_tokens += lengths[i];
    free(lengths);
    work->data_bytes += 8 * dataset_totals(run->train).tokens;
    return NULL;
}

/* Plan the time of a step from what `graft doctor` measured; without its figures there is no plan. Must be called
 * before the weights are streamed: the plan reads their sizes from the files. */
static void plan_step(Run *run)
{
    Machine machine;
    Err *err = machine_load(&machine, &run->planned);
    run->plan = (Plan){.budget = run->budget};
    PlanInput input = {.model = run->model,
                       .adapter = run->adapter,
                       .work = run->work,
                       .machine = &machine,
                       .bf16 = dispatch_is_bf16(),
                       .hosts = run->work.ranks / run->work.local_ranks};
    if (!err && run->planned) err = plan_times(&run->plan, &input);
    run->planned = run->planned && !err;
    err_free(err); /* a run does not need its plan */
}

static Err *make_budget(Run *run, int local_ranks, size_t limit)
{
    const Settings *s = &run->settings;
    StepWork work = {.ranks = (size_t)run->dp.size,
                     .local_ranks = (size_t)local_ranks,
                     .threads = (size_t)omp_get_max_threads(),
                     .micro_batch_tokens = (size_t)s->micro_batch_tokens,
                     .group_tokens = (size_t)s->group_tokens,
                     .keep_layers = (size_t)s->keep_layers,
                     .may_spill = true};
    TRY(max_step_tokens(run, &work));
    Flops flops = flops_of_step(run->model, run->adapter, &work, NULL);
    run->flops = flops_all(&flops);
    run->work = work;
    TRY(budget_make(&run->budget, run->model, run->adapter, &work, limit));
    plan_step(run);
    return NULL;
}

/* The leader of a host creates the shared memory, then the other ranks open it. */
static Err *start_stream(Run *run, HostRanks host, int leader, RankInfo *infos)
{
    Err *err = NULL;
    bool streamed = run->budget.streamed;
    if (streamed && host.rank == 0)
        err = stream_open(run->model, run->budget.weights.limit_bytes, run->budget.weights.part_bytes, &host);
    TRY(dp_agree(&run->dp, err));
    infos[run->dp.rank].process = host.leader;
    infos[run->dp.rank].fd = host.fd;
    TRY(share_infos(&run->dp, infos));
    if (streamed && host.rank) {
        host.leader = (int)infos[leader].process;
        host.fd = (int)infos[leader].fd;
        err = stream_open(run->model, run->budget.weights.limit_bytes, run->budget.weights.part_bytes, &host);
    }
    return dp_agree(&run->dp, err);
}

Err *run_fit_memory(Run *run)
{
    const Settings *s = &run->settings;
    char name[256] = "";
    size_t limit = 0;
    RankInfo *infos = NULL;
    int leader;
    Err *err = mem_new(&infos, (size_t)run->dp.size, sizeof *infos);
    if (!err) err = budget_limit(&limit, s->memory_limit);
    if ((err = dp_agree(&run->dp, err))) goto done;
    gethostname(name, sizeof name - 1);
    infos[run->dp.rank] = (RankInfo){.host = (double)(rng_name(0, name) >> 11), .limit = (double)limit};
    if ((err = share_infos(&run->dp, infos))) goto done;
    HostRanks host = host_of(&run->dp, infos, &leader);
    err = make_budget(run, host.size, (size_t)infos[leader].limit);
    if (run->dp.rank != leader) { /* the other ranks of a host would repeat their leader */
        err_free(err);
        err = NULL;
    }
    if ((err = dp_agree(&run->dp, err))) goto done;
    if (run->budget.spilled) {
        run->scratch_dir = s->scratch_dir ? s->scratch_dir : s->output_dir;
        err = dp_agree(&run->dp, file_make_directory(run->scratch_dir));
    }
    if (!err) err = start_stream(run, host, leader, infos);
done:
    free(infos);
    return err;
}

static void describe_time(const Run *run)
{
    const Plan *p = &run->plan;
    if (!run->planned) return;
    log_line(
        "  plan      %.3g s for a step of %zu tokens, %.3g tokens/s, limited by %s (arithmetic %.3g s, disk %.3g s)",
        p->step_seconds, run->work.step_tokens, p->tokens_per_second, bound_names[p->bound],
        p->seconds[BOUND_ARITHMETIC], p->seconds[BOUND_DISK]);
}

void run_describe_memory(const Run *run)
{
    const Budget *b = &run->budget;
    const StreamBudget *w = &b->weights;
    log_line(
        "  memory    %s of %s: weights %s%s, tapes %s, layer inputs %s%s, adapter and moments %s, program and data %s",
        BYTES(b->total), BYTES(b->limit),
        BYTES(b->streamed ? stream_budget_bytes(w) : w->fixed_bytes + stream_budget_layer_bytes(w)),
        b->streamed ? "" : " (all)", BYTES(b->tapes), BYTES(b->layer_inputs),
        b->spilled ? " (the others in a file)" : "", BYTES(b->adapter + b->moments), BYTES(b->program + b->data));
    char parts[STREAM_TEXT_BYTES];
    if (b->streamed)
        log_line("  streamed  %s: %s read per step", stream_budget_describe(parts, w), BYTES(b->read_bytes));
    describe_time(run);
    if ((int64_t)b->group_tokens != run->settings.group_tokens)
        log_line("  groups    of %zu tokens, so that the tapes fit", b->group_tokens);
}

void run_describe_use(const Run *run, uint64_t steps, double seconds)
{
    size_t held = proc_memory_bytes("/proc/self/status", "RssAnon:") +
                  proc_memory_bytes("/proc/self/status", "RssShmem:");
    const Budget *b = &run->budget;
    if (run->dp.size == 1)
        log_line("  memory    %s held at the end (planned: %s less mapped weights)", BYTES(held), BYTES(b->total));
    if (steps && run->planned)
        log_line("  speed     %.0f tokens/s with evaluations and saves (planned: %.0f without)",
                 (double)run->tokens_seen / seconds, run->plan.tokens_per_second);
    if (!run->model->stream || steps == 0) return;
    StreamStats stats = stream_stats(run->model->stream);
    size_t resident = stats.budget.fixed_bytes + stats.budget.cores.resident_bytes + stats.budget.chunks.resident_bytes;
    log_line("  streamed  %s read %s: the resident weights once, and %s per step with its evaluations (planned: %s "
             "without); %.1f s of %.1f s waited for the disk",
             BYTES(stats.read_bytes), stats.direct ? "directly" : "through the page cache",
             BYTES((double)(stats.read_bytes - resident) / (double)steps), BYTES(b->read_bytes), stats.waited_seconds,
             seconds);
}
