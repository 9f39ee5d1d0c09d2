/* Number formats: names, conversions with their rounding, and weights with scales for each block. */
#include "tensor/dtype.h"

#include "tensor/weight.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void names_and_sizes_go_both_ways(void **state)
{
    (void)state;
    static const size_t bytes[DTYPE_COUNT] = {4, 2, 1, 2, 8};
    DType back;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        assert_int_equal(dtype_bytes((DType)i), bytes[i]);
        assert_true(dtype_from_name(&back, dtype_name((DType)i)));
        assert_int_equal(back, i);
    }
    assert_false(dtype_from_name(&back, "bf16"));
    assert_false(dtype_from_name(&back, ""));
}

static void every_bf16_comes_back_as_itself(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x10000; i++) {
        float x = bf16_to_f32((uint16_t)i);
        if (isnan(x))
            assert_true(isnan(bf16_to_f32(bf16_from_f32(x))));
        else
            assert_int_equal(bf16_from_f32(x), i);
    }
}

static void bf16_rounds_to_nearest_and_ties_to_even(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(0x1.01p0f), 0x3F80); /* half way between 0x3F80 and 0x3F81 */
    assert_int_equal(bf16_from_f32(0x1.03p0f), 0x3F82); /* half way between 0x3F81 and 0x3F82 */
    assert_int_equal(bf16_from_f32(0x1.010002p0f), 0x3F81);
    assert_int_equal(bf16_from_f32(0x1.fffffep127f), 0x7F80); /* beyond the largest: infinity */
    assert_int_equal(bf16_from_f32(-INFINITY), 0xFF80);
    uint32_t bits = 0x7F800001; /* a NaN whose payload is all in the lower half */
    float nan;
    memcpy(&nan, &bits, sizeof nan);
    assert_true(isnan(bf16_to_f32(bf16_from_f32(nan))));
}

static void f8_has_the_values_of_its_table(void **state)
{
    (void)state;
    assert_true(f8_e4m3_to_f32(0x7E) == 448);
    assert_true(f8_e4m3_to_f32(0x08) == 0x1p-6f);
    assert_true(f8_e4m3_to_f32(0x07) == 0x1.cp-7f);
    assert_true(f8_e4m3_to_f32(0x01) == 0x1p-9f);
    assert_true(f8_e4m3_to_f32(0xB8) == -1);
    assert_true(isnan(f8_e4m3_to_f32(0x7F)) && isnan(f8_e4m3_to_f32(0xFF)));
    assert_true(signbit(f8_e4m3_to_f32(0x80)) && f8_e4m3_to_f32(0x80) == 0);
}

/* Source: the definition of rounding; neighbours differ in one unit of the code. */
static void f8_takes_the_nearest_value_and_the_even_one_of_two(void **state)
{
    (void)state;
    for (int i = 0; i < 0x7E; i++) {
        float low = f8_e4m3_to_f32((uint8_t)i), high = f8_e4m3_to_f32((uint8_t)(i + 1)), half = (low + high) / 2;
        assert_int_equal(f8_e4m3_from_f32(low), i);
        assert_int_equal(f8_e4m3_from_f32(half), i + i % 2);
        assert_int_equal(f8_e4m3_from_f32(nextafterf(half, 0)), i);
        assert_int_equal(f8_e4m3_from_f32(nextafterf(half, 500)), i + 1);
        assert_int_equal(f8_e4m3_from_f32(-low), i | 0x80);
    }
    assert_int_equal(f8_e4m3_from_f32(1e30f), 0x7E);
    assert_int_equal(f8_e4m3_from_f32(-INFINITY), 0xFE);
    assert_true(isnan(f8_e4m3_to_f32(f8_e4m3_from_f32(NAN))));
}

static void f16_has_subnormals_infinity_and_nan(void **state)
{
    (void)state;
    assert_true(f16_to_f32(0x3C00) == 1 && f16_to_f32(0x7BFF) == 65504 && f16_to_f32(0x8001) == -0x1p-24f);
    assert_true(f16_to_f32(0x0400) == 0x1p-14f && f16_to_f32(0xFC00) == -INFINITY && isnan(f16_to_f32(0x7E00)));
}

static void widening_reads_unaligned_data(void **state)
{
    (void)state;
    static const unsigned char bytes[] = {9, 0, 0, 0xC0, 0x3F, 0, 0, 0, 0xC0}; /* 1.5f, -2.0f one byte off */
    float out[2];
    dtype_widen(2, out, DTYPE_F32, bytes + 1);
    assert_true(out[0] == 1.5f && out[1] == -2);
    dtype_widen(1, out, DTYPE_BF16, bytes + 3);
    assert_true(out[0] == 1.5f);
    dtype_widen(1, out, DTYPE_F16, bytes + 3);
    assert_true(out[0] == 0x1.fp0f);
    dtype_widen(1, out, DTYPE_F8_E4M3, bytes + 4);
    assert_true(out[0] == 1.875f);
}

static void an_fp8_weight_is_scaled_block_by_block(void **state)
{
    (void)state;
    enum { ROWS = 130, COLS = 300 };
    unsigned char *data = malloc(ROWS * COLS), scale[6 * 4 + 1];
    float out[COLS];
    memset(data, 0x38, ROWS * COLS); /* 1.0 */
    for (int i = 0; i < 6; i++) memcpy(scale + 1 + 4 * i, &(float){(float)(i + 1)}, 4);
    Weight w = {.dtype = DTYPE_F8_E4M3, .rows = ROWS, .cols = COLS, .data = data, .scale = scale + 1};
    for (size_t row = 0; row < ROWS; row++) {
        weight_read(&w, row, 5, COLS - 5, out);
        for (size_t c = 5; c < COLS; c++) assert_true(out[c - 5] == (float)(row / 128 * 3 + c / 128 + 1));
    }
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_sizes_go_both_ways),
        cmocka_unit_test(every_bf16_comes_back_as_itself),
        cmocka_unit_test(bf16_rounds_to_nearest_and_ties_to_even),
        cmocka_unit_test(f8_has_the_values_of_its_table),
        cmocka_unit_test(f8_takes_the_nearest_value_and_the_even_one_of_two),
        cmocka_unit_test(f16_has_subnormals_infinity_and_nan),
        cmocka_unit_test(widening_reads_unaligned_data),
        cmocka_unit_test(an_fp8_weight_is_scaled_block_by_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
