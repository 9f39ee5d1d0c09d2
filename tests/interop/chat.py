"""chat.py N CASES_JSONL TEMPLATE.jinja...: N random conversations for each template, rendered by Jinja2, as cases for
build/tests/chat_cases.

A file's name without .jinja says which of graft's templates it is. Jinja2 is set up as transformers sets it up. There is no
case where the template itself fails (it adds a string to what is none), and where graft refuses what the template renders:
a tool's result that would be printed as Python prints an object, a tool_reference without a name.
"""
import json
import random
import sys

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

total, path, templates = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
WORDS = ["", " ", "\n", "\n\n", "a", "Hello, world!", "caf\u00e9 \u91cf\u5b50 \U0001F642", "</think>", "<think>", "<think>r</think>", "\n<think>\n r \n</think>\n\n",
         "<|user|>", "<tool_call>", "/nothink", "  x  ", "\u3000y\u00a0", "\u200bz\ufeff", "\"q\" \\ /", "\t", "\u2028", "\u0000", "\x1f", "{{ x }}", "{% y %}"]
KEYS = ["a", "city", "\u00e9", "k\"q", "n\\", "x y", "strict", "defer_loading", "nested\n"]


def text(rng):
    return "".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 1, 2, 3])))


def value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind >= 7:
        return mapping(rng, depth + 1)
    return [text(rng), rng.randint(-10**20, 10**20), rng.choice([0.1, 1e-7, 1e20, 2.0, -0.0, 1 / 3, 5e-324, 1.7976931348623157e308, rng.random() * 10 ** rng.randint(-20, 20)]),
            None, rng.random() < 0.5, rng.randint(-9, 9)][kind]


def mapping(rng, depth=0):
    return {rng.choice(KEYS): value(rng, depth) for _ in range(rng.randrange(4))}


def part(rng):
    kind = rng.randrange(7)
    if kind == 0:
        return text(rng)
    if kind < 4:
        return rng.choice([{"type": "text", "text": text(rng)}, {"text": text(rng), "type": "text"}, {"type": "text"}])
    if kind == 4:
        return {"type": rng.choice(["image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio"]), "url": "x"}
    return rng.choice([{"type": "file"}, {}, {"type": "tool_reference", "name": "f"}, {"type": "text", "text": text(rng), "output": text(rng)}])


def content(rng, message):
    kind = rng.randrange(12)
    if kind == 0:
        return
    message["content"] = None if kind == 1 else [part(rng) for _ in range(rng.randrange(4))] if kind < 4 else text(rng)


def call(rng):
    function = {"name": rng.choice(["f", "get_weather", "\u00e9"]), "arguments": mapping(rng)}
    return rng.choice([{"type": "function", "function": function}, {"function": function, "id": "1"}, function, {**function, "function": {}}])


def result(rng, message):
    kind = rng.randrange(8)
    if kind < 3:
        content(rng, message)
    elif kind == 3:
        message["content"] = [{"output": text(rng)} for _ in range(rng.randrange(1, 3))]
    elif kind == 4:
        message["content"] = [text(rng) for _ in range(rng.randrange(3))]
    elif kind == 5:
        message["content"] = [{"type": "tool_reference", "name": rng.choice(["f", "g", "h"])} for _ in range(rng.randrange(1, 4))]
    else:
        message["content"] = text(rng)


def conversation(rng):
    messages = []
    for _ in range(rng.randrange(1, 9)):
        role = rng.choice(["user", "user", "assistant", "assistant", "assistant", "tool", "tool", "system"])
        message = {"role": role}
        (result if role == "tool" else content)(rng, message)
        if role == "assistant":
            if rng.random() < 0.5:
                message["reasoning_content"] = rng.choice([None, text(rng), text(rng)])
            if rng.random() < 0.4:
                message["tool_calls"] = rng.choice([None, [], [call(rng)], [call(rng), call(rng)]])
        messages.append(message)
    return messages


def tool(rng):
    function = {"name": rng.choice(["f", "g"]), **mapping(rng)}
    for key in ("strict", "defer_loading"):
        function.pop(key, None)
        if rng.random() < 0.3:
            function[key] = rng.random() < 0.5
    whole = {"type": "function", "function": function}
    if rng.random() < 0.2:
        whole["defer_loading"] = True
    return rng.choice([whole, whole, function])


def plain(rng):
    """For templates that add strings: content is always one, and there are no tools."""
    return [{"role": rng.choice(["user", "assistant", "system"]), "content": text(rng)} for _ in range(rng.randrange(1, 7))]


def case(rng, name):
    options = {}
    for key, values in (("add_generation_prompt", [True, False]), ("enable_thinking", [True, False, None]), ("clear_thinking", [True, False, None]),
                        ("reasoning_effort", ["high", "max", "low", None])):
        if rng.random() < 0.5:
            options[key] = rng.choice(values)
    simple = name.startswith("deepseek")
    tools = None if simple else rng.choice([None, None, [], [tool(rng)], [tool(rng), tool(rng)]])
    return {"template": name, "messages": plain(rng) if simple else conversation(rng), "tools": tools, "options": options}


def refused(name, messages):
    for message in messages:
        content = message.get("content")
        if message["role"] != "tool" or not isinstance(content, list) or not content:
            continue
        first = content[0] if isinstance(content[0], dict) else {}
        if name in ("glm45", "glm47") and not all(isinstance(item, str) or "output" in item for item in content):
            return True
        if name in ("glm51", "glm52") and first.get("type") == "tool_reference" and not all(isinstance(item, dict) and "name" in item for item in content):
            return True
    return False


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
environment.filters["tojson"] = tojson
with open(path, "w", encoding="ascii") as out:
    for file in templates:
        name = file.rsplit("/", 1)[-1].removesuffix(".jinja")
        template, rng, cases, left_out = environment.from_string(open(file, encoding="utf-8").read()), random.Random(name), 0, 0
        while cases < total:
            one = case(rng, name)
            if refused(name, one["messages"]):
                left_out += 1
                continue
            try:
                one["expected"] = template.render(messages=one["messages"], tools=one["tools"], bos_token="<\uff5cbegin\u2581of\u2581sentence\uff5c>", **one["options"])
            except Exception:
                left_out += 1
                continue
            cases += 1
            out.write(json.dumps(one) + "\n")
        print(f"{name}: {cases} conversations; {left_out} more that the template fails on or graft refuses")
