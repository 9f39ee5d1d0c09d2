/* Number formats, one value at a time; the kernels have vector versions of their own (kernel_weights.h). */
#include "tensor/dtype.h"

#include <math.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_BF16] = {"BF16", 2}, [DTYPE_F8_E4M3] = {"F8_E4M3", 1},
    [DTYPE_F16] = {"F16", 2}, [DTYPE_I64] = {"I64", 8},
};

size_t dtype_bytes(DType dtype) { return dtypes[dtype].bytes; }

const char *dtype_name(DType dtype) { return dtypes[dtype].name; }

bool dtype_from_name(DType *dtype, const char *name)
{
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (!strcmp(dtypes[i].name, name)) {
            *dtype = (DType)i;
            return true;
        }
    return false;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

uint16_t bf16_from_f32(float x)
{
    uint32_t bits = bits_of(x);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40); /* quiet: rounding could carry a NaN into infinity */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float f8_e4m3_to_f32(uint8_t x)
{
    uint32_t size = x & 0x7F, bits = size == 0x7F
                                         ? 0x7FC00000
                                         : (size << 20) + (120u << 23); /* the exponent's bias grows from 7 to 127 */
    float value;
    memcpy(&value, &bits, sizeof value);
    if (size < 8) value = (float)size * 0x1p-9f; /* 0.mmm 2^-6 */
    return x & 0x80 ? -value : value;
}

uint8_t f8_e4m3_from_f32(float x)
{
    uint8_t sign = bits_of(x) >> 31 ? 0x80 : 0;
    float size = fabsf(x);
    if (isnan(x)) return sign | 0x7F;
    if (size >= 448) return sign | 0x7E;
    int exponent = size < 0x1p-6f ? -6 : ilogbf(size);
    int steps = (int)rintf(ldexpf(size, 3 - exponent));  /* of 2^(exponent - 3); 8 .. 16 when normal */
    return sign | (uint8_t)((exponent + 6) * 8 + steps); /* steps = 16 carries into the exponent, as it should */
}

float f16_to_f32(uint16_t x)
{
    int exponent = x >> 10 & 31, mantissa = x & 1023;
    float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                 : exponent     ? ldexpf((float)(1024 + mantissa), exponent - 25)
                                : ldexpf((float)mantissa, -24);
    return x & 0x8000 ? -size : size;
}

typedef uint16_t Half __attribute__((aligned(1), may_alias)); /* files align nothing */

static void widen_halves(size_t n, float *restrict out, const Half *restrict data)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(data[i]);
}

void dtype_widen(size_t n, float *out, DType dtype, const void *data)
{
    const unsigned char *at = data; /* not aligned */
    uint16_t half;
    switch (dtype) {
    case DTYPE_F32: memcpy(out, at, n * 4); return;
    case DTYPE_F8_E4M3:
        for (size_t i = 0; i < n; i++) out[i] = f8_e4m3_to_f32(at[i]);
        return;
    case DTYPE_BF16: widen_halves(n, out, data); return;
    case DTYPE_F16:
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, at + 2 * i, 2);
            out[i] = f16_to_f32(half);
        }
        return;
    case DTYPE_I64:
    case DTYPE_COUNT: break;
    }
}
