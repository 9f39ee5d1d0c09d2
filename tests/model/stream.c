/* Whatever streams has the bytes of its file, in any order of layers; plans keep their limits; a file that changes says so. */
#include "tests/support/check.h"

#include "base/bytes.h"
#include "base/memory.h"
#include "model/stream.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char fixture[] = "tests/fixtures/model/sparse";

static size_t least_of(Model *model, size_t extra_slots)
{
    size_t bytes[64], most = 0, L = model->n_layers;
    assert_true(L < 64);
    assert_ok(stream_sizes(model, bytes));
    for (size_t l = 0; l < L; l++) most = bytes[l] > most ? bytes[l] : most;
    return bytes[L] + (1 + extra_slots) * most;
}

static bool same(const Weight *w, const Weight *plain)
{
    size_t blocks = ((w->rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK) * ((w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK);
    if (!w->data || w->data == plain->data) return w->data == plain->data; /* both absent, or not moved: wrong when present */
    return memcmp(w->data, plain->data, w->rows * w->cols * dtype_bytes(w->dtype)) == 0 &&
           (!w->scale || memcmp(w->scale, plain->scale, blocks * sizeof(float)) == 0);
}

static void check_layer(const Model *model, const Model *plain, size_t l)
{
    const Layer *x = &model->layers[l], *y = &plain->layers[l];
    assert_true(x->kv_down.data != NULL && same(&x->q_down, &y->q_down) && same(&x->kv_down, &y->kv_down) && same(&x->o_proj, &y->o_proj));
    assert_true(same(&x->gate, &y->gate) && same(&x->down, &y->down) && same(&x->index_q, &y->index_q));
    for (size_t i = 0; !x->dense && i < 3 * model->router.E; i++) assert_true(same(&x->expert_weights[i], &y->expert_weights[i]));
}

static void visit(Model *model, const Model *plain, size_t l)
{
    assert_ok(layer_acquire(model, l));
    check_layer(model, plain, l);
    layer_release(model, l);
}

static void every_order_of_layers_finds_their_bytes(const char *directory)
{
    Model *model, *plain;
    assert_ok(model_open(&plain, directory));
    for (size_t extra = 0; extra < 4; extra++) {
        assert_ok(model_open(&model, directory));
        size_t L = model->n_layers;
        assert_ok(stream_open(model, least_of(model, extra), NULL));
        for (int walk = 0; walk < 3; walk++) {
            size_t lowest = walk < 2 ? (size_t)walk : L;
            layers_walk(model, lowest);
            for (size_t l = 0; l < L; l++) visit(model, plain, l);
            for (size_t l = L; l-- > lowest;) visit(model, plain, l);
        }
        layers_walk(model, 0); /* given up half-way, then visits that nobody announced */
        visit(model, plain, 0);
        layers_walk(model, L);
        for (size_t i = 0; i < 3 * L; i++) visit(model, plain, i * 5 % L);
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

static void so_have_streamed_fp8_weights_and_their_scales(void **state)
{
    (void)state;
    every_order_of_layers_finds_their_bytes("tests/fixtures/model/fp8");
}

static void plans_keep_their_limit_and_use_it(void **state)
{
    size_t bytes[40], n = 40;
    bool resident[40];
    StreamPlan plan;
    (void)state;
    for (size_t l = 0; l < n; l++) bytes[l] = l < 3 ? 100 : 1000;
    assert_fails(stream_plan(&plan, 1499, 500, n, bytes, NULL), ERR_MEMORY, "at least");
    assert_int_equal(plan.least_bytes, 1500);
    for (size_t limit = 1500; limit < 45000; limit += 377) {
        size_t stay = 0, streamed = 0;
        assert_ok(stream_plan(&plan, limit, 500, n, bytes, resident));
        for (size_t l = 0; l < n; l++) *(resident[l] ? &stay : &streamed) += bytes[l];
        assert_int_equal(plan.resident_bytes, stay);
        assert_int_equal(plan.pass_bytes, streamed);
        assert_true(plan.fixed_bytes + plan.resident_bytes + plan.n_slots * plan.slot_bytes <= limit);
        if (streamed) assert_true(limit - plan.fixed_bytes - plan.resident_bytes - plan.n_slots * plan.slot_bytes < 2000);
    }
    assert_int_equal(plan.n_resident, n);
}

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
    static const char *const names[] = {"config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
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
    assert_ok(stream_open(model, least_of(model, 0), NULL));
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
    size_t bytes[64], outlined[64];
    (void)state;
    assert_ok(file_join(config, fixture, "config.json"));
    assert_ok(model_open(&model, fixture));
    assert_ok(model_outline(&outline, config, DTYPE_BF16));
    assert_ok(stream_sizes(model, bytes));
    assert_ok(stream_sizes(outline, outlined));
    assert_int_equal(model->n_layers, outline->n_layers);
    for (size_t l = 0; l < model->n_layers; l++) {
        assert_int_equal(model->layers[l].o_proj.rows, outline->layers[l].o_proj.rows);
        assert_int_equal(model->layers[l].dense, outline->layers[l].dense);
    }
    model_close(outline);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_weights_have_the_bytes_of_their_file), cmocka_unit_test(so_have_streamed_fp8_weights_and_their_scales),
        cmocka_unit_test(plans_keep_their_limit_and_use_it), scratch_test(a_file_that_shrinks_is_named),
        cmocka_unit_test(an_outline_has_the_shapes_and_sizes_of_the_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
