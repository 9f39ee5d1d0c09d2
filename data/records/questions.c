/* A question becomes a conversation in JSON: the record's messages, or one user message, with a choice as the
 * assistant's last message. The chat template renders it, so a question is asked exactly as training data is written.
 * Every choice is rendered and tokenized with the whole prompt. */
#include "data/records/questions.h"

#include "base/memory.h"
#include "data/text/lines.h"

#include <stdlib.h>
#include <string.h>

struct Questions {
    Question *items;
    size_t count, capacity;
};

typedef struct {
    Questions *questions;
    Encoder *encoder;
    ChatOptions options;
    size_t max_length;
    Text messages; /* of the current record, with a choice as the last message */
    ChatText chat;
    Tokens tokens;
} QuestionBuilder;

enum { MESSAGES, QUESTION, CHOICES, ANSWER, TOOLS, DOMAIN, SUBJECT, N_KEYS };
static const char *const keys[N_KEYS] = {"messages", "question", "choices", "answer", "tools", "domain", "subject"};

/* ---- one record ---- */

/* The conversation as JSON, with `turn` (a JSON string; absent: none) as the assistant's last message. */
static Err *build_conversation(QuestionBuilder *b, const JsonView field[], JsonView turn)
{
    Text *out = &b->messages;
    text_clear(out);
    if (view_is(field[MESSAGES], JSON_ARRAY)) {
        size_t n = field[MESSAGES].bytes - 1; /* without the closing bracket */
        text_add(out, field[MESSAGES].at, n);
        if (turn.at && view_first(field[MESSAGES]).value.at) text_put(out, ",");
    } else if (view_is(field[QUESTION], JSON_STRING)) {
        text_put(out, "[{\"role\":\"user\",\"content\":");
        text_add(out, field[QUESTION].at, field[QUESTION].bytes);
        text_put(out, turn.at ? "}," : "}");
    } else {
        return err_new(ERR_DATA, "the record has an answer, but no question (a string) and no messages (an array)");
    }
    if (turn.at) {
        text_put(out, "{\"role\":\"assistant\",\"content\":");
        text_add(out, turn.at, turn.bytes);
        text_put(out, "}");
    }
    text_put(out, "]");
    return text_error(out);
}

static Err *encode_conversation(QuestionBuilder *b, const ChatOptions *options, const JsonView field[], JsonView turn)
{
    JsonView messages;
    TRY(build_conversation(b, field, turn));
    TRY(view_open(&messages, b->messages.data, b->messages.n));
    TRY(chat_render(&b->chat, options, messages, field[TOOLS]));
    b->tokens.n = 0;
    TRY(tokenizer_encode(b->encoder, b->chat.text.data, b->chat.text.n, &b->tokens));
    if (b->tokens.n > b->max_length)
        return err_new(ERR_DATA, "%zu tokens; max_length is %zu, and a question is never cut", b->tokens.n,
                       b->max_length);
    return NULL;
}

/* Add a choice as a document. The choice is the last span in the loss, and the text ends with it. */
static Err *add_choice(QuestionBuilder *b, const JsonView field[], JsonView choice, Question *q)
{
    ChatOptions options = b->options;
    if (!view_is(choice, JSON_STRING))
        return err_new(ERR_DATA, "choice %zu is %s; expected a string", q->n_choices, view_kind_name(choice));
    options.add_generation_prompt = options.end_of_text = false;
    TRY(encode_conversation(b, &options, field, choice));
    Document *d = &q->choices[q->n_choices++];
    *d = (Document){.n = b->tokens.n, .record = q->record};
    TRY(mem_new(&d->ids, d->n, sizeof *d->ids));
    TRY(mem_new(&d->targets, d->n, sizeof *d->targets));
    size_t from = b->chat.n_spans ? b->chat.spans[b->chat.n_spans - 1].begin : SIZE_MAX;
    for (size_t i = 0; i < d->n; i++) {
        d->ids[i] = b->tokens.items[i].id;
        d->targets[i] = -1;
        if (i == 0 || b->tokens.items[i - 1].end < from) continue;
        d->targets[i - 1] = d->ids[i];
        d->n_loss_tokens++;
    }
    return d->n_loss_tokens ? NULL : err_new(ERR_DATA, "choice %zu is empty", q->n_choices - 1);
}

static Err *find_answer(const JsonView field[], Question *q)
{
    Text text = {0};
    JsonView answer = field[ANSWER];
    size_t i = 0;
    q->answer = q->n_choices;
    if (view_is(answer, JSON_NUMBER)) {
        char *end;
        size_t index = (size_t)strtoul(answer.at, &end, 10);
        if (end == answer.at + answer.bytes) q->answer = index; /* a whole number */
    } else if (view_is(answer, JSON_STRING)) {
        view_string(&text, answer);
        TRY(text_error(&text));
        for (JsonViewItem c = view_first(field[CHOICES]); c.value.at; view_next(&c), i++)
            if (q->answer == q->n_choices && text.data && view_equals(c.value, text.data)) q->answer = i;
        if (q->answer == q->n_choices && text.n == 1 && text.data[0] >= 'A') q->answer = (size_t)(text.data[0] - 'A');
    }
    text_free(&text);
    if (q->answer < q->n_choices) return NULL;
    return err_new(ERR_DATA, "answer is %.*s; expected the index, the letter or the text of one of %zu choices",
                   answer.bytes < 60 ? (int)answer.bytes : 60, answer.at, q->n_choices);
}

