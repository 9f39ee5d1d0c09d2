/* same_bits GRAFT MODEL DATA [COMPUTE]: one result, however a run is shared out.
 *
 * Trains a small adapter (dropout, balance losses, router and experts on) over every combination of group, ranks,
 * threads and kept tapes, then stops a run half-way and resumes it with other ranks and threads, and compares the SHA-256
 * of adapter and moments that each run reports, and its metrics without what depends on the clock. Two controls show
 * that the comparison can fail. Then, in one process: a document's hidden states and gradients alone and among others. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "tensor/matmul.h"
#include "train/step.h"

#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEPS = 4, STOP_AFTER = 2, MOST_WORDS = 64 };

extern char **environ;

typedef struct {
    const char *graft, *model, *data, *compute;
    char scratch[64];
    char state[80];   /* of the first run; the others must equal it */
    char *metrics;
    size_t passed, failed;
} Bits;

typedef struct {
    const char *group; /* group_tokens */
    int ranks, threads, keep;
    const char *memory; /* memory_limit; NULL: none */
} Way;

static const char *const common[] = {"--r", "4", "--lora_alpha", "8", "--lora_dropout", "0.1", "--target_modules", "all-linear", "--train_router", "--train_batch_size",
                                     "7", "--micro_batch_tokens", "200", "--max_length", "160", "--learning_rate", "1e-3", "--seq_aux_loss_coef", "0.01",
                                     "--aux_loss_coef", "0.01", "--load_balancing_loss_coef", "0.01", "--z_loss_coef", "0.001", "--warmup_ratio", "0.25",
                                     "--weight_decay", "0.01", "--save_steps", "2", "--save_total_limit", "0", "--seed", "7", "--max_steps", "4"};

