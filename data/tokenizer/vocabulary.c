/* Entries are stored by id; their texts and bytes lie in two shared buffers. Two hash tables (open addressing, at most
 * half full) find an id by text and by bytes, and a third, four fifths full at most, finds the merge of two ids.
 *
 * The number of merges is not known before they are read, so their table is sized by the commas in the array. */
#include "data/tokenizer/vocabulary.h"

#include "base/memory.h"
#include "data/text/unicode.h"

#include <stdlib.h>

enum { MAX_ID = 1 << 24 }; /* far above any vocabulary; a wrong id must not allocate gigabytes */

/* GPT-2's table, from character to byte; -1: not a byte.   Source: openai/gpt-2, src/encoder.py, bytes_to_unicode. */
static int byte_of_character(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xAC) || (code >= 0xAE && code <= 0xFF))
        return (int)code;
    if (code < 0x100 || code > 0x143) return -1;
    uint32_t k = code - 0x100; /* the k-th of the others: 00..20, 7F..A0, AD */
    return (int)(k <= 0x20 ? k : k <= 0x42 ? k - 0x21 + 0x7F : 0xAD);
}

/* Add the bytes that the text stands for to `bytes`. When it is not made of byte characters, add the text itself and
 * return false. */
static bool spell_bytes(Text *bytes, const char *text, size_t n)
{
    size_t from = bytes->n, at = from;
    text_add(bytes, text, n); /* never shorter than its bytes, which overwrite it */
    if (bytes->failed) return false;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += unicode_next(text + i, n - i, &code);
        int byte = byte_of_character(code);
        if (byte < 0) {
            memcpy(bytes->data + from, text, n);
            return false;
        }
        bytes->data[at++] = (char)byte;
    }
    bytes->n = at;
    return true;
}

/* ---- the indexes by text and by bytes ---- */

static Err *index_new(VocabularyIndex *index, size_t n)
{
    size_t size = 64;
    while (size < 2 * n) size *= 2;
    TRY(mem_new(&index->slots, size, sizeof *index->slots));
    memset(index->slots, 0xFF, size * sizeof *index->slots); /* every id -1 */
    index->mask = size - 1;
    index->n = 0;
    return NULL;
}

static void index_place(VocabularyIndex *index, VocabularySlot slot)
{
    size_t at = slot.hash & index->mask;
    while (index->slots[at].id >= 0) at = (at + 1) & index->mask;
    index->slots[at] = slot;
    index->n++;
}

static Err *index_add(VocabularyIndex *index, uint64_t hash, int32_t id)
{
    if (2 * index->n > index->mask) {
        VocabularyIndex wider;
        TRY(index_new(&wider, 2 * (index->mask + 1)));
        for (size_t i = 0; i <= index->mask; i++)
            if (index->slots[i].id >= 0) index_place(&wider, index->slots[i]);
        free(index->slots);
        *index = wider;
    }
    index_place(index, (VocabularySlot){(uint32_t)hash, id});
    return NULL;
}

int32_t vocabulary_id_of_text(const Vocabulary *v, const char *text, size_t n)
{
    uint32_t hash = (uint32_t)vocabulary_hash(text, n);
    for (size_t at = hash & v->by_text.mask;; at = (at + 1) & v->by_text.mask) {
        VocabularySlot slot = v->by_text.slots[at];
        if (slot.id < 0) return -1;
        const VocabularyEntry *e = &v->entries[slot.id];
        if (slot.hash == hash && e->text_n == n && !memcmp(v->texts.data + e->text_at, text, n)) return slot.id;
    }
}

int32_t vocabulary_id_of_bytes(const Vocabulary *v, const char *bytes, size_t n)
{
    uint32_t hash = (uint32_t)vocabulary_hash(bytes, n);
    for (size_t at = hash & v->by_bytes.mask;; at = (at + 1) & v->by_bytes.mask) {
        VocabularySlot slot = v->by_bytes.slots[at];
        if (slot.id < 0) return -1;
        const VocabularyEntry *e = &v->entries[slot.id];
        if (slot.hash == hash && e->bytes_n == n && !memcmp(v->bytes.data + e->bytes_at, bytes, n)) return slot.id;
    }
}

