/* A record -> tokens, and what each position must predict: rendering, tokenizing, masking, cutting to length. */
#ifndef GRAFT_DATA_RECORDS_DOCUMENT_H
#define GRAFT_DATA_RECORDS_DOCUMENT_H

#include "data/records/record.h"
#include "data/tokenizer/tokenizer.h"

typedef struct {
    size_t n;
    int32_t *ids;
    int32_t *targets; /* targets[i]: the token that position i must predict, or -1 when not scored */
    size_t n_loss_tokens;
    size_t record;   /* line number in the file, from 1 */
    uint32_t file;   /* index of its file */
    uint32_t domain; /* dataset_domain() names it; 0: none given */
} Document;

/* What becomes of a record that is longer than max_length. RIGHT keeps its beginning: whole turns, the last of them with
 * the role token that ends it. LEFT keeps what stands before the first turn (tools, system messages) and the last turns
 * from a user's on. Where that would leave nothing scored, one turn alone being too long, the cut goes through it. */
typedef enum { TRUNCATE_RIGHT, TRUNCATE_LEFT, TRUNCATE_DROP } Truncation;

typedef struct {
    ChatOptions chat; /* its end_of_text and its generation prompt are not looked at */
    Truncation truncation;
    size_t max_length; /* tokens */
    RecordFormat format;
    bool plain_prompts;
} DocumentOptions;

/* What one thread needs to read records. The tokenizer is borrowed. */
typedef struct DocumentBuilder DocumentBuilder;

MUST_USE Err *document_builder_new(DocumentBuilder **builder, const Tokenizer *tokenizer,
                                   const DocumentOptions *options);
void document_builder_free(DocumentBuilder *builder);

typedef struct {
    Document document; /* ids and targets are the builder's, until the next call; n = 0: dropped */
    RecordFormat format;
    size_t whole; /* tokens before the cut */
    bool truncated, dropped;
    const char *domain; /* the builder's; empty: none */
} BuiltDocument;

/* Fails: ERR_DATA, what is wrong with the record; a record of which nothing is scored. */
MUST_USE Err *document_builder_read(DocumentBuilder *builder, const char *line, size_t bytes, BuiltDocument *built);

#endif
