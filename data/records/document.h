/* A record -> a document: tokens, and what each position must predict. */
#ifndef GRAFT_DATA_RECORDS_DOCUMENT_H
#define GRAFT_DATA_RECORDS_DOCUMENT_H

#include "data/records/record.h"
#include "data/tokenizer/tokenizer.h"

typedef struct {
    size_t n;
    int32_t *ids;
    int32_t *targets; /* targets[i]: the token that position i must predict; -1: not in the loss */
    size_t n_loss_tokens;
    size_t record;   /* line number in the file, from 1 */
    uint32_t file;   /* index of its file */
    uint32_t domain; /* dataset_domain() names it; 0: none given */
} Document;

/* What to do with a record that is longer than max_length.
 *   RIGHT  keep whole turns from the beginning; the last one with the role token that ends it
 *   LEFT   keep what is before the first turn (tools, system messages) and the last turns, starting with a user's
 *   DROP   leave the record out
 * When a single turn is too long, so that no token of whole turns would be in the loss, RIGHT and LEFT cut it. */
typedef enum { TRUNCATE_RIGHT, TRUNCATE_LEFT, TRUNCATE_DROP } Truncation;

typedef struct {
    ChatOptions chat; /* end_of_text and add_generation_prompt are ignored */
    Truncation truncation;
    size_t max_length; /* tokens */
    RecordFormat format;
    bool plain_prompts;
} DocumentOptions;

/* What one thread needs to build documents. The tokenizer is borrowed. */
typedef struct DocumentBuilder DocumentBuilder;

MUST_USE Err *document_builder_new(DocumentBuilder **builder, const Tokenizer *tokenizer,
                                   const DocumentOptions *options);
void document_builder_free(DocumentBuilder *builder);

typedef struct {
    Document document; /* the builder owns ids and targets, until the next call; n = 0: dropped */
    RecordFormat format;
    size_t whole; /* tokens before the cut */
    bool truncated, dropped;
    const char *domain; /* owned by the builder; empty: none */
} BuiltDocument;

/* Build the document of one line. Fails: ERR_DATA, with what is wrong; also when no token is in the loss. */
MUST_USE Err *document_builder_read(DocumentBuilder *builder, const char *line, size_t bytes, BuiltDocument *built);

#endif
