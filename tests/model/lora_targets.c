/* Which modules the settings choose. The names are compared with a plain list of what PEFT would match. */
#include "model/lora_sites.h"
#include "tests/support/tiny.h"

#include <stdlib.h>
#include <string.h>

static Model *dense, *noqlora; /* layer 0 dense, 1 and 2 sparse with 16 experts; two layers, one q_proj */

static int open_models(void **state)
{
    (void)state;
    dense = tiny_model("dense");
    noqlora = tiny_model("lite_noqlora");
    return 0;
}

static int close_models(void **state)
{
    (void)state;
    model_close(dense);
    model_close(noqlora);
    return 0;
}

/* The modules of an adapter, each between spaces: " model.layers.0.self_attn.q_a_proj ...". */
static char *modules_of(const Model *model, const char *targets, const char *layers, const char *experts)
{
    Adapter *adapter;
    LoraModule *loras;
    size_t n, bytes = 2;
    assert_ok(tiny_adapter(&adapter, model, 2, targets, layers, experts));
    assert_ok(adapter_modules(adapter, &loras, &n));
    for (size_t i = 0; i < n; i++) bytes += strlen(loras[i].module) + 1;
    char *text = malloc(bytes);
    assert_non_null(text);
    strcpy(text, " ");
    for (size_t i = 0; i < n; i++) strcat(strcat(text, loras[i].module), " ");
    lora_modules_free(loras);
    adapter_free(adapter);
    return text;
}

static size_t words(const char *text)
{
    size_t n = 0;
    for (const char *c = text; *c; c++) n += *c == ' ';
    return n - 1;
}

/* n modules in all, and each of the parts (up to NULL) in some module's name. */
static void chosen(const Model *model, const char *targets, const char *layers, const char *experts, size_t n,
                   const char *part)
{
    char *text = modules_of(model, targets, layers, experts);
    if (words(text) != n || (part && !strstr(text, part)))
        fail_msg("%s chose %zu modules:%s", targets ? targets : experts, words(text), text);
    free(text);
}

static void refused(const char *targets, const char *layers, const char *experts, const char *part)
{
    Adapter *adapter;
    assert_fails(tiny_adapter(&adapter, dense, 2, targets, layers, experts), ERR_USAGE, part);
}

static void a_name_matches_the_end_of_a_module_after_a_dot(void **state)
{
    (void)state;
    chosen(dense, "['q_a_proj']", NULL, "'none'", 3, " model.layers.2.self_attn.q_a_proj ");
    chosen(dense, "['self_attn.o_proj']", NULL, "'none'", 3, "o_proj");
    chosen(dense, "['0.self_attn.o_proj']", NULL, "'none'", 1, NULL);
    chosen(dense, "['gate_proj']", NULL, "'none'", 3, " model.layers.0.mlp.gate_proj ");
    chosen(dense, "['mlp.gate_proj']", NULL, "'none'", 1, NULL);
    chosen(dense, "['shared_experts.gate_proj']", NULL, "'none'", 2, NULL);
    refused("['a_proj']", NULL, NULL, "a_proj matches no module");
    refused("['_proj']", NULL, NULL, "_proj matches no module");
}

static void a_whole_name_matches_itself_alone(void **state)
{
    (void)state;
    chosen(dense, "['model.layers.1.self_attn.kv_b_proj']", NULL, NULL, 1, " model.layers.1.self_attn.kv_b_proj ");
    refused("['model.layers.3.self_attn.kv_b_proj']", NULL, NULL, "matches no module");
    refused("['base_model.model.model.layers.1.self_attn.kv_b_proj']", NULL, NULL, "matches no module");
}

static void without_experts_names_choose_experts_too(void **state)
{
    (void)state;
    chosen(dense, "['down_proj']", NULL, NULL, 1 + 2 + 2 * 16, " model.layers.2.mlp.experts.15.down_proj ");
    chosen(dense, "['experts.3.up_proj']", NULL, NULL, 2, " model.layers.1.mlp.experts.3.up_proj ");
    chosen(dense, "['1.mlp.experts.3.up_proj', 'o_proj']", NULL, NULL, 4, NULL);
}

static void a_regular_expression_must_match_the_whole_name(void **state)
{
    (void)state;
    chosen(dense, "'.*q_a_proj'", NULL, "'none'", 3, NULL);
    chosen(dense, "'model.layers.[01].self_attn.(q_a|o)_proj'", NULL, "'none'", 4, NULL);
    chosen(dense, "'.*(q_a|q_a_proj)'", NULL, "'none'", 3,
           NULL); /* the longer branch, although the shorter comes first */
    refused("'q_a_proj'", NULL, "'none'", "matches no module");
    refused("'.*q_a'", NULL, "'none'", "matches no module");
    refused("'(o_proj'", NULL, NULL, "no regular expression");
}

