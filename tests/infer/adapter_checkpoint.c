/* An adapter read from a checkpoint is the one that was saved; a checkpoint that does not fit the model is refused. */
#include "infer/adapter_io.h"

#include "base/memory.h"
#include "infer/adapter_checkpoint.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

/* Save an adapter as training does; config is JSON with ' for ". */
static void save(const Adapter *a, const char *config, const char *digest, const char *path)
{
    AdapterArray *names;
    CkptArray *arrays;
    size_t n;
    char real[DIGEST_BYTES], *text;
    float *moments = calloc(a->n, sizeof *moments);
    Json *json = tiny_json(config);
    assert_non_null(moments);
    weights_digest(a->model->weights, real);
    assert_ok(json_print(json, false, &text));
    assert_ok(adapter_checkpoint_table(a, &names, &arrays, &n));
    CkptExtra extras[] = {{"had_gradient", 1, &(uint64_t){7}, NULL},
                          {"router_bias", a->n_layers * a->model->router.E, NULL, a->biases}};
    Checkpoint ckpt = {.info = {.step = 5, .config_json = text, .base_digest = digest ? digest : real},
                       .n_arrays = n,
                       .arrays = arrays,
                       .n = a->n,
                       .values = a->values,
                       .m = moments,
                       .v = moments,
                       .n_extras = a->biases ? 2 : 1,
                       .extras = extras};
    assert_ok(checkpoint_save(&ckpt, path));
    arrays_free(names, n);
    free(arrays);
    free(moments);
    free(text);
    json_free(json);
}

static const char plain[] = "{'r': 3, 'lora_alpha': 6, 'target_modules': ['o_proj', 'kv_b_proj'], 'experts': "
                            "{'experts': {'1': [3, 12]}}, 'layers_to_transform': null}";

static Adapter *plain_adapter(const Model *model, size_t r)
{
    Adapter *a;
    assert_ok(tiny_adapter(&a, model, r, "['o_proj', 'kv_b_proj']", NULL, "{'experts': {'1': [3, 12]}}"));
    tiny_fill(a, 9, 0.2);
    return a;
}

static void assert_same(const Adapter *a, const Adapter *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->values, b->values, a->n * sizeof *a->values);
    for (size_t l = 0; l < a->n_layers; l++)
        for (size_t p = 0; p < LORA_PLACES; p++) {
            assert_int_equal(!a->layers[l].places[p], !b->layers[l].places[p]);
            if (a->layers[l].places[p]) assert_true(a->layers[l].places[p]->scale == b->layers[l].places[p]->scale);
        }
}

static void a_checkpoint_gives_back_the_adapter(void **state)
{
    char directory[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "run", directory);
    assert_ok(file_make_directory(directory));
    assert_ok(checkpoint_path(path, directory, 5));
    Model *model = tiny_model("dense");
    Adapter *a = plain_adapter(model, 3), *b, *c;
    save(a, plain, NULL, path);
    assert_ok(adapter_open(&b, model, path));
    assert_ok(adapter_open(&c, model, directory)); /* its newest checkpoint */
    assert_same(a, b);
    assert_same(a, c);
    assert_null(b->biases);
    adapter_free(a);
    adapter_free(b);
    adapter_free(c);
    model_close(model);
}

static void routers_and_their_biases_are_read_too(void **state)
{
    char path[PATH_BYTES];
    scratch_path(state, "router.h5", path);
    Model *model = tiny_model("dense");
    Adapter *a, *b;
    Json *targets = tiny_json("['o_proj']");
    assert_ok(adapter_new(
        &a, model,
        &(LoraConfig){.r = 2, .lora_alpha = 4, .use_rslora = true, .target_modules = targets, .train_router = true},
        1));
    tiny_fill(a, 9, 0.2);
    assert_ok(adapter_own_biases(a));
    a->layers[1].router_bias[5] += 0.25f;
    save(a,
         "{'r': 2, 'lora_alpha': 4, 'use_rslora': true, 'target_modules': ['o_proj'], 'train_router': true, 'experts': "
         "null}",
         NULL, path);
    assert_ok(adapter_open(&b, model, path));
    assert_same(a, b);
    assert_memory_equal(a->layers[1].router_bias, b->layers[1].router_bias, model->router.E * sizeof(float));
    json_free(targets);
    adapter_free(a);
    adapter_free(b);
    model_close(model);
}

/* Save a checkpoint of a run that began with an adapter at `init`, and open it. */
static Err *save_and_open(Adapter **out, const Adapter *a, const char *init, bool with_shape, const char *path)
{
    char config[2 * PATH_BYTES], *text;
    snprintf(config, sizeof config, "{\"r\": 99, \"lora_alpha\": 1, \"init_adapter\": \"%s\"}", init);
    if (with_shape)
        assert_ok(adapter_checkpoint_settings(a, config, &text));
    else
        assert_ok(mem_copy_text(&text, config));
    save(a, text, NULL, path);
    free(text);
    return adapter_open(out, a->model, path);
}

