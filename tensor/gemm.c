/* Products, cut into blocks, panels and shares of threads. The kernels do the arithmetic.
 *
 *   inner length  in blocks (BLOCK words), whose sums are added to y in order: part of the bits
 *   columns of y  in panels, as wide as the part of W that stays in L2. Threads share the columns
 *   rows of y     not at all, unless y fits into one panel. Then threads share the rows: each packs a few rows of one
 *                 block at a time, which stay in cache, so packing needs no pass over memory of its own
 *
 * Always true: panels, shares and the number of threads change no bit. */
#include "tensor/gemm.h"

#include "tensor/kernel.h"

#include <omp.h>
#include <string.h>

enum {
    ROWS_AT_ONCE = 192,             /* rows packed at once: with the panel of W they stay in L2 */
    PACK_ROWS = 3 * LANES,          /* rows that a thread packs at once */
    MIN_PRODUCT_FOR_TEAM = 1 << 20, /* multiply-adds; less than this takes less than waking threads */
    MIN_WEIGHT_FOR_TEAM = 1 << 17,  /* the same in elements of W, for few rows: memory is what they wait for */
};

static _Thread_local float panel[PANEL_FLOATS] __attribute__((aligned(64)));

/* ---- scratch and packing ------------------------------------------------------------------------------------- */

static size_t words_of(const GemmKernels *gemm, size_t n) { return (n + gemm->per_word - 1) / gemm->per_word; }
static size_t block_of(const GemmKernels *gemm) { return BLOCK * gemm->per_word; } /* in elements */

/* Floats of packed x; inner lengths are in words, here and in the next three functions. */
static size_t lanes_floats(size_t T, size_t inner) { return round_up(T, LANES) * inner; }
static size_t rows_floats(size_t T, size_t inner)
{
    return (T + ROW_TILE) * packed_stride(inner) * ((inner + BLOCK - 1) / BLOCK);
}

/* Where block number b begins in packed x of T rows. */
static size_t lanes_at(size_t T, size_t b) { return round_up(T, LANES) * BLOCK * b; }
static size_t rows_at(size_t T, size_t b) { return (T + ROW_TILE) * STRIDE * b; }

/* Floats for x and the r floats of a fused LoRA. A LoRA that is not fused is packed after them. */
static size_t x_scratch(size_t T, size_t K, size_t r)
{
    size_t lanes = lanes_floats(T, K + r), rows = rows_floats(T, K); /* of floats; words of bf16 take less */
    return round_up(lanes > rows ? lanes : rows, LANES);
}

size_t gemm_scratch(size_t T, size_t K, size_t r)
{
    return r > SHORT ? x_scratch(T, K, 0) + x_scratch(T, r, 0) : x_scratch(T, K, r);
}

/* A LoRA of more than SHORT is not fused: it is a product of its own. */
static bool is_separate(const GemmLora *lora) { return lora && lora->r > SHORT; }
static size_t fused_r(const GemmLora *lora) { return lora && lora->r <= SHORT ? lora->r : 0; }

/* The weight of that product: B, or A of rows `width` wide. */
static Weight lora_weight(const GemmLora *lora, bool transposed, size_t width)
{
    return transposed ? weight_of("", lora->rows, lora->r, lora->M) : weight_of("", lora->r, width, lora->M);
}

/* How the inner length of a product is cut, and by which kernels. */
typedef struct {
    const GemmKernels *gemm;
    bool lanes;           /* x is packed as lanes */
    size_t inner, words;  /* length, in elements and in words */
    size_t block, stride; /* elements of a block; words from row to row where x is not packed as lanes */
    const GemmLora *lora; /* fused, or NULL */
} GemmCut;

