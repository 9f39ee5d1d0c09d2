/* Files of questions in JSON Lines: multiple choice, or with an answer that the model writes.
 *
 *     {"question": "...", "choices": ["...", "..."], "answer": 1}     an index, the choice itself, or A, B, C
 *     {"question": "...", "answer": "... #### 18"}                    a text, from which a pattern may extract
 *
 * Instead of `question` a record may have `messages` (with `tools`) that end before the answer. A `domain` (or
 * `subject`) names a part of the file. A choice becomes a document whose tokens in the loss are the choice, without an
 * end of turn. */
#ifndef GRAFT_DATA_RECORDS_QUESTIONS_H
#define GRAFT_DATA_RECORDS_QUESTIONS_H

#include "data/records/dataset.h"

typedef struct {
    size_t n_choices; /* 0: the model writes an answer */
    Document *choices;
    size_t answer;   /* the right choice */
    char *written;   /* the right answer's text; NULL with choices */
    int32_t *prompt; /* [n_prompt] ends where the model's answer begins */
    size_t n_prompt;
    char *domain;  /* NULL: none */
    size_t record; /* line number in the file, from 1 */
} Question;

typedef struct Questions Questions;

/* *asks: the first record of the file has an `answer`. Fails: ERR_IO; ERR_FORMAT, when it is not JSON. */
MUST_USE Err *questions_recognise(bool *asks, const char *path);

/* Read all questions of a file. Used of `options`: template, enable_thinking (for written answers) and null_as_none.
 * Fails: ERR_IO; ERR_DATA, with file and line, when a record is no question, its answer is no choice, or it is longer
 * than max_length. */
MUST_USE Err *questions_open(Questions **questions, const char *path, const Tokenizer *tokenizer,
                             const ChatOptions *options, size_t max_length);
void questions_close(Questions *questions);
size_t questions_count(const Questions *questions);
const Question *questions_get(const Questions *questions, size_t i);

#endif