/* Run graft train in a directory; extra words are added. Returns the exit code, -1 when it could not be run. */
static int train(const Bits *bits, const char *directory, const Way *way, const char *const *extra)
{
    char ranks[16], threads[16], keep[16];
    const char *words[MOST_WORDS + 16] = {bits->graft, "train", "--model_name_or_path", bits->model, "--train_file", bits->data, "--output_dir", directory,
                                          "--group_tokens", way->group, "--ranks", ranks, "--threads", threads, "--keep_layers", keep, "--compute", bits->compute};
    size_t n = 18;
    snprintf(ranks, sizeof ranks, "%d", way->ranks);
    snprintf(threads, sizeof threads, "%d", way->threads);
    snprintf(keep, sizeof keep, "%d", way->keep);
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) words[n++] = common[i];
    for (; extra && *extra; extra++) words[n++] = *extra;
    words[n] = NULL;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    char log[PATH_BYTES];
    snprintf(log, sizeof log, "%s.log", directory);
    posix_spawn_file_actions_addopen(&actions, 2, log, 0x241 /* write, create, truncate */, 0644);
    pid_t child;
    int status = -1;
    bool ran = posix_spawn(&child, bits->graft, &actions, NULL, (char *const *)(size_t)words, environ) == 0 && waitpid(child, &status, 0) == child;
    posix_spawn_file_actions_destroy(&actions);
    if (ran && WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    char *text;
    size_t bytes;
    if (!file_read(&text, &bytes, log)) {
        printf("%s", text);
        free(text);
    }
    return ran && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The run's state digest, and its metrics without the clock's members. Owner of *metrics: the caller. */
static Err *result_of(const char *directory, char state[80], char **metrics)
{
    char path[PATH_BYTES], *text, *line, *rest = NULL;
    size_t bytes, capacity = 0, n = 0;
    TRY(file_join(path, directory, "metrics.jsonl"));
    TRY(file_read(&text, &bytes, path));
    *metrics = NULL;
    state[0] = 0;
    Err *err = NULL;
    for (line = strtok_r(text, "\n", &rest); line && !err; line = strtok_r(NULL, "\n", &rest)) {
        const char *clock = strstr(line, ",\"seconds\""), *digest = strstr(line, "\"state_sha256\":\"");
        size_t keep = clock ? (size_t)(clock - line) : strlen(line);
        err = mem_grow(metrics, &capacity, n + keep + 2, 1);
        if (err) break;
        memcpy(*metrics + n, line, keep);
        n += keep;
        (*metrics)[n++] = '\n';
        if (digest) snprintf(state, 80, "%.64s", digest + strlen("\"state_sha256\":\""));
    }
    free(text);
    return err;
}

static void judge(Bits *bits, const char *what, const char *directory, int code)
{
    char state[80] = "", *metrics = NULL;
    Err *err = code ? NULL : result_of(directory, state, &metrics);
    if (!bits->metrics && !err && *state) {
        snprintf(bits->state, sizeof bits->state, "%s", state);
        bits->metrics = metrics ? strdup(metrics) : NULL;
    }
    bool same = !code && !err && *state && strcmp(state, bits->state) == 0 && metrics && bits->metrics && strcmp(metrics, bits->metrics) == 0;
    printf("  %-58s %.16s%s\n", what, *state ? state : "(no result)", same ? "" : "  FAIL");
    fflush(stdout);
    bits->passed += same;
    bits->failed += !same;
    err_free(err);
    free(metrics);
}

static void run_way(Bits *bits, const Way *way)
{
    char directory[128], what[96];
    const char *const limit[] = {"--memory_limit", way->memory, NULL};
    snprintf(directory, sizeof directory, "%s/g%s-r%d-t%d-k%d-m%s", bits->scratch, way->group, way->ranks, way->threads, way->keep, way->memory ? way->memory : "");
    snprintf(what, sizeof what, "group_tokens %-4s ranks %d threads %d kept layers %d %s", way->group, way->ranks, way->threads, way->keep, way->memory ? way->memory : "");
    judge(bits, what, directory, train(bits, directory, way, way->memory ? limit : NULL));
}

/* The same data, not kept: read and tokenized as the steps need it. */
static void run_unkept(Bits *bits, const Way *way)
{
    static const char *const unkept[] = {"--preload_mb", "0", NULL};
    char directory[128], what[96];
    snprintf(directory, sizeof directory, "%s/unkept-r%d-t%d", bits->scratch, way->ranks, way->threads);
    snprintf(what, sizeof what, "data read step by step, ranks %d threads %d", way->ranks, way->threads);
    judge(bits, what, directory, train(bits, directory, way, unkept));
}

/* The state after STOP_AFTER steps is what the first way's checkpoint holds: go on from a copy of its run elsewhere. */
static void run_resumed(Bits *bits, const Way *before, const Way *after)
{
    char directory[128], checkpoint[256], what[96];
    snprintf(directory, sizeof directory, "%s/resume-%d%d-%d%d", bits->scratch, before->ranks, before->threads, after->ranks, after->threads);
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint-%06d.h5", directory, STOP_AFTER);
    snprintf(what, sizeof what, "ranks %d threads %d, stopped, resumed with ranks %d threads %d", before->ranks, before->threads, after->ranks, after->threads);
    int code = train(bits, directory, before, NULL);
    const char *const resume[] = {"--resume_from_checkpoint", checkpoint, NULL};
    if (code == 0) code = train(bits, directory, after, resume);
    judge(bits, what, directory, code);
}

/* A run that must come out otherwise. */
static void run_control(Bits *bits, const char *what, const char *key, const char *value)
{
    char directory[128], state[80] = "", *metrics = NULL;
    snprintf(directory, sizeof directory, "%s/control-%s", bits->scratch, key + 2);
    int code = train(bits, directory, &(Way){"0", 1, 1, 0, NULL}, (const char *const[]){key, value, NULL});
    Err *err = code ? NULL : result_of(directory, state, &metrics);
    bool differs = !code && !err && *state && strcmp(state, bits->state) != 0;
    printf("  control: %-49s %.16s%s\n", what, *state ? state : "(no result)", differs ? " differs" : "  FAIL");
    bits->passed += differs;
    bits->failed += !differs;
    err_free(err);
    free(metrics);
}

/* ---- a document alone and among others ------------------------------------------------------------------------ */

enum { DOCS = 3 };
static const size_t lengths[DOCS] = {150, 1, 67}; /* the first is longer than the base's index_topk */

/* What a step shows of its rows: the last hidden state and the gradient of the first. */
typedef struct {
    size_t n_layers, D;
    float *last, *first_grad; /* [rows][D] */
} Seen;

static void see(void *context, const char *what, size_t l, size_t row, size_t rows, size_t cols, const void *data)
{
    Seen *seen = context;
    float *to = !strcmp(what, "hidden") && l == seen->n_layers ? seen->last : !strcmp(what, "grad.hidden") && l == 0 ? seen->first_grad : NULL;
    if (to) memcpy(to + row * cols, data, rows * cols * sizeof *to);
}

/* Gradients of documents as micro-batches of their own; `scored` stands for the whole step's. */
static Err *gradients_of(Model *model, Adapter *adapter, size_t n, const Document *const *docs, size_t scored, Seen *seen, float *gradient)
{
    Dp dp = {.size = 1};
    Batch batch = {0};
    Step *step;
    StepResult result;
    StepProbe probe = {seen, see};
    *seen = (Seen){.n_layers = model->n_layers, .D = (size_t)model->config.hidden_size};
    TRY(step_new(&step, &dp, model, adapter, &(StepConfig){0}));
    Err *err = batch_new(&batch, &dp, n, docs, 1, 0);
    batch.scored = scored;
    if (!err) err = mem_new(&seen->last, batch.T * seen->D, sizeof(float));
    if (!err) err = mem_new(&seen->first_grad, batch.T * seen->D, sizeof(float));
    if (!err) err = step_gradients(step, &batch, 0, &probe, &result);
    for (size_t l = 0; l < adapter->n_layers && !err; l++)
        memcpy(gradient + adapter->layers[l].offset, step_gradient(step, l), adapter->layers[l].n * sizeof *gradient);
    batch_free(&batch);
    step_free(step);
    return err;
}

static Err *random_document(Document *doc, size_t n, uint64_t key, uint64_t vocabulary)
{
    *doc = (Document){.n = n, .n_scored = n};
    TRY(mem_new(&doc->ids, n, sizeof *doc->ids));
    TRY(mem_new(&doc->targets, n, sizeof *doc->targets));
    for (size_t t = 0; t < n; t++) {
        doc->ids[t] = (int32_t)rng_below(key, 2 * t, vocabulary);
        doc->targets[t] = (int32_t)rng_below(key, 2 * t + 1, vocabulary);
    }
    return NULL;
}

static Err *compare_alone(Bits *bits, Model *model, Adapter *adapter)
{
    Document docs[DOCS];
    const Document *all[DOCS];
    size_t scored = 0, n = adapter->n, row = 0;
    float *sum, *whole, *mine;
    Seen together;
    TRY(mem_new(&sum, n, sizeof *sum));
    TRY(mem_new(&whole, n, sizeof *whole));
    TRY(mem_new(&mine, n, sizeof *mine));
    for (size_t d = 0; d < DOCS; d++) {
        TRY(random_document(&docs[d], lengths[d], d, (uint64_t)model->config.vocab_size));
        all[d] = &docs[d];
        scored += lengths[d];
    }
    TRY(gradients_of(model, adapter, DOCS, all, scored, &together, whole));
    bool same = true;
    for (size_t d = 0; d < DOCS; d++) {
        Seen alone;
        TRY(gradients_of(model, adapter, 1, &all[d], scored, &alone, mine));
        size_t at = row * alone.D, bytes = lengths[d] * alone.D * sizeof(float);
        same = same && !memcmp(alone.last, together.last + at, bytes) && !memcmp(alone.first_grad, together.first_grad + at, bytes);
        for (size_t i = 0; i < n; i++) sum[i] = d ? sum[i] + mine[i] : mine[i]; /* the tree of three leaves: (0 + 1) + 2 */
        row += lengths[d];
        free(alone.last);
        free(alone.first_grad);
        free(docs[d].ids);
        free(docs[d].targets);
    }
    same = same && memcmp(sum, whole, n * sizeof *sum) == 0;
    printf("  %-58s %s\n", "a document's states and gradients alone and among others", same ? "equal" : "FAIL");
    bits->passed += same;
    bits->failed += !same;
    free(together.last);
    free(together.first_grad);
    free(sum);
    free(whole);
    free(mine);
    return NULL;
}

static Err *run_alone(Bits *bits)
{
    Model *model;
    Adapter *adapter;
    Json *targets = json_new_array();
    json_add_string(targets, NULL, "all-linear"); /* everything that can carry a pair */
    TRY(model_open(&model, bits->model));
    Err *err = adapter_new(&adapter, model, &(LoraConfig){.r = 4, .lora_alpha = 8, .target_modules = json_first(targets), .train_router = true}, 3);
    if (!err) {
        for (size_t i = 0; i < adapter->n; i++) adapter->values[i] += 0.02f * (float)rng_normal(5, i); /* B is zero no more */
        err = compare_alone(bits, model, adapter);
        adapter_free(adapter);
    }
    json_free(targets);
    model_close(model);
    return err;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *where)
{
    (void)st;
    (void)flag;
    (void)where;
    return remove(path);
}

int main(int argc, char **argv)
{
    static const char *const groups[] = {"1", "400", "0"}; /* one micro-batch, two, all */
    Bits bits = {.graft = argc > 1 ? argv[1] : "", .model = argc > 2 ? argv[2] : "", .data = argc > 3 ? argv[3] : "", .compute = argc > 4 ? argv[4] : "fp32", .scratch = "/tmp/same_bits.XXXXXX"};
    matmul_prepare(argv);
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: same_bits GRAFT MODEL DATA [COMPUTE]\n");
        return 2;
    }
    if (!matmul_init(bits.compute)) {
        printf("same_bits: skipped, this CPU has no %s\n", bits.compute);
        return 0;
    }
    printf("%s\n", matmul_path());
    if (!mkdtemp(bits.scratch)) {
        perror(bits.scratch);
        return 2;
    }
    for (size_t g = 0; g < 3; g++)
        for (int ranks = 1; ranks <= 3; ranks++)
            for (int threads = 1; threads <= 2; threads++)
                for (int keep = 0; keep <= 3; keep += 3) run_way(&bits, &(Way){groups[g], ranks, threads, keep, NULL});
    for (int ranks = 1; ranks <= 3; ranks++) run_unkept(&bits, &(Way){"0", ranks, 1 + ranks % 2, 0, NULL});
    /* Weights streamed and boundaries in a file, from the smallest limit that works to one that nearly holds all. */
    run_way(&bits, &(Way){"0", 1, 2, 0, "64MiB"});
    run_way(&bits, &(Way){"1", 1, 1, 3, "176MiB"});
    run_way(&bits, &(Way){"0", 2, 1, 0, "112MiB"});
    run_way(&bits, &(Way){"400", 3, 1, 0, "160MiB"});
    run_resumed(&bits, &(Way){"0", 1, 2, 0, NULL}, &(Way){"1", 3, 1, 2, NULL});
    run_resumed(&bits, &(Way){"400", 2, 1, 0, NULL}, &(Way){"0", 1, 1, 0, NULL});
    run_resumed(&bits, &(Way){"1", 3, 1, 1, NULL}, &(Way){"400", 2, 2, 0, NULL});
    run_control(&bits, "another seed", "--seed", "8");
    run_control(&bits, "other micro-batches", "--micro_batch_tokens", "100");
    Err *err = run_alone(&bits);
    if (err) {
        printf("  FAIL: %s\n", err_message(err));
        bits.failed++;
        err_free(err);
    }
    nftw(bits.scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(bits.metrics);
    printf("%zu passed, %zu failed\n", bits.passed, bits.failed);
    return bits.failed != 0;
}
