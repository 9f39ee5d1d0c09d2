/* Whatever streams has the bytes of its file, in any order of layers; a file that changes says so; no rank of a host
 * waits for ever. */
#include "tests/support/check.h"

#include "base/byte_size.h"
#include "base/memory.h"
#include "model/stream.h"
#include "model/stream_parts.h"

#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char fixture[] = "tests/fixtures/model/sparse";

/* The limit for the smallest parts with so many buffers more than one. */
static size_t min_limit_of(Model *model, size_t extra_buffers)
{
    StreamedParts parts;
    StreamBudget budget;
    assert_ok(parts_cut(&parts, model, 0, true));
    assert_fails(parts_budget(&parts, 0, &budget, NULL), ERR_MEMORY, "at least");
    size_t buffer = (budget.cores.buffer_bytes + budget.chunks.buffer_bytes), min_limit = budget.min_bytes;
    parts_free(&parts);
    return min_limit + extra_buffers * buffer;
}

static bool same(const Weight *w, const Weight *plain)
{
    size_t blocks = ((w->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK) * ((w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
    if (!w->data || w->data == plain->data)
        return w->data == plain->data; /* both absent, or not moved: wrong when present */
    return memcmp(w->data, plain->data, w->rows * w->cols * dtype_bytes(w->dtype)) == 0 &&
           (!w->scale || memcmp(w->scale, plain->scale, blocks * sizeof(float)) == 0);
}

static void check_layer(const Model *model, const Model *plain, size_t l)
{
    const Layer *x = &model->layers[l], *y = &plain->layers[l];
    assert_true(x->kv_down.data != NULL && same(&x->q_down, &y->q_down) && same(&x->kv_down, &y->kv_down) &&
                same(&x->o_proj, &y->o_proj));
    assert_true(same(&x->gate, &y->gate) && same(&x->down, &y->down) && same(&x->index_q, &y->index_q));
}

static void check_experts(const Model *model, const Model *plain, size_t l, size_t begin, size_t end)
{
    const Layer *x = &model->layers[l], *y = &plain->layers[l];
    for (size_t i = 3 * begin; i < 3 * end; i++) assert_true(same(&x->expert_weights[i], &y->expert_weights[i]));
}

/* Runs come and go while the layer is there: rising, then falling, or in a group_pass that nobody announced. */
static void check_runs(Model *model, const Model *plain, size_t l, bool falling)
{
    const ExpertChunks *chunks = model->layers[l].chunks;
    if (!chunks) {
        if (!model->layers[l].dense) check_experts(model, plain, l, 0, model->router.E);
        return;
    }
    assert_int_equal(chunks->begin[0], 0);
    assert_int_equal(chunks->begin[chunks->n], model->router.E);
    for (size_t i = 0; i < chunks->n; i++) {
        size_t chunk = falling ? chunks->n - 1 - i : i;
        assert_ok(chunks->acquire(chunks->context, chunk));
        check_experts(model, plain, l, chunks->begin[chunk], chunks->begin[chunk + 1]);
        chunks->release(chunks->context, chunk);
    }
}

static void visit_group_passes(Model *model, const Model *plain, size_t l, bool falling, size_t group_passes)
{
    assert_ok(layer_acquire(model, l));
    check_layer(model, plain, l);
    for (size_t group_pass = 0; group_pass < group_passes; group_pass++) check_runs(model, plain, l, falling);
    layer_release(model, l);
}

static void visit(Model *model, const Model *plain, size_t l) { visit_group_passes(model, plain, l, false, 1); }

static void every_order_of_layers_finds_their_bytes(const char *directory)
{
    Model *model, *plain;
    assert_ok(model_open(&plain, directory));
    for (size_t extra = 0; extra < 4; extra++) {
        assert_ok(model_open(&model, directory));
        size_t L = model->n_layers;
        assert_ok(stream_open(model, min_limit_of(model, extra), 0, NULL));
        for (int round = 0; round < 3; round++) {
            size_t lowest = round < 2 ? (size_t)round : L;
            layers_announce(model, lowest, 1 + (size_t)round);
            for (size_t l = 0; l < L; l++) visit_group_passes(model, plain, l, false, 1 + (size_t)round);
            for (size_t l = L; l-- > lowest;) visit_group_passes(model, plain, l, true, 1 + (size_t)round);
        }
        layers_announce(model, 0, 1); /* given up half-way, then visits that nobody announced */
        visit(model, plain, 0);
        layers_announce(model, L, 1);
        for (size_t i = 0; i < 3 * L; i++)
            visit_group_passes(model, plain, i * 5 % L, i % 2, i % 3); /* group passes that nobody announced, too */
        assert_true(same(&model->lm_head, &plain->lm_head) && same(&model->embed_tokens, &plain->embed_tokens));
        assert_true(stream_stats(model->stream).read_bytes > 0);
        model_close(model);
    }
    model_close(plain);
}

static void streamed_weights_have_the_bytes_of_their_file(void **state)
{
    (void)state;
    every_order_of_layers_finds_their_bytes(fixture);
}

static void so_have_runs_of_experts(void **state)
{
    Model *model;
    (void)state;
    assert_ok(model_open(&model, "examples/tiny-glm5"));
    assert_ok(stream_open(model, min_limit_of(model, 0), 0, NULL));
    assert_non_null(model->layers[model->n_layers - 1].chunks);
    model_close(model);
    every_order_of_layers_finds_their_bytes("examples/tiny-glm5");
}

static void so_have_streamed_fp8_weights_and_their_scales(void **state)
{
    (void)state;
    every_order_of_layers_finds_their_bytes("tests/fixtures/model/fp8");
}

/* ---- two ranks of a host ----------------------------------------------------------------------------------------- */

/* Both in this process, with the fewest buffers. A test that waits for ever ends after a minute. */
static void open_two_ranks(Model *ranks[2], Model **plain)
{
    HostRanks host[2] = {{.rank = 0, .size = 2}, {.rank = 1, .size = 2}};
    alarm(60);
    assert_ok(model_open(plain, "examples/tiny-glm5"));
    for (size_t r = 0; r < 2; r++) {
        assert_ok(model_open(&ranks[r], "examples/tiny-glm5"));
        if (r) host[r].leader = host[0].leader, host[r].fd = host[0].fd;
        assert_ok(stream_open(ranks[r], min_limit_of(*plain, 0), 0, &host[r]));
    }
}

static void close_two_ranks(Model *ranks[2], Model *plain)
{
    alarm(0);
    for (size_t r = 2; r-- > 0;) model_close(ranks[r]);
    model_close(plain);
}

/* While one makes all its group passes, the other has fewer groups, and waits at the layer's end. What it does not ask
 * for must not hold its buffers. */
static void a_rank_with_fewer_groups_holds_no_buffer(void **state)
{
    Model *ranks[2], *plain;
    (void)state;
    open_two_ranks(ranks, &plain);
    size_t L = plain->n_layers;
    for (size_t r = 0; r < 2; r++) layers_announce(ranks[r], 0, 3);
#pragma omp parallel num_threads(2)
    for (size_t i = 0; i < 2 * L; i++) {
        size_t r = (size_t)omp_get_thread_num(), l = i < L ? i : 2 * L - 1 - i;
        visit_group_passes(ranks[r], plain, l, i >= L, r ? i % 3 : 3);
#pragma omp barrier /* ranks agree after each layer */
    }
    close_two_ranks(ranks, plain);
}

/* A step on this rank alone. */
static void visit_up_and_down(Model *model, const Model *plain)
{
    size_t L = model->n_layers;
    layers_announce(model, 0, 1);
    for (size_t l = 0; l < L; l++) visit_group_passes(model, plain, l, false, 1);
    for (size_t l = L; l-- > 0;) visit_group_passes(model, plain, l, true, 1);
}

/* It left inside a layer, with a chunk in its hands. Each may be the leader, whose readers go on. */
static void a_rank_that_leaves_works_alone_and_holds_nobody_up(void **state)
{
    Model *ranks[2], *plain;
    (void)state;
    for (size_t leaver = 0; leaver < 2; leaver++) {
        open_two_ranks(ranks, &plain);
        Model *alone = ranks[leaver];
        for (size_t r = 0; r < 2; r++) layers_announce(ranks[r], 0, 1);
        for (size_t r = 0; r < 2; r++) visit(ranks[r], plain, 0);
        assert_ok(layer_acquire(alone, 1));
        const ExpertChunks *chunks = alone->layers[1].chunks;
        assert_ok(chunks->acquire(chunks->context, 0));
        stream_leave(alone->stream);
        chunks->release(chunks->context, 0);
        layer_release(alone, 1);
        for (int i = 0; i < 2; i++) visit_up_and_down(alone, plain);
        assert_true(same(&alone->lm_head, &plain->lm_head));
        visit_up_and_down(ranks[1 - leaver], plain);
        visit_up_and_down(ranks[1 - leaver], plain);
        close_two_ranks(ranks, plain);
    }
}

/* Of two passes over all layers. */
static Err *first_error(Model *model)
{
    Err *err = NULL;
    for (size_t i = 0; i < 2 * model->n_layers && !err; i++) {
        size_t l = i % model->n_layers;
        err = layer_acquire(model, l);
        const ExpertChunks *chunks = err ? NULL : model->layers[l].chunks;
        for (size_t c = 0; chunks && c < chunks->n && !err; c++) {
            err = chunks->acquire(chunks->context, c);
            chunks->release(chunks->context, c); /* also what was not acquired */
        }
        layer_release(model, l);
    }
    return err;
}

static void a_rank_that_waits_too_long_names_the_one_that_holds_it_up(void **state)
{
    Model *ranks[2], *plain;
    (void)state;
    open_two_ranks(ranks, &plain);
    for (size_t r = 0; r < 2; r++) {
        layers_announce(ranks[r], 0, 1);
        stream_set_patience(ranks[r]->stream, 1);
    }
    assert_ok(layer_acquire(ranks[0], 0));
    Err *err = first_error(ranks[1]);
    assert_non_null(err);
    assert_non_null(strstr(err_message(err), "rank 1 of this host waited "));
    assert_fails(err, ERR_COMM, " holds layer 0");
    close_two_ranks(ranks, plain);
}

/* The leader in a process of its own: opens the stream, says how to reach it and sleeps. */
static pid_t start_leader(size_t limit, HostRanks *host)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        Model *model = NULL;
        HostRanks mine = {.rank = 0, .size = 2};
        Err *err = model_open(&model, "examples/tiny-glm5");
        if (!err) err = stream_open(model, limit, 0, &mine);
        if (err || write(ends[1], &mine, sizeof mine) != sizeof mine) _exit(1);
        alarm(60);
        for (;;) pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], host, sizeof *host), sizeof *host);
    close(ends[0]);
    host->rank = 1;
    return pid;
}

