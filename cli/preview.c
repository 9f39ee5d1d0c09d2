/* graft preview --model DIR DATA...: show what a run would train on, token by token, before it does. The records are
 * rendered and tokenized by the code that training uses. Nothing of a record can steer the terminal or run in the
 * page. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/output.h"
#include "cli/preview_page.h"
#include "cli/verbs.h"
#include "data/text/lines.h"
#include "data/records/settings.h"
#include "data/text/unicode.h"
#include "model/model.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    bool help, ids, json;
    char *model, *html, *color;
    int64_t n, record, scan;
    DataSettings data;
} PreviewSettings;

static const Option preview_table[] = {
    {"model", OPT_TEXT, offsetof(PreviewSettings, model),
     .help = "a Hugging Face directory: its tokenizer and template"},
    {"n", OPT_INT, offsetof(PreviewSettings, n), .preset = "3", .min = 0, .max = 1e6,
     .help = "number of records shown, from the first one"},
    {"record", OPT_INT, offsetof(PreviewSettings, record), .preset = "0", .min = 0, .max = 1e12,
     .help = "show only this record of the files, counted from 1"},
    {"scan", OPT_INT, offsetof(PreviewSettings, scan), .preset = "100000", .min = 0, .max = 1e12,
     .help = "number of records in the totals; 0: all"},
    {"ids", OPT_FLAG, offsetof(PreviewSettings, ids), .help = "print the id after each token"},
    {"color", OPT_TEXT, offsetof(PreviewSettings, color), .preset = "auto", .choices = "auto always never",
     .help = "never: brackets mark the tokens in the loss"},
    {"html", OPT_TEXT, offsetof(PreviewSettings, html),
     .help = "write one HTML page to this file (-: standard output) instead"},
    {"json", OPT_FLAG, offsetof(PreviewSettings, json), .help = "print JSON instead"},
    DATA_OPTIONS(offsetof(PreviewSettings, data)),
    {"help", OPT_FLAG, offsetof(PreviewSettings, help), .help = "print this list"},
    {0}};

typedef struct {
    PreviewSettings settings;
    DocumentOptions options;
    Tokenizer *tokenizer;
    DocumentBuilder *builder;
    Preview preview;
    size_t n_seen;
} Previewer;

/* ---- text that is safe to show ---------------------------------------------------------------------------------- */

