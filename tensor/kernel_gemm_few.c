/* y = x W' for up to FEW_ROWS rows, for one instruction set: decoding, token by token.
 *
 * Nearly all traffic is W, so it is read once, without a panel: CELLS cells (four bytes each) of LANES rows of W at a
 * time are transposed in registers, so that lanes are columns of y, and meet all rows of x. The bits are those of nt in
 * kernel_gemm.c: one chain for each element and block. */
#include "tensor/kernel_weights.h"

enum {
    CELLS = 16,
    GROUPS = FEW_COLUMNS / LANES,
    FEW_TILE = 4,
    LINE = 64
}; /* FEW_TILE: rows whose sums share registers */

/* The chain of each row and column; and for FP8 the sum over chains. */
typedef struct {
    float chain[FEW_ROWS][FEW_COLUMNS], whole[FEW_ROWS][FEW_COLUMNS];
} __attribute__((aligned(64))) FewSums;

#if defined KERNEL_avx512
enum { ANY_PLACE = 1 }; /* cells need no alignment */
#else
enum { ANY_PLACE = 0 };
#endif

/* LANES rows of CELLS cells, `step` bytes apart, to [CELLS][LANES]. */
INLINE void transpose_cells(const char *data, size_t step, float *out)
{
#if defined KERNEL_avx512
#pragma GCC unroll 4
    for (size_t c = 0; c < CELLS; c += 4, data += 16, out += 4 * LANES) {
        __m512i row[4], mixed[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) { /* four cells of rows i, i + 4, i + 8, i + 12: loads put them side by side */
            const char *at = data + i * step;
            row[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)at));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x00F0, _mm_loadu_si128((const void *)(at + 4 * step)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x0F00, _mm_loadu_si128((const void *)(at + 8 * step)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0xF000, _mm_loadu_si128((const void *)(at + 12 * step)));
        }
        for (size_t i = 0; i < 2; i++) {
            mixed[i] = _mm512_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
            mixed[2 + i] = _mm512_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
        }
        for (size_t i = 0; i < 2; i++) {
            _mm512_store_si512(out + 2 * i * LANES, _mm512_unpacklo_epi64(mixed[2 * i], mixed[2 * i + 1]));
            _mm512_store_si512(out + (2 * i + 1) * LANES, _mm512_unpackhi_epi64(mixed[2 * i], mixed[2 * i + 1]));
        }
    }
#else
    const float *row[LANES];
    for (size_t i = 0; i < LANES; i++) row[i] = (const float *)(const void *)(data + i * step);
    rows_to_lanes(CELLS, row, 1, out);
#endif
}

/* The same for any weight: n <= CELLS words from element `at` on; absent rows are zeros. */
static void transpose_words(const Weight *w, size_t row, size_t rows, size_t at, size_t n, float *out)
{
    static const float zeros[CELLS];
    float line[LANES][CELLS];
    const float *from[LANES];
    for (size_t i = 0; i < LANES; i++) {
        from[i] = i < rows ? line[i] : zeros;
        if (i < rows) fill_line(w, row + i, at, size_min(n * PER_WORD, w->cols - at), line[i]);
    }
    rows_to_lanes(n, from, 1, out);
}

/* What a cell holds: a word; two BF16 weights that are widened to two words of fp32; a float of LoRA. */
typedef enum { CELL_WORD, CELL_HALVES, CELL_FLOAT } Cell;

/* Continue the chains of `rows` rows of x over n cells. */
INLINE void few_cells(size_t rows, Cell kind, size_t n, const float *x, const float *lanes, float chain[][FEW_COLUMNS])
{
    V sum[FEW_TILE][GROUPS * PARTS];
#pragma GCC unroll 4
    for (size_t t = 0; t < rows; t++)
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS * PARTS; g++) sum[t][g] = load(chain[t] + g * W);
    for (size_t i = 0; i < n; i++)
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS * PARTS; g++) {
            V cell = load(lanes + (g / PARTS * CELLS + i) * LANES + g % PARTS * W);
            bool halves = kind == CELL_HALVES;
            V first = halves ? (V)((I)cell << 16) : cell, second = (V)((I)cell & all_bits((int32_t)0xFFFF0000));
#pragma GCC unroll 4
            for (size_t t = 0; t < rows; t++) {
                const float *words = x + t * STRIDE + (halves ? 2 * i : i);
                sum[t][g] = kind == CELL_FLOAT ? fma_v(first, all(*words), sum[t][g])
                                               : add_product(sum[t][g], first, word_at(words));
                if (halves) sum[t][g] = add_product(sum[t][g], second, word_at(words + 1));
            }
        }
#pragma GCC unroll 4
    for (size_t t = 0; t < rows; t++)
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS * PARTS; g++) store(chain[t] + g * W, sum[t][g]);
}

INLINE void few_rows(size_t T, Cell kind, size_t n, const float *x, const float *lanes, FewSums *sums)
{
    if (T == 1)
        few_cells(1, kind, n, x, lanes, sums->chain);
    else /* rows beyond T are zeros */
        for (size_t t = 0; t < T; t += FEW_TILE) few_cells(FEW_TILE, kind, n, x + t * STRIDE, lanes, sums->chain + t);
}

/* Chains over FP8 codes with one factor are complete: whole = fma(chain, factor, whole). */
static void few_fold(size_t T, const Weight *w, size_t row, size_t col, bool first, FewSums *sums)
{
    for (size_t g = 0; g < GROUPS && row + g * LANES < w->rows; g++) {
        V factor = all(factor_at(w, row + g * LANES, col));
        for (size_t t = 0; t < T; t++)
            for (size_t i = g * LANES; i < (g + 1) * LANES; i += W) {
                V chain = load(sums->chain[t] + i);
                store(sums->whole[t] + i, first ? chain * factor : fma_v(chain, factor, load(sums->whole[t] + i)));
                store(sums->chain[t] + i, (V){0});
            }
    }
}

