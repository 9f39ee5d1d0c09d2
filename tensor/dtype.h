/* Number formats of files, and conversion to float and back.
 * Source: bfloat16 is the upper half of binary32; E4M3 as in Micikevicius et al. 2022, section 3 (arXiv:2209.05433):
 * 4 exponent bits, bias 7, 3 mantissa bits, no infinity, S.1111.111 is NaN, largest 448. */
#ifndef GRAFT_TENSOR_DTYPE_H
#define GRAFT_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_F16, DTYPE_I64, DTYPE_COUNT } DType;

size_t dtype_bytes(DType dtype);
const char *dtype_name(DType dtype);                  /* as safetensors spells it: "BF16" */
bool dtype_from_name(DType *dtype, const char *name); /* false: a name we do not know */

static inline float bf16_to_f32(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t bf16_from_f32(float x); /* to nearest, ties to even; NaN stays NaN */
float f8_e4m3_to_f32(uint8_t x);
uint8_t f8_e4m3_from_f32(float x); /* to nearest, ties to even; beyond 448 clamps; NaN stays NaN */
float f16_to_f32(uint16_t x);

/* n values of F32, BF16, F16 or F8_E4M3 (without scales) to float. */
void dtype_widen(size_t n, float *out, DType dtype, const void *data);

#endif
