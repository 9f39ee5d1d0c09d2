/* The stages of encoding, as in tokenizers 0.23 (tokenizer/mod.rs):
 *
 *   text -> added tokens that are not normalized | the rest
 *                      the rest -> NFC -> added tokens that are normalized | the rest
 *                                           the rest -> Split -> Split -> ... -> words -> BPE
 *
 * Every step hands its pieces straight to the next, so no list of pieces is kept. A Split sees its piece alone: what
 * stands outside it does not count for looking ahead or back. */
#include "data/tokenizer.h"

#include "base/memory.h"
#include "data/added.h"
#include "data/pattern.h"
#include "data/raw.h"
#include "data/reader.h"
#include "data/unicode.h"

#include <stdlib.h>

enum { MAX_SPLITS = 16 };

typedef struct {
    Pattern *pattern;
    bool removes_matches, removes_gaps;
} Split;

struct Tokenizer {
    Vocabulary vocabulary;
    AddedSet plain, normalized; /* added tokens, by what they are looked for in */
    bool *special;              /* by id */
    size_t n_special;
    Split splits[MAX_SPLITS];
    size_t n_splits;
    bool nfc, ignore_merges;
};

/* ---- reading the file ---- */

static const char *type_of(const Json *section)
{
    const Json *type = json_find(section, "type");
    return type && json_kind(type) == JSON_STRING ? json_string(type) : "without a type";
}

static bool is_none(const Json *section) { return !section || json_kind(section) == JSON_NULL; }

static bool is_type(const Json *section, const char *type) { return !strcmp(type_of(section), type); }

static Err *read_normalizer(Tokenizer *tok, const Json *section)
{
    if (is_none(section)) return NULL;
    if (is_type(section, "NFC")) {
        tok->nfc = true;
        return NULL;
    }
    if (!is_type(section, "Sequence"))
        return err_new(ERR_FORMAT, "normalizer %s is not supported (known: NFC)", type_of(section));
    const Json *steps;
    TRY(json_get_array(section, "normalizers", &steps));
    for (const Json *step = json_first(steps); step; step = json_next(step)) TRY(read_normalizer(tok, step));
    return NULL;
}

static Err *add_split(Tokenizer *tok, const char *regex, bool literal, bool removes_matches, bool removes_gaps)
{
    if (tok->n_splits == MAX_SPLITS) return err_new(ERR_FORMAT, "more than %d splits", MAX_SPLITS);
    Split *split = &tok->splits[tok->n_splits];
    TRY(pattern_open(&split->pattern, regex, literal));
    split->removes_matches = removes_matches;
    split->removes_gaps = removes_gaps;
    tok->n_splits++;
    return NULL;
}

static Err *read_split(Tokenizer *tok, const Json *section)
{
    const char *behavior, *regex;
    const Json *pattern;
    bool invert = false;
    TRY(json_get_object(section, "pattern", &pattern));
    TRY(json_get_string(section, "behavior", &behavior));
    TRY(json_may_bool(section, "invert", &invert));
    bool removed = !strcmp(behavior, "Removed"), literal = json_find(pattern, "String") != NULL;
    if (!removed && strcmp(behavior, "Isolated"))
        return err_new(ERR_FORMAT, "Split behavior %s is not supported (known: Isolated, Removed)", behavior);
    TRY(json_get_string(pattern, literal ? "String" : "Regex", &regex));
    return add_split(tok, regex, literal, removed && !invert, removed && invert);
}

static Err *read_byte_level(Tokenizer *tok, const Json *section)
{
    /* GPT-2's own pattern, which ByteLevel applies unless told not to. */
    static const char regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    bool prefix = true, use_regex = true;
    TRY(json_may_bool(section, "add_prefix_space", &prefix));
    TRY(json_may_bool(section, "use_regex", &use_regex));
    if (prefix) return err_new(ERR_FORMAT, "ByteLevel with add_prefix_space is not supported");
    return use_regex ? add_split(tok, regex, false, false, false) : NULL;
}

static Err *read_pre_tokenizer(Tokenizer *tok, const Json *section, bool *byte_level)
{
    if (is_none(section)) return NULL;
    if (*byte_level) return err_new(ERR_FORMAT, "%s after ByteLevel is not supported", type_of(section));
    if (is_type(section, "Split")) return read_split(tok, section);
    if (is_type(section, "ByteLevel")) {
        *byte_level = true;
        return read_byte_level(tok, section);
    }
    if (!is_type(section, "Sequence"))
        return err_new(ERR_FORMAT, "%s is not supported (known: Sequence, Split, ByteLevel)", type_of(section));
    const Json *steps;
    TRY(json_get_array(section, "pretokenizers", &steps));
    for (const Json *step = json_first(steps); step; step = json_next(step))
        TRY(read_pre_tokenizer(tok, step, byte_level));
    return NULL;
}

