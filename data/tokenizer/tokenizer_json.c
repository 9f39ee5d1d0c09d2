/* Sections of a tokenizer.json -> TokenizerSpec. The vocabulary and the merges, which are large, are read in place
 * (data/text/json_view.h); the other sections are small and parsed with base/json.h.
 *
 * A setting that would change ids or text and is not implemented is refused, never ignored. */
#include "data/tokenizer/tokenizer_json.h"

#include "base/memory.h"
#include "data/text/unicode.h"

#include <stdlib.h>

static const char *type_of(const Json *section)
{
    const Json *type = json_find(section, "type");
    return type && json_kind(type) == JSON_STRING ? json_string(type) : "without a type";
}

static bool is_none(const Json *section) { return !section || json_kind(section) == JSON_NULL; }

static bool is_type(const Json *section, const char *type) { return !strcmp(type_of(section), type); }

static Err *read_normalizer(TokenizerSpec *spec, const Json *section)
{
    if (is_none(section)) return NULL;
    if (is_type(section, "NFC")) {
        spec->nfc = true;
        return NULL;
    }
    if (!is_type(section, "Sequence"))
        return err_new(ERR_FORMAT, "normalizer %s is not supported (known: NFC)", type_of(section));
    const Json *steps;
    TRY(json_get_array(section, "normalizers", &steps));
    for (const Json *step = json_first(steps); step; step = json_next(step)) TRY(read_normalizer(spec, step));
    return NULL;
}

static Err *add_split(TokenizerSpec *spec, const char *pattern, bool literal, bool removes_matches, bool removes_gaps)
{
    if (spec->n_splits == MAX_SPLITS) return err_new(ERR_FORMAT, "more than %d splits", MAX_SPLITS);
    Split *split = &spec->splits[spec->n_splits];
    TRY(regex_open(&split->regex, pattern, literal));
    split->removes_matches = removes_matches;
    split->removes_gaps = removes_gaps;
    spec->n_splits++;
    return NULL;
}

static Err *read_split(TokenizerSpec *spec, const Json *section)
{
    const char *behavior, *pattern;
    const Json *source;
    bool invert = false;
    TRY(json_get_object(section, "pattern", &source));
    TRY(json_get_string(section, "behavior", &behavior));
    TRY(json_may_bool(section, "invert", &invert));
    bool removed = !strcmp(behavior, "Removed"), literal = json_find(source, "String") != NULL;
    if (!removed && strcmp(behavior, "Isolated"))
        return err_new(ERR_FORMAT, "Split behavior %s is not supported (known: Isolated, Removed)", behavior);
    TRY(json_get_string(source, literal ? "String" : "Regex", &pattern));
    return add_split(spec, pattern, literal, removed && !invert, removed && invert);
}

static Err *read_byte_level(TokenizerSpec *spec, const Json *section)
{
    /* GPT-2's pattern, which ByteLevel applies unless use_regex is false. */
    static const char pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    bool prefix = true, use_regex = true;
    TRY(json_may_bool(section, "add_prefix_space", &prefix));
    TRY(json_may_bool(section, "use_regex", &use_regex));
    if (prefix) return err_new(ERR_FORMAT, "ByteLevel with add_prefix_space is not supported");
    return use_regex ? add_split(spec, pattern, false, false, false) : NULL;
}

static Err *read_pre_tokenizer(TokenizerSpec *spec, const Json *section, bool *byte_level)
{
    if (is_none(section)) return NULL;
    if (*byte_level) return err_new(ERR_FORMAT, "%s after ByteLevel is not supported", type_of(section));
    if (is_type(section, "Split")) return read_split(spec, section);
    if (is_type(section, "ByteLevel")) {
        *byte_level = true;
        return read_byte_level(spec, section);
    }
    if (!is_type(section, "Sequence"))
        return err_new(ERR_FORMAT, "%s is not supported (known: Sequence, Split, ByteLevel)", type_of(section));
    const Json *steps;
    TRY(json_get_array(section, "pretokenizers", &steps));
    for (const Json *step = json_first(steps); step; step = json_next(step))
        TRY(read_pre_tokenizer(spec, step, byte_level));
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

static Err *put_added(TokenizerSpec *spec, const Json *item)
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
    int32_t known = vocabulary_id_of_text(&spec->vocabulary, content, n);
    if (known >= 0 && known != added.id)
        return err_new(ERR_FORMAT, "is id %d here, %d in the vocabulary", (int)id, (int)known);
    if (known < 0) TRY(vocabulary_add(&spec->vocabulary, added.id, content, n, false));
    TRY(mem_grow(&spec->added, &spec->n_added, (size_t)id + 1, sizeof *spec->added));
    if (spec->added[id] != ADDED_SPECIAL) spec->added[id] = added.special ? ADDED_SPECIAL : ADDED_PLAIN;
    if (!normalized) return added_tokens_put(&spec->plain, added, content, n);
    bool same = true;
    Err *err = spec->nfc ? unicode_nfc(&form, content, n, &same) : NULL;
    if (!err) err = added_tokens_put(&spec->normalized, added, same ? content : form.data, same ? n : form.n);
    text_free(&form);
    return err;
}

