/* JSON Lines that ask: multiple choice, or an answer to be written.
 *
 *     {"question": "...", "choices": ["...", "..."], "answer": 1}      the answer: an index, the choice itself, or A, B, C
 *     {"question": "...", "answer": "... #### 18"}                     the answer: a text, from which a pattern may extract
 *
 * Instead of `question` a record may have `messages` (with `tools`) that end before the answer; a `domain` (or `subject`)
 * names a part of the file. A choice becomes a document whose scored tokens are the choice, without an end of turn. */
#ifndef GRAFT_DATA_RECORDS_QUESTIONS_H
#define GRAFT_DATA_RECORDS_QUESTIONS_H

#include "data/records/dataset.h"

typedef struct {
    size_t n_choices; /* 0: an answer is to be written */
    Document *choices;
    size_t answer;   /* the right choice */
    char *written;   /* the answer's text; NULL with choices */
    int32_t *prompt; /* [n_prompt] what the model is asked, its turn begun */
    size_t n_prompt;
    char *domain;  /* NULL: none */
    size_t record; /* line number in the file, from 1 */
} Question;

typedef struct Questions Questions;

/* True when the first record of a file has an `answer`. */
MUST_USE Err *questions_recognise(bool *asks, const char *path);

/* Of `options` the template, enable_thinking (for what is to be written) and null_as_none are used.
 * Fails: ERR_IO; ERR_DATA, with file and line: not a question, an answer that is no choice, longer than max_length. */
MUST_USE Err *questions_open(Questions **questions, const char *path, const Tokenizer *tokenizer,
                             const ChatOptions *options, size_t max_length);
void questions_close(Questions *questions);
size_t questions_count(const Questions *questions);
const Question *questions_get(const Questions *questions, size_t i);

#endif
