/* A record becomes a document in four steps: read it (record.h), render it (chat.h), tokenize it, cut it to max_length.
 *
 *   - A span of bytes in the loss becomes tokens in the loss: those that lie in it completely.
 *   - targets[i] is the token at i + 1 when that one is in the loss, else -1; the last target is always -1.
 *   - The first token of a record is never in the loss: nothing predicts it. */
#include "data/records/document.h"

#include "base/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct DocumentBuilder {
    const Tokenizer *tokenizer;
    Encoder *encoder;
    DocumentOptions options;
    Record record;
    ChatText chat; /* also for a text record, with its spans */
    Tokens tokens;
    Text domain;
    bool *in_loss;    /* [tokens.n] the model must predict token i */
    int32_t *ids;     /* the document's ids ... */
    int32_t *targets; /* ... and targets */
    size_t n, in_loss_capacity, id_capacity, target_capacity;
};

Err *document_builder_new(DocumentBuilder **out, const Tokenizer *tokenizer, const DocumentOptions *options)
{
    DocumentBuilder *b;
    *out = NULL;
    if (options->max_length < 2)
        return err_new(ERR_USAGE, "max_length is %zu; expected 2 at least", options->max_length);
    TRY(mem_new(&b, 1, sizeof *b));
    b->tokenizer = tokenizer;
    b->options = *options;
    b->options.chat.end_of_text = true;
    b->options.chat.add_generation_prompt = false;
    Err *err = encoder_new(&b->encoder, tokenizer);
    if (err)
        document_builder_free(b);
    else
        *out = b;
    return err;
}

void document_builder_free(DocumentBuilder *b)
{
    if (!b) return;
    encoder_free(b->encoder);
    record_free(&b->record);
    chat_text_free(&b->chat);
    tokens_free(&b->tokens);
    text_free(&b->domain);
    free(b->in_loss);
    free(b->ids);
    free(b->targets);
    free(b);
}

static Err *reserve(DocumentBuilder *b, size_t n)
{
    TRY(mem_grow(&b->in_loss, &b->in_loss_capacity, n, sizeof *b->in_loss));
    TRY(mem_grow(&b->ids, &b->id_capacity, n, sizeof *b->ids));
    return mem_grow(&b->targets, &b->target_capacity, n, sizeof *b->targets);
}

/* ---- tokens, and which of them are in the loss ---- */

static Err *render_conversation(DocumentBuilder *b)
{
    const Record *record = &b->record;
    ChatOptions chat = b->options.chat;
    chat.context_messages = record->context_messages;
    if (record->enable_thinking != CHAT_UNSET) chat.enable_thinking = record->enable_thinking;
    if (record->clear_thinking != CHAT_UNSET) chat.clear_thinking = record->clear_thinking;
    if (record->effort_given) chat.effort_high = record->effort_high;
    return chat_render(&b->chat, &chat, record->messages, record->tools);
}

static Err *render_text(DocumentBuilder *b)
{
    ChatText *chat = &b->chat;
    text_clear(&chat->text);
    text_add(&chat->text, b->record.text.data, b->record.text.n);
    text_put(&chat->text, template_of(b->options.chat.template)->end);
    chat->n_turns = chat->head = chat->n_spans = 0;
    TRY(text_error(&chat->text));
    TRY(mem_grow(&chat->spans, &chat->span_capacity, 1, sizeof *chat->spans));
    bool all = b->options.chat.train_on == CHAT_TRAIN_ALL;
    chat->spans[chat->n_spans++] = (ChatSpan){all ? 0 : b->record.context_bytes, chat->text.n};
    return NULL;
}

/* A token is in the loss when all its bytes are. Spans and tokens are in order, so one pass over both is enough. */
static Err *tokenize(DocumentBuilder *b)
{
    const ChatText *chat = &b->chat;
    size_t span = 0, begin = 0;
    b->tokens.n = 0;
    TRY(tokenizer_encode(b->encoder, chat->text.data, chat->text.n, &b->tokens));
    TRY(reserve(b, b->tokens.n));
    for (size_t i = 0; i < b->tokens.n; i++) {
        Token token = b->tokens.items[i];
        while (span < chat->n_spans && chat->spans[span].end < token.end) span++;
        b->in_loss[i] = i && span < chat->n_spans && chat->spans[span].begin <= begin;
        begin = token.end;
    }
    return NULL;
}

static Err *read_number(JsonView value, const char *what, size_t i, long *number)
{
    char *end;
    errno = 0;
    /* strtol stops at the comma or bracket that follows the number. */
    *number = view_is(value, JSON_NUMBER) ? strtol(value.at, &end, 10) : 0;
    if (!view_is(value, JSON_NUMBER) || errno || end != value.at + value.bytes)
        return err_new(ERR_DATA, "%s[%zu] is %.*s; expected an integer", what, i,
                       value.bytes < 30 ? (int)value.bytes : 30, value.at ? value.at : "");
    return NULL;
}

static Err *read_ids(DocumentBuilder *b)
{
    JsonView list = b->record.input_ids;
    long id, size = (long)tokenizer_size(b->tokenizer);
    b->tokens.n = 0;
    b->chat.n_turns = b->chat.head = 0;
    if (!view_is(list, JSON_ARRAY))
        return err_new(ERR_DATA, "input_ids is %s; expected an array", view_kind_name(list));
    for (JsonViewItem item = view_first(list); item.value.at; view_next(&item)) {
        TRY(read_number(item.value, "input_ids", b->tokens.n, &id));
        if (id < 0 || id >= size)
            return err_new(ERR_DATA, "input_ids[%zu] is %ld; the tokenizer has 0 to %ld", b->tokens.n, id, size - 1);
        TRY(tokens_add(&b->tokens, (int32_t)id, 0));
    }
    return reserve(b, b->tokens.n);
}

