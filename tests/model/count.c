/* Arithmetic and bytes, counted by hand. */
#include "model/count.h"

#include "tests/support/check.h"

static void assert_cost(Cost cost, double flop, double bytes)
{
    if (cost.flop != flop || cost.bytes != bytes)
        fail_msg("%.0f FLOP and %.0f bytes; expected %.0f and %.0f", cost.flop, cost.bytes, flop, bytes);
}

static void a_projection_multiplies_every_row_with_every_weight(void **state)
{
    (void)state;
    Weight W = {.dtype = DTYPE_BF16, .rows = 5, .cols = 7}; /* 35 weights, 70 bytes */
    assert_cost(count_linear(3, &W, TIMING_FORWARD), 2 * 3 * 35, 70 + 4 * 3 * (7 + 5));
    assert_cost(count_linear(3, &W, TIMING_BACKWARD), 2 * 3 * 35, 70 + 4 * 3 * (5 + 2 * 7));
    W.dtype = DTYPE_F8_E4M3;
    assert_cost(count_linear(1, &W, TIMING_FORWARD), 70, 35 + 4 * 12);
}

static void a_lora_costs_twice_as_much_backward(void **state)
{
    (void)state; /* 3 rows, 7 -> 2 -> 5: A has 14 numbers, B 10 */
    assert_cost(count_lora(3, 7, 5, 2, TIMING_FORWARD), 2 * 3 * 24, 4 * (24 + 3 * 7));
    assert_cost(count_lora(3, 7, 5, 2, TIMING_BACKWARD), 4 * 3 * 24, 4 * (48 + 3 * (5 + 7)));
}

static void a_query_sees_its_past_or_the_best_of_it(void **state)
{
    (void)state;
    assert_true(count_scores(4, 0) == 1 + 2 + 3 + 4);
    assert_true(count_scores(4, 2) == 1 + 2 + 2 + 2);
    assert_true(count_scores(4, 9) == 10);
    assert_true(count_scores(512, 256) == 256 * 257 / 2 + 256 * 256);
}

static void attention_has_two_products_up_and_five_down(void **state)
{
    (void)state;
    AttentionShape shape = {.n_heads = 2, .nope = 3, .rope = 1, .v = 5}; /* keys 4 wide, values 5 */
    double q = 2 * 4, kv = 2 * 8 + 1, out = 2 * 5;
    assert_cost(count_attention(6, 21, &shape, TIMING_FORWARD), 2 * 2 * 21 * (4 + 5), 4 * 6 * (q + kv + out));
    assert_cost(count_attention(6, 21, &shape, TIMING_BACKWARD), 2 * 2 * 21 * (3 * 4 + 2 * 5),
                4 * 6 * (3 * q + 3 * kv + 2 * out));
    assert_cost(count_index(8, 36, &(IndexShape){.n_heads = 2, .dim = 3}), 2 * 2 * 36 * 3, 4 * 8 * (6 + 3 + 2) + 8);
}

static void attention_over_latents_counts_what_a_chosen_latent_costs(void **state)
{
    (void)state; /* 2 heads, 3 + 1 and 5 wide, latents of 4; 6 rows, 10 pairs */
    AttentionShape shape = {2, 3, 1, 5, 1, 0};
    assert_cost(count_attention_latent(6, 10, &shape, 4, TIMING_FORWARD), 2 * 2 * (10 * 9 + 6 * 4 * 8),
                4 * 6 * (18 + 5));
    assert_cost(count_attention_latent(6, 10, &shape, 4, TIMING_BACKWARD), 2 * 2 * (10 * 23 + 6 * 4 * 11),
                4 * 6 * (3 * 23 - 10));
}

static void experts_read_all_their_weights_whoever_comes(void **state)
{
    (void)state;
    Weight gate = {.dtype = DTYPE_BF16, .rows = 3, .cols = 4},
           down = {.dtype = DTYPE_BF16, .rows = 4, .cols = 3}; /* 36 weights */
    Expert expert = {.gate = &gate, .up = &gate, .down = &down};
    assert_cost(count_experts(10, 2, 5, &expert, 0, TIMING_FORWARD), 2 * 20 * 36, 5 * 72 + 4 * 2 * 40);
    double scores = 1 * (4 + 6) + 1 * (3 + 4); /* r = 1 */
    assert_cost(count_experts(10, 2, 5, &expert, 1, TIMING_FORWARD), 2 * 20 * (36 + scores),
                5 * (72 + 4 * scores) + 4 * 2 * 40);
    assert_cost(count_experts(10, 2, 5, &expert, 1, TIMING_BACKWARD), 2 * 20 * (36 + 2 * scores),
                5 * (72 + 8 * scores) + 4 * 4 * 40);
}

/* Shape S, weight by weight. */
static void a_step_counts_each_frozen_product_twice_and_the_indexer_once(void **state)
{
    (void)state;
    Model *model;
    assert_ok(model_outline(&model, "configs/S.json", DTYPE_BF16));
    double attention = 1024 * 384 + 384 * 16 * 128 + 1024 * 160 + 128 * 16 * 224 + 16 * 128 * 1024,
           indexer = 384 * 8 * 64 + 1024 * 64 + 1024 * 8;
    double dense = 3 * 1024 * 2048, sparse = 1024 * 64 + 9 * 3 * 1024 * 384, head = 16384 * 1024;
    double frozen = 4 * (6 * attention + dense + 5 * sparse + head) + 2 * 6 * indexer;
    assert_true(count_frozen(model) == frozen);
    assert_true(count_forward(model) == 2 * (6 * (attention + indexer) + dense + 5 * sparse + head));
    double keys = 513.0 / 2; /* of a mean token among 512 */
    double own = 6 * keys * (2 * 16 * (128 + 128) + 2 * 16 * (3 * 128 + 2 * 128) + 2 * 8 * 64);
    assert_true(count_with_attention(model, 512) == frozen + own);
    double bytes = 2 * (6 * (attention + indexer) + dense + 5 * (1024 * 64 + 65 * 3 * 1024 * 384) + head);
    assert_cost(count_step(model, 512), 512 * frozen, 2 * bytes);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_projection_multiplies_every_row_with_every_weight),
        cmocka_unit_test(a_lora_costs_twice_as_much_backward),
        cmocka_unit_test(a_query_sees_its_past_or_the_best_of_it),
        cmocka_unit_test(attention_has_two_products_up_and_five_down),
        cmocka_unit_test(attention_over_latents_counts_what_a_chosen_latent_costs),
        cmocka_unit_test(experts_read_all_their_weights_whoever_comes),
        cmocka_unit_test(a_step_counts_each_frozen_product_twice_and_the_indexer_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