static void a_checkpoint_of_a_run_that_began_with_an_adapter_needs_no_other_file(void **state)
{
    char path[PATH_BYTES];
    scratch_path(state, "later.h5", path);
    Model *model = tiny_model("dense");
    Adapter *a = plain_adapter(model, 3), *b;
    assert_ok(adapter_own_biases(a));
    a->layers[1].router_bias[5] += 0.25f;
    assert_ok(save_and_open(&b, a, "gone", true, path));
    assert_same(a, b);
    assert_memory_equal(a->layers[1].router_bias, b->layers[1].router_bias, model->router.E * sizeof(float));
    adapter_free(b);
    adapter_free(a);
    model_close(model);
}

static void an_older_checkpoint_opens_the_adapter_that_its_run_began_with(void **state)
{
    char first[PATH_BYTES], path[PATH_BYTES];
    scratch_path(state, "first", first);
    scratch_path(state, "later.h5", path);
    Model *model = tiny_model("dense");
    Adapter *a = plain_adapter(model, 3), *b, *c;
    assert_ok(adapter_export(a, first, "base", false));
    assert_ok(adapter_open(&b, model, first));
    tiny_fill(b, 11, 0.2);
    assert_ok(save_and_open(&c, b, first, false, path));
    assert_same(b, c);
    adapter_free(c);
    assert_fails(save_and_open(&c, b, "gone", false, path), ERR_IO,
                 "init_adapter gone: this older checkpoint holds only the path");
    assert_fails(adapter_open(&c, model, path), ERR_IO, "put that adapter back where it was: adapter gone");
    adapter_free(a);
    adapter_free(b);
    model_close(model);
}

static void every_r_that_can_be_trained_can_be_opened(void **state)
{
    static const size_t rs[] = {1, 1024, 1500, LORA_R_MAX};
    char path[PATH_BYTES], config[200];
    scratch_path(state, "wide.h5", path);
    Model *model = tiny_model("dense");
    for (size_t i = 0; i < sizeof rs / sizeof *rs; i++) {
        Adapter *a, *b;
        assert_ok(tiny_adapter(&a, model, rs[i], "['q_a_proj']", "[0]", NULL));
        tiny_fill(a, 9, 0.2);
        snprintf(config, sizeof config,
                 "{'r': %zu, 'lora_alpha': %zu, 'target_modules': ['q_a_proj'], "
                 "'layers_to_transform': [0]}",
                 rs[i], 2 * rs[i]);
        save(a, config, NULL, path);
        assert_ok(adapter_open(&b, model, path));
        assert_same(a, b);
        adapter_free(a);
        adapter_free(b);
    }
    model_close(model);
}

static void an_older_checkpoint_may_name_a_file_of_experts(void **state)
{
    char path[PATH_BYTES], table[PATH_BYTES], config[2 * PATH_BYTES];
    static const char chosen[] = "{\"experts\": {\"1\": [3, 12]}}";
    scratch_path(state, "older.h5", path);
    scratch_path(state, "expert_cfg.json", table);
    assert_ok(file_write(table, chosen, strlen(chosen)));
    snprintf(config, sizeof config,
             "{'r': 3, 'lora_alpha': 6, 'target_modules': ['o_proj', 'kv_b_proj'], 'experts': '%s'}", table);
    Model *model = tiny_model("dense");
    Adapter *a = plain_adapter(model, 3), *b;
    save(a, config, NULL, path);
    assert_ok(adapter_open(&b, model, path));
    assert_same(a, b);
    adapter_free(b);
    assert_int_equal(remove(table), 0);
    assert_fails(adapter_open(&b, model, path), ERR_IO, "put the file back where it was: experts names the file ");
    assert_fails(adapter_open(&b, model, path), ERR_IO, table);
    adapter_free(a);
    model_close(model);
}

static void a_checkpoint_that_does_not_fit_is_refused(void **state)
{
    char path[PATH_BYTES];
    scratch_path(state, "other.h5", path);
    Model *model = tiny_model("dense");
    Adapter *a = plain_adapter(model, 4), *b;
    save(a, plain, "0123456789abcdef", path);
    assert_fails(adapter_open(&b, model, path), ERR_FORMAT,
                 "it was trained on another base: base_digest is 0123456789abcdef, this model's ");
    save(a, plain, NULL, path); /* its settings say r 3 */
    assert_fails(adapter_open(&b, model, path), ERR_FORMAT, "expected float32 [3]");
    save(a, "{'r': 4}", NULL, path);
    assert_fails(adapter_open(&b, model, path), ERR_FORMAT, "lora_alpha");
    save(a, "{'r': 4, 'lora_alpha': 8, 'target_modules': ['elsewhere']}", NULL, path);
    assert_fails(adapter_open(&b, model, path), ERR_USAGE, "elsewhere");
    assert_ok(file_write(path, "no", 2));
    assert_fails(adapter_open(&b, model, path), ERR_FORMAT, "other.h5: ");
    assert_fails(adapter_open(&b, model, "nowhere.h5"), ERR_IO, "nowhere.h5");
    adapter_free(a);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_checkpoint_gives_back_the_adapter),
        scratch_test(routers_and_their_biases_are_read_too),
        scratch_test(a_checkpoint_of_a_run_that_began_with_an_adapter_needs_no_other_file),
        scratch_test(an_older_checkpoint_opens_the_adapter_that_its_run_began_with),
        scratch_test(every_r_that_can_be_trained_can_be_opened),
        scratch_test(an_older_checkpoint_may_name_a_file_of_experts),
        scratch_test(a_checkpoint_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