/* Rows of W for the next columns, prefetched a few cache lines at a time: rows of `lines` lines, `step` bytes apart. */
typedef struct {
    const char *row;
    size_t step, lines, line;
} RowsPrefetch;

INLINE void prefetch_lines(RowsPrefetch *c, size_t n)
{
    for (size_t run; n; n -= run) {
        run = size_min(n, c->lines - c->line);
        for (size_t i = 0; i < run; i++) __builtin_prefetch(c->row + (c->line + i) * LINE, 0, 3);
        c->line += run;
        if (c->line < c->lines) return;
        c->line = 0;
        c->row += c->step;
    }
}

/* Up to FEW_COLUMNS columns of y from `begin` on, for one block of the inner index. */
typedef struct {
    const Weight *w;
    const char *data; /* of the block */
    size_t begin, columns, at, words, step;
    size_t per_cell; /* words of a cell */
    bool cells;      /* cells can be read in place */
} FewColumns;

static FewColumns few_of(const Weight *w, size_t begin, size_t end, size_t at, size_t n)
{
    size_t bytes = dtype_bytes(w->dtype), step = w->cols * bytes,
           per_cell = PER_WORD == 1 && w->dtype == DTYPE_BF16 ? 2 : 1;
    const char *data = (const char *)w->data + begin * step + at * bytes;
    bool aligned = ANY_PLACE || (uintptr_t)data % sizeof(float) == 0,
         whole = step % sizeof(float) == 0 && end - begin == FEW_COLUMNS;
    return (FewColumns){w,           data,     begin,
                        end - begin, at,       words_of(n),
                        step,        per_cell, aligned && whole && per_cell * PER_WORD * bytes == sizeof(float)};
}

/* Multiply words from k on: transpose them, continue the chains of all rows of x; returns how many words. */
INLINE size_t few_words(const FewColumns *f, size_t T, const float *packed, size_t k, RowsPrefetch *prefetch,
                        FewSums *sums)
{
    float lanes[GROUPS][CELLS * LANES] __attribute__((aligned(64)));
    size_t bytes = PER_WORD * dtype_bytes(f->w->dtype), take = CELLS * f->per_cell;
    bool cells = f->cells && f->words - k >= take;
    if (!cells) take = size_min(CELLS, f->words - k);
    prefetch_lines(prefetch, FEW_COLUMNS * take * bytes / LINE);
    for (size_t g = 0, row = 0; g < GROUPS; g++, row += LANES) {
        if (cells)
            transpose_cells(f->data + row * f->step + k * bytes, f->step, lanes[g]);
        else
            transpose_words(f->w, f->begin + row, f->columns > row ? f->columns - row : 0, f->at + k * PER_WORD, take,
                            lanes[g]);
    }
    if (cells && f->per_cell == 2)
        few_rows(T, CELL_HALVES, CELLS, packed + k, lanes[0], sums);
    else
        few_rows(T, CELL_WORD, take, packed + k, lanes[0], sums);
    return take;
}

/* LoRA, packed behind the words of x. */
static void few_lora(size_t T, const float *packed, const FewColumns *f, const GemmLora *lora, FewSums *sums)
{
    static const float zeros[SHORT];
    float lanes[GROUPS][CELLS * LANES] __attribute__((aligned(64)));
    for (size_t k = 0; k < lora->r; k += CELLS) {
        size_t take = size_min(CELLS, lora->r - k);
        for (size_t g = 0; g < GROUPS; g++) {
            const float *line[LANES];
            for (size_t i = 0, j = g * LANES; i < LANES; i++, j++)
                line[i] = j < f->columns ? lora_line(lora, f->begin + j) + k : zeros;
            rows_to_lanes(take, line, 1, lanes[g]);
        }
        few_rows(T, CELL_FLOAT, take, packed + f->words + k, lanes[0], sums);
    }
}

static void few_columns(size_t T, Rows y, bool add, const float *packed, const FewColumns *f, const GemmLora *lora)
{
    FewSums sums = {0};
    bool codes = PER_WORD == 2 && f->w->dtype == DTYPE_F8_E4M3;
    size_t lines = (f->words * PER_WORD * dtype_bytes(f->w->dtype) + LINE - 1) / LINE;
    RowsPrefetch prefetch = {f->data + FEW_COLUMNS * f->step, f->step, lines, 0};
    for (size_t k = 0, end; k < f->words; k = end) {
        end = k + few_words(f, T, packed, k, &prefetch, &sums);
        if (codes && (end * PER_WORD % WEIGHT_BLOCK == 0 || end == f->words))
            few_fold(T, f->w, f->begin, f->at + k * PER_WORD, k * PER_WORD < WEIGHT_BLOCK, &sums);
    }
    if (lora) few_lora(T, packed, f, lora, &sums);
    for (size_t t = 0; t < T; t++) {
        float *to = row_of(y, t) + f->begin, *sum = sums.chain[t];
        for (size_t i = 0; i < f->columns && codes; i++) sum[i] = lora ? sums.whole[t][i] + sum[i] : sums.whole[t][i];
        for (size_t i = 0; i < f->columns; i++) to[i] = add ? to[i] + sum[i] : sum[i];
    }
}

void PASTE(nt_few_, KERNEL)(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end,
                            size_t at, size_t n, const GemmLora *lora)
{
    for (; begin < end; begin += FEW_COLUMNS) {
        FewColumns f = few_of(w, begin, size_min(begin + FEW_COLUMNS, end), at, n);
        few_columns(T, y, add, packed, &f, lora);
    }
}
