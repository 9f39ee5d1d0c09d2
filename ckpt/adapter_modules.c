/* Names are those of Hugging Face transformers: "STEM.experts.NUMBER.PROJECTION" is an expert's matrix; shared experts
 * are "shared_experts" without a number and do not match. */
#include "ckpt/adapter_modules.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

const char *adapter_module_leaf(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

size_t adapter_module_projection(const char *leaf)
{
    static const char *const names[] = {"down_proj", "gate_proj", "up_proj"};
    size_t i = 0;
    while (i < 3 && strcmp(leaf, names[i]) != 0) i++;
    return i;
}

bool adapter_module_is_expert(const char *module, ExpertMatrix *found)
{
    const char *at = strstr(module, ".experts.");
    if (!at || !isdigit((unsigned char)at[strlen(".experts.")])) return false;
    char *end;
    *found = (ExpertMatrix){.module = module, .stem = (size_t)(at - module) + strlen(".experts")};
    found->expert = strtoull(at + strlen(".experts."), &end, 10);
    found->projection = *end == '.' ? adapter_module_projection(end + 1) : 3;
    return true;
}