static GemmCut cut_of(bool transposed, size_t T, const Weight *W, const GemmLora *lora)
{
    const GemmKernels *gemm = bf16_kernels && !weight_is_exact(W) ? bf16_kernels : kernels->gemm;
    size_t inner = transposed ? W->cols : W->rows, words = words_of(gemm, inner);
    return (GemmCut){gemm,
                     transposed && words > SHORT && T > FEW_ROWS && T < TRANSPOSE_ROWS,
                     inner,
                     words,
                     block_of(gemm),
                     packed_stride(words),
                     fused_r(lora) ? lora : NULL};
}

/* The fused LoRA of the block from element `at` on: only the last block has it. */
static const GemmLora *lora_of_block(const GemmCut *p, size_t at) { return at + p->block >= p->inner ? p->lora : NULL; }

bool gemm_pack_serves(const Weight *packed_for, const Weight *W)
{
    return !bf16_kernels || weight_is_exact(packed_for) == weight_is_exact(W);
}

/* Zeros after the last packed row: tiles reach beyond it. */
static void zero_tile(size_t stride, float *out) { memset(out, 0, ROW_TILE * stride * sizeof *out); }

/* Pack rows [t, t + rows) of one block of x, from element `at` on, and of the LoRA behind it. out: where row 0 of the
 * block belongs. t is a multiple of LANES. */
static void pack_part(const GemmCut *p, size_t at, size_t t, size_t rows, float s, Rows x, float *out)
{
    const GemmKernels *floats = kernels->gemm;
    const GemmLora *lora = lora_of_block(p, at);
    size_t n = size_min(p->block, p->inner - at), words = words_of(p->gemm, n), r = fused_r(lora),
           step = p->lanes ? words + r : p->stride;
    Rows from = rows_right(rows_from(x, t), at);
    out += t * step;
    if (p->lanes)
        p->gemm->pack_lanes(rows, n, s, from, out, step * LANES);
    else
        p->gemm->pack_rows(rows, n, step, s, from, out);
    if (lora && p->lanes)
        floats->pack_lanes(rows, r, lora->s, rows_from(lora->u, t), out + words * LANES, step * LANES);
    if (lora && !p->lanes) floats->pack_rows(rows, r, step, lora->s, rows_from(lora->u, t), out + words);
}

/* Pack rows [t, t + rows) of block b of all T rows, and the zeros after the last row. */
static void pack_block(const GemmCut *p, size_t T, size_t b, size_t t, size_t rows, float s, Rows x, float *scratch)
{
    float *out = scratch + (p->lanes ? lanes_at(T, b) : rows_at(T, b));
    pack_part(p, b * p->block, t, rows, s, x, out);
    if (!p->lanes && t + rows == T) zero_tile(p->stride, out + T * p->stride);
}

static void pack(const GemmCut *p, size_t T, float s, Rows x, float *scratch)
{
    for (size_t b = 0; b * p->block < p->inner; b++) pack_block(p, T, b, 0, T, s, x, scratch);
}

static void rows_pack(bool transposed, size_t T, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch)
{
    GemmCut p = cut_of(transposed, T, W, lora);
    pack(&p, T, s, x, scratch);
    if (!is_separate(lora)) return;
    Weight M = lora_weight(lora, transposed, W->cols);
    rows_pack(transposed, T, lora->s, lora->u, &M, NULL, scratch + x_scratch(T, p.inner, 0));
}

void gemm_pack_nn(size_t T, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch)
{
    rows_pack(false, T, s, x, W, lora, scratch);
}
void gemm_pack_nt(size_t T, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch)
{
    rows_pack(true, T, s, x, W, lora, scratch);
}

/* ---- slices -------------------------------------------------------------------------------------------------- */

/* `elements` elements in each of `rows` rows of W, from (row, col) on. */
static Prefetch prefetch_of(const Weight *W, size_t row, size_t col, size_t rows, size_t elements)
{
    size_t bytes = dtype_bytes(W->dtype);
    if (row >= W->rows || col >= W->cols) return (Prefetch){0};
    return (Prefetch){(const char *)W->data + (row * W->cols + col) * bytes, size_min(rows, W->rows - row),
                      (size_min(elements, W->cols - col) * bytes + 63) / 64, W->cols * bytes};
}