static void a_leader_that_is_killed_ends_the_waiting_of_others(void **state)
{
    Model *model;
    HostRanks host;
    int status;
    (void)state;
    alarm(60);
    assert_ok(model_open(&model, "examples/tiny-glm5"));
    size_t limit = min_limit_of(model, 0);
    pid_t pid = start_leader(limit, &host);
    assert_ok(stream_open(model, limit, 0, &host));
    assert_ok(layer_acquire(model, 0));
    layer_release(model, 0);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    Err *err = first_error(model);
    assert_fails(err, ERR_COMM, ", which reads the weights, has ended");
    model_close(model);
    alarm(0);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to)
{
    char *text;
    size_t bytes;
    assert_ok(file_read(&text, &bytes, from));
    assert_ok(file_write(to, text, bytes));
    free(text);
}

static void a_file_that_shrinks_is_named(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors.index.json",
                                        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    char from[PATH_BYTES], to[PATH_BYTES], directory[PATH_BYTES];
    Model *model;
    assert_ok(file_join(directory, scratch_path(state, "", from), "base"));
    assert_ok(file_make_directory(directory));
    for (size_t i = 0; i < 4; i++) {
        assert_ok(file_join(from, fixture, names[i]));
        assert_ok(file_join(to, directory, names[i]));
        copy_file(from, to);
    }
    assert_ok(model_open(&model, directory));
    assert_ok(stream_open(model, min_limit_of(model, 0), 0, NULL));
    for (size_t i = 0; i < 2 * model->n_layers; i++) {
        assert_ok(layer_acquire(model, i % model->n_layers));
        layer_release(model, i % model->n_layers);
    }
    assert_int_equal(truncate(to, 100000), 0);
    Err *err = NULL;
    for (size_t i = 0; i < 3 * model->n_layers && !err; i++) {
        err = layer_acquire(model, i % model->n_layers);
        layer_release(model, i % model->n_layers);
    }
    assert_fails(err, ERR_IO, "model-00002-of-00002.safetensors has 100000 bytes now");
    model_close(model);
}