/* Characters that would steer a terminal or reorder text: control characters, and Unicode's direction marks. */
static bool steers(uint32_t c)
{
    return (c < 0x20 && c != '\n') || (c >= 0x7F && c < 0xA0) || c == 0x61C || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

/* Text with those characters escaped: as \t, \x1b or \u202e. */
static Err *escape_text(const Text *text, char **shown)
{
    Text out = {0};
    text_add(&out, "", 0);
    for (size_t at = 0; at < text->n;) {
        uint32_t c;
        char escape[16];
        size_t n = unicode_next(text->data + at, text->n - at, &c);
        if (c < UNICODE_BROKEN && !steers(c)) {
            text_add(&out, text->data + at, n);
        } else {
            if (c == '\t' || c == '\r')
                snprintf(escape, sizeof escape, "\\%c", c == '\t' ? 't' : 'r');
            else
                snprintf(escape, sizeof escape, c < 0x100 ? "\\x%02x" : "\\u%04x",
                         c < UNICODE_BROKEN ? (unsigned)c : 0xFFFDu);
            text_put(&out, escape);
        }
        at += n ? n : 1;
    }
    Err *err = text_error(&out);
    if (err)
        text_free(&out);
    else
        *shown = out.data;
    return err;
}

/* ---- gathering ------------------------------------------------------------------------------------------------ */

/* A character that several tokens form together is shown with the last of them. */
static Err *show_tokens(const Previewer *p, ShownRecord *record)
{
    const Document *d = &record->built.document;
    TokenStream stream = {.tokenizer = p->tokenizer};
    Text text = {0};
    TRY(mem_new(&record->tokens, d->n, sizeof *record->tokens));
    Err *err = NULL;
    for (size_t i = 0; i < d->n && !err; i++) {
        text_clear(&text);
        err = token_stream_put(&stream, d->ids[i], &text);
        if (!err && i + 1 == d->n) err = token_stream_end(&stream, &text);
        if (err) break;
        ShownToken *token = &record->tokens[record->n++];
        bool special = tokenizer_is_special(p->tokenizer, d->ids[i]);
        *token = (ShownToken){.id = d->ids[i],
                              .in_loss = i && d->targets[i - 1] >= 0,
                              .special = tokenizer_is_added(p->tokenizer, d->ids[i]),
                              .begins_turn = special && i && i + 1 < d->n &&
                                             !tokenizer_is_special(p->tokenizer, d->ids[i - 1])};
        err = escape_text(&text, &token->text);
    }
    text_free(&text);
    return err;
}

static bool is_wanted(const Previewer *p)
{
    const PreviewSettings *s = &p->settings;
    return s->record ? p->n_seen == (size_t)s->record : p->n_seen <= (size_t)s->n;
}

static Err *note(Previewer *p, const BuiltDocument *built, const char *file, size_t line)
{
    Preview *v = &p->preview;
    DatasetTotals *t = &v->totals;
    p->n_seen++;
    v->formats[built->format]++;
    t->dropped += built->dropped;
    t->documents += !built->dropped;
    t->tokens += built->document.n;
    t->n_loss_tokens += built->document.n_loss_tokens;
    t->truncated += built->truncated;
    if (built->document.n > t->longest) t->longest = built->document.n;
    TRY(mem_grow(&v->lengths, &v->length_capacity, v->n_lengths + 1, sizeof *v->lengths));
    v->lengths[v->n_lengths++] = built->whole;
    if (!is_wanted(p)) return NULL;
    TRY(mem_grow(&v->records, &v->capacity, v->n_records + 1, sizeof *v->records));
    ShownRecord *record = &v->records[v->n_records++];
    *record = (ShownRecord){.file = file, .line = line, .whole = built->whole, .built = *built};
    Text domain = {0};
    text_put(&domain, built->domain);
    Err *err = escape_text(&domain, &record->domain);
    text_free(&domain);
    return err ? err : show_tokens(p, record);
}

static Err *read_file(Previewer *p, const char *path)
{
    LineReader *reader;
    const char *line;
    size_t bytes, max_records = (size_t)p->settings.scan;
    TRY(lines_open(&reader, path));
    Err *err = NULL;
    while (!err && !(err = lines_next(reader, &line, &bytes)) && line) {
        BuiltDocument built;
        if (json_line_is_blank(line, bytes)) continue;
        if (max_records && p->n_seen >= max_records && p->n_seen >= (size_t)p->settings.record) {
            p->preview.more = true;
            break;
        }
        err = document_builder_read(p->builder, line, bytes, &built);
        if (!err) err = note(p, &built, path, lines_number(reader));
        err = err_wrap(err, "%s: line %zu", path, lines_number(reader));
    }
    lines_close(reader);
    return err;
}

/* ---- on the terminal ------------------------------------------------------------------------------------------ */

static void begin_style(const ShownToken *t, bool color)
{
    if (color)
        fputs(t->special ? t->in_loss ? "\x1b[1;4;32m" : "\x1b[4;36m" : t->in_loss ? "\x1b[1;32m" : "\x1b[2m", stdout);
}

static void print_token(const ShownToken *t, bool color, bool ids)
{
    begin_style(t, color);
    for (const char *c = t->text; *c; c++) {
        if (*c != '\n') {
            putchar(*c);
            continue;
        }
        fputs(color ? "\xE2\x8F\x8E\x1b[0m\n" : "\xE2\x8F\x8E\n", stdout); /* a style ends with its line */
        begin_style(t, color);
    }
    if (ids) printf("%s%d", *t->text ? "/" : "", t->id);
    if (color) fputs("\x1b[0m", stdout);
    if (ids) putchar(' ');
}

static void print_record(const ShownRecord *r, bool color, bool ids)
{
    const Document *d = &r->built.document;
    printf("%s%s: line %zu%s  %s%s%s, %zu tokens, %zu in the loss", color ? "\x1b[1m" : "", r->file, r->line,
           color ? "\x1b[0m" : "", record_format_name(r->built.format), *r->domain ? ", domain " : "", r->domain, d->n,
           d->n_loss_tokens);
    if (r->built.truncated) printf(", cut from %zu", r->whole);
    if (r->built.dropped) printf(", dropped: %zu tokens", r->whole);
    putchar('\n');
    for (size_t i = 0; i < r->n; i++) {
        bool before = i && r->tokens[i - 1].in_loss;
        if (!color && r->tokens[i].in_loss != before) fputs(before ? "\xE2\x9F\xA7" : "\xE2\x9F\xA6", stdout);
        if (r->tokens[i].begins_turn) putchar('\n'); /* not in the text: line breaks of the text have a mark */
        print_token(&r->tokens[i], color, ids);
    }
    puts(!color && r->n && r->tokens[r->n - 1].in_loss ? "\xE2\x9F\xA7\n" : "\n");
}

static void print_summary(const Preview *v)
{
    enum { BAR = 40 };
    size_t width, bins[PREVIEW_BINS], highest = 1, last = 0;
    printf("%zu documents%s, %zu tokens, %zu in the loss, longest %zu, %zu cut, %zu dropped; template %s, train_on %s, "
           "max_length %zu\n",
           v->totals.documents, v->more ? " (the first ones)" : "", v->totals.tokens, v->totals.n_loss_tokens,
           v->totals.longest, v->totals.truncated, v->totals.dropped, v->template, v->train_on, v->max_length);
    for (RecordFormat f = RECORD_MESSAGES; f < RECORD_FORMATS; f++)
        if (v->formats[f]) printf("  %zu %s\n", v->formats[f], record_format_name(f));
    preview_bins(v, &width, bins);
    for (size_t i = 0; i < PREVIEW_BINS; i++) {
        highest = bins[i] > highest ? bins[i] : highest;
        if (bins[i]) last = i;
    }
    puts("documents by their tokens, before any cut");
    for (size_t i = 0; i <= last; i++) {
        printf("%9zu  ", i * width);
        for (size_t k = 0; k < (bins[i] * BAR + highest - 1) / highest; k++) fputs("\xE2\x96\x88", stdout);
        printf(" %zu\n", bins[i]);
    }
}

/* ---- as JSON -------------------------------------------------------------------------------------------------- */

static Json *record_json(const ShownRecord *r)
{
    Json *record = json_new_object(), *tokens = json_new_array();
    json_add_string(record, "file", r->file);
    json_add_number(record, "line", (double)r->line);
    json_add_string(record, "format", record_format_name(r->built.format));
    json_add_string(record, "domain", r->domain);
    json_add_number(record, "whole", (double)r->whole);
    json_add_bool(record, "dropped", r->built.dropped);
    for (size_t i = 0; i < r->n; i++) {
        Json *token = json_new_object();
        json_add_number(token, "id", r->tokens[i].id);
        json_add_string(token, "text", r->tokens[i].text);
        json_add_bool(token, "scored", r->tokens[i].in_loss);
        json_add_bool(token, "special", r->tokens[i].special);
        json_add(tokens, NULL, token);
    }
    json_add(record, "tokens", tokens);
    return record;
}

static Err *print_json(const Preview *v)
{
    Json *all = json_new_object(), *records = json_new_array(), *histogram = json_new_array();
    size_t width, bins[PREVIEW_BINS];
    char *text;
    preview_bins(v, &width, bins);
    for (size_t i = 0; i < v->n_records; i++) json_add(records, NULL, record_json(&v->records[i]));
    for (size_t i = 0; i < PREVIEW_BINS; i++) {
        Json *bin = json_new_object();
        json_add_number(bin, "from", (double)(i * width));
        json_add_number(bin, "documents", (double)bins[i]);
        json_add(histogram, NULL, bin);
    }
    json_add_string(all, "template", v->template);
    json_add_number(all, "documents", (double)v->totals.documents);
    json_add_number(all, "tokens", (double)v->totals.tokens);
    json_add_number(all, "scored", (double)v->totals.n_loss_tokens);
    json_add_number(all, "longest", (double)v->totals.longest);
    json_add_number(all, "truncated", (double)v->totals.truncated);
    json_add_number(all, "dropped", (double)v->totals.dropped);
    json_add_bool(all, "more", v->more);
    json_add(all, "records", records);
    json_add(all, "histogram", histogram);
    Err *err = json_print(all, false, &text);
    json_free(all);
    if (err) return err;
    puts(text);
    free(text);
    return NULL;
}

static Err *write_page(const Preview *v, const char *path)
{
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return err_new(ERR_MEMORY, "out of memory for %s", path);
    preview_page(out, v);
    bool failed = ferror(out) != 0;
    failed |= fclose(out) != 0;
    Err *err = failed ? err_new(ERR_MEMORY, "out of memory for %s", path) : file_write(path, text, bytes);
    free(text);
    if (!err && strcmp(path, "-") != 0) log_line("wrote %s", path);
    return err;
}

/* ---- the verb ------------------------------------------------------------------------------------------------- */

static Err *report(const Previewer *p)
{
    const PreviewSettings *s = &p->settings;
    bool color = strcmp(s->color, "always") == 0 || (strcmp(s->color, "auto") == 0 && log_has_colors(STDOUT_FILENO));
    if (s->record && !p->preview.n_records)
        return err_new(ERR_USAGE, "there is no record %lld; the files have %zu records", (long long)s->record,
                       p->n_seen);
    if (s->html) return write_page(&p->preview, s->html);
    if (s->json) return print_json(&p->preview);
    for (size_t i = 0; i < p->preview.n_records; i++) print_record(&p->preview.records[i], color, s->ids);
    print_summary(&p->preview);
    return NULL;
}

static Err *open_parts(Previewer *p)
{
    const PreviewSettings *s = &p->settings;
    char path[PATH_BYTES];
    TRY(model_expect_directory(s->model));
    TRY(data_settings_read(&p->options, &s->data, s->model));
    TRY(file_join(path, s->model, "tokenizer.json"));
    TRY(tokenizer_open(&p->tokenizer, path));
    p->preview.template = template_of(p->options.chat.template)->name;
    p->preview.train_on = s->data.train_on;
    p->preview.max_length = p->options.max_length;
    return document_builder_new(&p->builder, p->tokenizer, &p->options);
}

static Err *preview(Previewer *p, int argc, char **argv, const char **files)
{
    size_t n_files;
    TRY(options_defaults(&p->settings, preview_table));
    TRY(options_arguments(&p->settings, preview_table, argc, argv, files, (size_t)argc, &n_files));
    if (p->settings.help) {
        printf("graft preview --model DIR DATA... [options]\n");
        options_help(stdout, preview_table);
        return NULL;
    }
    if (!p->settings.model || !n_files)
        return err_new(ERR_USAGE, "%s is missing: graft preview --model DIR DATA...",
                       p->settings.model ? "a data file" : "--model");
    TRY(output_check("--html", p->settings.html, n_files, files));
    TRY(output_check("--html", p->settings.html, 2,
                     (const char *[]){p->settings.model, p->settings.data.chat_template}));
    TRY(open_parts(p));
    for (size_t i = 0; i < n_files && !p->preview.more; i++) TRY(read_file(p, files[i]));
    return report(p);
}

int verb_preview(int argc, char **argv)
{
    Previewer p = {0};
    const char **files = NULL;
    Err *err = mem_new(&files, (size_t)argc, sizeof *files);
    if (!err) err = preview(&p, argc, argv, files);
    for (size_t i = 0; i < p.preview.n_records; i++) {
        ShownRecord *record = &p.preview.records[i];
        for (size_t k = 0; k < record->n; k++) free(record->tokens[k].text);
        free(record->tokens);
        free(record->domain);
    }
    free(p.preview.records);
    free(p.preview.lengths);
    document_builder_free(p.builder);
    tokenizer_close(p.tokenizer);
    options_free(&p.settings, preview_table);
    free(files);
    return err_report("preview", err);
}