static void regular_expressions_are_read_as_python_reads_them(void **state)
{
    (void)state;
    chosen(dense, "'model\\\\.layers\\\\.\\\\d+\\\\.self_attn\\\\.o_proj'", NULL, NULL, 3, NULL);
    chosen(dense, "'.*\\\\.mlp\\\\.experts\\\\.\\\\d\\\\.(?:gate|up)_proj'", NULL, NULL, 2 * 10 * 2, NULL);
    chosen(dense, "'.*?self_attn\\\\.\\\\w+_a_proj'", NULL, NULL, 3, NULL);
    chosen(dense, "'.*layers\\\\.[\\\\d]\\\\..*kv_b_proj'", NULL, NULL, 3, NULL);
    chosen(dense, "'^model.*\\\\.o_proj$'", NULL, NULL, 3, NULL);
    refused("'(?!.*experts).*down_proj'", NULL, NULL, "(?! is not supported");
    refused("'.*[\\\\w]_proj'", NULL, NULL, "is not supported");
}

static void all_linear_is_every_module_that_can_carry_lora(void **state)
{
    (void)state;
    chosen(dense, "'all-linear'", NULL, "'none'", 3 * 5 + 3 + 2 * 3, NULL);
    chosen(dense, "'all-linear'", NULL, NULL, 3 * 5 + 3 + 2 * 3 + 2 * 16 * 3, NULL);
    chosen(noqlora, "'all-linear'", NULL, "'none'", 2 * 4 + 3 + 3, " model.layers.0.self_attn.q_proj ");
}

/* It is no Linear in transformers: nothing but its own name asks for it. */
static void a_router_carries_lora_when_it_is_named(void **state)
{
    (void)state;
    chosen(dense, "['gate']", NULL, NULL, 2, " model.layers.1.mlp.gate ");
    chosen(dense, "['mlp.gate', 'o_proj']", NULL, "'none'", 2 + 3, " model.layers.2.mlp.gate ");
    chosen(dense, "'.*layers.1.mlp.*'", NULL, "'none'", 3, NULL);
    refused("'.*mlp.gate'", NULL, NULL, "no router");
    Adapter *adapter;
    Json *targets = tiny_json("['gate']");
    assert_fails(adapter_new(&adapter, dense,
                             &(LoraConfig){.r = 2, .lora_alpha = 4, .target_modules = targets, .train_router = true},
                             0),
                 ERR_USAGE, "choose one");
    json_free(targets);
}

static void layers_to_transform_is_a_number_or_a_list(void **state)
{
    (void)state;
    chosen(dense, "['o_proj']", "1", NULL, 1, " model.layers.1.self_attn.o_proj ");
    chosen(dense, "['o_proj']", "[0, 2]", NULL, 2, " model.layers.2.self_attn.o_proj ");
    chosen(dense, "['o_proj']", "null", NULL, 3, NULL);
    chosen(dense, NULL, "[2]", "'all'", 48, NULL);
    refused("['o_proj']", "3", NULL, "layers_to_transform");
    refused("['o_proj']", "-1", NULL, "layers_to_transform");
    refused("['o_proj']", "1.5", NULL, "layers_to_transform");
    refused("['o_proj']", "['1']", NULL, "layers_to_transform");
    refused("['o_proj']", "{'1': 1}", NULL, "layers_to_transform");
    refused("['o_proj']", "[]", NULL, "no module");
    refused("['mlp.down_proj']", "[1, 2]", NULL, "in the chosen layers");
}

static void experts_are_all_none_or_listed(void **state)
{
    (void)state;
    chosen(dense, NULL, NULL, "'all'", 2 * 16 * 3, NULL);
    chosen(dense, "['o_proj']", NULL,
           "{'experts': {'1': [0, 5], '2': [15]}, 'shared_experts': false, 'non_expert_modules': false}", 3 + 9,
           " model.layers.2.mlp.experts.15.up_proj ");
    chosen(dense, NULL, NULL, "{'1': [4, 4]}", 3, NULL);
    chosen(dense, "['down_proj']", NULL, "{'1': [4]}", 1 + 2 + 3,
           NULL); /* the list speaks for the experts, not the name */
    refused(NULL, NULL, "'none'", "nothing to train");
    refused(NULL, NULL, "{}", "experts: none of them");
}

