/* same_bits GRAFT MODEL DATA [COMPUTE [KILLS]]: a run has one result, however it is shared out and whatever happens to
 * it.
 *
 * Trains a small adapter over every combination of group, ranks, threads and kept tapes; stops runs half-way and
 * resumes them with other ranks and threads; interrupts them (tests/support/interruptions.h); evaluates and draws.
 * Compares the results (tests/support/shared_runs.h). Two controls show that the comparison can fail. Last, in one
 * process: a document alone and among others. With KILLS given, only interruptions, with that many kills at random
 * moments.
 *
 * The random moments follow from a key, which is printed; SAME_BITS_KEY=KEY in the environment sets it. */
#include "base/rng.h"
#include "tensor/dispatch.h"
#include "tests/support/document_alone.h"
#include "tests/support/interruptions.h"
#include "tests/support/shared_runs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void run_sharing(SharedRuns *runs, const Sharing *sharing)
{
    char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
    const char *memory = sharing->memory ? sharing->memory : "";
    const char *const limit[] = {"--memory_limit", sharing->memory, NULL};
    snprintf(directory, sizeof directory, "%s/g%s-r%d-t%d-k%d-m%s", runs->scratch, sharing->group, sharing->ranks,
             sharing->threads, sharing->keep_layers, memory);
    snprintf(what, sizeof what, "group_tokens %-4s ranks %d threads %d kept layers %d %s", sharing->group,
             sharing->ranks, sharing->threads, sharing->keep_layers, memory);
    uint64_t began = runs_now_ms();
    runs_compare(runs, what, directory, runs_train(runs, directory, sharing, sharing->memory ? limit : NULL));
    if (!runs->run_ms) runs->run_ms = runs_now_ms() - began;
}

/* The same data, not kept in memory: read and tokenized as the steps need it. */
static void run_without_preload(SharedRuns *runs, const Sharing *sharing)
{
    static const char *const no_preload[] = {"--preload_mb", "0", NULL};
    char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
    snprintf(directory, sizeof directory, "%s/read-r%d-t%d", runs->scratch, sharing->ranks, sharing->threads);
    snprintf(what, sizeof what, "data read step by step, ranks %d threads %d", sharing->ranks, sharing->threads);
    runs_compare(runs, what, directory, runs_train(runs, directory, sharing, no_preload));
}

/* Resume a finished run from its first checkpoint, shared out in another way. */
static void run_resumed(SharedRuns *runs, const Sharing *before, const Sharing *after)
{
    char directory[RUN_DIRECTORY], checkpoint[RUN_DIRECTORY + 32], what[RUN_DESCRIPTION];
    snprintf(directory, sizeof directory, "%s/resume-%d%d-%d%d", runs->scratch, before->ranks, before->threads,
             after->ranks, after->threads);
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint-%06d.h5", directory, RUN_SAVES_AT);
    snprintf(what, sizeof what, "ranks %d threads %d, stopped, resumed with ranks %d threads %d", before->ranks,
             before->threads, after->ranks, after->threads);
    int code = runs_train(runs, directory, before, NULL);
    const char *const resume[] = {"--resume_from_checkpoint", checkpoint, NULL};
    if (code == 0) code = runs_train(runs, directory, after, resume);
    runs_compare(runs, what, directory, code);
}

/* Four documents, each a micro-batch: one rank has four of them, two have two, four have one. */
static void run_four_documents(SharedRuns *runs)
{
    static const int ranks[] = {1, 2, 4};
    SharedRuns own = *runs;
    own.metrics = NULL;
    own.passed = own.failed = 0;
    for (size_t i = 0; i < 3; i++) {
        char directory[RUN_DIRECTORY], what[RUN_DESCRIPTION];
        const char *const four[] = {"--train_batch_size", "4", "--micro_batch_tokens", "1", NULL};
        snprintf(directory, sizeof directory, "%s/four-%d", runs->scratch, ranks[i]);
        snprintf(what, sizeof what, "four micro-batches on %d rank%s", ranks[i], ranks[i] > 1 ? "s" : "");
        runs_compare(&own, what, directory, runs_train(&own, directory, &(Sharing){"0", ranks[i], 1, 0, NULL}, four));
    }
    free(own.metrics);
    runs->passed += own.passed;
    runs->failed += own.failed;
}

