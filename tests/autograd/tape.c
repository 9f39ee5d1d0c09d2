/* The tape: errors, what is recorded, accumulation of gradients, memory, the guard. */
#include "autograd/op.h"

#include "tensor/dispatch.h"
#include "tensor/gemm.h"
#include "tests/support/check.h"

#include <math.h>
#include <string.h>

static const size_t docs[] = {0, 2, 3};
static const Group group = {.T = 3, .n_docs = 2, .doc_start = docs, .n_micro_batches = 2, .micro_batch_start = docs};

/* Every operation with shapes that fit each other; the tape may have failed long ago. */
static void every_operation(Tape *tape, Tensor *x /* [3][4] */)
{
    static float values[256];
    static int32_t ids[6] = {0, 1, 0, 1, 0, 1};
    static uint64_t bits[2];
    static double stats[16];
    static const size_t past[2] = {0, 0};
    Weight W = weight_of("W", 4, 4, values), up = weight_of("up", 8, 4, values), head = weight_of("head", 2, 4, values);
    Param A = {.name = (char *)"A", .rows = 2, .cols = 4, .data = values},
          B = {.name = (char *)"B", .rows = 4, .cols = 2, .data = values};
    Param router = {.name = (char *)"router", .rows = 4, .cols = 4, .data = values};
    Lora lora = {.A = &A, .B = &B, .scale = 1};
    Expert experts[2] = {{&W, &W, &W, NULL, NULL}, {&W, &W, &W, NULL, NULL}};
    RopeTable table = {4, 2, values, values};
    RouterShape shape = {4, 2, 1, 1, true, 1};
    Group cached = group;
    cached.doc_past = past;

    assert_ptr_equal(op_embed(tape, &W, ids), &tape->dummy);
    assert_ptr_equal(op_add(tape, x, x), &tape->dummy);
    assert_ptr_equal(op_linear(tape, x, 1, (const Weight *[]){&W}, 0, NULL), &tape->dummy);
    assert_ptr_equal(op_linear_trained(tape, x, &W, &router), &tape->dummy);
    assert_ptr_equal(op_linear(tape, x, 1, (const Weight *[]){&W}, 1, (const Lora *[]){&lora}), &tape->dummy);
    assert_ptr_equal(op_rmsnorm(tape, x, 0, 4, values, 1e-5), &tape->dummy);
    assert_ptr_equal(op_layernorm(tape, x, values, values, 1e-5), &tape->dummy);
    assert_ptr_equal(op_rope(tape, x, &table, 0, 1, 2, true), &tape->dummy);
    op_index(tape, &(IndexShape){1, 4, 1, 1, 1}, x, x, x, NULL, &(Keys){2, (uint64_t *[]){bits, bits}, 0});
    assert_ptr_equal(op_attention(tape, &(AttentionShape){1, 2, 2, 2, 1, 0}, x, x, x, 0, NULL), &tape->dummy);
    tape->group = &cached;
    CachedInputs inputs = {x, &up, NULL, (const float *[]){values, values}, (const float *[]){values, values}};
    assert_ptr_equal(op_attention_cached(tape, &(AttentionShape){1, 2, 2, 6, 1, 0}, &inputs, NULL), &tape->dummy);
    tape->group = &group;
    assert_ptr_equal(op_swiglu(tape, x), &tape->dummy);
    balance_gather(tape, &shape, x, stats);
    op_balance(tape, x, &shape, &(BalanceValues){1, 1, 1, 1}, &(BalanceStep){0});
    Route route = op_route(tape, x, values, &shape, ids, true);
    assert_ptr_equal(route.weights, &tape->dummy);
    assert_ptr_equal(op_experts(tape, x, route, 2, experts, NULL), &tape->dummy);
    assert_ptr_equal(op_loss(tape, x, &head, ids), &tape->dummy);
}