static Err *check_decoder(const Json *section)
{
    const Json *steps = json_find(section, "decoders");
    if (!is_none(section) && is_type(section, "Sequence") && steps && json_count(steps) == 1)
        section = json_first(steps);
    if (!is_none(section) && is_type(section, "ByteLevel")) return NULL;
    return err_new(ERR_FORMAT, "decoder %s is not supported (known: ByteLevel)",
                   is_none(section) ? "none" : type_of(section));
}

static Err *put_added(Tokenizer *tok, const Json *item)
{
    AddedToken added = {0};
    const char *content;
    int64_t id;
    bool normalized = false;
    Text form = {0};
    TRY(json_get_string(item, "content", &content));
    TRY(json_get_int(item, "id", 0, INT32_MAX, &id));
    TRY(json_may_bool(item, "special", &added.special));
    TRY(json_may_bool(item, "single_word", &added.single_word));
    TRY(json_may_bool(item, "lstrip", &added.lstrip));
    TRY(json_may_bool(item, "rstrip", &added.rstrip));
    TRY(json_may_bool(item, "normalized", &normalized));
    size_t n = strlen(content);
    if (n == 0) return NULL; /* Hugging Face's library ignores it too */
    added.id = (int32_t)id;
    int32_t known = vocabulary_id_of_text(&tok->vocabulary, content, n);
    if (known >= 0 && known != added.id)
        return err_new(ERR_FORMAT, "is id %d here, %d in the vocabulary", (int)id, (int)known);
    if (known < 0) TRY(vocabulary_add(&tok->vocabulary, added.id, content, n, false));
    TRY(mem_grow(&tok->special, &tok->n_special, (size_t)id + 1, sizeof *tok->special));
    tok->special[id] |= added.special;
    if (!normalized) return added_put(&tok->plain, added, content, n);
    bool same = true;
    Err *err = tok->nfc ? unicode_nfc(&form, content, n, &same) : NULL;
    if (!err) err = added_put(&tok->normalized, added, same ? content : form.data, same ? n : form.n);
    text_free(&form);
    return err;
}

/* Special tokens come before the others, so that of two with the same text the special one counts. */
static Err *read_added(Tokenizer *tok, const Json *list)
{
    if (is_none(list)) return NULL;
    if (json_kind(list) != JSON_ARRAY)
        return err_new(ERR_FORMAT, "added_tokens is %s; expected an array", json_kind_name(list));
    for (int special = 1; special >= 0; special--) {
        size_t i = 0;
        for (const Json *item = json_first(list); item; item = json_next(item), i++) {
            bool is_special = false;
            TRY(err_wrap(json_may_bool(item, "special", &is_special), "added_tokens: element %zu", i));
            if (is_special != (special == 1)) continue;
            TRY(err_wrap(put_added(tok, item), "added_tokens: element %zu", i));
        }
    }
    return NULL;
}

/* The small sections go through base/json.h, whose getters name what is wrong. */
static Err *parse_section(Raw section, const char *name, Json **parsed)
{
    *parsed = NULL;
    return section.at ? err_wrap(json_parse(parsed, section.at, section.bytes), "%s", name) : NULL;
}

static bool is_empty(Raw value) { return !value.at || raw_kind(value) == JSON_NULL || raw_equals(value, ""); }

static Err *read_model(Tokenizer *tok, Raw model)
{
    if (!raw_is(model, JSON_OBJECT))
        return err_new(ERR_FORMAT, "model is %s; expected an object", raw_kind_name(model));
    enum { TYPE, VOCAB, MERGES, FALLBACK, IGNORE, DROPOUT, PREFIX, SUFFIX, UNKNOWN, KEYS };
    static const char *const keys[KEYS] = {"type", "vocab", "merges", "byte_fallback", "ignore_merges", "dropout",
                                           "continuing_subword_prefix", "end_of_word_suffix", "unk_token"};
    Raw of[KEYS];
    raw_find_all(model, KEYS, keys, of);
    if (!raw_equals(of[TYPE], "BPE"))
        return err_new(ERR_FORMAT, "model type %.*s is not supported (known: BPE)",
                       of[TYPE].at ? (int)of[TYPE].bytes : 4, of[TYPE].at ? of[TYPE].at : "none");
    if (raw_is(of[FALLBACK], JSON_BOOL) && *of[FALLBACK].at == 't')
        return err_new(ERR_FORMAT, "byte_fallback is not supported");
    for (size_t i = DROPOUT; i < UNKNOWN; i++)
        if (!is_empty(of[i])) return err_new(ERR_FORMAT, "%s is not supported", keys[i]);
    tok->ignore_merges = raw_is(of[IGNORE], JSON_BOOL) && *of[IGNORE].at == 't';
    TRY(vocabulary_read(&tok->vocabulary, of[VOCAB], of[MERGES]));
    if (is_empty(of[UNKNOWN])) return NULL;
    for (int byte = 0; byte < 256; byte++) /* with all bytes in it, nothing is ever unknown */
        if (tok->vocabulary.byte_ids[byte] < 0)
            return err_new(ERR_FORMAT, "unk_token in a vocabulary that lacks byte 0x%02X is not supported", byte);
    return NULL;
}

