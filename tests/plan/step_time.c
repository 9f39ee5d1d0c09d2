/* Seconds of a step, computed by hand for tests/fixtures/plan/config.json. Operations are those that
 * tests/plan/flops.c counts, bytes those of tests/plan/budget.c.
 *
 * The machine has an fp32 peak of 1 GFLOP/s and no measured rates, so a product of n rows reaches 0.6 n / (n + 8) of
 * it: 0.4 for the 16 rows of the step, and 0.12 for the 16 * 2 / 16 = 2 rows of an expert. Attention reaches 0.7,
 * LoRA 0.4. */
#include "tests/support/planned_model.h"
#include "tests/support/tiny.h"

#include "base/pages.h"
#include "plan/step_time.h"

#include <math.h>

enum { T = 16, LENGTH = 8, BLOCK = 4096, MIB = 1 << 20, SHARE = 2257 * BLOCK };

/* 1e-9 * operations / rate:   frozen, experts, in fp32, attention, LoRA */
static const double eval_seconds = 1e-9 * (69206016 / 0.4 + 18874368 / 0.12 + 393216 / 0.4 + 294912 / 0.7),
                    training_seconds = 1e-9 *
                                       (128974848 / 0.4 + 39845888 / 0.12 + 917504 / 0.4 + 811008 / 0.7 + 262144 / 0.4);

static const Machine slow = {.gflops = 1, .disk_gbs = 1}; /* its memory's rate is not known, and not counted */

static PlanInput input_of(Adapter *trained, const Machine *machine)
{
    return (PlanInput){.model = planned_model,
                       .adapter = trained,
                       .work = {.ranks = 1,
                                .local_ranks = 1,
                                .threads = 1,
                                .step_tokens = T,
                                .longest = LENGTH,
                                .micro_batch_tokens = 8},
                       .machine = machine,
                       .hosts = 1};
}

static Plan plan_of(const PlanInput *input, size_t limit)
{
    Plan plan;
    assert_ok(plan_make(&plan, input, limit));
    return plan;
}

/* The plan whose weights get so many bytes. */
static Plan plan_with_share(const PlanInput *input, size_t share)
{
    Plan ample = plan_of(input, 1024 * MIB);
    const StreamBudget *w = &ample.budget.weights;
    return plan_of(input, ample.budget.total - w->fixed_bytes - stream_budget_layer_bytes(w) + share);
}