/* ---- reading ---- */

Err *vocabulary_add(Vocabulary *v, int32_t id, const char *text, size_t n, bool made_from_text)
{
    if (n == 0 || n > INT32_MAX / 2)
        return err_new(ERR_FORMAT, "token %d is empty or too long (%zu bytes)", (int)id, n);
    if (id < 0 || id >= MAX_ID)
        return err_new(ERR_FORMAT, "token %.*s: id %d is not in 0 to %d", n < 60 ? (int)n : 60, text, (int)id,
                       MAX_ID - 1);
    TRY(mem_grow(&v->entries, &v->capacity, (size_t)id + 1, sizeof *v->entries));
    if ((size_t)id >= v->n) v->n = (size_t)id + 1;
    VocabularyEntry *e = &v->entries[id];
    if (e->text_n)
        return err_new(ERR_FORMAT, "id %d belongs to %s and to %.*s", (int)id, v->texts.data + e->text_at,
                       n < 60 ? (int)n : 60, text);
    if (v->texts.n + v->bytes.n + 2 * n > INT32_MAX)
        return err_new(ERR_FORMAT, "the vocabulary has more than 2 GB of text");
    *e = (VocabularyEntry){(uint32_t)v->texts.n, (uint32_t)n, (uint32_t)v->bytes.n, 0};
    text_add(&v->texts, text, n);
    text_add(&v->texts, "", 1); /* so that callers can borrow the text as a C string */
    bool spelled = spell_bytes(&v->bytes, text, n);
    TRY(text_error(&v->texts));
    TRY(text_error(&v->bytes));
    e->bytes_n = (uint32_t)v->bytes.n - e->bytes_at;
    TRY(index_add(&v->by_text, vocabulary_hash(text, n), id));
    if (!spelled || !made_from_text) return NULL;
    const char *bytes = v->bytes.data + e->bytes_at;
    if (e->bytes_n == 1) v->byte_ids[(unsigned char)bytes[0]] = id;
    return index_add(&v->by_bytes, vocabulary_hash(bytes, e->bytes_n), id);
}

static Err *read_id(JsonView value, int32_t *id)
{
    char number[16] = "";
    if (!view_is(value, JSON_NUMBER) || value.bytes >= sizeof number)
        return err_new(ERR_FORMAT, "the id is %s; expected a whole number below %d", view_kind_name(value), MAX_ID);
    memcpy(number, value.at, value.bytes);
    char *end;
    long long n = strtoll(number, &end, 10);
    if (*end || n < 0 || n >= MAX_ID)
        return err_new(ERR_FORMAT, "the id is %s; expected a whole number below %d", number, MAX_ID);
    *id = (int32_t)n;
    return NULL;
}

static Err *read_entries(Vocabulary *v, JsonView vocab, Text *token)
{
    if (!view_is(vocab, JSON_OBJECT))
        return err_new(ERR_FORMAT, "model.vocab is %s; expected an object", view_kind_name(vocab));
    for (JsonViewItem item = view_first(vocab); item.value.at; view_next(&item)) {
        int32_t id = -1;
        text_clear(token);
        view_string(token, item.key);
        TRY(text_error(token));
        TRY(err_wrap(read_id(item.value, &id), "model.vocab: token %s", token->data));
        if (vocabulary_id_of_text(v, token->data, token->n) >= 0)
            return err_new(ERR_FORMAT, "model.vocab: token %s appears twice", token->data);
        TRY(err_wrap(vocabulary_add(v, id, token->data, token->n, true), "model.vocab"));
    }
    if (!v->n) return err_new(ERR_FORMAT, "model.vocab is empty");
    return NULL;
}