static Err *read_file(Tokenizer *tok, Raw file)
{
    enum { NORMALIZER, PRE_TOKENIZER, DECODER, ADDED, MODEL, SECTIONS };
    static const char *const names[SECTIONS] = {"normalizer", "pre_tokenizer", "decoder", "added_tokens", "model"};
    Raw of[SECTIONS];
    Json *parsed[MODEL] = {NULL};
    bool byte_level = false;
    Err *err = NULL;
    raw_find_all(file, SECTIONS, names, of);
    for (size_t i = 0; i < MODEL && !err; i++) err = parse_section(of[i], names[i], &parsed[i]);
    if (err || (err = read_normalizer(tok, parsed[NORMALIZER]))) goto done;
    if ((err = err_wrap(read_pre_tokenizer(tok, parsed[PRE_TOKENIZER], &byte_level), "pre_tokenizer"))) goto done;
    if (!byte_level) err = err_new(ERR_FORMAT, "pre_tokenizer without ByteLevel is not supported");
    if (err || (err = check_decoder(parsed[DECODER]))) goto done;
    if ((err = read_model(tok, of[MODEL]))) goto done;
    err = read_added(tok, parsed[ADDED]);
done:
    for (size_t i = 0; i < MODEL; i++) json_free(parsed[i]);
    return err;
}

Err *tokenizer_open(Tokenizer **out, const char *path)
{
    Tokenizer *tok = NULL;
    Text text = {0};
    Raw file;
    *out = NULL;
    TRY(reader_whole(&text, path));
    Err *err = mem_new(&tok, 1, sizeof *tok);
    if (!err) err = raw_open(&file, text.data, text.n);
    if (!err && !raw_is(file, JSON_OBJECT)) err = err_new(ERR_FORMAT, "is %s; expected an object", raw_kind_name(file));
    if (!err) err = read_file(tok, file);
    text_free(&text);
    if (err) tokenizer_close(tok);
    else *out = tok;
    return err_wrap(err, "%s", path);
}

void tokenizer_close(Tokenizer *tok)
{
    if (!tok) return;
    for (size_t i = 0; i < tok->n_splits; i++) pattern_close(tok->splits[i].pattern);
    added_free(&tok->plain);
    added_free(&tok->normalized);
    vocabulary_free(&tok->vocabulary);
    free(tok->special);
    free(tok);
}

/* ---- encoding ---- */

struct Encoder {
    const Tokenizer *tokenizer;
    Matcher *matcher;
    Bpe *bpe;
    Text form; /* the NFC form of a stretch */
};

Err *encoder_new(Encoder **out, const Tokenizer *tok)
{
    Encoder *encoder;
    *out = NULL;
    TRY(mem_new(&encoder, 1, sizeof *encoder));
    encoder->tokenizer = tok;
    Err *err = matcher_new(&encoder->matcher);
    if (!err) err = bpe_new(&encoder->bpe, &tok->vocabulary, tok->ignore_merges);
    if (err) encoder_free(encoder);
    else *out = encoder;
    return err;
}

void encoder_free(Encoder *encoder)
{
    if (!encoder) return;
    matcher_free(encoder->matcher);
    bpe_free(encoder->bpe);
    text_free(&encoder->form);
    free(encoder);
}

/* A piece that the splits before `step` have left; its first byte is byte `begin` of the text. */
static Err *split_piece(Encoder *encoder, size_t step, const char *piece, size_t n, size_t begin, Tokens *out)
{
    if (n == 0) return NULL;
    if (step == encoder->tokenizer->n_splits) return bpe_word(encoder->bpe, piece, n, begin, out);
    const Split *split = &encoder->tokenizer->splits[step];
    for (size_t at = 0, from, to; at < n; at = to) {
        TRY(pattern_find(split->pattern, encoder->matcher, piece, n, at, &from, &to));
        if (!split->removes_gaps) TRY(split_piece(encoder, step + 1, piece + at, from - at, begin + at, out));
        if (!split->removes_matches) TRY(split_piece(encoder, step + 1, piece + from, to - from, begin + from, out));
    }
    return NULL;
}

static Err *encode_normalized(Encoder *encoder, const char *text, size_t n, size_t begin, Tokens *out)
{
    size_t at = 0, from = 0, left = 0, right = 0;
    const AddedToken *added;
    while ((added = added_next(&encoder->tokenizer->normalized, text, n, &from, &left, &right))) {
        if (at < left) TRY(split_piece(encoder, 0, text + at, left - at, begin + at, out));
        TRY(tokens_add(out, added->id, begin + right));
        at = right;
    }
    return at < n ? split_piece(encoder, 0, text + at, n - at, begin + at, out) : NULL;
}

