/* The words of options -> enums and switches. The option table has checked the words, so the last case needs no test.
 */
#include "data/records/settings.h"

#include "data/text/inflate.h"

#include <string.h>

static ChatSwitch switch_of(const char *word)
{
    return strcmp(word, "yes") == 0 ? CHAT_YES : strcmp(word, "no") == 0 ? CHAT_NO : CHAT_UNSET;
}

Err *data_settings_read(DocumentOptions *options, const DataSettings *s, const char *model_directory)
{
    inflate_limit((size_t)s->unpack_limit);
    *options = (DocumentOptions){.max_length = (size_t)s->max_length,
                                 .plain_prompts = s->plain_prompts,
                                 .format = record_format_of(s->data_format),
                                 .truncation = strcmp(s->truncation, "left") == 0   ? TRUNCATE_LEFT
                                               : strcmp(s->truncation, "drop") == 0 ? TRUNCATE_DROP
                                                                                    : TRUNCATE_RIGHT,
                                 .chat = {.enable_thinking = switch_of(s->enable_thinking),
                                          .clear_thinking = switch_of(s->clear_thinking),
                                          .effort_high = strcmp(s->reasoning_effort, "high") == 0,
                                          .train_on = strcmp(s->train_on, "last") == 0  ? CHAT_TRAIN_LAST
                                                      : strcmp(s->train_on, "all") == 0 ? CHAT_TRAIN_ALL
                                                                                        : CHAT_TRAIN_ASSISTANT,
                                          .train_on_reasoning = s->train_on_reasoning ? CHAT_UNSET : CHAT_NO}};
    return template_recognise(&options->chat.template, model_directory, s->chat_template);
}
