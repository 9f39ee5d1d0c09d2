#!/usr/bin/env python3
"""compare.py losses|speeds DIR - compare the records of race.sh. Losses must agree step by step, or the exit code is 1.
compare.py quiet FILE - exit code 1 when other programs or the hypervisor used more than a tenth of a core meanwhile."""
import glob, json, os, re, statistics, sys

LIMIT = {"fp32": 1e-4, "bf16": 1e-2}    # relative, of every step's loss


def read(path):
    with open(path) as f:
        return json.loads(f.read().strip().splitlines()[-1])


def disturbed(record):
    return record.get("neighbour_cores", 0) > 0.1 or record.get("stolen_cores", 0) > 0.1


def quiet(path):
    return disturbed(read(path))


def losses(d):
    bad = False
    for path in sorted(glob.glob(os.path.join(d, "losses-*-peer.json"))):
        targets, dtype = re.match(r"losses-(.*)-(fp32|bf16)-peer", os.path.basename(path)).groups()
        peer, ours = read(path), read(path.replace("-peer.json", "-graft.json"))
        assert peer["trainable"] == ours["trained"], (peer["trainable"], ours["trained"])
        assert len(peer["losses"]) == len(ours["losses"]) > 1
        worst = max(abs(a - b) / abs(a) for a, b in zip(peer["losses"], ours["losses"]))
        print(f"{targets:13} {dtype}  {len(ours['losses'])} steps, {ours['trained']} parameters: losses differ by {worst:.1e} at most (limit {LIMIT[dtype]:.0e})"
              f"   peer {peer['losses']}  graft {[round(x, 5) for x in ours['losses']]}")
        bad |= worst > LIMIT[dtype]
    return bad


def medians(d, part, key_peer, key_ours):
    pairs = []
    for path in sorted(glob.glob(os.path.join(d, f"speed-{glob.escape(part)}-*-peer.json"))):
        peer, ours = read(path), read(path.replace("-peer.json", "-graft.json"))
        if disturbed(peer) or disturbed(ours):
            print(f"left out, because other programs used the CPU: {os.path.basename(path)}")
            continue
        pairs.append((peer[key_peer], ours[key_ours]))
    return pairs


def speeds(d):
    rows = [("attn+experts", "attention + shared + experts, 512 tokens", "tok_s", "tokens_per_s"), ("attn", "attention only, 512 tokens (compiled)", "tok_s", "tokens_per_s"),
            ("generate", "prefill of 512 tokens", "prefill_tok_s", "prefill_tokens_per_s"), ("generate", "decode, one sequence", "decode_tok_s", "decode_tokens_per_s")]
    lines = ["| tokens/s | transformers + peft | graft | times |", "|---|---|---|---|"]
    for part, name, key_peer, key_ours in rows:
        pairs = medians(d, part, key_peer, key_ours)
        if not pairs:
            continue
        peer, ours = (statistics.median(x) for x in zip(*pairs))
        each = ", ".join(f"{b / a:.2f}" for a, b in pairs)
        lines.append(f"| {name} | {peer:.1f} | {ours:.1f} | {ours / peer:.2f} (rounds: {each}) |")
    print("\n".join(lines))
    return False


sys.exit({"losses": losses, "speeds": speeds, "quiet": quiet}[sys.argv[1]](sys.argv[2]))