/* Labels as in Hugging Face: one for each token, at the same position; -100: not in the loss. */
static Err *read_labels(DocumentBuilder *b)
{
    JsonView list = b->record.labels;
    size_t n = 0;
    long label;
    for (size_t i = 0; i < b->tokens.n; i++) b->in_loss[i] = i > 0;
    if (!list.at) return NULL;
    if (!view_is(list, JSON_ARRAY)) return err_new(ERR_DATA, "labels is %s; expected an array", view_kind_name(list));
    for (JsonViewItem item = view_first(list); item.value.at; view_next(&item), n++) {
        TRY(read_number(item.value, "labels", n, &label));
        if (n >= b->tokens.n) continue;
        int32_t id = b->tokens.items[n].id;
        if (label != -100 && label != id)
            return err_new(ERR_DATA, "labels[%zu] is %ld; expected -100 or its token, %d", n, label, id);
        b->in_loss[n] = n && label != -100;
    }
    return n == b->tokens.n ? NULL : err_new(ERR_DATA, "%zu labels for %zu input_ids", n, b->tokens.n);
}

static Err *read_tokens(DocumentBuilder *b)
{
    if (b->record.input_ids.at) {
        TRY(read_ids(b));
        return read_labels(b);
    }
    TRY(b->record.messages.at ? render_conversation(b) : render_text(b));
    return tokenize(b);
}

/* ---- the cut ---- */

/* The tokens that are kept: [0, head) and [from, to). */
typedef struct {
    size_t head, from, to;
} Cut;

static size_t token_at(const DocumentBuilder *b, size_t byte) /* the first token that begins at this byte or after it */
{
    size_t low = 0, high = b->tokens.n;
    while (low < high) {
        size_t middle = low + (high - low) / 2, begin = middle ? b->tokens.items[middle - 1].end : 0;
        if (begin < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool any_in_loss(const DocumentBuilder *b, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (b->in_loss[i]) return true;
    return false;
}

static Cut cut_right(const DocumentBuilder *b)
{
    size_t max_length = b->options.max_length;
    for (size_t k = b->chat.n_turns; k-- > 1;) {
        size_t from = token_at(b, b->chat.turns[k - 1].begin), to = token_at(b, b->chat.turns[k].begin);
        if (to > max_length || !any_in_loss(b, from + 1, to)) continue; /* a question at the end trains nothing */
        return (Cut){0, 0, to < max_length && b->in_loss[to] ? to + 1 : to};
    }
    return (Cut){0, 0, max_length};
}

static Cut cut_left(const DocumentBuilder *b)
{
    size_t max_length = b->options.max_length, n = b->tokens.n, head = b->chat.n_turns ? token_at(b, b->chat.head) : 0;
    for (size_t k = 0; k < b->chat.n_turns; k++) {
        size_t from = token_at(b, b->chat.turns[k].begin);
        if (b->chat.turns[k].user && head + n - from <= max_length && any_in_loss(b, from + 1, n))
            return (Cut){head, from, n};
    }
    if (head > max_length / 2) head = 0; /* the head itself is too long */
    return (Cut){head, n - (max_length - head), n};
}

static Cut cut_of(const DocumentBuilder *b)
{
    if (b->tokens.n <= b->options.max_length) return (Cut){0, 0, b->tokens.n};
    return b->options.truncation == TRUNCATE_LEFT ? cut_left(b) : cut_right(b);
}

/* The first token after a gap is not in the loss: the text that it followed has been cut away. */
static void write_document(DocumentBuilder *b, Cut cut, Document *document)
{
    size_t n = 0;
    for (size_t i = 0; i < cut.to; i++) {
        if (i >= cut.head && i < cut.from) continue;
        bool in_loss = n && b->in_loss[i] && !(i == cut.from && cut.from > cut.head);
        b->ids[n] = b->tokens.items[i].id;
        b->targets[n] = -1;
        if (in_loss) b->targets[n - 1] = b->ids[n];
        document->n_loss_tokens += in_loss;
        n++;
    }
    document->n = n;
    document->ids = b->ids;
    document->targets = b->targets;
}

Err *document_builder_read(DocumentBuilder *b, const char *line, size_t bytes, BuiltDocument *built)
{
    *built = (BuiltDocument){0};
    TRY(record_read(&b->record, line, bytes, b->options.format, b->options.plain_prompts));
    text_clear(&b->domain);
    text_add(&b->domain, "", 0);
    if (b->record.domain.at) view_string(&b->domain, b->record.domain);
    TRY(text_error(&b->domain));
    TRY(read_tokens(b));
    bool longer = b->tokens.n > b->options.max_length;
    built->format = b->record.format;
    built->domain = b->domain.data;
    built->whole = b->tokens.n;
    if (!longer || b->options.truncation != TRUNCATE_DROP) write_document(b, cut_of(b), &built->document);
    built->dropped = longer && b->options.truncation == TRUNCATE_DROP;
    built->truncated = longer && !built->dropped;
    if (built->document.n_loss_tokens || built->dropped) return NULL;
    return err_new(ERR_DATA, "no token of the record is in the loss%s; every record must train something",
                   longer ? " within max_length" : "");
}
