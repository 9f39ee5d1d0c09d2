/* Memory and bytes read, counted by hand for tests/fixtures/plan/config.json in BF16, in blocks of 4,096 bytes.
 *
 *     q_proj 256 x 256: 32   kv_a_proj 288 x 256: 36   kv_b_proj 384 x 256: 48   o_proj 256 x 256: 32   together: 148
 *     router 16 x 256: 2     an expert, or the shared one, 3 * 128 x 256: 48     dense MLP 3 * 512 x 256: 192
 *     embedding, head 1024 x 256: 128
 *
 * Norms (3 of 512 bytes a layer) and the router's bias (64 bytes) lie between the matrices and shift those behind
 * them, so that most spans touch one block more than they fill:
 *
 *     embedding and head    257 = 128 + 129
 *     layer 0               341 = 148 + 192, from byte 512 to 1,536 of a block
 *     layer 1, whole        967: 148 + 2 + 17 * 48 = 966, from byte 2,048 to 3,136
 *     layer 2, whole        968: 966, from byte 3,648 to 4,736
 *     layer 3, whole        967: 966, from byte 1,152 to 2,240
 *     cores of layers 1-3   200, 201, 200: attention and router 151, 152, 151, and 49 each for the shared expert
 *     chunk of 8 experts    385 = 8 * 48 + 1
 *
 * All layers: 3,243 whole, or cores 942 and chunks 6 * 385 = 2,310 in parts. */
#include "tests/support/planned_model.h"
#include "tests/support/tiny.h"

#include "plan/budget.h"

#include <string.h>

enum {
    BLOCK = 4096,
    MIB = 1 << 20,
    T = 16,
    LENGTH = 8,
    FIXED = 257 * BLOCK,
    WHOLE = 3243 * BLOCK,
    CORES = 942 * BLOCK,
    CHUNK = 385 * BLOCK,
    CORE = 341 * BLOCK, /* the largest, layer 0 */
    /* of all weights in parts, a 256th: 8 bytes for every page, and as much again */
    PAGE_TABLES = (FIXED + CORES + 6 * CHUNK) / 256,
    ROPE = 512 * 8,          /* positions of the first table */
    CHOICES = T * 2 * 4 * 3, /* two experts of 4 bytes for each token in 3 layers */
    PROGRAM = 32 * MIB + ROPE + CHOICES + PAGE_TABLES,
    DATA = 1000,
    ADAPTER = 2 * 1024 * 4, /* layers 2 and 3: A [2][256] and B [256][2] */
    /* a gradient and two moments; a layer's gradient at 3 levels of the tree of 16 / 8 + 1 = 3 micro-batches */
    MOMENTS = 3 * ADAPTER + 3 * 1024 * 4,
    HIDDEN = T * 256 * 4, /* the hidden states of the step */
    /* huge pages: one for nodes; one for activations, gradients and the scratch of products, or two in training.
     * tests/plan/tape_bytes.c checks that these bytes are what tapes take */
    HUGE = 2 * MIB,
    TAPES_EVALUATION = 2 * HUGE,
    TAPES = 3 * HUGE,
    HELD_EVALUATION = PROGRAM + DATA + TAPES_EVALUATION + HIDDEN,
};

static const StepWork work = {.ranks = 1,
                              .local_ranks = 1,
                              .threads = 1,
                              .step_tokens = T,
                              .longest = LENGTH,
                              .micro_batch_tokens = 8,
                              .data_bytes = DATA};

static void expect(const char *what, size_t got, size_t want)
{
    if (got != want)
        fail_msg("%s: %zu, %zu by hand (%+.3f blocks)", what, got, want, ((double)got - (double)want) / BLOCK);
}

static void expect_ring(const char *what, const StreamRing *ring, StreamRing want)
{
    if (memcmp(ring, &want, sizeof want) == 0) return;
    fail_msg(
        "%s: %zu of %zu resident with %zu bytes, %zu buffers of %zu, %zu bytes streamed; by hand %zu of %zu with %zu, "
        "%zu of %zu, %zu",
        what, ring->n_resident, ring->n, ring->resident_bytes, ring->n_buffers, ring->buffer_bytes,
        ring->streamed_bytes, want.n_resident, want.n, want.resident_bytes, want.n_buffers, want.buffer_bytes,
        want.streamed_bytes);
}

