/* A part of one row of a weight as floats: for embeddings, exports and small copies. Products widen weights in
 * kernel_weights.h. */
#include "tensor/weight.h"

/* The factor of the block that holds (row, col); 1 for dtypes without scales. */
static float scale_at(const Weight *w, size_t row, size_t col)
{
    size_t blocks = (w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK;
    float scale;
    memcpy(&scale, (const char *)w->scale + (row / WEIGHT_BLOCK * blocks + col / WEIGHT_BLOCK) * sizeof scale,
           sizeof scale);
    return scale;
}

void weight_read(const Weight *w, size_t row, size_t col, size_t n, float *out)
{
    dtype_widen(n, out, w->dtype, (const char *)w->data + (row * w->cols + col) * dtype_bytes(w->dtype));
    if (w->dtype != DTYPE_F8_E4M3) return;
    for (size_t i = 0; i < n;) {
        size_t end = WEIGHT_BLOCK - (col + i) % WEIGHT_BLOCK + i; /* of this block, as an offset into out */
        float scale = scale_at(w, row, col + i);
        for (; i < n && i < end; i++) out[i] *= scale;
    }
}