static void the_first_error_is_kept_and_later_operations_do_nothing(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, before[12];
    memcpy(before, x, sizeof x);
    for (int mode = TAPE_OFF; mode <= TAPE_RECORD; mode++) {
        tape_begin(&tape, &group, (TapeMode)mode);
        tape.guard = true;
        Tensor *leaf = tape_leaf(&tape, 3, 4, x, true);
        op_rmsnorm(&tape, leaf, 2, 4, x, 1e-5);
        every_operation(&tape, leaf);
        every_operation(&tape, &tape.dummy);
        assert_ptr_equal(tape_leaf(&tape, 3, 4, x, true), &tape.dummy);
        assert_ptr_equal(tape_tensor(&tape, 3, 4), &tape.dummy);
        assert_null(tape_seed(&tape, leaf));
        assert_int_equal(tape.n_nodes, 0);
        assert_memory_equal(x, before, sizeof x);
        assert_fails(mode == TAPE_OFF ? tape_error(&tape) : tape_backward(&tape), ERR_FORMAT,
                     "rmsnorm: columns 2 to 6 of 4");
        assert_ok(tape_error(&tape)); /* handed over once */
    }
    tape_free(&tape);
}

static void a_tape_that_failed_can_begin_again(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[12] = {1};
    tape_begin(&tape, &group, TAPE_RECORD);
    op_rmsnorm(&tape, tape_leaf(&tape, 3, 4, x, true), 2, 4, x, 1e-5);
    assert_fails(tape_error(&tape), ERR_FORMAT, "rmsnorm");
    tape_begin(&tape, &group, TAPE_RECORD);
    Tensor *leaf = tape_leaf(&tape, 3, 4, x, true), *y = op_swiglu(&tape, leaf);
    tape_seed(&tape, y)[0] = 1;
    assert_ok(tape_backward(&tape));
    assert_true(leaf->grad[2] > 0.73f && leaf->grad[2] < 0.732f); /* silu(1) */
    tape_free(&tape);
}

static void nothing_is_recorded_if_nothing_requires_a_gradient(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[12] = {0}, values[16] = {0};
    Weight W = weight_of("W", 4, 4, values);
    for (int i = 0; i < 3; i++) { /* nothing wants; wants, but the tape is off; wants */
        tape_begin(&tape, &group, i == 1 ? TAPE_OFF : TAPE_RECORD);
        Tensor *leaf = tape_leaf(&tape, 3, 4, x, i > 0),
               *y = op_add(&tape, op_linear(&tape, leaf, 1, (const Weight *[]){&W}, 0, NULL), leaf);
        assert_int_equal(tape.n_nodes, i == 2 ? 2 : 0);
        assert_true(y->requires_grad == (i == 2));
        assert_ok(tape_backward(&tape));
    }
    tape_free(&tape);
}

static void a_tensor_used_twice_gets_the_sum_of_both_gradients(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[3] = {1, 2, 3}, three = 3, five = 5;
    Weight a = weight_of("a", 1, 1, &three), b = weight_of("b", 1, 1, &five);
    tape_begin(&tape, &group, TAPE_RECORD);
    Tensor *leaf = tape_leaf(&tape, 3, 1, x, true);
    Tensor *y = op_linear(&tape, leaf, 1, (const Weight *[]){&a}, 0, NULL),
           *z = op_linear(&tape, leaf, 1, (const Weight *[]){&b}, 0, NULL);
    Tensor *sum = op_add(&tape, y, z);
    assert_ptr_equal(sum, y); /* in place: the gradient is shared */
    sum = op_add(&tape, sum, leaf);
    assert_true(sum->data[2] == 27);
    for (size_t i = 0; i < 3; i++) tape_seed(&tape, sum)[i] = (float)i + 1;
    assert_ok(tape_backward(&tape));
    for (size_t i = 0; i < 3; i++) assert_true(leaf->grad[i] == 9 * ((float)i + 1));
    tape_free(&tape);
}

static void a_branch_that_leads_nowhere_adds_nothing(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[3] = {1, 2, 3}, three = 3;
    Weight W = weight_of("W", 1, 1, &three);
    tape_begin(&tape, &group, TAPE_RECORD);
    Tensor *leaf = tape_leaf(&tape, 3, 1, x, true), *y = op_linear(&tape, leaf, 1, (const Weight *[]){&W}, 0, NULL);
    op_linear(&tape, y, 1, (const Weight *[]){&W}, 0, NULL);
    tape_seed(&tape, y)[0] = 1;
    assert_ok(tape_backward(&tape));
    assert_true(leaf->grad[0] == 3 && leaf->grad[1] == 0);
    tape_free(&tape);
}