static void expect(const char *what, double got, double want)
{
    if (fabs(got - want) > 1e-12 * want) fail_msg("%s: %.15g, %.15g by hand", what, got, want);
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

static void an_evaluation_takes_the_arithmetic_of_its_forward_pass(void **state)
{
    (void)state;
    PlanInput input = input_of(NULL, &slow);
    Plan p = plan_of(&input, 1024 * MIB);
    expect("seconds by hand", eval_seconds, 0.331705782857142857);
    expect("arithmetic", p.seconds[BOUND_ARITHMETIC], eval_seconds);
    expect("step", p.step_seconds, eval_seconds);
    expect("tokens per second", p.tokens_per_second, 16 / eval_seconds);
    expect("share", p.share, 1e-9 * (69206016 + 18874368 + 393216 + 294912) / eval_seconds);
    assert_true(p.bound == BOUND_ARITHMETIC && p.seconds[BOUND_DISK] == 0 && p.seconds[BOUND_MEMORY] == 0 &&
                p.seconds[BOUND_NETWORK] == 0);
}

static void training_takes_its_recomputation_and_backward_pass(void **state)
{
    (void)state;
    PlanInput input = input_of(planned_adapter, &slow);
    Plan p = plan_of(&input, 1024 * MIB);
    expect("seconds by hand", training_seconds, 0.658593889523809524);
    expect("arithmetic", p.seconds[BOUND_ARITHMETIC], training_seconds);
    expect("step", p.step_seconds, training_seconds);
    assert_int_equal(p.bound, BOUND_ARITHMETIC);
}

/* Groups of 8 rows reach 0.6 * 8 / 16 = 0.3, an expert's single row 0.6 / 9 = 1 / 15. */
static void small_groups_multiply_slowly(void **state)
{
    (void)state;
    PlanInput input = input_of(NULL, &slow);
    input.work.group_tokens = 8;
    Plan p = plan_of(&input, 1024 * MIB);
    expect("arithmetic", p.seconds[BOUND_ARITHMETIC],
           1e-9 * (69206016 / 0.3 + 18874368 * 15.0 + 393216 / 0.3 + 294912 / 0.7));
}

/* Measured rates of the bf16 path: 2 GFLOP/s from 4 rows on, so 1 for an expert's 2 rows. FP8 reaches 0.91 of them;
 * the head (8,388,608 operations) is BF16 in every file, and what must be exact stays in fp32. */
static void fp8_multiplies_at_a_share_of_the_bf16_path(void **state)
{
    (void)state;
    Machine machine = {.gflops = 1, .disk_gbs = 1, .bf16 = {2, 2, 2, 2, 2, 2}};
    PlanInput input = input_of(NULL, &machine);
    double frozen = 69206016 - 8388608, others = 8388608 / 2.0 + 393216 / 0.4 + 294912 / 0.7;
    input.bf16 = true;
    expect("BF16", plan_of(&input, 1024 * MIB).seconds[BOUND_ARITHMETIC],
           1e-9 * (frozen / 2 + 18874368 / 1.0 + others));
    assert_ok(model_outline(&input.model, "tests/fixtures/plan/config.json", DTYPE_F8_E4M3));
    expect("FP8", plan_of(&input, 1024 * MIB).seconds[BOUND_ARITHMETIC],
           1e-9 * (frozen / 2 / 0.91 + 18874368 / 0.91 + others));
    input.bf16 = false;
    expect("FP8 in fp32", plan_of(&input, 1024 * MIB).seconds[BOUND_ARITHMETIC], eval_seconds);
    model_close(input.model);
}

/* ---- what binds ------------------------------------------------------------------------------------------------- */

static void expect_read(const char *what, const Plan *p, double budget_blocks, double blocks)
{
    expect(what, p->seconds[BOUND_DISK], 1e-6 * budget_blocks * BLOCK);
    if (fabs(p->step_seconds - 1e-6 * blocks * BLOCK) > 1e-6)
        fail_msg("%s: a step reads %g blocks, %g by hand", what, p->step_seconds / (1e-6 * BLOCK), blocks);
    assert_int_equal(p->bound, BOUND_DISK);
}

/* Arithmetic is next to nothing, and the disk reads 1e6 bytes per second: a step takes as long as the parts that it
 * reads. An evaluation reads what its budget says. In training the budget takes buffers for full of what comes next.
 * The step knows which parts they hold where the passes meet: the cores of layers 3 and 2, a chunk of each. Of the
 * layers that train, one chunk of 385 blocks is missing. */
static void a_slow_disk_binds(void **state)
{
    (void)state;
    Machine machine = {.gflops = 1e9, .disk_gbs = 1e-3};
    PlanInput eval = input_of(NULL, &machine), training = input_of(planned_adapter, &machine);
    Plan p = plan_with_share(&eval, SHARE);
    expect_read("evaluation", &p, 2867, 2867);
    p = plan_with_share(&training, SHARE);
    expect_read("training", &p, 2971, 2867 + 385);
}

/* The same bytes in next to no time. */
static void slow_arithmetic_binds(void **state)
{
    (void)state;
    Machine machine = {.gflops = 1, .disk_gbs = 1e6};
    PlanInput input = input_of(planned_adapter, &machine);
    Plan p = plan_with_share(&input, SHARE);
    expect("arithmetic", p.seconds[BOUND_ARITHMETIC], training_seconds);
    expect("disk", p.seconds[BOUND_DISK], 1e-15 * 2971 * BLOCK);
    if (fabs(p.step_seconds - training_seconds) > 1e-7)
        fail_msg("the step takes %g s, its arithmetic %g s", p.step_seconds, training_seconds);
    assert_int_equal(p.bound, BOUND_ARITHMETIC);
}

/* Both at once: at least the longer, at most one after the other. The longer is the bound. */
static void arithmetic_and_disk_overlap(void **state)
{
    (void)state;
    for (double gbs = 0.002; gbs < 1; gbs *= 2) {
        Machine machine = {.gflops = 1, .disk_gbs = gbs};
        PlanInput input = input_of(NULL, &machine);
        Plan p = plan_with_share(&input, SHARE);
        double disk = 1e-9 * 2867 * BLOCK / gbs, longer = fmax(disk, eval_seconds);
        expect("disk", p.seconds[BOUND_DISK], disk);
        if (p.step_seconds < longer * (1 - 1e-12) || p.step_seconds > disk + eval_seconds)
            fail_msg("disk %g s, arithmetic %g s, together %g s", disk, eval_seconds, p.step_seconds);
        assert_int_equal(p.bound, disk > eval_seconds ? BOUND_DISK : BOUND_ARITHMETIC);
    }
}

/* Every weight three times, 3 * 3,243 blocks at 1e6 bytes per second. Arithmetic is next to nothing, but for the
 * bytes that activations move at the same rate: 4 * 196,608 of head and experts, as tests/plan/flops.c counts them,
 * and of each layer 4 bytes * 16 tokens * 2 * the floats of a row:
 *
 *     attention   norms 3 * 256, queries 256, keys and latents 288, expanded 384, values 256, o_proj 256 = 2,208
 *                 each norm's root mean square in 64 bytes for 8 rows, 3 * 2; a maximum for each of 4 heads = 10
 *     dense       gate and up 1,024, SwiGLU 512, down 256 = 1,792
 *     sparse      logits 16, two weights, two scores, and their sum in 64 bytes for 8 rows 2 + 2 + 2, experts 256,
 *                 shared expert 256 + 128 + 256 = 918 */
static void memory_binds_where_it_is_slowest(void **state)
{
    (void)state;
    Machine machine = {.gflops = 1e9, .disk_gbs = 1, .memory_gbs = 1e-3};
    PlanInput input = input_of(NULL, &machine);
    Plan p = plan_of(&input, 1024 * MIB);
    double rows = 2218 + 1792 + 3 * (2218 + 918);
    if (GUARD == 0) /* the address sanitizer's guards behind blocks would be counted, too */
        expect("arithmetic", p.seconds[BOUND_ARITHMETIC],
               1e-9 * eval_seconds + 1e-6 * (4 * 196608 + 4 * 16 * 2 * rows));
    expect("memory", p.seconds[BOUND_MEMORY], 1e-6 * 3 * 3243 * BLOCK);
    expect("step", p.step_seconds, p.seconds[BOUND_MEMORY]);
    assert_int_equal(p.bound, BOUND_MEMORY);
}

/* Two hosts have 8 rows each, which multiply as in small_groups_multiply_slowly, and half of the operations. The
 * adapter's 2,048 numbers of 4 bytes go there and back at 1e4 bytes per second. */
static void the_network_binds_where_it_is_slowest(void **state)
{
    (void)state;
    PlanInput input = input_of(planned_adapter, &slow);
    double arithmetic = 1e-9 / 2 * (128974848 / 0.3 + 39845888 * 15.0 + 917504 / 0.3 + 811008 / 0.7 + 262144 / 0.4);
    input.hosts = input.work.ranks = 2;
    Plan p = plan_of(&input, 1024 * MIB);
    expect("arithmetic", p.seconds[BOUND_ARITHMETIC], arithmetic);
    expect("network that is not counted", p.seconds[BOUND_NETWORK], 0);
    assert_int_equal(p.bound, BOUND_ARITHMETIC);
    input.network_gbs = 1e-5;
    p = plan_of(&input, 1024 * MIB);
    expect("network", p.seconds[BOUND_NETWORK], 2 * 2048 * 4 / 1e4);
    expect("step", p.step_seconds, 1.6384);
    assert_int_equal(p.bound, BOUND_NETWORK);
}

static void a_limit_that_is_too_small_has_no_plan(void **state)
{
    (void)state;
    PlanInput input = input_of(planned_adapter, &slow);
    Plan p;
    assert_fails(plan_make(&p, &input, MIB), ERR_MEMORY, "this run needs at least");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_evaluation_takes_the_arithmetic_of_its_forward_pass),
        cmocka_unit_test(training_takes_its_recomputation_and_backward_pass),
        cmocka_unit_test(small_groups_multiply_slowly),
        cmocka_unit_test(fp8_multiplies_at_a_share_of_the_bf16_path),
        cmocka_unit_test(a_slow_disk_binds),
        cmocka_unit_test(slow_arithmetic_binds),
        cmocka_unit_test(arithmetic_and_disk_overlap),
        cmocka_unit_test(memory_binds_where_it_is_slowest),
        cmocka_unit_test(the_network_binds_where_it_is_slowest),
        cmocka_unit_test(a_limit_that_is_too_small_has_no_plan),
    };
    return cmocka_run_group_tests(tests, planned_model_open, planned_model_close);
}
