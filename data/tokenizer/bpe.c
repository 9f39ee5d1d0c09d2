/* The merges of a word are applied lowest rank first, and leftmost first among equal ranks. Symbols are a linked list,
 * candidate merges a heap. Each merge removes one symbol and adds at most two candidates: a word of n bytes costs n log
 * n.
 *
 * A candidate whose symbols have changed since it was pushed is stale. It is dropped when it is popped, because its
 * position no longer merges to the id that it has recorded.
 *
 * Source: tokenizers 0.23, models/bpe/word.rs, merge_all. */
#include "data/tokenizer/bpe.h"

#include "base/memory.h"

#include <stdlib.h>

typedef struct {
    int32_t id; /* -1: merged into its left neighbour */
    int32_t prev, next;
    uint32_t end; /* in the word */
} Symbol;

typedef struct {
    uint64_t order; /* rank, then position */
    int32_t id;
} MergeCandidate;

enum { CACHE_SLOTS = 1 << 14, KEY_BYTES = 22, KEY_IDS = 8 };

typedef struct { /* 64 bytes: one line of the processor's cache */
    uint8_t n_bytes, n_ids;
    char key[KEY_BYTES];
    uint8_t ends[KEY_IDS];
    int32_t ids[KEY_IDS];
} CachedWord;

struct Bpe {
    const Vocabulary *vocabulary;
    bool ignore_merges;
    CachedWord *cache;
    Symbol *symbols;
    MergeCandidate *heap;
    size_t n_symbols, symbol_capacity, n_heap, heap_capacity;
};

Err *tokens_add(Tokens *tokens, int32_t id, size_t end)
{
    if (tokens->n == tokens->capacity)
        TRY(mem_grow(&tokens->items, &tokens->capacity, tokens->n + 1, sizeof *tokens->items));
    tokens->items[tokens->n++] = (Token){id, (uint32_t)end};
    return NULL;
}

void tokens_free(Tokens *tokens)
{
    free(tokens->items);
    *tokens = (Tokens){0};
}

Err *bpe_new(Bpe **out, const Vocabulary *vocabulary, bool ignore_merges)
{
    Bpe *bpe;
    *out = NULL;
    TRY(mem_new(&bpe, 1, sizeof *bpe));
    bpe->vocabulary = vocabulary;
    bpe->ignore_merges = ignore_merges;
    Err *err = mem_new(&bpe->cache, CACHE_SLOTS, sizeof *bpe->cache);
    if (err)
        bpe_free(bpe);
    else
        *out = bpe;
    return err;
}

void bpe_free(Bpe *bpe)
{
    if (!bpe) return;
    free(bpe->cache);
    free(bpe->symbols);
    free(bpe->heap);
    free(bpe);
}

/* ---- the heap ---- */

static Err *heap_push(Bpe *bpe, MergeCandidate candidate)
{
    TRY(mem_grow(&bpe->heap, &bpe->heap_capacity, bpe->n_heap + 1, sizeof *bpe->heap));
    MergeCandidate *heap = bpe->heap;
    size_t at = bpe->n_heap++;
    for (; at && heap[(at - 1) / 2].order > candidate.order; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = candidate;
    return NULL;
}

static MergeCandidate heap_pop(Bpe *bpe)
{
    MergeCandidate *heap = bpe->heap, top = heap[0], last = heap[--bpe->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= bpe->n_heap) break;
        if (child + 1 < bpe->n_heap && heap[child + 1].order < heap[child].order) child++;
        if (heap[child].order >= last.order) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* ---- merging ---- */

static Err *consider(Bpe *bpe, int32_t left, int32_t right) /* positions of symbols; either may be -1 */
{
    if (left < 0 || right < 0) return NULL;
    const Merge *merge = vocabulary_merge(bpe->vocabulary, bpe->symbols[left].id, bpe->symbols[right].id);
    return merge ? heap_push(bpe, (MergeCandidate){(uint64_t)merge->rank << 32 | (uint32_t)left, merge->id}) : NULL;
}

static Err *set_symbols(Bpe *bpe, const char *word, size_t n)
{
    TRY(mem_grow(&bpe->symbols, &bpe->symbol_capacity, n, sizeof *bpe->symbols));
    bpe->n_symbols = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = bpe->vocabulary->byte_ids[(unsigned char)word[i]], at = (int32_t)bpe->n_symbols;
        if (id < 0) continue;
        bpe->symbols[bpe->n_symbols++] = (Symbol){id, at - 1, at + 1, (uint32_t)i + 1};
    }
    if (bpe->n_symbols) bpe->symbols[bpe->n_symbols - 1].next = -1;
    return NULL;
}

static Err *merge_word(Bpe *bpe, const char *word, size_t n)
{
    TRY(set_symbols(bpe, word, n));
    Symbol *symbols = bpe->symbols;
    bpe->n_heap = 0;
    for (size_t i = 1; i < bpe->n_symbols; i++) TRY(consider(bpe, (int32_t)i - 1, (int32_t)i));
    while (bpe->n_heap) {
        MergeCandidate top = heap_pop(bpe);
        int32_t at = (int32_t)(uint32_t)top.order;
        Symbol *left = &symbols[at];
        if (left->id < 0 || left->next < 0) continue;
        Symbol *right = &symbols[left->next];
        const Merge *merge = vocabulary_merge(bpe->vocabulary, left->id, right->id);
        if (!merge || merge->id != top.id) continue;
        left->id = merge->id;
        left->end = right->end;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) symbols[left->next].prev = at;
        TRY(consider(bpe, left->prev, at));
        TRY(consider(bpe, at, left->next));
    }
    return NULL;
}

static Err *make_word(Bpe *bpe, const char *word, size_t n, size_t begin, Tokens *out)
{
    if (bpe->ignore_merges) {
        int32_t id = vocabulary_id_of_bytes(bpe->vocabulary, word, n);
        if (id >= 0) return tokens_add(out, id, begin + n);
    }
    TRY(merge_word(bpe, word, n));
    for (int32_t at = bpe->n_symbols ? 0 : -1; at >= 0; at = bpe->symbols[at].next)
        TRY(tokens_add(out, bpe->symbols[at].id, begin + bpe->symbols[at].end));
    return NULL;
}

/* Store the word's tokens in the cache: those of `out` after the first `from`. There may be none. */
static void remember(CachedWord *cached, const char *word, size_t n, size_t begin, const Tokens *out, size_t from)
{
    cached->n_bytes = (uint8_t)n;
    cached->n_ids = (uint8_t)(out->n - from);
    memcpy(cached->key, word, n);
    for (size_t i = from; i < out->n; i++) {
        cached->ids[i - from] = out->items[i].id;
        cached->ends[i - from] = (uint8_t)(out->items[i].end - begin);
    }
}

Err *bpe_word(Bpe *bpe, const char *word, size_t n, size_t begin, Tokens *out)
{
    if (n > KEY_BYTES) return make_word(bpe, word, n, begin, out);
    CachedWord *cached = &bpe->cache[vocabulary_hash(word, n) & (CACHE_SLOTS - 1)];
    if (cached->n_bytes == n && !memcmp(cached->key, word, n)) {
        for (size_t i = 0; i < cached->n_ids; i++) TRY(tokens_add(out, cached->ids[i], begin + cached->ends[i]));
        return NULL;
    }
    size_t from = out->n;
    TRY(make_word(bpe, word, n, begin, out));
    if (out->n - from <= KEY_IDS) remember(cached, word, n, begin, out, from);
    return NULL;
}