/* Write the two sides of a merge to `both`, one after the other; *left: the length of the left one. */
static Err *read_sides(JsonView merge, Text *both, size_t *left)
{
    text_clear(both);
    if (view_is(merge, JSON_ARRAY)) {
        JsonViewItem side = view_first(merge);
        size_t n = 0;
        for (; side.value.at; view_next(&side), n++) {
            if (!view_is(side.value, JSON_STRING))
                return err_new(ERR_FORMAT, "a side is %s; expected a string", view_kind_name(side.value));
            view_string(both, side.value);
            if (n == 0) *left = both->n;
        }
        if (n != 2) return err_new(ERR_FORMAT, "%zu sides; expected 2", n);
        return text_error(both);
    }
    if (!view_is(merge, JSON_STRING))
        return err_new(ERR_FORMAT, "is %s; expected a string or an array", view_kind_name(merge));
    view_string(both, merge);
    TRY(text_error(both));
    char *space = memchr(both->data, ' ', both->n);
    if (!space || memchr(space + 1, ' ', both->n - (size_t)(space + 1 - both->data)))
        return err_new(ERR_FORMAT, "\"%s\" is not two tokens with a space between", both->data);
    *left = (size_t)(space - both->data);
    memmove(space, space + 1, both->n - *left); /* with the zero byte at the end */
    both->n--;
    return NULL;
}

static Err *need(const Vocabulary *v, const char *text, size_t n, int32_t *id)
{
    *id = vocabulary_id_of_text(v, text, n);
    return *id >= 0 ? NULL : err_new(ERR_FORMAT, "%.*s is not in the vocabulary", n < 60 ? (int)n : 60, text);
}

static Err *read_merge(Vocabulary *v, JsonView item, size_t rank, Text *both)
{
    size_t left_n = 0;
    int32_t left, right, whole;
    TRY(read_sides(item, both, &left_n));
    TRY(need(v, both->data, left_n, &left));
    TRY(need(v, both->data + left_n, both->n - left_n, &right));
    TRY(need(v, both->data, both->n, &whole));
    uint64_t pair = vocabulary_pair(left, right);
    size_t at = vocabulary_merge_slot(pair) & v->merge_mask;
    while (v->merges[at].pair != UINT64_MAX && v->merges[at].pair != pair) at = (at + 1) & v->merge_mask;
    v->merges[at] = (Merge){pair, (uint32_t)rank, whole}; /* a later merge of the same ids counts, as in Rust */
    return NULL;
}

static Err *read_merges(Vocabulary *v, JsonView merges, Text *both)
{
    if (!view_is(merges, JSON_ARRAY))
        return err_new(ERR_FORMAT, "model.merges is %s; expected an array", view_kind_name(merges));
    size_t n = 0, size = 64, rank = 0;
    for (const char *c = merges.at; c < merges.at + merges.bytes; c++) n += *c == ','; /* at least all but one merge */
    while (size < n + n / 4) size *= 2;
    TRY(mem_new(&v->merges, size, sizeof *v->merges));
    memset(v->merges, 0xFF, size * sizeof *v->merges);
    v->merge_mask = size - 1;
    for (JsonViewItem item = view_first(merges); item.value.at; view_next(&item), rank++)
        TRY(err_wrap(read_merge(v, item.value, rank, both), "model.merges: merge %zu", rank));
    v->n_merges = rank;
    return NULL;
}

Err *vocabulary_read(Vocabulary *v, JsonView vocab, JsonView merges)
{
    Text token = {0};
    *v = (Vocabulary){0};
    memset(v->byte_ids, 0xFF, sizeof v->byte_ids);
    Err *err = index_new(&v->by_text, 1 << 10);
    if (!err) err = index_new(&v->by_bytes, 1 << 10);
    if (!err) err = read_entries(v, vocab, &token);
    if (!err) err = read_merges(v, merges, &token);
    text_free(&token);
    if (err) vocabulary_free(v);
    return err;
}

void vocabulary_free(Vocabulary *v)
{
    free(v->entries);
    free(v->merges);
    free(v->by_text.slots);
    free(v->by_bytes.slots);
    text_free(&v->texts);
    text_free(&v->bytes);
    *v = (Vocabulary){0};
}