/* What nt and nn read of W for one block of one panel: columns of y from begin on, inner index from `at` on. */
static Prefetch prefetch_nt(const Weight *W, size_t begin, size_t at, size_t block)
{
    return prefetch_of(W, begin, at, NN_COLUMNS, block);
}
static Prefetch prefetch_nn(const Weight *W, size_t begin, size_t at, size_t block)
{
    return prefetch_of(W, at, begin, block, NN_COLUMNS);
}

/* What is read after a block of the panel [begin, stop): the next block, else the next panel, else the next slice. */
static Prefetch prefetch_next(Prefetch (*prefetch)(const Weight *, size_t, size_t, size_t), const GemmCut *p,
                              const Weight *W, size_t at, size_t begin, size_t stop, size_t end, GemmNext next)
{
    if (at + p->block < p->inner) return prefetch(W, begin, at + p->block, p->block);
    if (stop < end) return prefetch(W, stop, 0, p->block);
    return next.W ? prefetch(next.W, next.begin, 0, p->block) : (Prefetch){0};
}

/* One block of columns [begin, end), inner index from element `at` on. packed: x from there on. */
static void nt_block(const GemmCut *p, size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin,
                     size_t end, size_t at, Prefetch next)
{
    size_t n = size_min(p->block, p->inner - at);
    const GemmLora *lora = lora_of_block(p, at);
    if (p->lanes)
        p->gemm->nt(T, y, add, packed, W, begin, end, at, n, lora, panel, next);
    else if (p->words > SHORT && T <= FEW_ROWS)
        p->gemm->nt_few(T, y, add, packed, W, begin, end, at, n, lora);
    else
        p->gemm->nt_transposed(T, y, add, packed, W, begin, end, at, n, lora, panel, next);
}

static void nn_block(const GemmCut *p, size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin,
                     size_t end, size_t at, Prefetch next)
{
    p->gemm->nn(T, y, add, packed, W, begin, end, at, size_min(p->block, p->inner - at), lora_of_block(p, at), panel,
                next);
}

/* Columns of y in one panel. */
static size_t panel_columns(const GemmCut *p)
{
    if (p->words <= SHORT) return short_columns(p->words + fused_r(p->lora));
    return p->lanes ? NT_COLUMNS : NN_COLUMNS;
}

static void slice(bool transposed, size_t T, Rows y, bool add, const float *packed, const Weight *W,
                  const GemmLora *lora, size_t begin, size_t end, GemmNext next);

/* Columns [begin, end) of a LoRA that is not fused; its u is packed behind x. */
static void slice_of_lora(bool transposed, size_t T, Rows y, const float *packed, const GemmLora *lora, size_t width,
                          size_t begin, size_t end)
{
    Weight M = lora_weight(lora, transposed, width);
    size_t first = transposed ? lora->first : 0, from = begin > first ? begin - first : 0,
           to = end > first ? end - first : 0;
    if (transposed) to = size_min(to, lora->rows);
    if (from < to) slice(transposed, T, rows_right(y, first), true, packed, &M, NULL, from, to, (GemmNext){0});
}

static void slice(bool transposed, size_t T, Rows y, bool add, const float *packed, const Weight *W,
                  const GemmLora *lora, size_t begin, size_t end, GemmNext next)
{
    GemmCut p = cut_of(transposed, T, W, lora);
    size_t columns = panel_columns(&p);
    for (size_t from = begin, stop; from < end; from = stop) {
        stop = size_min(from + columns, end);
        for (size_t b = 0, at = 0; at < p.inner; b++, at += p.block)
            (transposed
                 ? nt_block
                 : nn_block)(&p, T, y, add || b, packed + (p.lanes ? lanes_at(T, b) : rows_at(T, b)), W, from, stop, at,
                             prefetch_next(transposed ? prefetch_nt : prefetch_nn, &p, W, at, from, stop, end, next));
    }
    if (is_separate(lora))
        slice_of_lora(transposed, T, y, packed + x_scratch(T, p.inner, 0), lora, W->cols, begin, end);
}

