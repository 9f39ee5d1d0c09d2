/* The tokens of an answer as text for people. The text ends before the first stop string; its parts are the thought,
 * the content and the tool calls. */
#ifndef GRAFT_INFER_ANSWER_H
#define GRAFT_INFER_ANSWER_H

#include "base/json.h"
#include "data/tokenizer/tokenizer.h"

typedef struct {
    TokenStream stream;
    size_t n_stops;
    char *const *stops; /* strings that end the answer and are not part of it */
    Text text;          /* all of it, from the first token on */
    size_t shown;       /* bytes of text that answer_put has released */
    bool stopped;
} Answer;

void answer_open(Answer *answer, const Tokenizer *tokenizer, size_t n_stops, char *const *stops);
void answer_free(Answer *answer);

/* Append one token. text[*from .. answer->shown) can be shown now; what may be the beginning of a stop string is held
 * back. */
MUST_USE Err *answer_put(Answer *answer, int32_t token, size_t *from);
MUST_USE Err *answer_end(Answer *answer, size_t *from); /* and what was held back */

/* Where the parts of a complete answer are, in bytes of its text. */
typedef struct {
    size_t thought, thought_end; /* without its tags */
    size_t content, content_end; /* up to the first tool call */
    size_t calls;                /* the first <tool_call>, or the text's end */
} AnswerParts;

/* thinking: the prompt ended inside a thought, so the text begins inside one. */
AnswerParts answer_parts(const Text *text, bool thinking);

/* The tool calls in a text, as they are in messages: [{"function": {"name", "arguments": {KEY: TEXT}}}].
 * GLM writes them as
 *     <tool_call>NAME<arg_key>KEY</arg_key><arg_value>TEXT</arg_value>...</tool_call>
 * Owner: the caller, json_free. */
Json *answer_calls(const char *text);

#endif
