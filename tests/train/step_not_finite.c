/* A step over weights or adapters with a number that is not finite: refused, naming the layer, and nothing is
 * trained. */
#define _GNU_SOURCE
#include "train/step.h"

#include "base/rng.h"
#include "tests/support/step_fixture.h"
#include "tests/support/tiny.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void copy_model(void **state, const char *name, char directory[PATH_BYTES])
{
    static const char *const files[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    scratch_path(state, name, directory);
    assert_ok(file_make_directory(directory));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char folder[PATH_BYTES], from[PATH_BYTES], to[PATH_BYTES], *data;
        size_t bytes;
        assert_ok(file_join(folder, "tests/fixtures/model", name));
        assert_ok(file_join(from, folder, files[i]));
        if (!file_exists(from)) continue;
        assert_ok(file_join(to, directory, files[i]));
        assert_ok(file_read(&data, &bytes, from));
        assert_ok(file_write(to, data, bytes));
        free(data);
    }
}

typedef struct {
    const char *directory;
    Model *model;
    Adapter *adapter;
    Step *step;
    StepResult clean;
    size_t seen, unread;
} Poison;

/* Put a bad number over one element of a matrix in its file, take a step, and put the old one back. */
static void poison_one(Poison *p, const TensorView *view, const Safetensors *file, size_t element, bool infinite)
{
    static const unsigned char bf16[2][2] = {{0xC0, 0x7F}, {0x80, 0x7F}},
                               f32[2][4] = {{0, 0, 0xC0, 0x7F}, {0, 0, 0x80, 0x7F}}, f8[2][1] = {{0x7F}, {0xFF}};
    unsigned char old[4];
    size_t size = dtype_bytes(view->dtype),
           at = (size_t)((const unsigned char *)view->data - file->map.data) + element * size, layer = 0;
    const unsigned char *bad = size == 2 ? bf16[infinite] : size == 4 ? f32[infinite] : f8[infinite];
    char where[64] = "embedding";
    int fd = open(file->path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, old, size, (off_t)at), size);
    assert_int_equal(pwrite(fd, bad, size, (off_t)at), size); /* the model's mapping sees it */
    if (sscanf(view->name, "model.layers.%zu.", &layer) == 1) snprintf(where, sizeof where, "layer %zu", layer);
    if (strncmp(view->name, "lm_head", 7) == 0) snprintf(where, sizeof where, "head");
    StepResult result = {0};
    Err *err = fixture_gradients(p->step, 32, 0, &result);
    p->seen++;
    if (!err) { /* nobody reads this number: an expert without tokens, a token that does not occur */
        if (result.loss != p->clean.loss || result.grad_norm != p->clean.grad_norm)
            fail_msg("%s [%zu]: loss %g instead of %g, and no error", view->name, element, result.loss, p->clean.loss);
        if (!strstr(view->name, ".experts.") && !strstr(view->name, "embed_tokens"))
            fail_msg("%s [%zu] is read, and nobody minds", view->name, element);
        p->unread++;
    } else {
        if (err_kind(err) != ERR_NUMERIC || !strstr(err_message(err), where))
            fail_msg("%s [%zu]: kind %d: %s", view->name, element, (int)err_kind(err), err_message(err));
        err_free(err);
    }
    assert_int_equal(pwrite(fd, old, size, (off_t)at), size);
    close(fd);
}

static void poison_file(Poison *p, const char *path)
{
    Safetensors file;
    Err *err = safetensors_open(&file, path);
    if (err) { /* of the names tried, not all are there */
        err_free(err);
        return;
    }
    for (size_t i = 0; i < file.n_tensors; i++) {
        const TensorView *view = &file.tensors[i];
        size_t n = view->bytes / dtype_bytes(view->dtype);
        if (view->n_dims != 2) continue; /* vectors are checked when the model is opened */
        size_t expert;
        const char *at = strstr(view->name, ".experts.");
        if (at && sscanf(at, ".experts.%zu", &expert) == 1 && expert > 3) continue; /* one expert is like another */
        bool embedding = strstr(view->name, "embed_tokens") != NULL;
        size_t row = embedding ? (size_t)fixture_docs[1].ids[3] * view->shape[1] : 0;
        poison_one(p, view, &file, row, false);
        if (!embedding) poison_one(p, view, &file, n - 1, false);
        poison_one(p, view, &file, row + n / view->shape[0] / 2, true);
    }
    safetensors_close(&file);
}

static void a_bad_number_in_any_weight_is_an_error_that_names_its_layer(void **state)
{
    static const char *const names[] = {"sparse", "lite_noqlora", "v3_groups_yarn", "fp8", "v32"};
    static const char *const files[] = {"model.safetensors", "model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char directory[PATH_BYTES], path[PATH_BYTES];
        Poison p = {.directory = directory};
        copy_model(state, names[i], directory);
        p.model = tiny_model(directory);
        p.adapter = fixture_lora(p.model, false); /* a trained router's own weight is not read */
        assert_ok(step_new(&p.step, &fixture_dp, p.model, p.adapter, &fixture_config));
        assert_ok(fixture_gradients(p.step, 32, 0, &p.clean));
        for (size_t f = 0; f < 3; f++) {
            assert_ok(file_join(path, directory, files[f]));
            poison_file(&p, path);
        }
        assert_true(p.seen > 30 && p.unread * 2 < p.seen);
        step_free(p.step);
        adapter_free(p.adapter);
        model_close(p.model);
    }
}

static void a_bad_number_in_an_adapter_is_an_error_that_names_its_layer(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Adapter *adapter = fixture_lora(model, true);
    Step *step;
    StepResult result;
    assert_ok(step_new(&step, &fixture_dp, model, adapter, &fixture_config));
    for (size_t l = 0; l < model->n_layers; l++) {
        float *at = adapter->layers[l].places[LORA_O]->A->data, old = *at;
        char where[32];
        snprintf(where, sizeof where, "layer %zu", l);
        *at = NAN;
        assert_fails(fixture_gradients(step, 32, 0, &result), ERR_NUMERIC, where);
        *at = old;
    }
    step_free(step);
    adapter_free(adapter);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_bad_number_in_any_weight_is_an_error_that_names_its_layer),
        cmocka_unit_test(a_bad_number_in_an_adapter_is_an_error_that_names_its_layer),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