static void a_seed_is_zeros_and_is_made_once(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[12];
    for (int round = 0; round < 2; round++) { /* the second in memory that has been used */
        tape_begin(&tape, &group, TAPE_RECORD);
        Tensor *leaf = tape_leaf(&tape, 3, 4, x, true);
        float *seed = tape_seed(&tape, leaf);
        for (size_t i = 0; i < 12; i++) assert_true(seed[i] == 0);
        for (size_t i = 0; i < 12; i++) seed[i] = 7;
        assert_ptr_equal(tape_seed(&tape, leaf), seed);
        assert_true(seed[11] == 7);
    }
    tape_free(&tape);
}

static void a_used_tape_gives_the_bits_of_a_new_one(void **state)
{
    (void)state;
    Tape tape = {0};
    float values[16], x[12], first[12], grad[12];
    for (size_t i = 0; i < 16; i++) values[i] = (float)i / 7;
    for (size_t i = 0; i < 12; i++) x[i] = (float)i / 3 - 2;
    Weight W = weight_of("W", 4, 4, values);
    for (int round = 0; round < 3; round++) {
        tape_begin(&tape, &group, TAPE_RECORD);
        Tensor *leaf = tape_leaf(&tape, 3, 4, x, true);
        Tensor *y = op_rmsnorm(&tape, op_linear(&tape, leaf, 1, (const Weight *[]){&W}, 0, NULL), 0, 4, values, 1e-5);
        if (round == 0) memcpy(first, y->data, sizeof first);
        assert_memory_equal(first, y->data, sizeof first);
        for (size_t i = 0; i < 12; i++) tape_seed(&tape, y)[i] = (float)i;
        assert_ok(tape_backward(&tape));
        if (round == 0) memcpy(grad, leaf->grad, sizeof grad);
        assert_memory_equal(grad, leaf->grad, sizeof grad);
    }
    assert_true(tape.node_pool.used_bytes > 0);
    tape_reset(&tape);
    assert_int_equal(tape.node_pool.used_bytes, 0);
    tape_free(&tape);
}