static void expert_lists_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused(NULL, NULL, "'some'", "experts is \"some\"");
    refused(NULL, NULL, "3", "experts is a number");
    refused(NULL, NULL, "[1, 2]", "experts is an array");
    refused(NULL, NULL, "{'3': [0]}", "layer \"3\" is not one of 0 to 2");
    refused(NULL, NULL, "{'-1': [0]}", "layer \"-1\" is not one");
    refused(NULL, NULL, "{'one': [0]}", "layer \"one\"");
    refused(NULL, NULL, "{'': [0]}", "layer \"\"");
    refused(NULL, NULL, "{'0': [0]}", "layer 0 is dense");
    refused(NULL, NULL, "{'1': [16]}", "layer 1 lists 16; expected 0 to 15");
    refused(NULL, NULL, "{'1': [-1]}", "layer 1 lists -1");
    refused(NULL, NULL, "{'1': [2.5]}", "layer 1 lists 2.5");
    refused(NULL, NULL, "{'1': ['2']}", "something that is no number");
    refused(NULL, NULL, "{'1': 2}", "layer 1 has a number");
    refused(NULL, NULL, "{'experts': [1]}", "experts");
    refused(NULL, NULL, "{'experts': {'1': [1]}, 'shared_experts': true}", "shared_experts is not false");
    refused(NULL, NULL, "{'experts': {'1': [1]}, 'non_expert_modules': true}", "non_expert_modules is not false");
}

static void nothing_is_asked_for_in_vain(void **state)
{
    (void)state;
    refused("['o_proj']", "[0]", "'all'", "experts");      /* layer 0 is dense */
    refused("['o_proj']", "[2]", "{'1': [3]}", "experts"); /* listed, but not in the chosen layers */
    refused("['o_proj']", NULL, "{'1': []}", "experts");
    Adapter *adapter;
    Json *targets = tiny_json("['o_proj']"), *layers = tiny_json("[0]");
    assert_fails(adapter_new(&adapter, dense,
                             &(LoraConfig){.r = 2,
                                           .lora_alpha = 4,
                                           .target_modules = targets,
                                           .layers_to_transform = layers,
                                           .train_router = true},
                             0),
                 ERR_USAGE, "train_router");
    json_free(targets);
    json_free(layers);
}

static void a_name_that_matches_nothing_meets_the_nearest(void **state)
{
    (void)state;
    refused("['q_proj']", NULL, NULL, "its queries are made by q_a_proj and q_b_proj");
    refused("['q_a_prj']", NULL, NULL, "the nearest name is q_a_proj");
    refused("['o_proj', 'dwn_proj']", NULL, NULL, "the nearest name is down_proj");
    refused("['kv_a_proj']", NULL, NULL, "kv_a_proj");
    refused("['completely_else']", NULL, NULL, "completely_else matches no module");
}

static void a_known_name_says_why_it_matches_nothing(void **state)
{
    (void)state;
    refused("['mlp.shared_experts.up_proj']", "[0]", NULL,
            "in the chosen layers (layers_to_transform); the first layer of this model that has one is 1");
    refused("['mlp.experts.0.up_proj']", NULL, "'all'", "matches routed experts only, and the option experts chooses");
    refused("'.*shared_experts.*'", "[0]", NULL, "the first layer of this model that has one is 1");
    refused("'.*nowhere.*'", NULL, NULL, "matches no module of this model");
}

static void what_cannot_carry_lora_says_why(void **state)
{
    (void)state;
    refused("['mlp.gate']", "0", NULL, "no router is in the chosen layers");
    refused("['lm_head']", NULL, NULL, "the head is not trained");
    refused("['model.embed_tokens']", NULL, NULL, "the embedding is not trained");
    refused("['indexer.wk']", NULL, NULL, "no gradient");
    refused("['wq_b']", NULL, NULL, "no gradient");
    refused("3", NULL, NULL, "target_modules is a number");
    refused("['o_proj', 3]", NULL, NULL, "target_modules holds a number");
    refused("{'o_proj': 1}", NULL, NULL, "target_modules is an object");
    refused("[]", NULL, NULL, "nothing to train");
    refused("['']", NULL, NULL, "matches no module");
    refused(NULL, NULL, NULL, "nothing to train");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_matches_the_end_of_a_module_after_a_dot),
        cmocka_unit_test(a_whole_name_matches_itself_alone),
        cmocka_unit_test(without_experts_names_choose_experts_too),
        cmocka_unit_test(a_regular_expression_must_match_the_whole_name),
        cmocka_unit_test(regular_expressions_are_read_as_python_reads_them),
        cmocka_unit_test(all_linear_is_every_module_that_can_carry_lora),
        cmocka_unit_test(a_router_carries_lora_when_it_is_named),
        cmocka_unit_test(layers_to_transform_is_a_number_or_a_list),
        cmocka_unit_test(experts_are_all_none_or_listed),
        cmocka_unit_test(expert_lists_that_do_not_fit_are_refused),
        cmocka_unit_test(nothing_is_asked_for_in_vain),
        cmocka_unit_test(a_name_that_matches_nothing_meets_the_nearest),
        cmocka_unit_test(a_known_name_says_why_it_matches_nothing),
        cmocka_unit_test(what_cannot_carry_lora_says_why),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
