/* A conversation: its messages, the adapter that answers, and the session whose cache holds it. */
#ifndef GRAFT_CLI_CHAT_SESSION_H
#define GRAFT_CLI_CHAT_SESSION_H

#include "cli/sampling.h"
#include "cli/candidate.h"
#include "data/chat/chat.h"
#include "infer/answer.h"
#include "infer/generate.h"

typedef struct {
    bool help, hide_thinking;
    CandidateSettings candidate;
    char *system, *tools, *chat_template;
    TextList stop;
    int64_t context;
    SamplingSettings sampling;
} ChatSettings;

typedef struct {
    ChatSettings settings;
    Candidate candidate;
    size_t chosen; /* the variant that answers: 0 the base, i the i-th adapter */
    Encoder *encoder;
    ChatTemplate template;
    Text tools;
    Json *messages;
    char *system;
    Session session;
    uint64_t answers; /* so far; each has its own seed */
    Answer answer;    /* the current one */
    size_t printed;   /* bytes of it that were handled */
    bool colors, dim;
    Err *err;
} ChatSession;

void chat_session_add(ChatSession *session, const char *role, const char *content);
void chat_session_forget(ChatSession *session, size_t n); /* the last n messages */

/* Answer the messages and print the answer as it is generated. While it calls tools, ask for their results and answer
 * again. */
MUST_USE Err *chat_session_reply(ChatSession *session);

#endif
