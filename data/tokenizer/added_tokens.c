/* The search is a trie that is followed from every byte whose value begins some token; text without such a byte is
 * passed at the cost of one table lookup a byte. Children of a node are a linked list, for added tokens are few.
 *
 * Source: tokenizers 0.23, tokenizer/added_vocabulary.rs, find_matches. */
#include "data/tokenizer/added_tokens.h"

#include "base/memory.h"
#include "data/text/unicode.h"

#include <stdlib.h>

typedef struct AddedNode {
    uint32_t child, sibling; /* 0: none; node 0 is never used */
    int32_t token;           /* the token that ends here, or -1 */
    unsigned char byte;
} AddedNode;

/* The node for a byte in the list that starts at *link; a new node becomes the first. added_tokens_put has reserved the
 * memory. */
static uint32_t find_or_add(AddedTokens *set, uint32_t *link, unsigned char byte)
{
    for (uint32_t node = *link; node; node = set->nodes[node].sibling)
        if (set->nodes[node].byte == byte) return node;
    set->nodes[set->n_nodes] = (AddedNode){.sibling = *link, .token = -1, .byte = byte};
    return *link = (uint32_t)set->n_nodes++;
}

Err *added_tokens_put(AddedTokens *set, AddedToken token, const char *text, size_t n)
{
    if (set->n_nodes == 0) set->n_nodes = 1;
    TRY(mem_grow(&set->nodes, &set->node_capacity, set->n_nodes + n, sizeof *set->nodes));
    TRY(mem_grow(&set->tokens, &set->token_capacity, set->n_tokens + 1, sizeof *set->tokens));
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        node = find_or_add(set, i ? &set->nodes[node].child : &set->first[byte], byte);
    }
    if (set->nodes[node].token >= 0) return NULL;
    set->nodes[node].token = (int32_t)set->n_tokens;
    set->tokens[set->n_tokens++] = token;
    return NULL;
}

void added_tokens_free(AddedTokens *set)
{
    free(set->tokens);
    free(set->nodes);
    *set = (AddedTokens){0};
}

/* The longest token that text starts with; its length in *length. */
static const AddedToken *longest(const AddedTokens *set, const char *text, size_t n, size_t *length)
{
    const AddedToken *found = NULL;
    uint32_t node = set->first[(unsigned char)text[0]];
    for (size_t i = 0; node; node = set->nodes[node].child) {
        while (node && set->nodes[node].byte != (unsigned char)text[i]) node = set->nodes[node].sibling;
        if (!node) break;
        i++;
        if (set->nodes[node].token >= 0) {
            found = &set->tokens[set->nodes[node].token];
            *length = i;
        }
        if (i == n) break;
    }
    return found;
}

static size_t last_character(const char *text, size_t n, uint32_t *code) /* returns its length */
{
    size_t start = n - 1;
    while (start && ((unsigned char)text[start] & 0xC0) == 0x80) start--;
    unicode_next(text + start, n - start, code);
    return n - start;
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
    uint32_t code;
    if (begin && (last_character(text, begin, &code), unicode_is_word(code))) return false;
    return end == n || (unicode_next(text + end, n - end, &code), !unicode_is_word(code));
}

const AddedToken *added_tokens_next(const AddedTokens *set, const char *text, size_t n, size_t *from, size_t *begin,
                                    size_t *end)
{
    size_t before = *from ? *end : 0; /* the left bound of white space that the match may include */
    if (!set->n_tokens) return NULL;
    for (size_t at = *from; at < n; at++) {
        size_t length = 0;
        if (!set->first[(unsigned char)text[at]]) continue;
        const AddedToken *token = longest(set, text + at, n - at, &length);
        if (!token) continue;
        *from = at + length;
        if (token->single_word && !stands_alone(text, n, at, *from)) {
            at = *from - 1;
            continue;
        }
        uint32_t code;
        *begin = at;
        *end = *from;
        while (token->lstrip && *begin > before) {
            size_t back = last_character(text, *begin, &code);
            if (!unicode_is_space(code)) break;
            *begin -= back;
        }
        while (token->rstrip && *end < n) {
            size_t on = unicode_next(text + *end, n - *end, &code);
            if (!unicode_is_space(code)) break;
            *end += on;
        }
        return token;
    }
    *from = n;
    return NULL;
}