static Err *normalize(Encoder *encoder, const char *text, size_t n, size_t begin, Tokens *out)
{
    bool same = true;
    size_t first = out->n;
    text_clear(&encoder->form);
    if (encoder->tokenizer->nfc) TRY(unicode_nfc(&encoder->form, text, n, &same));
    if (same) return encode_normalized(encoder, text, n, begin, out);
    TRY(encode_normalized(encoder, encoder->form.data, encoder->form.n, begin, out));
    for (size_t i = first; i < out->n; i++) /* the form may be longer or shorter than the text */
        if (i + 1 == out->n || out->items[i].end > begin + n) out->items[i].end = (uint32_t)(begin + n);
    return NULL;
}

static Err *encode_valid(Encoder *encoder, const char *text, size_t n, size_t begin, Tokens *out)
{
    size_t at = 0, from = 0, left = 0, right = 0;
    const AddedToken *added;
    while ((added = added_next(&encoder->tokenizer->plain, text, n, &from, &left, &right))) {
        if (at < left) TRY(normalize(encoder, text + at, left - at, begin + at, out));
        TRY(tokens_add(out, added->id, begin + right));
        at = right;
    }
    return at < n ? normalize(encoder, text + at, n - at, begin + at, out) : NULL;
}

Err *tokenizer_encode(Encoder *encoder, const char *text, size_t bytes, Tokens *out)
{
    if (bytes >= UINT32_MAX) return err_new(ERR_DATA, "a text of %zu bytes is too long to encode", bytes);
    for (size_t at = 0; at < bytes;) {
        size_t n = unicode_valid(text + at, bytes - at);
        if (n) TRY(encode_valid(encoder, text + at, n, at, out));
        at += n;
        uint32_t code;
        size_t broken = at < bytes ? unicode_next(text + at, bytes - at, &code) : 0;
        if (broken) TRY(bpe_word(encoder->bpe, text + at, broken, at, out));
        at += broken;
    }
    return NULL;
}

/* ---- decoding ---- */

/* The bytes of one id; none for an id that nobody has, or that is left out. */
static const char *bytes_of(const Tokenizer *tok, int32_t id, bool skip_special, size_t *n)
{
    *n = 0;
    if (id < 0 || (size_t)id >= tok->vocabulary.n || (skip_special && tokenizer_is_special(tok, id))) return "";
    const Entry *e = &tok->vocabulary.entries[id];
    *n = e->bytes_n;
    return e->bytes_n ? tok->vocabulary.bytes.data + e->bytes_at : "";
}

Err *tokenizer_decode(const Tokenizer *tok, const int32_t *ids, size_t n, bool skip_special, Text *out)
{
    TokenStream stream = {.tokenizer = tok, .skip_special = skip_special};
    for (size_t i = 0; i < n; i++) TRY(stream_put(&stream, ids[i], out));
    return stream_end(&stream, out);
}

/* At most three bytes are held: the longest beginning of a character that is not yet one. */
Err *stream_put(TokenStream *stream, int32_t id, Text *out)
{
    size_t n, used = 0;
    const char *bytes = bytes_of(stream->tokenizer, id, stream->skip_special, &n);
    while (stream->n_held && used < n) { /* finish what waits, a byte at a time */
        stream->held[stream->n_held++] = bytes[used++];
        size_t shown = unicode_lossy(out, stream->held, stream->n_held, false);
        stream->n_held -= shown;
        memmove(stream->held, stream->held + shown, stream->n_held);
    }
    if (used < n) {
        used += unicode_lossy(out, bytes + used, n - used, false);
        stream->n_held = n - used;
        memcpy(stream->held, bytes + used, stream->n_held);
    }
    return text_error(out);
}

Err *stream_end(TokenStream *stream, Text *out)
{
    text_add(out, "", 0);
    unicode_lossy(out, stream->held, stream->n_held, true);
    stream->n_held = 0;
    return text_error(out);
}

/* ---- tokens by name ---- */

size_t tokenizer_size(const Tokenizer *tok) { return tok->vocabulary.n; }

int32_t tokenizer_id_of(const Tokenizer *tok, const char *token)
{
    return vocabulary_id_of_text(&tok->vocabulary, token, strlen(token));
}

const char *tokenizer_token(const Tokenizer *tok, int32_t id)
{
    if (id < 0 || (size_t)id >= tok->vocabulary.n || !tok->vocabulary.entries[id].text_n) return NULL;
    return tok->vocabulary.texts.data + tok->vocabulary.entries[id].text_at;
}

bool tokenizer_is_special(const Tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->n_special && tok->special[id];
}
