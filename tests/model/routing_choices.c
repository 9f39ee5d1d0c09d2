/* Memory for choices exists where something is chosen, and nowhere else. */
#include "tests/support/tiny.h"

static Choices choices_for(const Model *model, size_t n_docs, const size_t *doc_start, const size_t *past)
{
    Choices choices;
    Group group = {.T = doc_start[n_docs], .n_docs = n_docs, .doc_start = doc_start, .doc_past = past};
    assert_ok(choices_new(&choices, model, &group));
    return choices;
}

static void experts_are_chosen_in_sparse_layers(void **state)
{
    (void)state;
    Model *model = tiny_model("dense");
    Choices choices = choices_for(model, 1, (size_t[]){0, 40}, NULL);
    assert_int_equal(choices.n_layers, 3);
    assert_null(choices.experts[0]);
    assert_non_null(choices.experts[1]);
    assert_non_null(choices.experts[2]);
    choices_free(&choices);
    assert_null(choices.experts);
    model_close(model);
}

static void keys_are_chosen_only_in_documents_longer_than_index_topk(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse"); /* index_topk 16 */
    Choices all = choices_for(model, 2, (size_t[]){0, 16, 20}, NULL),
            some = choices_for(model, 3, (size_t[]){0, 16, 33, 40}, NULL);
    for (size_t l = 0; l < 3; l++) {
        assert_null(all.keys[l].of);
        assert_non_null(some.keys[l].of);
        assert_int_equal(some.keys[l].n_docs, 3);
        assert_null(some.keys[l].of[0]);
        assert_non_null(some.keys[l].of[1]);
        assert_null(some.keys[l].of[2]);
    }
    choices_free(&all);
    choices_free(&some);
    model_close(model);
}

static void what_a_cache_holds_counts(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse");
    Choices few = choices_for(model, 1, (size_t[]){0, 1}, (size_t[]){15}),
            many = choices_for(model, 1, (size_t[]){0, 1}, (size_t[]){16});
    assert_null(few.keys[0].of);
    assert_non_null(many.keys[0].of);
    choices_free(&few);
    choices_free(&many);
    model_close(model);
}

static void layers_that_share_have_no_keys_of_their_own(void **state)
{
    (void)state;
    Model *model = tiny_model("indexshare"); /* full full shared shared full, index_topk 12 */
    Choices choices = choices_for(model, 1, (size_t[]){0, 64}, NULL);
    for (size_t l = 0; l < 5; l++) assert_int_equal(choices.keys[l].of == NULL, l == 2 || l == 3);
    choices_free(&choices);
    model_close(model);
}

static void a_model_without_indexer_has_no_keys(void **state)
{
    (void)state;
    Model *model = tiny_model("lite");
    Choices choices = choices_for(model, 1, (size_t[]){0, 300}, NULL);
    for (size_t l = 0; l < model->n_layers; l++) assert_null(choices.keys[l].of);
    choices_free(&choices);
    model_close(model);
}

static void no_documents_need_no_memory(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse");
    Choices choices = choices_for(model, 0, (size_t[]){0}, NULL);
    choices_free(&choices);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_chosen_in_sparse_layers),
        cmocka_unit_test(keys_are_chosen_only_in_documents_longer_than_index_topk),
        cmocka_unit_test(what_a_cache_holds_counts),
        cmocka_unit_test(layers_that_share_have_no_keys_of_their_own),
        cmocka_unit_test(a_model_without_indexer_has_no_keys),
        cmocka_unit_test(no_documents_need_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