/* ---- everything is resident ------------------------------------------------------------------------------------- */

/* Layer inputs: one buffer of hidden states, which every layer overwrites. */
static void an_evaluation_that_fits_reads_nothing(void **state)
{
    (void)state;
    Budget b;
    assert_ok(budget_make(&b, planned_model, NULL, &work, 1024 * MIB));
    expect("program", b.program, PROGRAM);
    expect("data", b.data, DATA);
    expect("adapter", b.adapter, 0);
    expect("moments", b.moments, 0);
    expect("layer inputs", b.layer_inputs, HIDDEN);
    expect("tapes", b.tapes, TAPES_EVALUATION);
    expect("embedding and head", b.weights.fixed_bytes, FIXED);
    expect("layers", stream_budget_layer_bytes(&b.weights), WHOLE);
    expect("total", b.total, HELD_EVALUATION + FIXED + WHOLE);
    assert_false(b.streamed || b.spilled);
    expect("bytes read", b.read_bytes + b.scratch_bytes, 0);
}

/* Layer inputs: those of layers 2 and 3, the last hidden states and their gradient. */
static void training_adds_moments_and_layer_inputs(void **state)
{
    (void)state;
    Budget b;
    assert_ok(budget_make(&b, planned_model, planned_adapter, &work, 1024 * MIB));
    expect("program", b.program, PROGRAM);
    expect("adapter", b.adapter, ADAPTER);
    expect("moments", b.moments, MOMENTS);
    expect("layer inputs", b.layer_inputs, 4 * HIDDEN);
    expect("tapes", b.tapes, TAPES);
    expect("total", b.total, PROGRAM + DATA + ADAPTER + MOMENTS + 4 * HIDDEN + TAPES + FIXED + WHOLE);
    assert_false(b.streamed || b.spilled);
    for (size_t l = 0; l < 4; l++) assert_null(planned_adapter->layers[l].forest);
}

/* One tape of its own in layer 3, of less than a huge page, for each of 16 / 8 groups. */
static void kept_tapes_take_memory_for_every_group(void **state)
{
    (void)state;
    Budget b;
    StepWork keep = work;
    keep.keep_layers = 1;
    keep.group_tokens = 8;
    assert_ok(budget_make(&b, planned_model, planned_adapter, &keep, 1024 * MIB));
    expect("tapes", b.tapes, TAPES + 2 * HUGE);
}

/* Two ranks of one host and 64 tokens: micro-batches are whole, so a rank has up to 64 / 2 + 8 = 40 tokens. All
 * memory is there twice but the weights; each rank has half of the moments, and the tree of 64 / 8 / 2 + 1 = 5
 * micro-batches 4 levels. */
static void ranks_of_a_host_share_the_weights(void **state)
{
    (void)state;
    Budget b;
    StepWork two = work;
    two.ranks = two.local_ranks = 2;
    two.step_tokens = 64;
    assert_ok(budget_make(&b, planned_model, planned_adapter, &two, 1024 * MIB));
    expect("program", b.program, 2 * (32 * MIB + ROPE + 40 * 2 * 4 * 3) + PAGE_TABLES);
    expect("data", b.data, 2 * DATA);
    expect("adapter", b.adapter, 2 * ADAPTER);
    expect("moments", b.moments, 2 * (3 * ADAPTER / 2 + 4 * 1024 * 4));
    expect("layer inputs", b.layer_inputs, 2 * 4 * 40 * 256 * 4);
    expect("tapes", b.tapes, 2 * TAPES);
    expect("layers", stream_budget_layer_bytes(&b.weights), WHOLE);
}

/* ---- layers stream ---------------------------------------------------------------------------------------------- */

/* 2,257 blocks for weights: 257 for embedding and head, 2,000 for layers. A part may take an eighth of these, so
 * every layer's 16 experts are cut into the smallest chunks, of 8. All cores (942) would take more than a quarter,
 * so they pass two buffers of the largest, 341. Chunks get 2,000 - 682 = 1,318: two buffers of 385, and one resident
 * chunk, the last of the six. */
enum { SHARE = 2257 * BLOCK, RESIDENT_CHUNK = CHUNK, BUFFERS = 2 * CORE + 2 * CHUNK };