/* The backward pass frees a result once the operation that made it is done; the next gradient takes its place. */
static void what_is_no_longer_needed_is_freed(void **state)
{
    (void)state;
    enum { DEEP = 30 };
    float x[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, values[16];
    for (size_t i = 0; i < 16; i++) values[i] = (float)i / 7;
    Weight W = weight_of("W", 4, 4, values);
    Pool workspace = {0};
    size_t high[2];
    for (int resident = 0; resident < 2; resident++) {
        Tape tape = {.workspace = &workspace, .resident = resident};
        tape_begin(&tape, &group, TAPE_RECORD);
        Tensor *leaf = tape_leaf(&tape, 3, 4, x, true), *y = leaf, *first = NULL;
        for (size_t i = 0; i < DEEP; i++) {
            y = op_linear(&tape, y, 1, (const Weight *[]){&W}, 0, NULL);
            if (!first) first = y;
        }
        high[resident] = workspace.high_bytes;
        memset(tape_seed(&tape, y), 0, 12 * sizeof(float));
        assert_ok(tape_backward(&tape));
        assert_null(first->data);
        assert_null(first->grad);
        assert_null(y->data);
        assert_non_null(leaf->grad);                                   /* of the caller's */
        assert_true(workspace.high_bytes <= high[resident] + 4 * 256); /* not one gradient for each result */
        assert_int_equal(tape.own_pool.n > 0, resident);               /* what operations keep stays until the reset */
        workspace.high_bytes = 0;
        tape_free(&tape);
    }
    assert_true(high[1] < high[0]); /* only scratch */
    pool_free(&workspace);
}

/* Shapes alone: no number is read or written, and what is taken is what a tape that computes takes. */
static void a_tape_that_counts_takes_as_much_as_one_that_computes(void **state)
{
    (void)state;
    float x[12] = {0}, values[16] = {0};
    Weight W = weight_of("W", 4, 4, values), none = weight_of("W", 4, 4, NULL);
    size_t high[2];
    for (int counts = 0; counts < 2; counts++) {
        Tape tape = {.count_only = counts, .own_pool.counts = counts};
        tape_begin(&tape, &group, TAPE_RECORD);
        Tensor *leaf = tape_leaf(&tape, 3, 4, counts ? NULL : x, true);
        Tensor *y = op_rmsnorm(&tape, op_linear(&tape, leaf, 1, (const Weight *[]){counts ? &none : &W}, 0, NULL), 0, 4,
                               counts ? NULL : values, 1e-5);
        y = op_add(&tape,
                   op_swiglu(&tape, op_linear(&tape, y, 2, (const Weight *[]){counts ? &none : &W, counts ? &none : &W},
                                              0, NULL)),
                   y);
        assert_true(counts || tape_computes(&tape));
        assert_non_null(tape_seed(&tape, y));
        assert_ok(tape_backward(&tape));
        high[counts] = tape.own_pool.high_bytes;
        tape_free(&tape);
    }
    assert_int_equal(high[0], high[1]);
}

/* ---- guard ----------------------------------------------------------------------------------------------------- */

static Tensor *run(Tape *tape, int op, Tensor *x)
{
    static float values[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, ones[12] = {1};
    static const int32_t ids[6] = {0, 1, 0, 1, 0, 1};
    static int32_t workspace[6] = {0, 1, 0, 1, 0, 1};
    Weight W = weight_of("W", 4, 4, values), head = weight_of("head", 2, 4, values);
    Param A = {.name = (char *)"A", .rows = 4, .cols = 4, .data = values};
    Lora lora = {.A = &A, .B = &A, .scale = 1};
    Expert experts[2] = {{&W, &W, &W, NULL, NULL}, {&W, &W, &W, NULL, NULL}};
    RopeTable table = {4, 2, values, values};
    float *copy = tape_floats(tape, 12);
    memcpy(copy, ones, sizeof ones);
    switch (op) {
    case 0: return op_linear(tape, x, 1, (const Weight *[]){&W}, 0, NULL);
    case 1: return op_linear(tape, x, 1, (const Weight *[]){&W}, 1, (const Lora *[]){&lora});
    case 2: return op_rmsnorm(tape, x, 0, 4, values, 1e-5);
    case 3: return op_swiglu(tape, x);
    case 4: return op_add(tape, tape_leaf(tape, 3, 4, copy, true), x);
    case 5: return op_rope(tape, x, &table, 0, 2, 2, true);
    case 6: return op_loss(tape, x, &head, ids);
    case 7: return op_route(tape, x, values, &(RouterShape){4, 2, 1, 1, true, 1}, workspace, true).weights;
    case 8: return op_experts(tape, x, (Route){ids, tape_leaf(tape, 3, 2, copy, true)}, 2, experts, NULL);
    case 9: return op_attention(tape, &(AttentionShape){1, 2, 2, 2, 1, 0}, x, x, x, 0, NULL);
    case 10: return op_layernorm(tape, x, values, values, 1e-5);
    default:
        return op_embed(tape, &(Weight){.name = "x", .rows = 3, .cols = 4, .data = x->data},
                        (const int32_t[]){0, 1, 2});
    }
}

static void guard_names_the_operation_and_the_element(void **state)
{
    (void)state;
    static const char *const messages[] = {"linear: row 1, column 0 is",    "linear: row 1, column 0 is",
                                           "rmsnorm: row 1, column 0 is",   "swiglu: row 1, column 0 is",
                                           "add: row 1, column 0 is",       "rope: row 1, column 0 is",
                                           "loss: row 1, column 0 is",      "route: row 1, column 0 is",
                                           "experts: row 1, column 0 is",   "attention: row 1, column 0 is",
                                           "layernorm: row 1, column 0 is", "embed: row 1, column 0 is"};
    Tape tape = {0};
    for (int i = 0; i < 24; i++) {
        float x[12] = {1, 2, 3, 4, NAN, 6, 7, 8, 9, 10, 11, 12};
        tape.guard = i % 2;
        tape_begin(&tape, &group, i / 4 % 2 ? TAPE_RECORD : TAPE_OFF);
        run(&tape, i / 2, tape_leaf(&tape, 3, 4, x, true));
        if (i % 2)
            assert_fails(tape_error(&tape), ERR_NUMERIC, messages[i / 2]);
        else
            assert_ok(tape_error(&tape));
    }
    tape_free(&tape);
}

static void guard_calls_infinity_by_its_name(void **state)
{
    (void)state;
    Tape tape = {.guard = true};
    float x[12] = {0}, y[12] = {0};
    x[11] = -INFINITY;
    tape_begin(&tape, &group, TAPE_RECORD);
    op_add(&tape, tape_leaf(&tape, 3, 4, y, true), tape_leaf(&tape, 3, 4, x, true));
    assert_fails(tape_backward(&tape), ERR_NUMERIC, "add: row 2, column 3 is -inf");
    tape_free(&tape);
}

static void guard_lets_finite_numbers_pass_unchanged(void **state)
{
    (void)state;
    Tape tape = {0};
    float results[2][12];
    for (int op = 0; op < 12; op++) {
        size_t n = 0;
        for (int guard = 0; guard < 2; guard++) {
            float x[12] = {1, -2, 3, 4, 5, 6, 7, -8, 9, 10, 11, 12};
            tape.guard = guard;
            tape_begin(&tape, &group, TAPE_RECORD);
            Tensor *y = run(&tape, op, tape_leaf(&tape, 3, 4, x, true));
            assert_ok(tape_error(&tape));
            n = y->shape[0] * y->shape[1];
            memcpy(results[guard], y->data, n * sizeof(float));
        }
        assert_memory_equal(results[0], results[1], n * sizeof(float));
    }
    tape_free(&tape);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static void no_memory_is_an_error_that_says_how_much(void **state)
{
    (void)state;
    Tape tape = {0};
    float x[12] = {0};
    tape_begin(&tape, &group, TAPE_RECORD);
    Tensor *leaf = tape_leaf(&tape, 3, 4, x, true), *large = tape_tensor(&tape, (size_t)1 << 30, (size_t)1 << 24);
    assert_ptr_equal(large, &tape.dummy);
    every_operation(&tape, leaf);
    assert_fails(tape_error(&tape), ERR_MEMORY, "out of memory: the tape holds ");
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_null(tape_scratch(&tape, (size_t)1 << 60));
    assert_fails(tape_backward(&tape), ERR_MEMORY, "needs 4611686018427387904 more");
    tape_free(&tape);
}

static void rows_times_columns_beyond_memory_are_an_error_not_a_small_block(void **state)
{
    (void)state;
    Tape tape = {0};
    tape_begin(&tape, &group, TAPE_RECORD);
    assert_ptr_equal(tape_tensor(&tape, (size_t)1 << 32, (size_t)1 << 32), &tape.dummy); /* 2^64 is 0 in a size_t */
    assert_fails(tape_error(&tape), ERR_MEMORY, "out of memory");
    assert_null(tape_floats(&tape, ((size_t)1 << 62) + 4)); /* 16 bytes in a size_t */
    assert_fails(tape_error(&tape), ERR_MEMORY, "out of memory");
    assert_null(tape_scratch(&tape, ((size_t)1 << 62) + 4));
    assert_fails(tape_error(&tape), ERR_MEMORY, "out of memory");
    tape_free(&tape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_is_kept_and_later_operations_do_nothing),
        cmocka_unit_test(a_tape_that_failed_can_begin_again),
        cmocka_unit_test(nothing_is_recorded_if_nothing_requires_a_gradient),
        cmocka_unit_test(a_tensor_used_twice_gets_the_sum_of_both_gradients),
        cmocka_unit_test(a_branch_that_leads_nowhere_adds_nothing),
        cmocka_unit_test(a_seed_is_zeros_and_is_made_once),
        cmocka_unit_test(a_used_tape_gives_the_bits_of_a_new_one),
        cmocka_unit_test(what_is_no_longer_needed_is_freed),
        cmocka_unit_test(a_tape_that_counts_takes_as_much_as_one_that_computes),
        cmocka_unit_test(guard_names_the_operation_and_the_element),
        cmocka_unit_test(guard_calls_infinity_by_its_name),
        cmocka_unit_test(guard_lets_finite_numbers_pass_unchanged),
        cmocka_unit_test(no_memory_is_an_error_that_says_how_much),
        cmocka_unit_test(rows_times_columns_beyond_memory_are_an_error_not_a_small_block),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
