/* Operations of a step, counted by hand for tests/fixtures/plan/config.json. Numbers of its matrices (out x in):
 *
 *     attention, each layer   q_proj 256 x 256 + kv_a_proj 288 x 256 + kv_b_proj 384 x 256 + o_proj 256 x 256 = 303,104
 *     layer 0, dense MLP      3 * 512 x 256 = 393,216
 *     layers 1 to 3           shared expert 3 * 128 x 256 = 98,304, router 16 x 256 = 4,096
 *     routed experts          16 of 3 * 128 x 256 = 98,304 in each of the layers 1 to 3, 2 for a token
 *     head                    1024 x 256 = 262,144
 *
 * Attention has 4 heads, queries and keys of 32 + 32 numbers, values of 64. The step has 16 tokens in 2 documents of
 * 8, each with 8 * 9 / 2 = 36 query-key scores. */
#include "tests/support/planned_model.h"
#include "tests/support/tiny.h"

#include "plan/flops.h"

enum { T = 16, LENGTH = 8 };

static StepWork work_of(size_t keep_layers)
{
    return (StepWork){.ranks = 1, .step_tokens = T, .longest = LENGTH, .keep_layers = keep_layers};
}

static void expect(const char *what, double got, double want)
{
    if (got != want) fail_msg("%s: %.17g operations, %.17g by hand", what, got, want);
}

static void expect_flops(Flops f, Flops want)
{
    expect("frozen", f.frozen, want.frozen);
    expect("experts", f.experts, want.experts);
    expect("exact", f.exact, want.exact);
    expect("attention", f.attention, want.attention);
    expect("latent", f.latent, want.latent);
    expect("index", f.index, want.index);
    expect("lora", f.lora, want.lora);
    expect("moved bytes", f.moved_bytes, want.moved_bytes);
}

/* One forward pass.
 *   frozen      2 * 16 * (4 * 303,104 + 393,216 + 3 * 98,304 + 262,144) = 32 * 2,162,688
 *   experts     3 layers * 2 * 16 tokens * 2 experts * 98,304
 *   exact       3 routers * 2 * 16 * 4,096
 *   attention   4 layers * 2 documents * 2 * 4 heads * 36 scores * (64 + 64)
 *   moved       head 4 * 16 * 1,024 * 3; experts, in 3 layers: 4 bytes * 32 assignments * (3 * 256 + 6 * 128) */
static void evaluation_is_one_forward_pass(void **state)
{
    (void)state;
    StepWork work = work_of(0);
    expect_flops(flops_of_step(planned_model, NULL, &work, NULL), (Flops){.frozen = 69206016,
                                                                          .experts = 18874368,
                                                                          .exact = 393216,
                                                                          .attention = 294912,
                                                                          .moved_bytes = 196608 + 3 * 196608});
}

/* Layers 0 and 1: one forward pass. Layers 2 and 3: forward, forward again, backward. The head: twice.
 *   frozen      32 * (696,320 + 401,408 + 2 * 3 * 401,408 + 2 * 262,144) = 32 * 4,030,464
 *   experts     6,291,456 a pass: layer 1 once; layers 2 and 3 1 + 2/3 + 1 times, without down_proj in the second pass
 *   exact       32 * 4,096 * (1 + 3 + 3)
 *   attention   a layer's forward pass 73,728, its backward pass 2 * 2 * 4 * 36 * (3 * 64 + 2 * 64) = 184,320;
 *               2 * 73,728 + 2 * (2 * 73,728 + 184,320)
 *   lora        2 layers * 2 * 16 * 1,024 * (2 forward + 2 backward)
 *   moved       head 196,608; experts 196,608 in layer 1, and in layers 2 and 3
 *               2 * 196,608 + 4 * 32 * (6 * 256 + 8 * 128) = 720,896 */
static void layers_that_train_recompute_their_forward_pass(void **state)
{
    (void)state;
    StepWork work = work_of(0);
    expect_flops(flops_of_step(planned_model, planned_adapter, &work, NULL),
                 (Flops){.frozen = 128974848,
                         .experts = 39845888,
                         .exact = 917504,
                         .attention = 811008,
                         .lora = 262144,
                         .moved_bytes = 2 * 196608 + 2 * 720896});
}

/* With the tape of layer 3 kept, its second forward pass is not made.
 *   frozen      32 * 401,408 less;   experts   2/3 * 6,291,456 less
 *   exact       32 * 4,096 less;     attention   73,728 less
 *   lora        2 * 16 * 1,024 less;   moved   196,608 less */
static void kept_tapes_save_the_second_forward_pass(void **state)
{
    (void)state;
    StepWork work = work_of(1);
    PassCounts passes = flops_passes(planned_model, planned_adapter, &work, 3);
    assert_true(passes.forward == 1 && passes.recompute == 0 && passes.backward == 1);
    expect_flops(flops_of_step(planned_model, planned_adapter, &work, NULL),
                 (Flops){.frozen = 128974848 - 12845056,
                         .experts = 39845888 - 4194304,
                         .exact = 917504 - 131072,
                         .attention = 811008 - 73728,
                         .lora = 262144 - 32768,
                         .moved_bytes = 2 * 196608 + 2 * 720896 - 196608});
}

/* A row of 1,000 numbers in each layer: 4 bytes * 16 tokens * 1,000 = 64,000 bytes, 2 times a forward pass and 5
 * times a backward pass: 4 layers * 2 in an evaluation; 2 + 2 + (4 + 5) + (4 + 5) in training. */
static void layers_move_their_rows(void **state)
{
    (void)state;
    const size_t rows[] = {1000, 1000, 1000, 1000};
    StepWork work = work_of(0);
    Flops eval = flops_of_step(planned_model, NULL, &work, rows),
          training = flops_of_step(planned_model, planned_adapter, &work, rows);
    expect("moved bytes of an evaluation", eval.moved_bytes - 4 * 196608, 8 * 64000);
    expect("moved bytes of training", training.moved_bytes - (2 * 196608 + 2 * 720896), 22 * 64000);
}

/* LoRA of all experts with r 2: gate and up share A [2][256], B [256][2]; down has A [2][128], B [256][2]. That is
 * 1,792 numbers, of which a token meets 2 of 16 experts': 2 * 16 tokens * 16 experts * 2/16 * 1,792 = 114,688 a
 * forward pass, and a backward pass as two. All three layers train: 1 + 1 + 2 times each. */
static void tokens_meet_the_lora_of_their_own_experts(void **state)
{
    (void)state;
    Adapter *of_experts;
    StepWork work = work_of(0);
    assert_ok(tiny_adapter(&of_experts, planned_model, 2, NULL, NULL, "'all'"));
    expect("lora of experts", flops_of_step(planned_model, of_experts, &work, NULL).lora, 3 * 4 * 114688);
    adapter_free(of_experts);
}

static void all_operations_are_the_sum_without_bytes(void **state)
{
    (void)state;
    Flops f = {1, 2, 4, 8, 16, 32, 64, 128};
    expect("all", flops_all(&f), 127);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluation_is_one_forward_pass),
        cmocka_unit_test(layers_that_train_recompute_their_forward_pass),
        cmocka_unit_test(kept_tapes_save_the_second_forward_pass),
        cmocka_unit_test(layers_move_their_rows),
        cmocka_unit_test(tokens_meet_the_lora_of_their_own_experts),
        cmocka_unit_test(all_operations_are_the_sum_without_bytes),
    };
    return cmocka_run_group_tests(tests, planned_model_open, planned_model_close);
}
