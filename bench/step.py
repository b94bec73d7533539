"""ONNX Runtime on one thread: one session of 100 views at hidden 64 through the peers' network (untrained: time does not
depend on the weights), beside `bench_step`. Alternates the two, so that a busy machine slows both.

    python bench/step.py target/release/examples/bench_step [ROUNDS] [INPUTS]
"""
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

VIEWS, HIDDEN, STATIC, WIDE = 100, 64, 4, 32


class Churn(nn.Module):
    """LSTM, maximum of the last two outputs, feed-forward, one probability: as the peers' `churn.py` exports it."""

    def __init__(self, inputs):
        super().__init__()
        self.rnn = nn.LSTM(inputs, HIDDEN, batch_first=True)
        self.f1, self.f2 = nn.Linear(HIDDEN + STATIC, WIDE), nn.Linear(WIDE, 1)

    def forward(self, x, s):
        y, _ = self.rnn(x)
        y = torch.maximum(y[:, -1], y[:, -2])
        return torch.sigmoid(self.f2(torch.relu(self.f1(torch.cat([y, s], 1)))))


def main():
    bench = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    inputs = int(sys.argv[3]) if len(sys.argv) > 3 else 48
    path = os.path.join(tempfile.mkdtemp(), "churn.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, VIEWS, inputs), dtype=np.float32),
             "s": np.zeros((1, STATIC), np.float32)}
    torch.onnx.export(Churn(inputs).eval(), tuple(torch.from_numpy(x) for x in feeds.values()), path,
                      input_names=list(feeds), output_names=["p"], dynamo=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options)
    ratios = {}
    for _ in range(rounds):
        times = []
        for _ in range(1000):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
        theirs = 1e6 * float(np.median(times))
        said = subprocess.run([bench], capture_output=True, text=True, check=True).stdout
        ours = dict(line.split() for line in said.splitlines())
        array, click = (float(ours[k]) for k in ("array_100_views_microseconds", "live_step_microseconds"))
        print(f"onnxruntime {theirs:.1f} array {array:.1f} {theirs / array:.2f}x", end=" ")
        print(f"click {click:.3f} {theirs / click:.1f}x", flush=True)
        for what, ratio in (("array", theirs / array), ("click", theirs / click)):
            ratios.setdefault(what, []).append(ratio)
    for what, all_of_it in ratios.items():
        print(f"{what}: median {np.median(all_of_it):.2f}x, {min(all_of_it):.2f} to {max(all_of_it):.2f}")


main()