static void an_outline_has_the_shapes_and_sizes_of_the_files(void **state)
{
    char config[PATH_BYTES];
    Model *model, *outline;
    StreamedParts parts, outlined;
    (void)state;
    assert_ok(file_join(config, fixture, "config.json"));
    assert_ok(model_open(&model, fixture));
    assert_ok(model_outline(&outline, config, DTYPE_BF16));
    assert_ok(parts_cut(&parts, model, 0, true));
    assert_ok(parts_cut(&outlined, outline, 0, true));
    assert_int_equal(model->n_layers, outline->n_layers);
    assert_int_equal(parts.n, outlined.n);
    parts_free(&parts);
    parts_free(&outlined);
    for (size_t l = 0; l < model->n_layers; l++) {
        assert_int_equal(model->layers[l].o_proj.rows, outline->layers[l].o_proj.rows);
        assert_int_equal(model->layers[l].dense, outline->layers[l].dense);
    }
    model_close(outline);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(streamed_weights_have_the_bytes_of_their_file),
                                       cmocka_unit_test(so_have_runs_of_experts),
                                       cmocka_unit_test(so_have_streamed_fp8_weights_and_their_scales),
                                       cmocka_unit_test(a_rank_with_fewer_groups_holds_no_buffer),
                                       cmocka_unit_test(a_rank_that_leaves_works_alone_and_holds_nobody_up),
                                       cmocka_unit_test(a_rank_that_waits_too_long_names_the_one_that_holds_it_up),
                                       cmocka_unit_test(a_leader_that_is_killed_ends_the_waiting_of_others),
                                       scratch_test(a_file_that_shrinks_is_named),
                                       cmocka_unit_test(an_outline_has_the_shapes_and_sizes_of_the_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