static void expect_streamed(const Budget *b)
{
    assert_true(b->streamed);
    expect("share of weights", b->weights.limit_bytes, SHARE);
    expect("smallest share", b->weights.min_bytes, FIXED + CORE + CHUNK);
    expect_ring("cores", &b->weights.cores, (StreamRing){4, 0, 0, 2, CORE, CORES});
    expect_ring("chunks", &b->weights.chunks, (StreamRing){6, 1, RESIDENT_CHUNK, 2, CHUNK, 5 * CHUNK});
}

/* Every streamed part once: 942 + 5 * 385 = 2,867 blocks. */
static void an_evaluation_reads_streamed_parts_once(void **state)
{
    (void)state;
    Budget b;
    assert_ok(budget_make(&b, planned_model, NULL, &work, HELD_EVALUATION + SHARE));
    expect_streamed(&b);
    expect("total", b.total, HELD_EVALUATION + FIXED + BUFFERS + RESIDENT_CHUNK);
    expect("bytes read", b.read_bytes, (size_t)2867 * BLOCK);
}

/* Forward 2,867 blocks. Backward layers 3 and 2: cores 200 + 201, three chunks that are not resident, 1,556 in all,
 * of which the buffers still hold 2 * 341 + 2 * 385 = 1,452. */
static void training_reads_the_layers_that_train_again(void **state)
{
    (void)state;
    Budget b;
    size_t held = PROGRAM + DATA + ADAPTER + MOMENTS + 4 * HIDDEN + TAPES;
    assert_ok(budget_make(&b, planned_model, planned_adapter, &work, held + SHARE));
    expect_streamed(&b);
    expect("total", b.total, held + FIXED + BUFFERS + RESIDENT_CHUNK);
    expect("bytes read", b.read_bytes, (size_t)(2867 + 1556 - 1452) * BLOCK);
}

/* When layer 0 trains, too, both passes read every streamed part, and each finds in the buffers what the other left. */
static void passes_over_all_layers_find_full_buffers_at_both_ends(void **state)
{
    (void)state;
    Budget b;
    Adapter *all;
    assert_ok(tiny_adapter(&all, planned_model, 2, "['o_proj']", NULL, NULL));
    size_t held = PROGRAM + DATA + 2 * ADAPTER + 3 * 2 * ADAPTER + 3 * 1024 * 4 + 6 * HIDDEN + TAPES;
    assert_ok(budget_make(&b, planned_model, all, &work, held + SHARE));
    expect_streamed(&b);
    expect("total", b.total, held + FIXED + BUFFERS + RESIDENT_CHUNK);
    expect("bytes read", b.read_bytes, (size_t)2 * (2867 - 1452) * BLOCK);
    adapter_free(all);
}

/* Two groups go through a layer one after another. In parts, experts would be read twice, but for one chunk that a
 * buffer still holds: 942 + 5 * 385 + (770 - 385) + (770 - 385) + 0 = 3,637 blocks. Whole layers are read once,
 * through two buffers of 968. */
static void groups_make_whole_layers_cheaper(void **state)
{
    (void)state;
    Budget b;
    StepWork groups = work;
    groups.group_tokens = 8;
    assert_ok(budget_make(&b, planned_model, NULL, &groups, HELD_EVALUATION + SHARE));
    expect("group tokens", b.group_tokens, 8);
    expect_ring("layers", &b.weights.cores, (StreamRing){4, 0, 0, 2, 968 * BLOCK, WHOLE});
    expect("chunks", b.weights.chunks.n, 0);
    expect("bytes read", b.read_bytes, WHOLE);
}

/* ---- layer inputs in a file ------------------------------------------------------------------------------------- */

/* 4,096 tokens in documents of 8: hidden states of 4 MiB, of which training stores four. That is more than a quarter
 * of what a limit of 80 MiB leaves. With a scratch_dir two and their gradient are in memory, and the one that is not
 * is written and read. */
static void layer_inputs_go_to_a_file_where_they_may(void **state)
{
    (void)state;
    Budget b;
    StepWork many = work;
    many.step_tokens = 4096;
    many.group_tokens = 8;
    many.may_spill = true;
    assert_ok(budget_make(&b, planned_model, planned_adapter, &many, 80 * MIB));
    assert_true(b.spilled);
    expect("layer inputs", b.layer_inputs, 3 * 4 * MIB);
    expect("scratch bytes", b.scratch_bytes, 2 * 4 * MIB);
    many.may_spill = false;
    assert_ok(budget_make(&b, planned_model, planned_adapter, &many, 80 * MIB));
    assert_false(b.spilled);
    expect("layer inputs", b.layer_inputs, 4 * 4 * MIB);
    expect("scratch bytes", b.scratch_bytes, 0);
}

