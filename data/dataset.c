#include "data/dataset.h"

#include "base/arena.h"
#include "base/digest.h"
#include "base/memory.h"
#include "data/reader.h"

#include <stdlib.h>

struct Dataset {
    Document *documents;
    size_t count, capacity;
    Arena arena; /* ids and targets */
    DatasetTotals totals;
};

typedef struct {
    Dataset *dataset;
    Encoder *encoder;
    ChatOptions options;
    size_t max_length;
    ChatText chat;
    Tokens tokens;
} Build;

/* The keys by which other formats are known, so that the message can say what was seen. */
static Err *no_messages(Raw record)
{
    static const char *const others[] = {"conversations", "prompt", "completion", "instruction", "text",
                                         "input_ids", NULL};
    if (!raw_is(record, JSON_OBJECT))
        return err_new(ERR_DATA, "the record is %s; expected an object", raw_kind_name(record));
    for (const char *const *key = others; *key; key++)
        if (raw_find(record, *key).at)
            return err_new(ERR_DATA, "the record has %s and no messages; the one known format is messages (with tools)",
                           *key);
    RawItem first = raw_first(record);
    if (!first.value.at) return err_new(ERR_DATA, "the record is empty; the one known format is messages (with tools)");
    return err_new(ERR_DATA,
                   "the record has no messages (its first key is %.*s); the one known format is messages (with tools)",
                   first.key.bytes < 60 ? (int)first.key.bytes : 60, first.key.at);
}

/* A token is scored when all its bytes are. Spans and tokens are both in order, so one walk meets them all. */
static void set_targets(const Build *build, Document *document)
{
    const ChatText *chat = &build->chat;
    size_t span = 0, begin = 0;
    for (size_t i = 0; i < document->n; i++) {
        Token token = build->tokens.items[i];
        document->ids[i] = token.id;
        document->targets[i] = -1;
        while (span < chat->n_scored && chat->scored[span].end < token.end) span++;
        if (i && span < chat->n_scored && chat->scored[span].begin <= begin) {
            document->targets[i - 1] = token.id;
            document->n_scored++;
        }
        begin = token.end;
    }
}

static Err *add_document(Build *build, size_t line)
{
    Dataset *ds = build->dataset;
    bool cut = build->tokens.n > build->max_length;
    Document document = {.n = cut ? build->max_length : build->tokens.n, .record = line};
    TRY(mem_grow(&ds->documents, &ds->capacity, ds->count + 1, sizeof *ds->documents));
    document.ids = arena_alloc(&ds->arena, 2 * document.n * sizeof *document.ids);
    if (!document.ids) return err_new(ERR_MEMORY, "out of memory for %zu tokens", document.n);
    document.targets = document.ids + document.n;
    set_targets(build, &document);
    if (!document.n_scored)
        return err_new(ERR_DATA, "nothing in the record is scored%s; every record must train something",
                       cut ? " within max_length" : "");
    ds->documents[ds->count++] = document;
    ds->totals.documents++;
    ds->totals.tokens += document.n;
    ds->totals.scored += document.n_scored;
    ds->totals.truncated += cut;
    if (document.n > ds->totals.longest) ds->totals.longest = document.n;
    return NULL;
}

static Err *add_record(Build *build, const char *line, size_t bytes, size_t number)
{
    Raw record;
    Err *err = raw_open(&record, line, bytes);
    if (err) {
        Err *told = err_new(ERR_DATA, "%s", err_message(err)); /* a bad record, whatever the reader of JSON calls it */
        err_free(err);
        return told;
    }
    static const char *const keys[] = {"messages", "tools"};
    Raw of[2];
    raw_find_all(record, 2, keys, of);
    if (!of[0].at) return no_messages(record);
    build->tokens.n = 0;
    TRY(chat_render(&build->chat, &build->options, of[0], of[1]));
    TRY(tokenizer_encode(build->encoder, build->chat.text.data, build->chat.text.n, &build->tokens));
    return add_document(build, number);
}

static bool is_blank(const char *line, size_t bytes)
{
    while (bytes && strchr(" \t\r", *line)) {
        line++;
        bytes--;
    }
    return bytes == 0;
}

static Err *read_all(Build *build, Reader *reader, const char *path)
{
    const char *line;
    size_t bytes;
    for (;;) {
        TRY(reader_line(reader, &line, &bytes));
        if (!line) break;
        size_t number = reader_line_number(reader);
        if (!is_blank(line, bytes)) TRY(err_wrap(add_record(build, line, bytes, number), "%s: line %zu", path, number));
    }
    return build->dataset->count ? NULL : err_new(ERR_DATA, "%s has no records", path);
}

Err *dataset_open(Dataset **out, const char *path, const Tokenizer *tokenizer, const ChatOptions *options,
                  size_t max_length)
{
    Build build = {.options = *options, .max_length = max_length};
    Reader *reader = NULL;
    *out = NULL;
    if (max_length < 2) return err_new(ERR_USAGE, "max_length is %zu; expected 2 at least", max_length);
    build.options.end_of_text = true;
    build.options.add_generation_prompt = false;
    Err *err = mem_new(&build.dataset, 1, sizeof *build.dataset);
    if (!err) err = encoder_new(&build.encoder, tokenizer);
    if (!err) err = reader_open(&reader, path);
    if (!err) err = read_all(&build, reader, path);
    reader_close(reader);
    encoder_free(build.encoder);
    chat_text_free(&build.chat);
    tokens_free(&build.tokens);
    if (err) dataset_close(build.dataset);
    else *out = build.dataset;
    return err;
}

void dataset_close(Dataset *ds)
{
    if (!ds) return;
    arena_free(&ds->arena);
    free(ds->documents);
    free(ds);
}

size_t dataset_count(const Dataset *ds) { return ds->count; }

const Document *dataset_document(const Dataset *ds, size_t i)
{
    ASSERT(i < ds->count, "document %zu of %zu", i, ds->count);
    return &ds->documents[i];
}

DatasetTotals dataset_totals(const Dataset *ds) { return ds->totals; }

static void add_numbers(Digest *digest, const int32_t *numbers, size_t n) /* the same on every machine */
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)numbers[i];
        unsigned char bytes[4] = {(unsigned char)x, (unsigned char)(x >> 8), (unsigned char)(x >> 16),
                                  (unsigned char)(x >> 24)};
        digest_add(digest, bytes, 4);
    }
}

void dataset_digest(const Dataset *ds, char hex[DATASET_DIGEST])
{
    unsigned char sum[DIGEST_SUM_BYTES];
    Digest digest;
    digest_init(&digest);
    for (size_t i = 0; i < ds->count; i++) {
        const Document *document = &ds->documents[i];
        add_numbers(&digest, &(int32_t){(int32_t)document->n}, 1);
        add_numbers(&digest, document->ids, document->n);
        add_numbers(&digest, document->targets, document->n);
    }
    digest_end(&digest, sum);
    digest_hex(sum, (DATASET_DIGEST - 1) / 2, hex);
}