/* Special tokens are added before the others, so that of two with the same text the special one counts. */
static Err *read_added(TokenizerSpec *spec, const Json *list)
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
            TRY(err_wrap(put_added(spec, item), "added_tokens: element %zu", i));
        }
    }
    return NULL;
}

/* Parse one of the small sections for base/json.h, whose getters name what is wrong. */
static Err *parse_section(JsonView section, const char *name, Json **parsed)
{
    *parsed = NULL;
    return section.at ? err_wrap(json_parse(parsed, section.at, section.bytes), "%s", name) : NULL;
}

static bool is_empty(JsonView value) { return !value.at || view_kind(value) == JSON_NULL || view_equals(value, ""); }

static Err *read_model(TokenizerSpec *spec, JsonView model)
{
    if (!view_is(model, JSON_OBJECT))
        return err_new(ERR_FORMAT, "model is %s; expected an object", view_kind_name(model));
    enum { TYPE, VOCAB, MERGES, FALLBACK, IGNORE, DROPOUT, PREFIX, SUFFIX, UNKNOWN, KEYS };
    static const char *const keys[KEYS] = {"type",
                                           "vocab",
                                           "merges",
                                           "byte_fallback",
                                           "ignore_merges",
                                           "dropout",
                                           "continuing_subword_prefix",
                                           "end_of_word_suffix",
                                           "unk_token"};
    JsonView field[KEYS];
    view_find_all(model, KEYS, keys, field);
    if (!view_equals(field[TYPE], "BPE"))
        return err_new(ERR_FORMAT, "model type %.*s is not supported (known: BPE)",
                       field[TYPE].at ? (int)field[TYPE].bytes : 4, field[TYPE].at ? field[TYPE].at : "none");
    if (view_is(field[FALLBACK], JSON_BOOL) && *field[FALLBACK].at == 't')
        return err_new(ERR_FORMAT, "byte_fallback is not supported");
    for (size_t i = DROPOUT; i < UNKNOWN; i++)
        if (!is_empty(field[i])) return err_new(ERR_FORMAT, "%s is not supported", keys[i]);
    spec->ignore_merges = view_is(field[IGNORE], JSON_BOOL) && *field[IGNORE].at == 't';
    TRY(vocabulary_read(&spec->vocabulary, field[VOCAB], field[MERGES]));
    if (is_empty(field[UNKNOWN])) return NULL;
    for (int byte = 0; byte < 256; byte++) /* a vocabulary with all bytes never needs unk_token */
        if (spec->vocabulary.byte_ids[byte] < 0)
            return err_new(ERR_FORMAT, "unk_token in a vocabulary that lacks byte 0x%02X is not supported", byte);
    return NULL;
}

static Err *read_sections(TokenizerSpec *spec, JsonView file)
{
    enum { NORMALIZER, PRE_TOKENIZER, DECODER, ADDED, MODEL, SECTIONS };
    static const char *const names[SECTIONS] = {"normalizer", "pre_tokenizer", "decoder", "added_tokens", "model"};
    JsonView field[SECTIONS];
    Json *parsed[MODEL] = {NULL};
    bool byte_level = false;
    Err *err = NULL;
    view_find_all(file, SECTIONS, names, field);
    for (size_t i = 0; i < MODEL && !err; i++) err = parse_section(field[i], names[i], &parsed[i]);
    if (err || (err = read_normalizer(spec, parsed[NORMALIZER]))) goto done;
    if ((err = err_wrap(read_pre_tokenizer(spec, parsed[PRE_TOKENIZER], &byte_level), "pre_tokenizer"))) goto done;
    if (!byte_level) err = err_new(ERR_FORMAT, "pre_tokenizer without ByteLevel is not supported");
    if (err || (err = check_decoder(parsed[DECODER]))) goto done;
    if ((err = read_model(spec, field[MODEL]))) goto done;
    err = read_added(spec, parsed[ADDED]);
done:
    for (size_t i = 0; i < MODEL; i++) json_free(parsed[i]);
    return err;
}

Err *tokenizer_json_read(TokenizerSpec *spec, JsonView file)
{
    *spec = (TokenizerSpec){0};
    if (!view_is(file, JSON_OBJECT)) return err_new(ERR_FORMAT, "is %s; expected an object", view_kind_name(file));
    Err *err = read_sections(spec, file);
    if (err) tokenizer_json_free(spec);
    return err;
}

void tokenizer_json_free(TokenizerSpec *spec)
{
    for (size_t i = 0; i < spec->n_splits; i++) regex_close(spec->splits[i].regex);
    added_tokens_free(&spec->plain);
    added_tokens_free(&spec->normalized);
    vocabulary_free(&spec->vocabulary);
    free(spec->added);
    *spec = (TokenizerSpec){0};
}