void gemm_nt_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, const GemmLora *lora, size_t begin,
                   size_t end, GemmNext next)
{
    slice(true, T, y, add, packed, W, lora, begin, end, next);
}

void gemm_nn_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, const GemmLora *lora, size_t begin,
                   size_t end, GemmNext next)
{
    slice(false, T, y, add, packed, W, lora, begin, end, next);
}

/* ---- whole products ------------------------------------------------------------------------------------------ */

typedef struct {
    bool transposed; /* nt */
    size_t T, width;
    Rows y, x;
    bool add;
    float s;
    const Weight *W;
    const GemmLora *lora;
} Product;

/* Where share i of n of a length begins, in whole units. */
static size_t share(size_t length, size_t unit, size_t i, size_t n)
{
    size_t units = (length + unit - 1) / unit;
    return size_min(length, units * i / n * unit);
}

/* Rows [begin, end) of a product of few columns, block by block. scratch: for up to ROWS_AT_ONCE rows. */
static void multiply_rows(const Product *p, const GemmCut *cut, size_t begin, size_t end, float *scratch)
{
    size_t T = end - begin;
    Rows x = rows_from(p->x, begin), y = rows_from(p->y, begin);
    GemmCut of_rows = *cut;
    GemmLora lora;
    if (cut->lora) {
        lora = *cut->lora;
        lora.u = rows_from(lora.u, begin);
        of_rows.lora = &lora;
    }
    for (size_t at = 0; at < cut->inner; at += cut->block) {
        pack_part(&of_rows, at, 0, T, p->s, x, scratch);
        if (!cut->lanes) zero_tile(cut->stride, scratch + T * cut->stride);
        (p->transposed ? nt_block : nn_block)(&of_rows, T, y, p->add || at, scratch, p->W, 0, p->width, at,
                                              (Prefetch){0});
    }
}

static void part_by_rows(const Product *p, const GemmCut *cut, size_t i, size_t n)
{
    static _Thread_local float packed[(ROWS_AT_ONCE + ROW_TILE) * STRIDE] __attribute__((aligned(64)));
    size_t begin = share(p->T, 3 * LANES, i, n), end = share(p->T, 3 * LANES, i + 1, n);
    for (; begin < end; begin += ROWS_AT_ONCE)
        multiply_rows(p, cut, begin, size_min(begin + ROWS_AT_ONCE, end), packed);
}

/* The team shares the packing. */
static void pack_all(const Product *p, const GemmCut *cut, float *scratch)
{
    size_t blocks = (cut->words + BLOCK - 1) / BLOCK, pieces = (p->T + PACK_ROWS - 1) / PACK_ROWS;
#pragma omp for schedule(static)
    for (size_t i = 0; i < blocks * pieces; i++) {
        size_t t = i % pieces * PACK_ROWS;
        pack_block(cut, p->T, i / pieces, t, size_min(PACK_ROWS, p->T - t), p->s, p->x, scratch);
    }
}

static void part_by_columns(const Product *p, size_t i, size_t n, const float *packed)
{
    size_t begin = share(p->width, GEMM_UNIT, i, n), end = share(p->width, GEMM_UNIT, i + 1, n);
    slice(p->transposed, p->T, p->y, p->add, packed, p->W, p->lora, begin, end, (GemmNext){0});
}

