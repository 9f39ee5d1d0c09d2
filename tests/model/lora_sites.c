/* Names of LoRA sites, there and back, on every family. */
#include "model/lora_sites.h"

#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Model *model;
    size_t n;
} Seen;

static Err *check_one(void *context, const LoraSite *site, const char *module)
{
    Seen *seen = context;
    LoraSite found;
    char name[MODULE_BYTES];
    assert_true(lora_site_find(seen->model, module, &found));
    assert_int_equal(found.kind, site->kind);
    assert_int_equal(found.l, site->l);
    assert_int_equal(found.half, site->half);
    if (site->kind == SITE_PLACE)
        assert_int_equal(found.place, site->place);
    else
        assert_int_equal(found.expert, site->expert);
    lora_site_module(&found, name);
    assert_string_equal(name, module);
    assert_ptr_equal(lora_site_weight(seen->model, site), lora_site_weight(seen->model, &found));
    seen->n++;
    return NULL;
}

static void every_module_is_found_by_its_own_name(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        size_t modules;
    } cases[] = {{"dense", 3 * 5 + 3 + 2 * (4 + 48)},
                 {"lite_noqlora", 2 * 4 + 3 + 4 + 48},
                 {"fp8", 2 * 5 + 3 + 4 + 12},
                 {"indexshare", 5 * 5 + 3 + 4 * (4 + 48)}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Model *model = tiny_model(cases[i].model);
        Seen seen = {model, 0};
        for (size_t l = 0; l < model->n_layers; l++) assert_ok(lora_sites_visit(model, l, check_one, &seen));
        assert_int_equal(seen.n, cases[i].modules);
        model_close(model);
    }
}

/* A module's weight is the tensor of its name. */
static Err *check_weight(void *context, const LoraSite *site, const char *module)
{
    const Model *model = context;
    char name[MODULE_BYTES + 8];
    Weight weight;
    snprintf(name, sizeof name, "%s.weight", module);
    assert_ok(weights_get(model->weights, name, &weight));
    assert_ptr_equal(weight.data, lora_site_weight(model, site)->data);
    return NULL;
}

static void a_modules_weight_is_the_tensor_of_its_name(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse");
    for (size_t l = 0; l < model->n_layers; l++) assert_ok(lora_sites_visit(model, l, check_weight, model));
    assert_ok(check_weight(model, &(LoraSite){.kind = SITE_ROUTER, .l = 1}, "model.layers.1.mlp.gate"));
    model_close(model);
}

static Err *stop_at_the_third(void *context, const LoraSite *site, const char *module)
{
    size_t *n = context;
    (void)site;
    return ++*n == 3 ? err_new(ERR_DATA, "%s", module) : NULL;
}

static void a_visit_stops_at_the_first_error(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    size_t n = 0;
    assert_fails(lora_sites_visit(model, 1, stop_at_the_third, &n), ERR_DATA, "model.layers.1.");
    assert_int_equal(n, 3);
    model_close(model);
}

static void stems_join_gate_and_up(void **state)
{
    (void)state;
    char stem[MODULE_BYTES];
    lora_site_stem(&(LoraSite){.kind = SITE_EXPERT_IN, .l = 2, .expert = 7, .half = 1}, stem);
    assert_string_equal(stem, "model.layers.2.mlp.experts.7.gate_up_proj");
    lora_site_stem(&(LoraSite){.kind = SITE_PLACE, .l = 0, .place = LORA_MLP_IN}, stem);
    assert_string_equal(stem, "model.layers.0.mlp.gate_up_proj");
    lora_site_stem(&(LoraSite){.kind = SITE_PLACE, .l = 0, .place = LORA_O}, stem);
    assert_string_equal(stem, "model.layers.0.self_attn.o_proj");
    lora_site_stem(&(LoraSite){.kind = SITE_ROUTER, .l = 1}, stem);
    assert_string_equal(stem, "model.layers.1.mlp.gate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_module_is_found_by_its_own_name),
        cmocka_unit_test(a_modules_weight_is_the_tensor_of_its_name),
        cmocka_unit_test(a_visit_stops_at_the_first_error),
        cmocka_unit_test(stems_join_gate_and_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
