"""Read a run's event files with the real TensorBoard and compare every number with metrics.jsonl.
event_files.py RUN"""
import glob, io, json, os, struct, sys
import numpy as np
from tensorboard.backend.event_processing import event_accumulator

run = sys.argv[1]
board = event_accumulator.EventAccumulator(os.path.join(run, "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
board.Reload()
expected = {}
for line in open(os.path.join(run, "metrics.jsonl")):
    line = json.loads(line)
    place = "".join("/" + part for part in (line.get("eval_file"), line.get("eval_domain")) if part)
    for key, value in line.items():
        if key == "step" or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        expected.setdefault(key + place, []).append((line["step"], value))

# tensorboard turns simple values into tensors or leaves them scalars, by its version
found = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
for tag in board.Tags()["tensors"]:
    events = board.Tensors(tag)
    if len(events[0].tensor_proto.string_val) == 0:
        found[tag] = [(e.step, e.tensor_proto.float_val[0]) for e in events]
assert set(found) == set(expected), (sorted(set(found) ^ set(expected)))
numbers = 0
for tag, points in expected.items():
    # a step's epoch also stands in the lines of audit and evaluation
    got, want = sorted(set(found[tag])), sorted({(s, float(np.float32(v))) for s, v in points})
    assert [(s, float(v)) for s, v in got] == want, (tag, got[:3], want[:3])
    numbers += len(want)
images = []
for tag in board.Tags()["images"]:
    images += [(tag, i.step, i.width, i.height, i.encoded_image_string) for i in board.Images(tag)]
for tag in board.Tags()["tensors"]:
    for e in board.Tensors(tag):
        if len(e.tensor_proto.string_val) >= 3:
            w, h = (int(x) for x in e.tensor_proto.string_val[:2])
            images.append((tag, e.step, w, h, e.tensor_proto.string_val[2]))
assert images, "no picture of the expert load"
for tag, step, width, height, png in images:
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (width, height), tag
print(f"tensorboard: {len(found)} tags, {numbers} numbers equal metrics.jsonl as float32, {len(images)} pictures")