/* ---- the smallest limit ----------------------------------------------------------------------------------------- */

/* One buffer of each kind beside what must be held, with groups of one document. */
static void expect_smallest(Adapter *trained, size_t held)
{
    Budget b;
    size_t smallest = held + FIXED + CORE + CHUNK;
    char named[64];
    snprintf(named, sizeof named, "at least %zuMiB", (smallest >> 20) + 1);
    assert_fails(budget_make(&b, planned_model, trained, &work, smallest - 1), ERR_MEMORY, named);
    expect("smallest limit", b.min_limit, smallest);
    assert_fails(budget_make(&b, planned_model, trained, &work, 0), ERR_MEMORY, named);
    expect("smallest limit for no memory", b.min_limit, smallest);
    assert_ok(budget_make(&b, planned_model, trained, &work, smallest));
    expect("smallest limit when it is given", b.min_limit, smallest);
    expect("total", b.total, smallest);
    assert_true(b.streamed);
    expect_ring("cores", &b.weights.cores, (StreamRing){4, 0, 0, 1, CORE, CORES});
    expect_ring("chunks", &b.weights.chunks, (StreamRing){6, 0, 0, 1, CHUNK, 6 * CHUNK});
}

static void a_byte_less_than_the_smallest_limit_is_refused(void **state)
{
    (void)state;
    expect_smallest(NULL, HELD_EVALUATION);
    expect_smallest(planned_adapter, PROGRAM + DATA + ADAPTER + MOMENTS + 4 * HIDDEN + TAPES);
}

/* The limit in the message is in whole MiB, and it works. */
static void the_limit_that_a_message_names_works(void **state)
{
    (void)state;
    Budget b;
    assert_fails(budget_make(&b, planned_model, planned_adapter, &work, MIB), ERR_MEMORY, "memory_limit is 1.00 MiB");
    assert_ok(budget_make(&b, planned_model, planned_adapter, &work, ((b.min_limit >> 20) + 1) << 20));
}

static void a_refusal_advises_only_what_is_not_done_yet(void **state)
{
    (void)state;
    Budget b;
    StepWork keep = work;
    assert_fails(budget_make(&b, planned_model, planned_adapter, &work, MIB), ERR_MEMORY,
                 "(max_length is 8), a scratch_dir, fewer");
    keep.keep_layers = 1;
    keep.may_spill = true;
    assert_fails(budget_make(&b, planned_model, planned_adapter, &keep, MIB), ERR_MEMORY,
                 "(max_length is 8), keep_layers 0, fewer");
}

static void a_limit_is_read_as_people_write_it(void **state)
{
    (void)state;
    size_t bytes;
    assert_ok(budget_limit(&bytes, "3GiB"));
    expect("limit", bytes, (size_t)3 << 30);
    assert_fails(budget_limit(&bytes, "much"), ERR_USAGE, "memory_limit");
    assert_ok(budget_limit(&bytes, NULL));
    assert_true(bytes > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_evaluation_that_fits_reads_nothing),
        cmocka_unit_test(training_adds_moments_and_layer_inputs),
        cmocka_unit_test(kept_tapes_take_memory_for_every_group),
        cmocka_unit_test(ranks_of_a_host_share_the_weights),
        cmocka_unit_test(an_evaluation_reads_streamed_parts_once),
        cmocka_unit_test(training_reads_the_layers_that_train_again),
        cmocka_unit_test(passes_over_all_layers_find_full_buffers_at_both_ends),
        cmocka_unit_test(groups_make_whole_layers_cheaper),
        cmocka_unit_test(layer_inputs_go_to_a_file_where_they_may),
        cmocka_unit_test(a_byte_less_than_the_smallest_limit_is_refused),
        cmocka_unit_test(the_limit_that_a_message_names_works),
        cmocka_unit_test(a_refusal_advises_only_what_is_not_done_yet),
        cmocka_unit_test(a_limit_is_read_as_people_write_it),
    };
    return cmocka_run_group_tests(tests, planned_model_open, planned_model_close);
}