static void run_document_alone(SharedRuns *runs)
{
    bool same = false;
    Err *err = document_alone(runs->model, &same);
    if (err) printf("  %s\n", err_message(err));
    runs_count(runs, "a document's states and gradients alone and among others", same ? "equal" : "", same && !err);
    err_free(err);
}

static void run_everything(SharedRuns *runs)
{
    static const char *const groups[] = {"1", "400", "0"}; /* one micro-batch, two, all */
    for (size_t g = 0; g < 3; g++)
        for (int ranks = 1; ranks <= 3; ranks++)
            for (int threads = 1; threads <= 2; threads++)
                for (int keep = 0; keep <= 3; keep += 3)
                    run_sharing(runs, &(Sharing){groups[g], ranks, threads, keep, NULL});
    static const char *const others[] = {"600", "800", "1000"}; /* groups of every size between */
    for (size_t g = 0; g < 3; g++) run_sharing(runs, &(Sharing){others[g], 1, 2, 0, NULL});
    for (int ranks = 1; ranks <= 3; ranks++) run_without_preload(runs, &(Sharing){"0", ranks, 1 + ranks % 2, 0, NULL});
    /* Weights streamed and layer inputs in a file, from a small limit to one that nearly holds all. */
    run_sharing(runs, &(Sharing){"0", 1, 2, 0, "62MiB"});
    run_sharing(runs, &(Sharing){"1", 1, 1, 3, "142MiB"});
    run_sharing(runs, &(Sharing){"0", 2, 1, 0, "118MiB"});
    run_sharing(runs, &(Sharing){"1", 3, 1, 0, "156MiB"});   /* ranks with unequal numbers of groups */
    run_sharing(runs, &(Sharing){"400", 3, 1, 0, "162MiB"}); /* and expert chunks */
    run_resumed(runs, &(Sharing){"0", 1, 2, 0, NULL}, &(Sharing){"1", 3, 1, 2, NULL});
    run_resumed(runs, &(Sharing){"400", 2, 1, 0, NULL}, &(Sharing){"0", 1, 1, 0, NULL});
    run_resumed(runs, &(Sharing){"1", 3, 1, 1, NULL}, &(Sharing){"400", 2, 2, 0, NULL});
    interrupt_by_kills(runs, 2);
    interrupt_all(runs);
    run_four_documents(runs);
    runs_control(runs, "another seed", "--seed", "8");
    runs_control(runs, "other micro-batches", "--micro_batch_tokens", "100");
    run_document_alone(runs);
}

/* The key of SAME_BITS_KEY, or one from the clock; false when the variable holds something else. */
static bool choose_key(uint64_t *key)
{
    const char *given = getenv("SAME_BITS_KEY");
    char *end = NULL;
    *key = given ? strtoull(given, &end, 10) : rng_key((uint64_t)time(NULL), 0);
    return !given || (*given && !*end);
}

int main(int argc, char **argv)
{
    SharedRuns runs = {.graft = argc > 1 ? argv[1] : "",
                       .model = argc > 2 ? argv[2] : "",
                       .data = argc > 3 ? argv[3] : "",
                       .compute = argc > 4 ? argv[4] : "fp32",
                       .scratch = "/tmp/same_bits.XXXXXX"};
    if (argc < 4 || argc > 6 || !choose_key(&runs.kill_key)) {
        fprintf(stderr,
                "usage: same_bits GRAFT MODEL DATA [COMPUTE [KILLS]]; SAME_BITS_KEY in the environment: a number\n");
        return 2;
    }
    if (!dispatch_init(runs.compute)) {
        printf("same_bits: skipped, this CPU has no %s\n", runs.compute);
        return 0;
    }
    printf("%s, SAME_BITS_KEY=%" PRIu64 " for the moments of kills\n", dispatch_path(), runs.kill_key);
    if (!mkdtemp(runs.scratch)) {
        perror(runs.scratch);
        return 2;
    }
    if (argc == 6) {
        run_sharing(&runs, &sharings[0]);
        interrupt_by_kills(&runs, strtoul(argv[5], NULL, 10));
        interrupt_all(&runs);
    } else {
        run_everything(&runs);
    }
    runs_remove(runs.scratch);
    free(runs.metrics);
    printf("%zu passed, %zu failed\n", runs.passed, runs.failed);
    return runs.failed != 0;
}