static Err *add_choices(QuestionBuilder *b, const JsonView field[], Question *q)
{
    size_t n = 0;
    for (JsonViewItem c = view_first(field[CHOICES]); c.value.at; view_next(&c)) n++;
    if (n < 2)
        return err_new(ERR_DATA, "choices is %s; expected a list of two at least", view_kind_name(field[CHOICES]));
    TRY(mem_new(&q->choices, n, sizeof *q->choices));
    for (JsonViewItem c = view_first(field[CHOICES]); c.value.at; view_next(&c)) TRY(add_choice(b, field, c.value, q));
    return find_answer(field, q);
}

static Err *add_prompt(QuestionBuilder *b, const JsonView field[], Question *q)
{
    Text text = {0};
    ChatOptions options = b->options;
    options.add_generation_prompt = true;
    options.end_of_text = false;
    TRY(encode_conversation(b, &options, field, (JsonView){0}));
    TRY(mem_new(&q->prompt, b->tokens.n, sizeof *q->prompt));
    for (size_t i = 0; i < b->tokens.n; i++) q->prompt[i] = b->tokens.items[i].id;
    q->n_prompt = b->tokens.n;
    if (view_is(field[ANSWER], JSON_STRING))
        view_string(&text, field[ANSWER]);
    else if (view_is(field[ANSWER], JSON_NUMBER))
        text_add(&text, field[ANSWER].at, field[ANSWER].bytes);
    else
        return err_new(ERR_DATA, "answer is %s; expected a text or a number", view_kind_name(field[ANSWER]));
    Err *err = text_error(&text);
    if (!err) err = mem_copy_bytes(&q->written, text.data ? text.data : "", text.n);
    text_free(&text);
    return err;
}

static Err *set_domain(const JsonView field[], Question *q)
{
    Text text = {0};
    JsonView domain = field[DOMAIN].at ? field[DOMAIN] : field[SUBJECT];
    if (!view_is(domain, JSON_STRING)) return NULL;
    view_string(&text, domain);
    Err *err = text_error(&text);
    if (!err) err = mem_copy_bytes(&q->domain, text.data ? text.data : "", text.n);
    text_free(&text);
    return err;
}

static Err *add_record(QuestionBuilder *b, const char *line, size_t bytes, size_t number)
{
    JsonView record, field[N_KEYS];
    Questions *all = b->questions;
    TRY(view_open(&record, line, bytes));
    view_find_all(record, N_KEYS, keys, field);
    if (!field[ANSWER].at) return err_new(ERR_DATA, "the record has no answer; the first one of the file has");
    TRY(mem_grow(&all->items, &all->capacity, all->count + 1, sizeof *all->items));
    Question *q = &all->items[all->count++];
    *q = (Question){.record = number};
    TRY(set_domain(field, q));
    return field[CHOICES].at ? add_choices(b, field, q) : add_prompt(b, field, q);
}

/* ---- the file ---- */

Err *questions_recognise(bool *asks, const char *path)
{
    LineReader *reader;
    JsonView record;
    const char *line;
    size_t bytes;
    *asks = false;
    TRY(lines_open(&reader, path));
    Err *err = lines_next(reader, &line, &bytes);
    while (!err && line && json_line_is_blank(line, bytes)) err = lines_next(reader, &line, &bytes);
    if (!err && line) err = err_wrap(view_open(&record, line, bytes), "%s: line %zu", path, lines_number(reader));
    if (!err && line) *asks = view_find(record, "answer").at != NULL;
    lines_close(reader);
    return err;
}

static Err *read_all(QuestionBuilder *b, LineReader *reader, const char *path)
{
    const char *line;
    size_t bytes;
    for (;;) {
        TRY(lines_next(reader, &line, &bytes));
        if (!line) break;
        size_t number = lines_number(reader);
        if (!json_line_is_blank(line, bytes))
            TRY(err_wrap(add_record(b, line, bytes, number), "%s: line %zu", path, number));
    }
    return b->questions->count ? NULL : err_new(ERR_DATA, "%s has no records", path);
}

Err *questions_open(Questions **out, const char *path, const Tokenizer *tokenizer, const ChatOptions *options,
                    size_t max_length)
{
    QuestionBuilder b = {.options = *options, .max_length = max_length};
    LineReader *reader = NULL;
    *out = NULL;
    Err *err = mem_new(&b.questions, 1, sizeof *b.questions);
    if (!err) err = encoder_new(&b.encoder, tokenizer);
    if (!err) err = lines_open(&reader, path);
    if (!err) err = read_all(&b, reader, path);
    lines_close(reader);
    encoder_free(b.encoder);
    text_free(&b.messages);
    chat_text_free(&b.chat);
    tokens_free(&b.tokens);
    if (err)
        questions_close(b.questions);
    else
        *out = b.questions;
    return err;
}

void questions_close(Questions *all)
{
    if (!all) return;
    for (size_t i = 0; i < all->count; i++) {
        Question *q = &all->items[i];
        for (size_t c = 0; c < q->n_choices; c++) {
            free(q->choices[c].ids);
            free(q->choices[c].targets);
        }
        free(q->choices);
        free(q->written);
        free(q->prompt);
        free(q->domain);
    }
    free(all->items);
    free(all);
}

size_t questions_count(const Questions *all) { return all->count; }
const Question *questions_get(const Questions *all, size_t i)
{
    ASSERT(i < all->count, "question %zu of %zu", i, all->count);
    return &all->items[i];
}