static void product(const Product *p, float *scratch)
{
    GemmCut cut = cut_of(p->transposed, p->T, p->W, p->lora);
    bool few = p->transposed && p->T <= FEW_ROWS, by_rows = p->width <= NT_COLUMNS;
    bool worth = cut.inner * p->width * (few ? 1 : p->T) >= (few ? MIN_WEIGHT_FOR_TEAM : MIN_PRODUCT_FOR_TEAM),
         team = worth && !omp_in_parallel();
    if (few && !by_rows) pack(&cut, p->T, p->s, p->x, scratch); /* faster than a team meets at a barrier */
#pragma omp parallel if (team)
    {
        size_t i = team ? (size_t)omp_get_thread_num() : 0, n = team ? (size_t)omp_get_num_threads() : 1;
        if (by_rows)
            part_by_rows(p, &cut, i, n);
        else {
            if (!few) pack_all(p, &cut, scratch);
            part_by_columns(p, i, n, scratch);
        }
    }
}

/* A LoRA that is not fused is a second product, in the same scratch. */
static void multiply(const Product *p, float *scratch)
{
    Product main = *p;
    if (is_separate(p->lora)) main.lora = NULL;
    product(&main, scratch);
    if (main.lora == p->lora) return;
    Weight M = lora_weight(p->lora, p->transposed, p->W->cols);
    Rows y = p->transposed ? rows_right(p->y, p->lora->first) : p->y;
    product(&(Product){p->transposed, p->T, p->transposed ? M.rows : M.cols, y, p->lora->u, true, p->lora->s, &M, NULL},
            scratch);
}

void gemm_nt(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch)
{
    multiply(&(Product){true, T, W->rows, y, x, add, s, W, lora}, scratch);
}

void gemm_nn(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch)
{
    multiply(&(Product){false, T, W->cols, y, x, add, s, W, lora}, scratch);
}

/* ---- few columns, and sums over rows ---------------------------------------------------------------------------- */

static void narrow(size_t T, Rows y, float s, Rows x, size_t n, size_t columns, const float *w, size_t across,
                   size_t along)
{
    bool team = !omp_in_parallel() && T * n * columns >= MIN_PRODUCT_FOR_TEAM;
#pragma omp parallel if (team)
    {
        size_t i = team ? (size_t)omp_get_thread_num() : 0, of = team ? (size_t)omp_get_num_threads() : 1;
        size_t begin = share(T, LANES, i, of), end = share(T, LANES, i + 1, of);
        if (begin < end)
            kernels->narrow(end - begin, rows_from(y, begin), s, rows_from(x, begin), n, columns, w, across, along);
    }
}

void gemm_narrow_nt(size_t T, Rows u, float s, Rows x, size_t r, size_t N, const float *A)
{
    narrow(T, u, s, x, N, r, A, N, 1);
}
void gemm_narrow_nn(size_t T, Rows du, float s, Rows dy, size_t r, size_t N, const float *B)
{
    narrow(T, du, s, dy, N, r, B, 1, r);
}

void gemm_tn(size_t T, size_t M, size_t N, float *G, bool add, float s, Rows a, Rows b)
{
    bool transposed = M > N; /* the narrow side comes first */
    size_t few = transposed ? N : M, wide = transposed ? M : N;
    if (T == 0 && !add) {
        memset(G, 0, M * N * sizeof *G);
        return;
    }
    size_t across = (wide + TN_COLUMNS - 1) / TN_COLUMNS, chunks = (few + NARROW_COLUMNS - 1) / NARROW_COLUMNS * across;
#pragma omp parallel for schedule(dynamic) if (!omp_in_parallel() && T * M * N >= MIN_PRODUCT_FOR_TEAM)
    for (size_t i = 0; i < chunks; i++) {
        size_t j = i / across * NARROW_COLUMNS, c = i % across * TN_COLUMNS;
        kernels->gemm_tn(T, size_min(NARROW_COLUMNS, few - j), size_min(TN_COLUMNS, wide - c), add, s,
                         rows_right(transposed ? b : a, j), rows_right(transposed ? a : b, c),
                         transposed ? G + c * N + j : G + j * N + c, N, transposed);
    }
}
