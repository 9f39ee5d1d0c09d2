/* The entries of a byte-level BPE model, and its merges. An entry has an id, a text as the file spells it, and the
 * bytes that the text stands for.
 *
 * A byte-level file spells each byte as one printable character (GPT-2's table: printable Latin-1 as itself, the other
 * 68 bytes as U+0100 and up). An entry with any other character stands for its own UTF-8, as Hugging Face decodes it,
 * and is never found in text by bytes. */
#ifndef GRAFT_DATA_TOKENIZER_VOCABULARY_H
#define GRAFT_DATA_TOKENIZER_VOCABULARY_H

#include "data/text/json_view.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t text_at, text_n;   /* in `texts`; text_n 0: no such id */
    uint32_t bytes_at, bytes_n; /* in `bytes` */
} VocabularyEntry;

typedef struct {
    uint32_t hash;
    int32_t id; /* -1: free */
} VocabularySlot;

typedef struct {
    VocabularySlot *slots;
    size_t mask, n;
} VocabularyIndex;

typedef struct {
    uint64_t pair; /* left id, right id; UINT64_MAX: free */
    uint32_t rank; /* the lowest is merged first */
    int32_t id;    /* of the merged entry */
} Merge;

typedef struct {
    VocabularyEntry *entries; /* by id */
    size_t n, capacity;
    Text texts, bytes;
    VocabularyIndex by_text, by_bytes;
    int32_t byte_ids[256]; /* -1: the vocabulary lacks this byte */
    Merge *merges;         /* open addressing */
    size_t merge_mask, n_merges;
} Vocabulary;

/* Read model.vocab (an object of ids) and model.merges (`"a b"` or `["a", "b"]`).
 * Fails: ERR_FORMAT, naming the entry. */
MUST_USE Err *vocabulary_read(Vocabulary *vocabulary, JsonView vocab, JsonView merges);
void vocabulary_free(Vocabulary *vocabulary);

/* Add one entry (an added token). made_from_text: vocabulary_id_of_bytes may find it.
 * Fails: ERR_FORMAT, when the id is taken or too large, or the text is empty. */
MUST_USE Err *vocabulary_add(Vocabulary *vocabulary, int32_t id, const char *text, size_t n, bool made_from_text);

/* -1 when there is none. */
int32_t vocabulary_id_of_text(const Vocabulary *vocabulary, const char *text, size_t n);
int32_t vocabulary_id_of_bytes(const Vocabulary *vocabulary, const char *bytes, size_t n);

static inline uint64_t vocabulary_hash(const char *bytes, size_t n)
{
    uint64_t h = n * 0x9E3779B97F4A7C15u, word;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        h = (h ^ word) * 0xD1B54A32D192ED03u;
        h ^= h >> 29;
    }
    word = 0;
    for (size_t i = 0; i < n; i++) word = word << 8 | (unsigned char)bytes[i];
    h = (h ^ word) * 0x94D049BB133111EBu;
    return h ^ h >> 32;
}

static inline uint64_t vocabulary_pair(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static inline size_t vocabulary_merge_slot(uint64_t pair)
{
    pair *= 0x9E3779B97F4A7C15u;
    return (size_t)(pair ^ pair >> 32); /* the upper half depends on every bit */
}

/* The merge of two neighbours, or NULL. */
static inline const Merge *vocabulary_merge(const Vocabulary *vocabulary, int32_t left, int32_t right)
{
    uint64_t pair = vocabulary_pair(left, right);
    for (size_t at = vocabulary_merge_slot(pair) & vocabulary->merge_mask;; at = (at + 1) & vocabulary->merge_mask) {
        const Merge *merge = &vocabulary->merges[at];
        if (merge->pair == pair) return merge;
        if (merge->pair == UINT64_MAX) return NULL;
    }
}

#endif
